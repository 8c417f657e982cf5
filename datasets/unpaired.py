"""Images of one domain, for CycleGAN and synthesis: files -> one image in [-1, 1], and its classes where labels say."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medi2i.common.errors import UserError
from medi2i.datasets.augment import Augmentation, Uncut, augmentation_for, continued, joined
from medi2i.datasets.catalogue import Source, sources_in, within
from medi2i.datasets.examples import ImageCache, ImageDataset
from medi2i.datasets.grid import crop_for
from medi2i.datasets.preparing import Domain, Scale, choose_channels, clip_given, landmarks_of, scale_of
from medi2i.datasets.scaling import UNPAIRED_HU, Clip, choose_clip
from medi2i.datasets.unpacking import unpacked

if TYPE_CHECKING:
    from medi2i.common.options import UnpairedOptions

log = logging.getLogger(__name__)

HU_KINDS = ("dcm", "npy")  # for which --HU_base… counts
FOLDERS = {("A", "train"): "trainA", ("B", "train"): "trainB", ("A", "val"): "testA", ("B", "val"): "testB"}


class UnpairedDataset(ImageDataset[Source]):
    """Examples x: float32 (channels, H, W) in [-1, 1]. Channels are the slices of a stack, in order."""

    WORKERS = 2  # those of each domain

    def __init__(
        self,
        sources: Sequence[Source],
        domain: Domain,
        *,
        stack: int,
        size: tuple[int, int],
        augmentation: Augmentation,
    ):
        super().__init__(sources, sources, domain.cache, stack, size, augmentation)
        self.domain = domain

    @property
    def channels(self) -> int:
        """Channels of an example."""
        return self.stack * self.domain.channels

    @property
    def clip(self) -> Clip:
        """The ``Clip`` of the images."""
        return self.domain.clip

    def whole(self, index: int) -> np.ndarray:
        """Example ``index``, neither cropped nor changed: (C, H, W). Raises Unreadable."""
        return np.concatenate([self.domain.unit(source) for source in self.members(index)])

    def parts(self, index: int, rng: np.random.Generator | None) -> tuple[Uncut, ...]:
        """x of example ``index``. Raises Unreadable."""
        draw = self.draw(rng)
        values, clip = joined(self.domain.stored(source) for source in self.members(index))
        return (Uncut(continued(values, draw, self.size), clip, draw, self.size),)


class LabelledDataset(UnpairedDataset):
    """Examples (x, t) of ``images``: t, (stack * class_num, H, W) of 0 and 1, says which class each pixel of x is of.

    labels: of each of the images. What happens to x happens to t.
    """

    def __init__(self, images: UnpairedDataset, labels: list[Source], class_num: int):
        super().__init__(
            images.images, images.domain, stack=images.stack, size=images.size, augmentation=images.augmentation
        )
        self.labels, self.label_domain = labels, Domain(Clip(), 1, images.cache, class_num)

    def parts(self, index: int, rng: np.random.Generator | None) -> tuple[Uncut, ...]:
        """x and t of example ``index``. Raises Unreadable."""
        (x,) = super().parts(index, rng)
        slices = [self.label_domain.classes(self.labels[position]) for position in self.windows[index]]
        values = continued(np.concatenate(slices), x.draw, self.size)
        return x, Uncut(values, Clip(), x.draw, self.size, class_num=self.label_domain.class_num, outside=0.0)


def labelled(options: "UnpairedOptions", domain: str, images: UnpairedDataset) -> LabelledDataset:
    """The training ``images`` of ``domain`` "A" or "B" with their labels, of the same names in labelsA or labelsB.

    Raises UserError where some are missing, of another size, or hold no classes.
    """
    root = unpacked(options.root)
    folder = root / f"labels{domain}"
    if options.forceSpacing > 0:
        raise UserError(
            "--shape_classes: labels are not resampled; --forceSpacing -1 would leave the images as they are"
        )
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; with --shape_classes it should hold labels under the names of the images in "
            f"{root / FOLDERS[domain, 'train']}"
        )
    found = {source.stem: source for source in sources_in(folder, labels=True)}
    missing = [image.label for image in images.images if image.stem not in found]
    if missing:
        raise UserError(
            f"{folder}: no labels of {len(missing)} of {len(images.images)} images, among them {missing[0]}; "
            "they should have the names of the images"
        )
    labels = [found[image.stem] for image in images.images]
    for label, image in zip(labels, images.images, strict=True):
        if label.shape[1:] != image.shape[1:]:
            sizes = ["x".join(str(n) for n in source.shape[:0:-1]) for source in (label, image)]
            raise UserError(
                f"{label.path}: is {sizes[0]} and its image, {image.path}, {sizes[1]} (width x height); "
                "labels should have the size of their image"
            )
    examples = LabelledDataset(images, labels, options.shape_classes)
    examples.label_domain.classes(labels[0])  # images that hold no classes are told now
    return examples


def build(
    options: "UnpairedOptions",
    domain: str,
    phase: str = "train",
    *,
    multiple: int = 1,
    cache: ImageCache | None = None,
    folder: Path | None = None,
) -> UnpairedDataset:
    """The ``UnpairedDataset`` of UnpairedOptions: ``domain`` "A" or "B", ``phase`` "train" or "val".

    Every DICOM series is a volume of its own, wherever its files lie; slices are read when they are needed. The two
    domains may differ in kind, clip and size: a crop that is not given is chosen for each. ``multiple``: what the
    network needs the crop to be divisible by. ``cache``: an ImageCache to share; by default all data sets of one
    process share one with ``--cache_mb``. ``folder``: of the images, where it is another than that of domain and phase.
    Fill ``options`` in with ``complete`` before validation is built. Raises UserError.
    """
    folder = unpacked(options.root) / FOLDERS[domain, phase] if folder is None else folder
    kind = options.imgtype_b if domain == "B" and options.imgtype_b else options.imgtype
    sources = sources_in(folder, kind, by_file=bool(options.released) and options.slice_range is None)
    spacing = options.forceSpacing if options.forceSpacing > 0 else None
    _refuse_what_needs_geometry(sources, options, spacing)
    if options.slice_range is not None:
        sources = _within(sources, options.slice_range, folder, bool(options.released))
    normalised = scale_of(vars(options)[f"normalise{domain}"], sources, domain, vars(options)[f"landmarks{domain}"])
    side = Domain(
        _clip(options, f"clip{domain}", sources, normalised),
        choose_channels(sources, options.grey, bool(options.released)),
        ImageCache.shared(options.cache_mb) if cache is None else cache,
        spacing=spacing,
        body=options.clip_body,
        released=bool(options.released),
        normalised=normalised,
    )
    smallest = tuple(map(min, zip(*(side.size(source) for source in sources), strict=True)))
    size = crop_for(phase, smallest, options, multiple, beyond=True)
    if any(part > whole for part, whole in zip(size, smallest, strict=True)):
        log.warning(
            "%s: images of down to %dx%d pixels (height x width) are continued by their edge to the crop of %dx%d",
            folder,
            *smallest,
            *size,
        )
    dataset = UnpairedDataset(
        sources,
        side,
        stack=options.stack,
        size=size,
        augmentation=augmentation_for(phase, options, flips=sources[0].kind != "dcm"),
    )
    known = options.ch if domain == "A" else options.out_ch
    if phase == "val" and known is not None and known != dataset.channels:
        raise UserError(
            f"{folder}: the images have {dataset.channels} channel(s), those of training {known}; "
            f"--grey would make both grey"
        )
    return dataset


def build_validation(options: "UnpairedOptions", domain: str, **how: Any) -> UnpairedDataset | None:
    """The data set for "val", as ``build`` has it; None where there is no folder testA (testB)."""
    folder = unpacked(options.root) / FOLDERS[domain, "val"]
    if not folder.is_dir():
        log.warning("%s: no such folder: there will be no validation of domain %s", folder, domain)
        return None
    return build(options, domain, "val", **how)


def _refuse_what_needs_geometry(sources: list[Source], options: "UnpairedOptions", spacing: float | None) -> None:
    for source in sources:
        if options.slice_range is not None and source.height is None:
            raise UserError(
                f"--slice_range: {source.path} has no position in mm; only DICOM slices with ImagePositionPatient have"
            )
        if spacing is not None and source.spacing is None:
            raise UserError(f"--forceSpacing: {source.path} has no pixel size in mm; only DICOM with PixelSpacing has")
        if options.clip_body and source.modality != "CT":
            raise UserError(f"--clip_body: {source.path} is no CT; the body is found by its HU")


def _clip(options: "UnpairedOptions", option: str, sources: list[Source], normalised: Scale | None) -> Clip:
    """The clip of a domain. Base and width in HU are for DICOM and npy; npy has the default of DICOM, too."""
    given, kinds = vars(options)[option], {source.kind for source in sources}
    if given is not None and options.clips_in_hu and not kinds & set(HU_KINDS):
        if not options.released:
            log.warning(
                "--HU_base, --HU_range: count for DICOM and npy only, and domain %s is %s; --%s LOWER UPPER "
                "counts for every kind",
                option[-1],
                ", ".join(sorted(kinds)),
                option,
            )
        given = None
    given = clip_given(given, normalised)
    if given in (None, [None, None]) and kinds == {"npy"}:
        log.warning(
            "--%s: npy is taken to be HU, and %g to %g becomes -1 to 1, as in the released code; --%s -1 1 "
            "would take values as they are",
            option,
            UNPAIRED_HU.lower,
            UNPAIRED_HU.upper,
            option,
        )
        return UNPAIRED_HU
    return choose_clip(given, sources, option, UNPAIRED_HU)


def _within(sources: list[Source], slice_range: Sequence[float], folder: Path, released: bool) -> list[Source]:
    lowest, highest = slice_range
    heights = [source.height for source in sources if source.height is not None]
    kept = [one for one in sources if one.height is not None and within(one.height, lowest, highest, released)]
    if not kept:
        raise UserError(
            f"--slice_range: no slice of {folder} lies between {lowest:g} and {highest:g} mm; "
            f"they lie between {min(heights):g} and {max(heights):g}"
        )
    return kept


def complete(options: "UnpairedOptions", dataset_a: UnpairedDataset, dataset_b: UnpairedDataset) -> "UnpairedOptions":
    """``options`` with what the training data decide filled in: ch, out_ch, clipA, clipB, landmarksA, landmarksB,
    crop_height and crop_width.

    The crop is filled in only if it is the same for both domains; clips stay as they are where values are not scaled.
    """
    clips, size = {"clipA": dataset_a.clip, "clipB": dataset_b.clip}, dataset_a.size
    decided: dict[str, Any] = {option: [clip.lower, clip.upper] for option, clip in clips.items() if clip.scales}
    if size == dataset_b.size:
        decided.update(crop_height=size[0], crop_width=size[1])
    decided.update(
        ch=dataset_a.channels,
        out_ch=dataset_b.channels,
        clips_in_hu=None,
        landmarksA=landmarks_of(dataset_a.domain),
        landmarksB=landmarks_of(dataset_b.domain),
    )
    return dataclasses.replace(options, **decided)
