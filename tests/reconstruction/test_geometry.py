"""Geometries as files, and what cannot be one: one line each."""

import json

import numpy as np
import pytest

from medi2i.common.errors import UserError
from medi2i.reconstruction.geometry import Geometry, load, regular, save


def test_saved_and_loaded(tmp_path):
    geometry = regular((31, 40), (0.7, 0.9), 12, beam="flat", source_distance=100, first=-10, turn=200)
    save(tmp_path / "geometry.json", geometry)
    assert load(tmp_path / "geometry.json") == geometry


def test_every_pixel_is_seen_from_every_side():
    for beam in ("parallel", "arc", "flat"):
        geometry = regular((31, 40), (0.7, 0.9), 8, beam=beam, source_distance=60)
        assert len(geometry.angles) == 8
        for view in range(8):
            assert np.abs(geometry.rays(view)[1]).max() >= geometry.radius - geometry.bin_width


def test_hu_and_attenuation():
    geometry = regular((3, 3), (1.0, 1.0), 2, mu_water=0.02)
    assert geometry.to_attenuation(np.array([-1000.0, 0.0, 1000.0, -1024.0])) == pytest.approx([0, 0.02, 0.04, 0])
    assert geometry.to_hu(np.array([0.0, 0.02, 0.03])) == pytest.approx([-1000, 0, 500])


GOOD = dict(shape=[5, 5], spacing=[1.0, 1.0], angles=[0.0, 90.0], bins=7, bin_width=1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(beam="cone"), "beam 'cone': one of parallel, arc, flat"),
        (dict(bins=0), "bins 0: from 1 to 16384"),
        (dict(angles=[]), "views 0: from 1"),
        (dict(spacing=[1.0, -1.0]), "spacing 1.0 -1.0: numbers above 0"),
        (dict(bin_width=0), "bin_width 0: numbers above 0"),
        (dict(beam="arc", source_distance=3.0), "source_distance 3 mm: the source would lie within the image"),
        (dict(shape=[5]), "a value is not of its kind; JSON with shape"),
        (dict(bins=7.5), "a value is not of its kind"),
        (dict(angles="north"), "have to be finite numbers|not of its kind"),
        (dict(spacing=["a", "b"]), "not of its kind"),
        (dict(angels=[1.0]), "is no geometry of a scan; JSON with shape"),
    ],
)
def test_what_is_no_geometry(tmp_path, change, words):
    path = tmp_path / "geometry.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(UserError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_fields_that_are_missing(tmp_path):
    (tmp_path / "g.json").write_text(json.dumps({name: GOOD[name] for name in ("shape", "angles")}))
    with pytest.raises(UserError, match="is no geometry of a scan"):
        load(tmp_path / "g.json")
    with pytest.raises(UserError, match="source_distance 0 mm"):
        Geometry((5, 5), (1.0, 1.0), (0.0,), 7, 1.0, "arc")
