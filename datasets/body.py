"""The region of the body in a CT slice: what lies outside (table, sheets, air) can be set to air."""
import numpy as np
from scipy import ndimage

AIR_HU = -1000.0
SKIN_HU = -500.0  # half-way between air and water


def body_mask(hu, threshold=SKIN_HU):
    """True inside the body: (H, W) in HU -> (H, W) bool.

    The largest connected region above ``threshold`` HU, with its holes (lungs, bowel) filled. Regions joined by less
    than 5 pixels, as skin that touches a table, are taken as separate. All False where nothing is that dense.
    """
    dense = np.pad(hu > threshold, 2)  # a body cut by the image's border must not be eroded from there
    core = ndimage.binary_opening(dense, np.ones((5, 5), dtype=bool))
    labels, count = ndimage.label(core if core.any() else dense)
    if count == 0:
        return np.zeros(hu.shape, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = labels == sizes.argmax()
    # Opening shaves corners off: give back what is dense and next to the region.
    largest |= ndimage.binary_dilation(largest, iterations=2) & dense
    return ndimage.binary_fill_holes(largest)[2:-2, 2:-2]


def clip_to_body(hu, threshold=SKIN_HU):
    """``hu`` (H, W) with air (-1000 HU) outside the body; a new array."""
    return np.where(body_mask(hu, threshold), hu, np.float32(AIR_HU))
