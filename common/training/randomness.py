"""All randomness of a training run in one object that is seeded once and saved with the run.

The state is stored as plain integer and float arrays, so that reading a snapshot never unpickles anything.
"""

from collections.abc import Iterable
from types import ModuleType

import numpy as np

from medi2i.common.compat import Array, chainer

_WORD = (1 << 64) - 1


class RandomState:
    """A seeded source of random numbers that Chainer can serialise.

    Chainer's dropout and the decoder's noise draw from NumPy's (or CuPy's) global state: :meth:`seed_global` seeds
    that, too, and it is saved and restored together with this one.

    Args:
        seed: whole number >= 0. Same seed, same numbers.
        xp: numpy or cupy; where arrays are drawn.
        rank: of a distributed training; each has numbers of its own, and the first those of a training alone.
    """

    def __init__(self, seed: int, xp: ModuleType = np, rank: int = 0) -> None:
        self.generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(rank,)) if rank else seed)
        self.xp = xp

    def restart(self, seed: int, rank: int, iteration: int) -> None:
        """Begin anew as ``rank`` of a training that is at ``iteration``, where that rank has no state to go on from."""
        seeds = np.random.SeedSequence(seed, spawn_key=(rank, iteration))
        self.generator.bit_generator.state = np.random.PCG64(seeds).state
        self.seed_global()

    def seed_global(self) -> None:
        """Seed NumPy's global state, and CuPy's on a GPU, from this generator."""
        np.random.seed(self.integer(2**32))
        if self.xp is not np:
            self.xp.random.seed(self.integer(2**32))

    def integer(self, below: int) -> int:
        """A whole number 0 <= n < below."""
        return int(self.generator.integers(below))

    def normal(self, sd: float) -> float:
        """One number from N(0, sd), a Python float. No draw is made for sd 0."""
        return float(self.generator.normal(0.0, sd)) if sd > 0 else 0.0

    def uniform_array(self, shape: int | tuple[int, ...]) -> Array:
        """float32 array of ``shape``, uniform in [0, 1)."""
        return self.xp.asarray(self.generator.random(shape, dtype=np.float32))

    def normal_array(self, shape: tuple[int, ...]) -> Array:
        """float32 array of ``shape`` from N(0, 1); on a GPU it is drawn there."""
        if self.xp is np:
            return self.generator.standard_normal(shape, dtype=np.float32)
        return self.xp.random.standard_normal(shape, dtype=np.float32)

    def serialize(self, serializer: chainer.AbstractSerializer) -> None:
        """Save or restore this generator and NumPy's global state through a Chainer serializer.

        CuPy cannot tell its state. On a GPU saving therefore reseeds it, with a number that is saved: the run that goes
        on and the run that resumes draw the same numbers from there.
        """
        if isinstance(serializer, chainer.Serializer):
            if self.xp is not np:
                device_seed = self.integer(2**32)
                self.xp.random.seed(device_seed)
                serializer("device_seed", device_seed)
            serializer("generator", _generator_words(self.generator))
            _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
            serializer("numpy_keys", keys)
            serializer("numpy_position", np.array([position, has_gauss], dtype=np.int64))
            serializer("numpy_gauss", np.float64(gauss))
            return
        _restore_generator(self.generator, serializer("generator", None))
        position, has_gauss = (int(n) for n in serializer("numpy_position", None))
        keys = np.asarray(serializer("numpy_keys", None), dtype=np.uint32)
        np.random.set_state(("MT19937", keys, position, has_gauss, float(serializer("numpy_gauss", None))))
        if self.xp is not np:
            self.xp.random.seed(int(serializer("device_seed", None)))


def _generator_words(generator: np.random.Generator) -> np.ndarray:
    """The state of a PCG64 generator as six uint64: state and increment (128 bits each), and the spare 32-bit word."""
    state = generator.bit_generator.state
    inner = state["state"]
    return np.array(
        [
            inner["state"] >> 64,
            inner["state"] & _WORD,
            inner["inc"] >> 64,
            inner["inc"] & _WORD,
            state["has_uint32"],
            state["uinteger"],
        ],
        dtype=np.uint64,
    )


def _restore_generator(generator: np.random.Generator, words: Iterable) -> None:
    words = [int(word) for word in words]
    if len(words) != 6:
        raise ValueError(f"the saved random state has {len(words)} words; it should have 6")
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": words[0] << 64 | words[1], "inc": words[2] << 64 | words[3]},
        "has_uint32": words[4],
        "uinteger": words[5],
    }
