"""Train pix2pix: translation of images from pairs of input and output.

    python pix2pix/train.py -R noisy -t pairs_train.txt --val pairs_val.txt
    python pix2pix/train.py -i data/ldct
    python pix2pix/train.py --resume result/20260101_120000
"""
import dataclasses
import sys

from medi2i.common.device import choose_device, use_cpu_engine, use_gpu_engine
from medi2i.common.errors import run
from medi2i.common.networks.sizes import check_size, size_multiple
from medi2i.common.networks.summary import summary_text
from medi2i.common.options import PairedOptions
from medi2i.common.training import mean_change
from medi2i.common.training.check import check
from medi2i.common.training.distributed import joined, share_batches
from medi2i.common.training.log import read_log
from medi2i.common.training.mean_change import mean_difference, start_at
from medi2i.common.training.randomness import RandomState
from medi2i.common.training.run_folder import RunFolder, lasting, training_options
from medi2i.common.training.setup import averaged, make_optimizers, reestimation_of, workspace
from medi2i.common.training.trainer import Training
from medi2i.common.training.validation import Validation
from medi2i.common.training.weights import load_initial, load_optimizers
from medi2i.datasets import paired
from medi2i.datasets.iterator import ImageIterator
from medi2i.datasets.uncut import examples_for
from medi2i.pix2pix import net
from medi2i.pix2pix.closing import against_nothing, change_of_mean, report_commands
from medi2i.pix2pix.pictures import PairedPictures
from medi2i.pix2pix.updater import LossSettings, Pix2pixUpdater
from medi2i.pix2pix.validation import PairedMeasure

SHOWN = ("dec_y/loss_L1", "dec_y/loss_L2", "dec_y/loss_CE", "dec_y/loss_dice", "dec_y/loss_dis", "validation/RMSE",
         "validation/Dice")


def command(argv):
    """One training. Returns the status of the process; raises UserError."""
    # options
    options, resumed = training_options(PairedOptions, argv, __doc__.splitlines()[0])
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
    train = paired.build(options, "train", multiple=size_multiple(options))
    options = paired.complete(options, train)
    val = paired.build(options, "val", multiple=size_multiple(options))
    for dataset in filter(None, (train, val)):
        check_size(options, dataset.size)

    # networks
    networks = net.build(options)
    if not options.check:  # which reads all images, and tells of all that it cannot read
        if options.gen_residual:
            start_at(networks.dec_y, mean_difference(train, options.seed))
        if resumed is None:
            change = ranks.agreed(mean_change.of_pairs(train) if ranks.first else None)
            options = dataclasses.replace(options, mean_change=change)
    links = networks.as_dict()
    generator = {name: link for name, link in links.items() if name != "dis"}
    loaded = {}
    if resumed is None and options.model_gen is not None:
        loaded |= load_initial(options.model_gen, generator, generator)
    if resumed is None and options.model_dis is not None:
        loaded |= load_initial(options.model_dis, {"dis": networks.dis}, ["dis"])
    if options.summary:
        print(summary_text(links, options, train.size))
    for link in links.values():
        link.to_device(device)
    ranks.initialise(links, {"x": train.size})
    if options.sync_bn:
        share_batches(links, ranks)
    shown, average = averaged(networks, options)

    # optimizers
    optimizers, controls = make_optimizers(links, options)
    if options.load_optimizer:
        load_optimizers(loaded, optimizers)
    optimizers = ranks.wrapped(optimizers)

    # updater
    iterator = ImageIterator(examples_for(train, options.augment_on), options.batch_size, options.seed,
                             workers=options.workers, processes=options.worker_processes,
                             crops=options.crops_per_image, rank=ranks.rank, ranks=ranks.count)
    updater = Pix2pixUpdater(iterator, optimizers, networks, LossSettings.from_options(options), random, device, ranks)
    at_once = 1 if options.random_translate < 0 else options.batch_size  # whole images need more memory than crops
    measure = None if val is None else PairedMeasure(val, shown.translate, device, at_once, options.class_num, ranks)
    if options.check:
        check({"training": train, "validation": val}, updater, links, measure, options)
        iterator.finalize()
        return 0

    # trainer
    command_line = ["pix2pix/train.py", *argv]
    folder = None
    if ranks.first:
        folder = (RunFolder.create(options.out, lasting(options), command_line) if resumed is None
                  else RunFolder.open(resumed, lasting(options), command_line))
    training = Training(updater, links, controls, options, folder, SHOWN, shown.as_dict(), ranks)

    # extensions
    if average is not None:
        training.extend(average)
    reestimation = reestimation_of(shown.translate, [train], shown, options, device, training.ending)
    if reestimation is not None:
        training.reestimate(reestimation)
    if measure is not None:
        training.extend(Validation(measure, training.ending))
        metric = options.best_metric or ("Dice" if options.class_num else "RMSE")
        training.keep_best(f"validation/{metric}", larger=metric == "Dice")
    when = (1, "epoch") if options.vis_freq is None else (options.vis_freq, "iteration")
    colour = options.stack == 1 and len(options.from_col) == len(options.to_col) == 1
    for name, dataset in (("val", val), ("train", train)) if ranks.first else ():
        if dataset is None:
            continue
        training.extend(PairedPictures(folder.vis, name, dataset, shown.translate, device, options.nvis,
                                       options.vis_window, options.vis_windowB, options.class_num, colour,
                                       options.seed if options.vis_random else None), trigger=when)

    # run
    status = training.run()
    if not ranks.first:
        return status
    for said in (against_nothing(read_log(training.log.path)), change_of_mean(options, train)):
        if said is not None:
            print(said)
    commands = report_commands(options, folder.path)
    if commands:
        print("\n  ".join(["for a report beside doing nothing and classical filters:", *commands]), flush=True)
    return status


def main(argv=None):
    """Entry point of ``medi2i-pix2pix-train``."""
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
