"""Which ranges PSNR and SSIM are told for."""
from medi2i.common.errors import UserError
from medi2i.common.metrics import FULL, WINDOWS, Window
from medi2i.datasets import images


def parse_window(text: str) -> Window:
    """`soft`, or `liver=-50:150`. Raises UserError."""
    name, mark, limits = text.partition("=")
    if not mark:
        if name not in WINDOWS:
            raise UserError(f"--window: {name!r} is unknown; it can be {', '.join(WINDOWS)}, "
                            "or one's own as liver=-50:150")
        return WINDOWS[name]
    try:
        lower, upper = (float(limit) for limit in limits.split(":"))
        return Window(name, lower, upper)
    except ValueError:
        raise UserError(f"--window: {text!r} is not a window; it should look like liver=-50:150, "
                        "the lower limit first") from None


def clip_window(clip) -> Window | None:
    """The full range that the user gave as (lower, upper), or None. Raises UserError."""
    if clip is None:
        return None
    if not clip[1] > clip[0]:
        raise UserError(f"--clip: {clip[0]:g} {clip[1]:g}: the first must be below the second")
    return Window(FULL.name, clip[0], clip[1])


def full_window(slices, unit: str) -> Window:
    """CT: -1024…2000 HU; pictures: what their bits hold; other numbers: the range of the truth."""
    loaded = [one.truth.load() for one in slices]
    bits = {one.bits for one in loaded}
    if unit == "HU" or len(bits) == 1 and bits != {None}:
        clip = images.default_clip(slices[0].truth.kind, loaded[0].bits)
        return Window(FULL.name, clip.lower, clip.upper)
    lower, upper = min(float(one.array.min()) for one in loaded), max(float(one.array.max()) for one in loaded)
    return Window(FULL.name, lower, upper if upper > lower else lower + 1)
