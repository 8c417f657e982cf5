"""Train pix2pix: translation of images from pairs of input and output.

python pix2pix/train.py -R noisy -t pairs_train.txt --val pairs_val.txt
python pix2pix/train.py -i data/ldct
python pix2pix/train.py --resume result/20260101_120000
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError, as_main
from medi2i.common.networks.checkpoint import Segmentor
from medi2i.common.networks.from_options import size_multiple
from medi2i.common.options import PairedOptions
from medi2i.common.training import likeness, mean_change
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
from medi2i.datasets import paired, self_supervised
from medi2i.pix2pix import net
from medi2i.pix2pix.pictures import PairedPictures
from medi2i.pix2pix.updater import Pix2pixUpdater
from medi2i.pix2pix.validation import PairedMeasure, tell_end

SHOWN = (
    "dec_y/loss_L1",
    "dec_y/loss_L2",
    "dec_y/loss_CE",
    "dec_y/loss_dice",
    "dec_y/loss_dis",
    "validation/RMSE",
    "validation/Dice",
)


def command(argv: Sequence[str]) -> int:
    """One training. Returns the status of the process; raises UserError."""
    options, resumed = training_options(PairedOptions, argv, __doc__)
    with joined(options.communicator) as ranks:
        return train(options, resumed, argv, ranks)[0]


def train(options: PairedOptions, resumed: str | None, argv: Sequence[str], ranks: Ranks) -> tuple[int, Path | None]:
    """One rank's training (the whole of it without ``--communicator``): (status of the process, run folder).

    argv: the words behind the name of the command, to be written down.
    """
    device, random = prepare(options, ranks)

    # data
    build = paired.build if options.targets == "files" else self_supervised.build
    pairs = build(options, multiple=size_multiple(options))
    options = paired.complete(options, pairs)
    val = paired.build_validation(options, multiple=size_multiple(options))
    check_sizes(options, (pairs, val))

    # networks
    networks = net.build(options)
    # --check reads all images, and tells of all that it cannot read; slices and their neighbours have one mean
    if not options.check and options.targets == "files":
        options = begin_at_mean(networks, options, pairs, resumed, ranks)
    loaded = {} if resumed is not None else load_weights(networks, options)
    shown, average = place(networks, options, device, ranks, {"x": pairs.size})

    # optimizers
    optimizers, controls = make_optimizers(networks.as_dict(), options, loaded, ranks)

    # updater
    iterator = make_iterator(pairs, options, ranks, options.seed)
    updater = Pix2pixUpdater(iterator, optimizers, networks, options, random, device, ranks, judge_of(options, device))
    measure = None if val is None else PairedMeasure(val, shown.translate, device, options, ranks)
    if options.check:
        return check({"training": pairs, "validation": val}, updater, measure), None

    # trainer
    folder = open_run(options, resumed, argv, ranks, {"train": pairs, "val": val})
    training = Training(updater, controls, folder, SHOWN, shown)

    # extensions
    training.follow(average, reestimation_of(shown.translate, [pairs], shown, options, device))
    if measure is not None:
        metric = options.best_metric or ("Dice" if options.class_num else "RMSE")
        training.validate(measure, metric, larger=metric == "Dice")
    for name, dataset in (("val", val), ("train", pairs)):
        if dataset is not None and folder is not None:
            training.draw(PairedPictures(folder.vis, name, dataset, shown.translate, device, options))

    # run
    status = training.run()
    if folder is not None:
        tell_end(options, pairs, read_log(training.log.path), folder.path)
    return status, None if folder is None else folder.path


def begin_at_mean(
    networks: net.Networks, options: PairedOptions, pairs: paired.PairedDataset, resumed: str | None, ranks: Ranks
) -> PairedOptions:
    """Let a residual generator begin at the mean of what it is to add. Returns the options with ``mean_change``."""
    if options.gen_residual:
        mean_change.start_at(networks.dec_y, mean_change.mean_difference(pairs, options.seed))
    if resumed is not None:
        return options
    change, expected = ranks.agreed((mean_change.of_pairs(pairs), expected_of(pairs)) if ranks.first else None)
    return dataclasses.replace(options, mean_change=change, **expected)


def expected_of(pairs: paired.PairedDataset) -> dict[str, float]:
    """What the training pairs let expect of a translation, as options; {} for classes."""
    if pairs.domain_out.class_num:
        return {}
    return likeness.of_pairs(pairs.load(i, None) for i in likeness.spread(len(pairs)))


def judge_of(options: PairedOptions, device: chainer.backend.Device) -> Segmentor | None:
    """The segmentor of ``--lambda_anatomy``, on ``device``; None where that has no weight. Raises UserError."""
    if options.lambda_anatomy <= 0:
        return None
    if options.segmentor is None:
        raise UserError("--lambda_anatomy: needs --segmentor RUN, a pix2pix run with --class_num")
    clip_option = options.clip_names[1]
    segmentor = Segmentor.load(options.segmentor, getattr(options, clip_option), options.out_ch, clip_option)
    segmentor.to_device(device)
    return segmentor


def load_weights(networks: net.Networks, options: PairedOptions) -> dict[str, Path]:
    """Load the weights that ``--model_gen`` and ``--model_dis`` name. Returns {name of the network: file}."""
    generator = {name: link for name, link in networks.as_dict().items() if name != "dis"}
    discriminator = {"dis": networks.dis}
    return {
        **load_initial(options.model_gen, generator, generator),
        **load_initial(options.model_dis, discriminator, discriminator),
    }


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
