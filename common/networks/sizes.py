"""Which image sizes a generator takes, before there is a generator."""

from medi2i.common.errors import UserError
from medi2i.common.networks.extent import Fitting
from medi2i.common.networks.from_options import crop_size, fitting_sizes, levels_in_words, translated_size

__all__ = ["check_size", "fitting_of", "fixed_size", "size_multiple"]


def fitting_of(options) -> Fitting:
    """The sizes of images that the generator gives back in their size. Raises UserError where there are none."""
    found = fitting_sizes(options)
    if found is None:
        raise UserError(
            f"{levels_in_words(options)}: output and input would differ in size, whatever the input's is; "
            "--gen_down down, maxpool, avgpool go with --gen_up resize, unpool, deconv, pixsh, and none "
            "with none, with kernels of 3 (4 fits down and deconv)"
        )
    return found


def size_multiple(options) -> int:
    """What height and width of the generator's images must be divisible by; 1 where ``check_size`` asks for more.

    Raises UserError where no image comes back in its size.
    """
    found = fitting_of(options)
    return 1 if found.rest else found.multiple


def fixed_size(options) -> tuple[int, int] | None:
    """(height, width) that images must have where fully connected layers allow no other, else None."""
    return crop_size(options) if options.gen_fc or options.latent_dim > 0 else None


def check_size(options, size: tuple[int, int]):
    """UserError, with the sizes that would work, unless images of ``size`` (height, width) come back in their size."""
    fixed = fixed_size(options)
    if fixed is not None and tuple(size) != tuple(fixed):
        raise UserError(
            f"image of {size[0]}x{size[1]} (height x width): with --gen_fc or --latent_dim it must be "
            f"exactly {fixed[0]}x{fixed[1]}, the crop of the training"
        )
    sizes = fitting_of(options)
    try:
        fits = translated_size(options, size) == tuple(size)
    except UserError:
        fits = False
    if not fits:
        raise UserError(
            f"image of {size[0]}x{size[1]} (height x width): this network needs {sizes}; "
            + " or ".join(f"{h}x{w}" for h, w in sizes.around(size))
            + " would work"
        )
