"""Images to learn from."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Ten npy images of 16² pixels, in HU: a disc of random place and size."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    for number in range(10):
        (row, column), radius = rng.uniform(6, 9, 2), rng.uniform(3, 6)
        inside = np.hypot(y - row, x - column) < radius
        np.save(folder / f"{number}.npy", (1000.0 * inside - 1000 + rng.normal(0, 5, inside.shape)).astype(np.float32))
    return folder
