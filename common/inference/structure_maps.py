"""Maps of the edge comparison, as pictures with a colour bar and as numbers."""
import numpy as np

from medi2i.common.inference.pictures import Panel, draw_maps
from medi2i.datasets.outputs import whole_file


def write_maps(base, x, y, found):
    """Write ``<base>.png`` (input, output, both maps) and ``<base>.npy`` (the maps, (2, H, W)); x, y are (H, W).

    ``found``: the ``Structure`` of x and y. Existing files are replaced.
    """
    limit = max(float(np.percentile(np.abs(found.difference), 99.5)), 1e-6)
    draw_maps(base.with_name(base.name + ".png"), [
        Panel("input", x, "gray", -1, 1), Panel("output", y, "gray", -1, 1),
        Panel("edges of output - input (rms)", found.difference, "RdBu_r", -limit, limit),
        Panel("1 - local correlation of edges", found.local, "magma", 0, max(1.0, float(found.local.max())))])
    with whole_file(base.with_name(base.name + ".npy"), force=True) as temporary, open(temporary, "wb") as file:
        np.save(file, np.stack([found.difference, found.local]))
