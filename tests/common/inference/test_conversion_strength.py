"""How much of the change is made, and models that are called by their names."""

import numpy as np
import pytest

from medi2i.common import registry
from medi2i.common.networks.checkpoint import find_run, load_generator
from medi2i.common.options import PairedOptions, load_args, parse
from medi2i.common.training.setup import load_initial
from medi2i.pix2pix import convert
from medi2i.pix2pix.net import build


def converted(tmp_path, files, *words):
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    status = convert.main([str(word) for word in (*words, "-R", tmp_path / "in", "-o", out)])
    return files.hu_of(out / "IM0") - files.hu_of(tmp_path / "in/IM0") if status == 0 else None


def test_half_the_strength_is_half_the_change_and_none_is_the_input(tmp_path, paired_run, files):
    files.write_series(tmp_path / "in", 2)
    run = paired_run(offset=0.1)
    whole = converted(tmp_path, files, run)
    np.testing.assert_allclose(whole, 0.1 * 1512, atol=0.51)
    half = converted(tmp_path, files, run, "--strength", 0.5)
    np.testing.assert_allclose(half, 0.05 * 1512, atol=0.51)
    assert not converted(tmp_path, files, run, "--strength", 0).any()


def test_strength_is_refused_where_input_cannot_be_added(tmp_path, paired_run, files, capsys):
    files.write_series(tmp_path / "in", 2)
    assert converted(tmp_path, files, paired_run(clipB=[0, 100]), "--strength", 0.5) is None
    assert "--strength: input cannot be added to this network's output, because its clips" in capsys.readouterr().err


@pytest.fixture
def named(tmp_path, monkeypatch, paired_run):
    """The name of a model in a place of models."""
    folder = paired_run(offset=0.1)
    (tmp_path / "place").mkdir()
    folder.rename(tmp_path / "place/smooth")
    monkeypatch.setenv(registry.VARIABLE, str(tmp_path / "place"))
    return "smooth"


def test_a_model_is_taken_by_its_name_wherever_a_run_folder_is(tmp_path, named, files):
    files.write_series(tmp_path / "in", 2)
    np.testing.assert_allclose(converted(tmp_path, files, named), 0.1 * 1512, atol=0.51)
    np.testing.assert_allclose(converted(tmp_path, files, "-m", named), 0.1 * 1512, atol=0.51)
    assert find_run(named).epochs == (3,) and load_args(named).gen_chs == [1]
    assert load_generator(named).sha256 == load_generator(tmp_path / "place/smooth").sha256


def test_training_goes_on_with_the_network_of_a_model_and_its_weights(named):
    options = parse(PairedOptions, ["-m", named, "--preset", "denoise", "-R", "data"])
    assert options.gen_chs == [1] and options.clipA == [-1024, 2000] and options.learning_rate_gen == 3e-3
    networks = build(PairedOptions(**{**vars(options), "ch": 1, "out_ch": 1})).as_dict()
    loaded = load_initial(options.model_gen, networks, ["enc_x", "dec_y"])
    assert {file.name for file in loaded.values()} == {"enc_x3.npz", "dec_y3.npz"}


def test_training_goes_on_with_the_scale_of_grey_levels_of_the_model_unless_told(paired_run):
    run = paired_run(normaliseA="nyul", landmarksA=[0.0, *range(10, 110, 10)])
    options = parse(PairedOptions, ["-m", str(run), "-R", "data"])
    assert (options.normaliseA, options.normaliseB) == ("nyul", "none") and options.landmarksA[-1] == 100
    other = parse(PairedOptions, ["-m", str(run), "-R", "data", "--normaliseA", "percentiles"])
    assert other.normaliseA == "percentiles" and other.landmarksA is None


def test_a_network_of_one_level_of_noise_wants_to_know_that_of_the_images(paired_run):
    words = ["-m", str(paired_run(noise_level=20)), "-R", "data"]
    with pytest.raises(convert.UserError, match="scaled to 20 HU of noise; --noise_level with the noise of yours"):
        parse(PairedOptions, words)
    assert parse(PairedOptions, [*words, "--noise_level", "8"]).noise_level == 8


def test_another_network_than_the_models_is_refused(named):
    with pytest.raises(convert.UserError, match="--gen_chs: .* is not what smooth was trained with"):
        parse(PairedOptions, ["-m", named, "--gen_chs", "8", "16"])


def test_an_unknown_name_is_refused_with_the_names_there_are(tmp_path, named, files, capsys):
    files.write_series(tmp_path / "in", 2)
    assert converted(tmp_path, files, "-m", "smoth") is None
    assert "smooth" in capsys.readouterr().err
