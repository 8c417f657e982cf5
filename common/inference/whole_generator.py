"""``gen_…npz``: encoder and decoder in one file."""
import re

from medi2i.common.errors import UserError

PREFIXES = (("encoder/", "decoder/"), ("enc/", "dec/"), ("enc_x/", "dec_y/"), ("enc_y/", "dec_x/"))
_RES_BLOCK = re.compile(r"r(\d+)/(.+)")


def join_generator(encoder_arrays: dict, decoder_arrays: dict) -> dict:
    """The arrays of both under ``encoder/`` and ``decoder/``, for one file."""
    first, second = PREFIXES[0]
    return {**{first + name: array for name, array in encoder_arrays.items()},
            **{second + name: array for name, array in decoder_arrays.items()}}


def split_generator(arrays: dict, encoder_names, decoder_names, source: str) -> tuple[dict, dict]:
    """(encoder's arrays, decoder's arrays) of one file.

    Either every name starts with a prefix that tells the two apart, or the file is one flat network, whose residual
    blocks are numbered through: the first go to the encoder, the rest, renumbered from 0, to the decoder.
    encoder_names, decoder_names: the names that each should have. Raises UserError for anything else.
    """
    for first, second in PREFIXES:
        if all(name.startswith((first, second)) for name in arrays):
            return (_without(arrays, first), _without(arrays, second))
    in_encoder = len({m[1] for name in encoder_names if (m := _RES_BLOCK.fullmatch(name))})
    encoder, decoder = {}, {}
    for name, array in arrays.items():
        match = _RES_BLOCK.fullmatch(name)
        if match and int(match[1]) >= in_encoder:
            decoder[f"r{int(match[1]) - in_encoder}/{match[2]}"] = array
        elif match or name in encoder_names:
            encoder[name] = array
        elif name in decoder_names:
            decoder[name] = array
        else:
            raise UserError(f"{source}: {name} belongs neither to the encoder nor to the decoder that args describes")
    return encoder, decoder


def _without(arrays, prefix):
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
