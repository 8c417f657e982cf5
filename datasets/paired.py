"""Pairs of images for pix2pix: files -> (input, output) in [-1, 1]."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medi2i.common.errors import UserError
from medi2i.datasets.augment import Augmentation, Uncut, augmentation_for, joined
from medi2i.datasets.catalogue import Source
from medi2i.datasets.examples import ImageCache, ImageDataset
from medi2i.datasets.grid import crop_for
from medi2i.datasets.pairs import FOLDERS, Pair, find_pairs
from medi2i.datasets.preparing import Domain, choose_channels, clip_given, landmarks_of, scale_of
from medi2i.datasets.scaling import PAIRED_HU, Clip, choose_clip
from medi2i.datasets.unpacking import unpacked

if TYPE_CHECKING:
    from medi2i.common.options import PairedOptions

log = logging.getLogger(__name__)
NORMALISED_GAMMA = 1.0  # where levels have no unit: between the ends, another scanner has others


class PairedDataset(ImageDataset[Pair]):
    """Examples (x, t): float32 (in_channels, H, W) and (out_channels, H, W), both in [-1, 1].

    Channels are the slices of a stack in order, each with its columns in order. With ``class_num`` t is one-hot, 0 and
    1, with class_num channels for each slice.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        domain_in: Domain,
        domain_out: Domain,
        *,
        stack: int,
        size: tuple[int, int],
        augmentation: Augmentation,
    ):
        super().__init__(pairs, [pair.inputs[0] for pair in pairs], domain_in.cache, stack, size, augmentation)
        self.domain_in, self.domain_out = domain_in, domain_out

    def files(self) -> list[tuple[Path, ...]]:
        """Those of the inputs of each pair, then those of its outputs."""
        sides = ((*pair.inputs, *pair.outputs) for pair in self.images)
        return [tuple(path for source in sources for path in source.paths) for sources in sides]

    @property
    def in_channels(self) -> int:
        """Channels of x."""
        return self.stack * len(self.images[0].inputs) * self.domain_in.channels

    @property
    def out_channels(self) -> int:
        """Channels of t."""
        per_slice = self.domain_out.class_num or len(self.images[0].outputs) * self.domain_out.channels
        return self.stack * per_slice

    @property
    def clip_in(self) -> Clip:
        """The ``Clip`` of x."""
        return self.domain_in.clip

    @property
    def clip_out(self) -> Clip:
        """The ``Clip`` of t."""
        return self.domain_out.clip

    def parts(self, index: int, rng: np.random.Generator | None) -> tuple[Uncut, Uncut]:
        """x and t of example ``index``. Raises Unreadable."""
        members = self.members(index)
        values, clip = joined(self.domain_in.stored(source) for pair in members for source in pair.inputs)
        draw = self.draw(rng, (values.shape[1:], self.size))
        x = Uncut(values, clip, draw, self.size).toned(self.augmentation.gamma, rng)
        if class_num := self.domain_out.class_num:
            labels = np.concatenate([self.domain_out.classes(pair.outputs[0]) for pair in members])
            return x, Uncut(labels, Clip(), draw, self.size, class_num=class_num, outside=0.0)
        t = joined(self.domain_out.stored(source) for pair in members for source in pair.outputs)
        return x, Uncut(*t, draw, self.size)


def build(
    options: "PairedOptions",
    phase: str = "train",
    *,
    multiple: int = 1,
    cache: ImageCache | None = None,
    pairs: list[Pair] | None = None,
) -> PairedDataset:
    """The ``PairedDataset`` of PairedOptions for "train" or "val".

    ``multiple``: what the network needs the crop to be divisible by. ``cache``: an ImageCache to share between data
    sets; by default all of one process share one with ``--cache_mb``. Fill ``options`` in with ``complete`` before
    validation is built, so that it gets the clips and the crop of training. ``pairs``: where they are known already.
    Raises UserError.
    """
    name, root = {"train": options.train, "val": options.val}[phase], unpacked(options.root)
    if options.class_num and len(options.from_col if options.btoa else options.to_col) > 1:
        raise UserError("--class_num: classes come from one column; --to_col should name one")
    if options.class_num == 1:
        raise UserError("--class_num: 1 class leaves nothing to tell apart; 2 or more, or 0 for images")
    kind_out = options.imgtype_out or options.imgtype
    if pairs is None:
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
    usual_gamma = 0.0 if options.normaliseA == "none" else NORMALISED_GAMMA
    gamma = usual_gamma if options.random_gamma is None else options.random_gamma
    augmentation = augmentation_for(phase, options, gamma=gamma)
    dataset = PairedDataset(pairs, domain_in, domain_out, stack=options.stack, size=size, augmentation=augmentation)
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


def build_validation(options: "PairedOptions", **how: Any) -> PairedDataset | None:
    """The data set for "val", as ``build`` has it; None where ``--val`` is left at its default and there are no folders
    testA and testB."""
    root, folders = unpacked(options.root), FOLDERS.get(options.val, ())
    if folders and not any((root / folder).is_dir() for folder in folders):
        log.warning("%s: neither %s nor %s: there will be no validation", root, *folders)
        return None
    return build(options, "val", **how)


def _domain(
    sources: list[Source],
    options: "PairedOptions",
    option: str,
    cache: ImageCache,
    class_num: int = 0,
    scale: int = 1,
) -> Domain:
    if class_num:
        return Domain(Clip(), 1, cache, class_num)
    domain = option[-1]
    normalised = scale_of(vars(options)[f"normalise{domain}"], sources, domain, vars(options)[f"landmarks{domain}"])
    return Domain(
        choose_clip(clip_given(vars(options)[option], normalised), sources, option, PAIRED_HU),
        choose_channels(sources, options.grey, bool(options.released)),
        cache,
        scale=scale,
        released=bool(options.released),
        normalised=normalised,
    )


def complete(options: "PairedOptions", dataset: PairedDataset) -> "PairedOptions":
    """``options`` with what the training data decide filled in: ch, out_ch, clipA, clipB, landmarksA, landmarksB,
    crop_height and crop_width.

    Clips stay as they are where values are not scaled.
    """
    clips = dict(zip(options.clip_names, (dataset.clip_in, dataset.clip_out), strict=True))
    decided: dict[str, Any] = {option: [clip.lower, clip.upper] for option, clip in clips.items() if clip.scales}
    for option, side in zip(options.clip_names, (dataset.domain_in, dataset.domain_out), strict=True):
        decided[f"landmarks{option[-1]}"] = landmarks_of(side)
    return dataclasses.replace(
        options,
        ch=dataset.in_channels,
        out_ch=dataset.out_channels,
        crop_height=dataset.size[0],
        crop_width=dataset.size[1],
        **decided,
    )
