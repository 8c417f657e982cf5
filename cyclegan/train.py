"""Train CycleGAN: translation between two domains of images without pairs.

    python cyclegan/train.py -R data -it dcm -sr -100 100
    python cyclegan/train.py --resume result/20260101_120000
"""
import dataclasses
import sys

from medi2i.common.device import choose_device, use_cpu_engine, use_gpu_engine
from medi2i.common.errors import run
from medi2i.common.networks.pretrained import PerceptualFeatures
from medi2i.common.networks.sizes import check_size, size_multiple
from medi2i.common.networks.summary import summary_text
from medi2i.common.options import UnpairedOptions
from medi2i.common.training import mean_change
from medi2i.common.training.check import check
from medi2i.common.training.distributed import joined, share_batches
from medi2i.common.training.log import read_log
from medi2i.common.training.mean_change import domain_shift, start_at
from medi2i.common.training.randomness import RandomState
from medi2i.common.training.run_folder import RunFolder, lasting, training_options
from medi2i.common.training.setup import averaged, make_optimizers, reestimation_of, workspace
from medi2i.common.training.trainer import Training
from medi2i.common.training.validation import Validation
from medi2i.common.training.weights import load_initial, load_optimizers
from medi2i.cyclegan import net
from medi2i.cyclegan.closing import against_nothing, change_of_mean, conversion_command
from medi2i.cyclegan.pictures import UnpairedPictures
from medi2i.cyclegan.updater import CycleganUpdater, LossSettings
from medi2i.cyclegan.validation import CycleMeasure
from medi2i.datasets import unpaired
from medi2i.datasets.iterator import ImageIterator
from medi2i.datasets.uncut import examples_for

SHOWN = ("dec_x/loss_cycle", "dec_y/loss_cycle", "dec_x/loss_adv", "dec_y/loss_adv", "validation/cycle_MAE")


def command(argv):
    """One training. Returns the status of the process; raises UserError."""
    # options
    options, resumed = training_options(UnpairedOptions, argv, __doc__.splitlines()[0])
    with joined(options.communicator) as ranks:
        return take_part(options, resumed, argv, ranks)


def take_part(options, resumed, argv, ranks):
    """One rank's part of a training (the whole of it without ``--communicator``). Returns the status of the process."""
    device = choose_device(options.gpu, options.tf32, ranks.local)
    ranks.fits(device)
    device.use()
    use_cpu_engine(options.cpu_engine)
    workspace(device, use_gpu_engine(options.gpu_engine, options.tf32))
    random = RandomState(options.seed, device.xp, ranks.rank)
    random.seed_global()

    # data
    multiple = size_multiple(options)
    train = [unpaired.build(options, domain, "train", multiple=multiple) for domain in "AB"]
    options = unpaired.complete(options, *train)
    val = [unpaired.build(options, domain, "val", multiple=multiple) for domain in "AB"]
    for dataset in filter(None, (*train, *val)):
        check_size(options, dataset.size)

    # networks
    networks = net.build(options)
    if not options.check:  # which reads all images, and tells of all that it cannot read
        shift = domain_shift(*train) if options.gen_residual else None
        if shift is not None:
            start_at(networks.dec_y, shift)
            start_at(networks.dec_x, -shift)
        if resumed is None:
            change = ranks.agreed(mean_change.of_domains(*train, shift) if ranks.first else None)
            options = dataclasses.replace(options, mean_change=change)
    links = networks.as_dict()
    loaded = {}
    if resumed is None and options.model_gen is not None:
        loaded = load_initial(options.model_gen, links, [name for name in links if not name.startswith("dis")])
    features = None
    if options.lambda_identity_x > 0 or options.lambda_identity_y > 0:
        features = PerceptualFeatures.load(options.perceptual_weights, options.perceptual_layer)
        features.to_device(device)
    if options.summary:
        print(summary_text(links, options, train[0].size))
    for link in links.values():
        link.to_device(device)
    ranks.initialise(links, {"x": train[0].size, "y": train[1].size})
    if options.sync_bn:
        share_batches(links, ranks)
    shown, average = averaged(networks, options)

    # optimizers
    trained = {name: link for name, link in links.items() if not (name == "enc_y" and options.single_encoder)}
    optimizers, controls = make_optimizers(trained, options)
    if options.load_optimizer:
        load_optimizers(loaded, optimizers)
    optimizers = ranks.wrapped(optimizers)

    # updater: with one seed, domains of equal size would always meet in the same pairs
    iterators = {name: ImageIterator(examples_for(dataset, options.augment_on), options.batch_size, seed,
                                     workers=options.workers, processes=options.worker_processes,
                                     crops=options.crops_per_image, rank=ranks.rank, ranks=ranks.count)
                 for name, dataset, seed in (("main", train[0], options.seed), ("second", train[1], options.seed + 1))}
    updater = CycleganUpdater(iterators, optimizers, networks, LossSettings.from_options(options), random, device,
                              features, ranks)
    measure = None
    if val != [None, None]:
        # Whole images need more memory than crops.
        measure = CycleMeasure(*val, shown, device, 1 if options.random_translate < 0 else options.batch_size, ranks)
    if options.check:
        check({"training A": train[0], "training B": train[1], "validation A": val[0], "validation B": val[1]},
              updater, links, measure, options)
        updater.finalize()
        return 0

    # trainer
    command_line = ["cyclegan/train.py", *argv]
    folder = None
    if ranks.first:
        folder = (RunFolder.create(options.out, lasting(options), command_line) if resumed is None
                  else RunFolder.open(resumed, lasting(options), command_line))
    training = Training(updater, links, controls, options, folder, SHOWN, shown.as_dict(), ranks)

    # extensions
    if average is not None:
        training.extend(average)
    reestimation = reestimation_of(shown.translate_both, train, shown, options, device, training.ending)
    if reestimation is not None:
        training.reestimate(reestimation)
    if measure is not None:
        training.extend(Validation(measure, training.ending))
        if options.best_metric is not None:
            training.keep_best(f"validation/{options.best_metric}", larger=False)
    when = (1, "epoch") if options.vis_freq is None else (options.vis_freq, "iteration")
    for name, datasets in (("val", val), ("train", train)) if ranks.first else ():
        training.extend(UnpairedPictures(
            folder.vis, name, datasets, [dataset.clip for dataset in train], shown, device,
            (options.nvis_A, options.nvis_B), (options.vis_window, options.vis_windowB),
            [dataset.sources[0].modality for dataset in train], options.stack == 1,
            options.seed if options.vis_random else None), trigger=when)

    # run
    status = training.run()
    if not ranks.first:
        return status
    for said in (*against_nothing(read_log(training.log.path), options, train), change_of_mean(options, train)):
        if said is not None:
            print(said)
    print(f"to convert images of domain A:\n  {conversion_command(options, folder.path)}", flush=True)
    return status


def main(argv=None):
    """Entry point of ``medi2i-cyclegan-train``."""
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
