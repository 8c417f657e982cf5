"""Train CycleGAN: translation between two domains of images without pairs.

python cyclegan/train.py -R data -it dcm -sr -100 100
python cyclegan/train.py --resume result/20260101_120000
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from medi2i.common.compat import chainer
from medi2i.common.errors import as_main
from medi2i.common.networks.from_options import check_size, size_multiple
from medi2i.common.networks.pretrained import PerceptualFeatures
from medi2i.common.options import UnpairedOptions
from medi2i.common.training import look_up, mean_change
from medi2i.common.training.distributed import Ranks, joined
from medi2i.common.training.log import read_log
from medi2i.common.training.profiling import check
from medi2i.common.training.setup import (
    check_sizes,
    load_initial,
    make_iterator,
    make_optimizers,
    open_run,
    place,
    prepare,
    reestimation_of,
    training_options,
)
from medi2i.common.training.trainer import Training
from medi2i.cyclegan import net
from medi2i.cyclegan.pictures import UnpairedPictures
from medi2i.cyclegan.updater import CycleganUpdater
from medi2i.cyclegan.validation import CycleMeasure, expected_of, tell_end
from medi2i.datasets import unpaired

SETS = ("trainA", "trainB", "valA", "valB")
SHOWN = ("dec_x/loss_cycle", "dec_y/loss_cycle", "dec_x/loss_adv", "dec_y/loss_adv", "validation/cycle_MAE")


def command(argv: Sequence[str]) -> int:
    """One training. Returns the status of the process; raises UserError."""
    options, resumed = training_options(UnpairedOptions, argv, __doc__)
    with joined(options.communicator) as ranks:
        return train(options, resumed, argv, ranks)[0]


def train(options: UnpairedOptions, resumed: str | None, argv: Sequence[str], ranks: Ranks) -> tuple[int, Path | None]:
    """One rank's training (the whole of it without ``--communicator``): (status of the process, run folder).

    argv: the words behind the name of the command, to be written down.
    """
    net.check_segmentors(options)
    device, random = prepare(options, ranks)

    # data
    images = [unpaired.build(options, domain, "train", multiple=size_multiple(options)) for domain in "AB"]
    options = unpaired.complete(options, *images)
    val_a, val_b = [unpaired.build_validation(options, domain, multiple=size_multiple(options)) for domain in "AB"]
    check_sizes(options, (*images, val_a, val_b))
    examples = [
        unpaired.labelled(options, domain, one) if options.shape_classes else one
        for domain, one in zip("AB", images, strict=True)
    ]

    # networks
    networks = net.build(options)
    if not options.check:  # which reads all images, and tells of all that it cannot read
        options = begin_at_shift(networks, options, images, resumed, ranks)
    links = networks.as_dict()
    generator = [name for name in links if name.startswith(("enc", "dec"))]
    loaded = {} if resumed is not None else load_initial(options.model_gen, links, generator)
    features, segmentors = perceptual_features(options, device), net.frozen_segmentors(options)
    for segmentor in segmentors.values():
        segmentor.to_device(device)
    for name, one in zip("xy", images, strict=True):
        segmentor = segmentors.get(name) or getattr(networks, f"seg_{name}")
        if segmentor is not None:
            check_size(segmentor.trained, one.size)
    shown, average = place(networks, options, device, ranks, {"x": images[0].size, "y": images[1].size})

    # optimizers
    optimizers, controls = make_optimizers(networks.trained(), options, loaded, ranks)

    # updater: with one seed, domains of equal size would always meet in the same pairs
    main, second = (make_iterator(one, options, ranks, options.seed + i) for i, one in enumerate(examples))
    both = {"main": main, "second": second}
    tables = look_up_tables(options, images, ranks)
    updater = CycleganUpdater(both, optimizers, networks, options, random, device, features, ranks, segmentors, tables)
    measure = CycleMeasure(val_a, val_b, shown, device, options, ranks) if val_a or val_b else None
    if options.check:
        read = {"training A": examples[0], "training B": examples[1], "validation A": val_a, "validation B": val_b}
        return check(read, updater, measure), None

    # trainer
    folder = open_run(options, resumed, argv, ranks, dict(zip(SETS, (*images, val_a, val_b), strict=True)))
    training = Training(updater, controls, folder, SHOWN, shown)

    # extensions
    training.follow(average, reestimation_of(shown.translate_both, images, shown, options, device))
    if measure is not None:
        training.validate(measure, options.best_metric, larger=False)
    for name, datasets in (("val", [val_a, val_b]), ("train", images)):
        if folder is not None:
            training.draw(UnpairedPictures(folder.vis, name, datasets, images, shown, device, options))

    # run
    status = training.run()
    if folder is not None:
        tell_end(options, images, read_log(training.log.path), folder.path)
    return status, None if folder is None else folder.path


def begin_at_shift(
    networks: net.Networks,
    options: UnpairedOptions,
    images: Sequence[unpaired.UnpairedDataset],
    resumed: str | None,
    ranks: Ranks,
) -> UnpairedOptions:
    """Let residual generators begin at the shift between the domains. Returns the options with ``mean_change``."""
    shift = mean_change.domain_shift(images[0], images[1]) if options.gen_residual else None
    if shift is not None:
        mean_change.start_at(networks.dec_y, shift)
        mean_change.start_at(networks.dec_x, -shift)
    if resumed is not None:
        return options
    change = ranks.agreed(mean_change.of_domains(images[0], images[1], shift) if ranks.first else None)
    expected = ranks.agreed(expected_of(images, change is not None) if ranks.first else None)
    return dataclasses.replace(options, mean_change=change, **expected)


def look_up_tables(
    options: UnpairedOptions, images: Sequence[unpaired.UnpairedDataset], ranks: Ranks
) -> dict[str, look_up.LookUp]:
    """The tables of ``--look_up`` into the domains "x" and "y"; {} without, and where weights know better."""
    if options.look_up == "none" or options.check or options.model_gen:
        return {}
    found = look_up.between(images[0], images[1], options.look_up)
    if ranks.first:
        print(f"--look_up {options.look_up}: {found.sentence}", flush=True)
    return {"y": found.there, "x": found.back}


def perceptual_features(options: UnpairedOptions, device: chainer.backend.Device) -> PerceptualFeatures | None:
    """The PerceptualFeatures of the identity terms, on ``device``; None where these have no weight."""
    if options.lambda_identity_x <= 0 and options.lambda_identity_y <= 0:
        return None
    features = PerceptualFeatures.load(options.perceptual_weights, options.perceptual_layer)
    features.to_device(device)
    return features


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
