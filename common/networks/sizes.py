"""Which image sizes a generator takes, before there is a generator."""
from medi2i.common.errors import UserError
from medi2i.common.networks.from_options import crop_size, generator_channels, generator_pretrained, sampling
from medi2i.common.networks.network import nearest_sizes, refuse_unless_divisible
from medi2i.common.networks.spec import downscaling

__all__ = ["check_size", "fixed_size", "nearest_sizes", "size_multiple"]


def size_multiple(options) -> int:
    """What height and width of the generator's images must be divisible by."""
    return downscaling(generator_channels(options), sampling("gen_down", options.gen_down),
                       generator_pretrained(options))


def fixed_size(options) -> tuple[int, int] | None:
    """(height, width) that images must have where fully connected layers allow no other, else None."""
    return crop_size(options) if options.gen_fc or options.latent_dim > 0 else None


def check_size(options, size):
    """UserError, with the sizes that would work, unless the generator takes images of ``size`` (height, width)."""
    fixed = fixed_size(options)
    if fixed is not None and tuple(size) != tuple(fixed):
        raise UserError(f"image of {size[0]}x{size[1]} (height x width): with --gen_fc or --latent_dim it must be "
                        f"exactly {fixed[0]}x{fixed[1]}, the crop of the training")
    refuse_unless_divisible(size, size_multiple(options))
