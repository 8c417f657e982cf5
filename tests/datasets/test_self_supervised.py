"""Training without clean images: which slices are pairs, what does not count, and which noise is refused."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medi2i.common.errors import UserError
from medi2i.common.kernels.gpu.augment import finish
from medi2i.common.options import PairedOptions, parse
from medi2i.datasets import self_supervised
from medi2i.datasets.catalogue import sources_in
from medi2i.datasets.self_supervised import blind, moved, pairs_of
from medi2i.tools import make_noisy, make_phantom

SHAPE = (1, 61, 75)


def noise(level, seed):
    return (level * np.random.default_rng(seed).standard_normal(SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """Folder of six slices, five millimetres apart, with white noise of 30 HU."""
    folder = tmp_path_factory.mktemp("phantom")
    assert make_phantom.main(["-o", str(folder / "clean"), "--size", "256", "--slices", "6", "--thickness", "5"]) == 0
    words = ["-i", folder / "clean", "-o", folder / "pairs", "--model", "gaussian", "--sd", "30", "-j", "1"]
    assert make_noisy.main([str(word) for word in words]) == 0
    return folder / "pairs"


def options(root, *more):
    return parse(PairedOptions, ["--preset", "denoise_self", "-R", str(root), *more])


def test_what_moved_between_a_slice_and_one_of_those_beside_it_does_not_count():
    x, same, other = noise(0.01, 1), noise(0.01, 2), noise(0.01, 3)
    other[0, 20:32, 30:42] += 0.2
    found = moved(x, [other])
    assert found.shape == SHAPE and found[0, 21:31, 31:41].all()
    assert found.mean() < 0.09 and moved(x, [same]).mean() < 0.01
    assert (found | moved(x, [same]) == moved(x, [other, same])).all()


def test_a_slice_beside_which_anatomy_moves_is_no_target_there_from_the_other_side_either(phantom):
    data = self_supervised.build(options(phantom))
    last, middle, following = (data.domain_in.unit(data.beside[0, place][-1]) for place in (1, 2, 3))
    usual = [one / (data.clip_in.width / 2) for one in data.usual[0]]
    for index, pair in enumerate(data.images):
        if pair.inputs[0].place == 3:
            x, t = data.whole(index, np.random.default_rng(0))
            np.testing.assert_array_equal(x, middle)
            np.testing.assert_array_equal(np.isnan(t), moved(x, [last, following], usual))
            assert np.isnan(t).any() and not np.isnan(data.whole(index, None)[1]).any()


def test_blind_pixels_are_asked_for_and_not_shown():
    x = noise(1, 3)
    filled, t = blind(x, np.random.default_rng(0))
    asked = ~np.isnan(t)
    assert asked.mean() == pytest.approx(1 / 64, rel=0.5)
    np.testing.assert_array_equal(t[asked], x[asked])
    assert (filled[asked] != x[asked]).all() and np.isin(filled[asked], x).all()
    np.testing.assert_array_equal(filled[~asked], x[~asked])


def test_each_slice_of_a_folder_is_the_target_of_those_beside_it(phantom):
    data = self_supervised.build(options(phantom))  # of trainA alone: trainB is clean
    pairs = [(pair.inputs[0].path, pair.outputs[0].path) for pair in data.images]
    assert len(pairs) == 10 and all("trainA" in str(path) for pair in pairs for path in pair)
    assert {(b, a) for a, b in pairs} == set(pairs)
    x, t = data.load(0, np.random.default_rng(0))
    assert x.shape == t.shape == (1, 64, 64) and not np.isnan(x).any() and np.isnan(t).mean() < 0.5
    assert not np.isnan(data.load(0)[1]).any()


def test_what_a_device_cuts_is_the_same(phantom):
    data = self_supervised.build(options(phantom, "--targets", "blind"))
    first, second = data.uncut(1, np.random.default_rng(4))
    x, t = data.load(1, np.random.default_rng(4))
    assert first.draw == second.draw and first.size == x.shape[1:]
    assert np.isnan(second.values).mean() > 0.9 and np.isnan(t).mean() > 0.9


def test_where_a_rotation_leaves_the_image_no_target_counts_on_a_device_either(phantom):
    turned = ["--random_rotation", "45", "--crop_height", "256", "--crop_width", "256", "--random_translate", "0"]
    data = self_supervised.build(options(phantom, *turned))
    for seed in range(3):
        first, second = data.uncut(0, np.random.default_rng(seed))
        x, t = data.load(0, np.random.default_rng(seed))
        np.testing.assert_allclose(finish(first.values, first), x, rtol=0, atol=3e-7)
        np.testing.assert_allclose(finish(second.values, second), t, rtol=0, atol=3e-7)
        assert np.isnan(t[0, 0, 0]) and np.isnan(t[0, -1, -1])


def test_slices_with_one_missing_between_them_are_no_pair(phantom):
    sources = sources_in(phantom / "trainA")
    kept = [source for source in sources if source.place != 2]
    assert len(pairs_of(sources, "neighbours")[0]) == 10 and len(pairs_of(kept, "neighbours")[0]) == 6


def test_a_list_names_the_noisy_images_in_its_first_column(phantom):
    lines = (phantom / "pairs.txt").read_text().splitlines()[:4]
    (phantom / "some.txt").write_text("\n".join(lines) + "\n")
    assert len(self_supervised.sources_of(options(phantom, "-t", "some.txt"))) == 4


def test_slices_that_overlap_are_refused_with_both_distances(phantom):
    sources = [
        dataclasses.replace(source, ref=dataclasses.replace(source.ref, thickness=10.0))
        for source in sources_in(phantom / "trainA")
    ]
    with pytest.raises(UserError, match="slices of 10 mm every 5 mm overlap"):
        pairs_of(sources, "neighbours")
    assert len(pairs_of(sources, "blind")[0]) == 6


class Image:
    """Stands for a file that was read."""

    def __init__(self, hu):
        self.array, self.mask = hu[None], None


@pytest.fixture
def noise_of_files(monkeypatch, phantom):
    """set(slices) -> sources whose files hold these slices."""
    sources = sources_in(phantom / "trainA")

    def chosen(slices):
        by_path = {source.path: hu for source, hu in zip(sorted(sources, key=lambda s: s.place), slices, strict=True)}
        monkeypatch.setattr(self_supervised, "read_image", lambda path, kind, frame: Image(by_path[path]))
        return sources

    return chosen


def test_noise_that_neighbouring_slices_share_is_refused_with_the_share(noise_of_files):
    common = np.random.default_rng(9).standard_normal((120, 120))
    slices = [40 + 14 * common + 14 * np.random.default_rng(seed).standard_normal((120, 120)) for seed in range(6)]
    sources = noise_of_files([hu.astype(np.float32) for hu in slices])
    with pytest.raises(UserError, match=r"share (4\d|5\d)% of their noise .*--targets blind would do"):
        pairs_of(sources, "neighbours")


def test_noise_that_pixels_share_is_refused_for_blind_pixels(noise_of_files):
    slices = [40 + gaussian_filter(np.random.default_rng(seed).normal(0, 50, (120, 120)), 1) for seed in range(6)]
    sources = noise_of_files([hu.astype(np.float32) for hu in slices])
    with pytest.raises(UserError, match="--targets blind: .* correlated"):
        pairs_of(sources, "blind")
    assert len(pairs_of(sources, "neighbours")[0]) == 10


@pytest.mark.parametrize("more", [["--stack", "3"], ["--lambda_dis", "1"], ["--scale", "2"]])
def test_what_needs_a_clean_image_is_refused(phantom, more):
    with pytest.raises(UserError, match="--targets neighbours: "):
        self_supervised.build(options(phantom, *more))


@pytest.mark.parametrize("more", [("--normaliseA", "nyul"), ("-ca", "-500", "500"), ("-cb", "-500", "500")])
def test_what_would_give_inputs_and_targets_another_scale_is_refused(phantom, more):
    with pytest.raises(UserError, match="the same for both would be right"):
        self_supervised.build(options(phantom, *more))
