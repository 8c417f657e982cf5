#!/usr/bin/env python
"""Why the released recipe fails at small budgets: one thing changed at a time, the same seconds of one core for each.

  python benchmarks/ablation.py data/ldct --out ablation.json --seconds 90

`data/ldct` holds what make_noisy.py and split_pairs.py (with --test) made. From the tutorial's recipe on, each row
changes one more thing, and some change one thing back. Rows are in HU over a few whole test slices; where a network
normalises by batch statistics, the same weights are tested with the running averages (as conversion does), with the
statistics of the test image itself, and with statistics estimated anew. Rows that are in --out already are kept.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.device import choose_device, use_cpu_engine
from medi2i.common.networks.from_options import size_multiple
from medi2i.common.options import PairedOptions
from medi2i.common.training.averaging import has_batch_statistics
from medi2i.common.training.randomness import RandomState
from medi2i.common.training.setup import make_optimizers, reestimation_of
from medi2i.datasets import paired
from medi2i.datasets.iterator import ImageIterator
from medi2i.pix2pix import net
from medi2i.pix2pix.updater import Pix2pixUpdater
from medi2i.tools.evaluation import files, metrics
from medi2i.tools.evaluation.files import load

CROP = 96
# The paper's tutorial; all else is the released default: batch 1, batch normalisation, 7×7 first and last layers,
# nine residual blocks, U-Net of four channels, tanh, centre crops moved by up to 4 pixels, cosine schedule.
TUTORIAL = dict(
    gen_chs=[32, 64, 128],
    lambda_rec_l1=1.0,
    lambda_dis=0.1,
    lambda_tv=1e-4,
    crop_width=CROP,
    crop_height=CROP,
    lr_drop=1,
)
NO_NORM = dict(gen_norm="none", dis_norm="none")
RESIDUAL = dict(gen_residual=0.1, gen_out_activation="none")
EVERYWHERE = dict(random_translate=-1)
NO_ADVERSARY = dict(lambda_dis=0)
CONCAT = dict(unet="concat")
SMALL_KERNELS = dict(gen_sample="none")
RATE = dict(learning_rate_gen=1e-3)
SQUARES = dict(lambda_rec_l1=0, lambda_rec_l2=1, lambda_tv=0)
SMALL = dict(gen_chs=[32, 64], gen_nblock=4)
BATCH = dict(batch_size=8, crop_width=64, crop_height=64)

STEPS = (
    ("no normalisation", NO_NORM),
    ("residual output", RESIDUAL),
    ("crops from anywhere", EVERYWHERE),
    ("no adversary", NO_ADVERSARY),
    ("U-Net of all channels", CONCAT),
    ("3×3 first and last layers", SMALL_KERNELS),
    ("learning rate 1e-3", RATE),
    ("squared error, no TV", SQUARES),
    ("two levels, four blocks", SMALL),
    ("8 crops of 64² an update", BATCH),
)
FROM_FIRST = (
    ("constant rate", dict(lr_drop=None)),
    ("no adversary", NO_ADVERSARY),
    ("adversary × 10", dict(lambda_dis=1.0)),
    ("L1 × 10", dict(lambda_rec_l1=10.0)),
    ("residual output", RESIDUAL),
)
FROM_LAST = (
    ("batch normalisation", dict(gen_norm="batch_aff")),
    ("no residual output", dict(gen_residual=0)),
    ("centre crops ± 4", dict(random_translate=4)),
    ("no U-Net", dict(unet="none")),
    ("adversary 0.1", dict(lambda_dis=0.1)),
)


def rows() -> list[tuple[str, dict[str, Any]]]:
    """(name, options) of each training: a path from the tutorial to the preset, and single steps from both ends."""
    found, options = [("the tutorial's recipe", TUTORIAL)], TUTORIAL
    for name, change in STEPS:
        options = {**options, **change}
        found.append((f"+ {name}", options))
    found += [(f"tutorial, but {name}", {**TUTORIAL, **change}) for name, change in FROM_FIRST]
    return found + [(f"last, but {name}", {**options, **change}) for name, change in FROM_LAST]


def train(
    data: Path, changes: dict[str, Any], seconds: float, seed: int
) -> tuple[net.Networks, paired.PairedDataset, PairedOptions, int]:
    """(networks, training data, options, updates) after `seconds` of this process's time."""
    changes = dict(changes)
    constant = changes.get("lr_drop", 1) is None
    changes.pop("lr_drop", None)
    options = PairedOptions(root=str(data), train="pairs_train.txt", seed=seed, **changes)
    random = RandomState(seed, np)
    random.seed_global()
    dataset = paired.build(options, "train", multiple=size_multiple(options))
    options = paired.complete(options, dataset)
    networks = net.build(options)
    optimizers, controls = make_optimizers(networks.as_dict(), options)
    iterator = ImageIterator(dataset, options.batch_size, seed)
    updater = Pix2pixUpdater(iterator, optimizers, networks, options, random)
    for index in range(len(dataset)):  # images are read before the clock starts
        dataset.load(index)
    began, over = time.process_time(), 0.0
    while over < 1:
        factor = 1.0 if constant else 0.5 * (1 + np.cos(np.pi * over))
        for control in controls.values():
            control.set_factor(float(factor))
        updater.update()
        over = (time.process_time() - began) / seconds
    return networks, dataset, options, updater.iteration


def judge(
    networks: net.Networks, dataset: paired.PairedDataset, test: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, float]:
    """RMSE and bias in HU over whole images, and RMSE in the middle CROP × CROP pixels. test: [(input, truth)]."""
    found = []
    for x, truth in test:
        with chainer.no_backprop_mode():
            y = networks.translate(dataset.clip_in.to_unit(x)[None, None]).array[0, 0]
        y = np.clip(dataset.clip_out.from_unit(y), dataset.clip_out.lower, dataset.clip_out.upper)
        middle = tuple(slice((n - CROP) // 2, (n + CROP) // 2) for n in y.shape)
        found.append((metrics.rmse(y, truth), metrics.bias(y, truth), metrics.rmse(y[middle], truth[middle])))
    return dict(zip(("rmse", "bias", "rmse_middle"), np.mean(found, axis=0).tolist(), strict=True))


def measured(
    data: Path, changes: dict[str, Any], seconds: float, seed: int, test: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """One row: how many updates, and the judgement in each way of normalising."""
    networks, dataset, options, updates = train(data, changes, seconds, seed)
    generators = [networks.enc_x, networks.dec_y]
    row: dict[str, Any] = {"updates": updates}
    with chainer.using_config("train", False):
        row["as converted"] = judge(networks, dataset, test)
    if has_batch_statistics(generators):
        kept = [[(name, np.copy(value)) for name, value in statistics(link)] for link in generators]
        with chainer.using_config("train", True):
            row["statistics of the image"] = judge(networks, dataset, test)
        for link, values in zip(generators, kept, strict=True):
            for (_, now), (_, before) in zip(statistics(link), values, strict=True):
                now[...] = before
        options.bn_reestimate = 32
        again = reestimation_of(networks.translate, [dataset], networks, options, choose_device(-1))
        assert again is not None  # bn_reestimate asks for it
        again.run(updates)
        with chainer.using_config("train", False):
            row["statistics estimated anew"] = judge(networks, dataset, test)
    return row


def statistics(link: chainer.Chain) -> list[tuple[str, np.ndarray]]:
    """(name, array) of the running averages of a network."""
    return [
        (f"{path}/{name}", getattr(part, name))
        for path, part in link.namedlinks()
        for name in ("avg_mean", "avg_var")
        if isinstance(getattr(part, name, None), np.ndarray)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with pairs_train.txt and pairs_test.txt")
    parser.add_argument("--out", type=Path, default=Path("ablation.json"))
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--most", type=int, default=4, help="test slices, evenly spaced")
    parser.add_argument("--only", nargs="+", help="names of rows")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    use_cpu_engine("auto")
    inputs, truths = files.list_pairs(given.data / "pairs_test.txt", given.data)
    keys = [list(truths.files)[i] for i in np.linspace(0, len(truths.files) - 1, given.most).round().astype(int)]
    test = [(load(inputs.files[key]).array, load(truths.files[key]).array) for key in keys]
    done = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    for name, changes in rows():
        if name in done or (given.only and name not in given.only):
            continue
        done[name] = measured(given.data, changes, given.seconds, given.seed, test)
        given.out.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(name, json.dumps(done[name]), flush=True)


if __name__ == "__main__":
    main()
