"""Pairs of images for pix2pix: files -> (input, output) in [-1, 1]."""

import dataclasses
import logging
from pathlib import Path

import numpy as np

from medi2i.common.errors import UserError
from medi2i.datasets.augment import STILL, Uncut, add_noise, apply, augmentation_for, joined, noise_and_key
from medi2i.datasets.cache import ImageCache
from medi2i.datasets.catalogue import stacks
from medi2i.datasets.grid import crop_for
from medi2i.datasets.pairs import FOLDERS, find_pairs
from medi2i.datasets.preparing import Domain, choose_channels, one_hot
from medi2i.datasets.scaling import PAIRED_HU, Clip, choose_clip

log = logging.getLogger(__name__)


class PairedDataset:
    """Examples (x, t): float32 (in_channels, H, W) and (out_channels, H, W), both in [-1, 1].

    Channels are the slices of a stack in order, each with its columns in order. With ``class_num`` t is one-hot, 0 and
    1, with class_num channels for each slice.
    """

    def __init__(self, pairs, domain_in, domain_out, *, stack, size, augmentation):
        self.pairs = pairs
        self.domain_in = domain_in
        self.domain_out = domain_out
        self.stack = stack
        self.size = size
        self.augmentation = augmentation
        self.windows = stacks(pairs, stack)
        if not self.windows:
            raise UserError(f"--stack: {stack} neighbours are needed and no series has so many images")

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, index):
        return self.load(index, None)

    @property
    def in_channels(self):
        """Channels of x."""
        return self.stack * len(self.pairs[0].inputs) * self.domain_in.channels

    @property
    def out_channels(self):
        """Channels of t."""
        per_slice = self.domain_out.class_num or len(self.pairs[0].outputs) * self.domain_out.channels
        return self.stack * per_slice

    @property
    def clip_in(self):
        """The ``Clip`` of x."""
        return self.domain_in.clip

    @property
    def clip_out(self):
        """The ``Clip`` of t."""
        return self.domain_out.clip

    def members(self, index):
        """The ``Pair`` of each slice of example ``index``."""
        return [self.pairs[position] for position in self.windows[index]]

    def name(self, index):
        """What example ``index`` is called: its middle slice's file, below the root, without suffix."""
        return self.members(index)[self.stack // 2].stem

    def load(self, index, rng=None):
        """Example ``index``: (x, t). Without a numpy Generator the centre crop, nothing random. Raises Unreadable."""
        members = self.members(index)
        x = np.concatenate([self.domain_in.unit(source) for pair in members for source in pair.inputs])
        draw = self._draw(rng, x)
        x = apply(x, draw, self.size)
        if rng is not None:
            x = add_noise(x, self.augmentation.noise, rng)
        class_num = self.domain_out.class_num
        if class_num:
            labels = np.concatenate([self.domain_out.classes(pair.outputs[0]) for pair in members])
            labels = apply(labels, draw, self.size, nearest=True, outside=0.0)
            return x, np.concatenate([one_hot(plane[np.newaxis], class_num) for plane in labels])
        t = np.concatenate([self.domain_out.unit(source) for pair in members for source in pair.outputs])
        return x, apply(t, draw, self.size)

    def _draw(self, rng, x):
        return STILL if rng is None else self.augmentation.draw(rng, (x.shape[1:], self.size))

    def uncut(self, index, rng):
        """What ``load`` would cut and change, for a device to do so: two ``Uncut``. Raises Unreadable."""
        members = self.members(index)
        x, clip = joined(self.domain_in.stored(source) for pair in members for source in pair.inputs)
        draw = self._draw(rng, x)
        x = Uncut(x, clip, draw, self.size, *noise_and_key(self.augmentation.noise, rng))
        class_num = self.domain_out.class_num
        if class_num:
            labels = np.concatenate([self.domain_out.classes(pair.outputs[0]) for pair in members])
            return x, Uncut(labels, Clip(), draw, self.size, class_num=class_num)
        return x, Uncut(
            *joined(self.domain_out.stored(source) for pair in members for source in pair.outputs), draw, self.size
        )

    def share_cache(self, processes=None):
        """Keep the budget together with worker processes: half of it is theirs, in equal shares.

        Called in each worker with their number, and without it in the process that starts them.
        """
        self.domain_in.cache.take_share(2 if processes is None else 2 * processes)


def build(options, phase="train", *, multiple=1, cache=None):
    """The ``PairedDataset`` of PairedOptions for "train" or "val".

    None for "val" where ``--val`` is left at its default and there are no folders testA and testB. ``multiple``: what
    the network needs the crop to be divisible by. ``cache``: an ImageCache to share between data sets; by default all
    of one process share one with ``--cache_mb``. Fill ``options`` in with ``complete`` before the next call, so that
    validation gets the clips and the crop of training. Raises UserError.
    """
    name = {"train": options.train, "val": options.val}[phase]
    root = Path(options.root)
    if phase == "val" and name in FOLDERS and not any((root / folder).is_dir() for folder in FOLDERS[name]):
        log.warning("%s: neither %s nor %s: there will be no validation", root, *FOLDERS[name])
        return None
    if options.class_num and len(options.from_col if options.btoa else options.to_col) > 1:
        raise UserError("--class_num: classes come from one column; --to_col should name one")
    if options.class_num == 1:
        raise UserError("--class_num: 1 class leaves nothing to tell apart; 2 or more, or 0 for images")
    kind_out = options.imgtype_out or options.imgtype
    pairs = find_pairs(
        root,
        name,
        kinds=(options.imgtype, kind_out),
        from_col=options.from_col,
        to_col=options.to_col,
        pattern=options.fn_pattern,
        btoa=options.btoa,
        labels=options.class_num > 0,
        scale=options.scale,
        by_file=bool(options.released),
    )
    cache = ImageCache.shared(options.cache_mb) if cache is None else cache
    option_in, option_out = options.clip_names
    if options.btoa and phase == "train" and not options.released and options.clipA != options.clipB:
        log.warning(
            "--btoa: --clipA is of domain A, here the output, and --clipB of the input; the released code had "
            "it the other way round"
        )
    domain_in = _domain(
        [source for pair in pairs for source in pair.inputs], options, option_in, cache, scale=options.scale
    )
    domain_out = _domain(
        [source for pair in pairs for source in pair.outputs], options, option_out, cache, options.class_num
    )
    sizes = [domain_in.size(pair.inputs[0]) for pair in pairs]
    size = crop_for(phase, tuple(map(min, zip(*sizes, strict=True))), options, multiple)
    dataset = PairedDataset(
        pairs, domain_in, domain_out, stack=options.stack, size=size, augmentation=augmentation_for(phase, options)
    )
    if options.class_num:
        domain_out.classes(pairs[0].outputs[0])  # images that hold no classes are told now
    for side, known, found in (
        ("input", options.ch, dataset.in_channels),
        ("output", options.out_ch, dataset.out_channels),
    ):
        if phase == "val" and known is not None and known != found:
            raise UserError(
                f"--val: the {side} images have {found} channel(s), those of training {known}; "
                f"--grey would make both grey"
            )
    return dataset


def _domain(sources, options, option, cache, class_num=0, scale=1):
    if class_num:
        return Domain(Clip(), 1, cache, class_num)
    return Domain(
        choose_clip(vars(options)[option], sources, option, PAIRED_HU),
        choose_channels(sources, options.grey, options.released),
        cache,
        scale=scale,
        released=bool(options.released),
    )


def complete(options, dataset):
    """``options`` with what the training data decide filled in: ch, out_ch, clipA, clipB, crop_height and crop_width.

    Clips stay as they are where values are not scaled.
    """
    decided = {
        "ch": dataset.in_channels,
        "out_ch": dataset.out_channels,
        "crop_height": dataset.size[0],
        "crop_width": dataset.size[1],
    }
    decided.update(
        {
            option: [clip.lower, clip.upper]
            for option, clip in zip(options.clip_names, (dataset.clip_in, dataset.clip_out), strict=True)
            if clip.scales
        }
    )
    return dataclasses.replace(options, **decided)
