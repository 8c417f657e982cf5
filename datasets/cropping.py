"""Which part of the images training sees."""
import math

from medi2i.common.errors import UserError

STEP = 16  # the default crop is a multiple of it


def choose_crop(smallest, height=None, width=None, translate=0, multiple=1, beyond=False):
    """(height, width) of the crop for images of at least ``smallest`` (H, W).

    What is not given is the largest multiple of 16 that leaves room for ``translate`` pixels on both sides (without
    that room where the image is too small for both; a negative one needs none). ``multiple``: what the network needs
    both to be divisible by. ``beyond``: a crop may be larger than the image. Raises UserError, with the largest crop
    that works, for one that does not fit.
    """
    return (_side("crop_height", height, smallest[0], translate, multiple, beyond),
            _side("crop_width", width, smallest[1], translate, multiple, beyond))


def crop_for(phase, smallest, options, multiple=1, beyond=False):
    """(height, width) of the crop of ``phase`` "train" or "val" by the options, else as ``choose_crop``.

    Where training takes crops from anywhere, validation takes all of the image (to a multiple of ``multiple``): its
    middle would not stand for it. A network with fully connected layers keeps to its one size.
    """
    one_size = options.gen_fc > 0 or options.latent_dim > 0
    if phase == "val" and options.random_translate < 0 and not one_size:
        return tuple(size // multiple * multiple for size in smallest)
    return choose_crop(smallest, options.crop_height, options.crop_width, options.random_translate, multiple,
                       beyond and options.random_translate >= 0)


def _side(option, given, available, translate, multiple, beyond):
    step = math.lcm(STEP, multiple)
    if given is None:
        with_room = (available - 2 * max(translate, 0)) // step * step
        crop = with_room if with_room > 0 else available // step * step
        if crop == 0:
            raise UserError(f"--{option}: the smallest image has {available} pixels there, fewer than {step}"
                            + _works(available, multiple))
        return crop
    if given > available and not beyond:
        raise UserError(f"--{option}: {given} is larger than the smallest image, which has {available} pixels there"
                        + _works(available, multiple))
    if given % multiple:
        raise UserError(f"--{option}: {given} is not a multiple of {multiple}, as this network needs"
                        + _works(available, multiple))
    return given


def _works(available, multiple):
    largest = available // multiple * multiple
    if largest == 0:
        return f"; this network needs at least {multiple}: a network with fewer levels would be right"
    return f"; the largest crop that works is {largest}"
