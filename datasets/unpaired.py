"""Images of one domain for CycleGAN: files -> one image in [-1, 1]."""

import dataclasses
import logging
from pathlib import Path

import numpy as np

from medi2i.common.errors import UserError
from medi2i.datasets.augment import STILL, Uncut, add_noise, apply, augmentation_for, continued, joined, noise_and_key
from medi2i.datasets.cache import ImageCache
from medi2i.datasets.catalogue import sources_in, stacks, within
from medi2i.datasets.grid import crop_for
from medi2i.datasets.preparing import Domain, choose_channels
from medi2i.datasets.scaling import UNPAIRED_HU, choose_clip

log = logging.getLogger(__name__)

HU_KINDS = ("dcm", "npy")  # for which --HU_base… counts
FOLDERS = {("A", "train"): "trainA", ("B", "train"): "trainB", ("A", "val"): "testA", ("B", "val"): "testB"}


class UnpairedDataset:
    """Examples x: float32 (channels, H, W) in [-1, 1]. Channels are the slices of a stack, in order."""

    def __init__(self, sources, domain, *, stack, size, augmentation):
        self.sources = sources
        self.domain = domain
        self.stack = stack
        self.size = size
        self.augmentation = augmentation
        self.windows = stacks(sources, stack)
        if not self.windows:
            raise UserError(f"--stack: {stack} neighbours are needed and no series has so many images")

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, index):
        return self.load(index, None)

    @property
    def channels(self):
        """Channels of an example."""
        return self.stack * self.domain.channels

    in_channels = out_channels = channels

    @property
    def clip(self):
        """The ``Clip`` of the images."""
        return self.domain.clip

    clip_in = clip_out = clip

    def members(self, index):
        """The ``Source`` of each slice of example ``index``."""
        return [self.sources[position] for position in self.windows[index]]

    def name(self, index):
        """What example ``index`` is called: its middle slice's file, below the domain's folder, without suffix."""
        return self.members(index)[self.stack // 2].stem

    def whole(self, index):
        """Example ``index``, neither cropped nor changed: (C, H, W). Raises Unreadable."""
        return np.concatenate([self.domain.unit(source) for source in self.members(index)])

    def load(self, index, rng=None):
        """Example ``index``. Without a numpy Generator the centre crop, nothing random. Raises Unreadable."""
        x = self.whole(index)
        draw = STILL if rng is None else self.augmentation.draw(rng)
        x = apply(continued(x, draw, self.size), draw, self.size)
        return x if rng is None else add_noise(x, self.augmentation.noise, rng)

    def uncut(self, index, rng):
        """What ``load`` would cut and change, for a device to do so: an ``Uncut``. Raises Unreadable."""
        draw = STILL if rng is None else self.augmentation.draw(rng)
        values, clip = joined(self.domain.stored(source) for source in self.members(index))
        return Uncut(
            continued(values, draw, self.size), clip, draw, self.size, *noise_and_key(self.augmentation.noise, rng)
        )

    def share_cache(self, processes=None):
        """Keep the budget together with worker processes: half of it is theirs, in equal shares.

        Called in each worker with their number, and without it in the process that starts them.
        """
        self.domain.cache.take_share(2 if processes is None else 4 * processes)  # each domain has its own workers


def build(options, domain, phase="train", *, multiple=1, cache=None):
    """The ``UnpairedDataset`` of UnpairedOptions: ``domain`` "A" or "B", ``phase`` "train" or "val".

    Every DICOM series is a volume of its own, wherever its files lie; slices are read when they are needed. None for
    "val" where there is no folder testA (testB). The two domains may differ in kind, clip and size: a crop that is not
    given is chosen for each. ``multiple``: what the network needs the crop to be divisible by. ``cache``: an
    ImageCache to share; by default all data sets of one process share one with ``--cache_mb``. Fill ``options`` in
    with ``complete`` before validation is built. Raises UserError.
    """
    folder = Path(options.root) / FOLDERS[domain, phase]
    if phase == "val" and not folder.is_dir():
        log.warning("%s: no such folder: there will be no validation of domain %s", folder, domain)
        return None
    kind = options.imgtype_b if domain == "B" and options.imgtype_b else options.imgtype
    sources = sources_in(folder, kind, by_file=bool(options.released) and options.slice_range is None)
    spacing = options.forceSpacing if options.forceSpacing > 0 else None
    _refuse_what_needs_geometry(sources, options, spacing)
    if options.slice_range is not None:
        sources = _within(sources, *options.slice_range, folder, options.released)
    side = Domain(
        _clip(options, f"clip{domain}", sources),
        choose_channels(sources, options.grey, options.released),
        ImageCache.shared(options.cache_mb) if cache is None else cache,
        spacing=spacing,
        body=options.clip_body,
        released=bool(options.released),
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


def _refuse_what_needs_geometry(sources, options, spacing):
    for source in sources:
        if options.slice_range is not None and source.height is None:
            raise UserError(
                f"--slice_range: {source.path} has no position in mm; only DICOM slices with ImagePositionPatient have"
            )
        if spacing is not None and source.spacing is None:
            raise UserError(f"--forceSpacing: {source.path} has no pixel size in mm; only DICOM with PixelSpacing has")
        if options.clip_body and source.modality != "CT":
            raise UserError(f"--clip_body: {source.path} is no CT; the body is found by its HU")


def _clip(options, option, sources):
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


def _within(sources, lowest, highest, folder, released):
    heights = [source.height for source in sources]
    kept = [source for source in sources if within(source.height, lowest, highest, released)]
    if not kept:
        raise UserError(
            f"--slice_range: no slice of {folder} lies between {lowest:g} and {highest:g} mm; "
            f"they lie between {min(heights):g} and {max(heights):g}"
        )
    return kept


def complete(options, dataset_a, dataset_b):
    """``options`` with what the training data decide filled in: ch, out_ch, clipA, clipB, crop_height and crop_width.

    The crop is filled in only if it is the same for both domains; clips stay as they are where values are not scaled.
    """
    decided = {"ch": dataset_a.channels, "out_ch": dataset_b.channels, "clips_in_hu": None}
    if dataset_a.size == dataset_b.size:
        decided.update(crop_height=dataset_a.size[0], crop_width=dataset_a.size[1])
    decided.update(
        {
            option: [dataset.clip.lower, dataset.clip.upper]
            for option, dataset in (("clipA", dataset_a), ("clipB", dataset_b))
            if dataset.clip.scales
        }
    )
    return dataclasses.replace(options, **decided)
