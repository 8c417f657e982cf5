"""Images that have no result: the network says no number, memory does not do; one line each, and the others go on."""

import numpy as np
import pytest

from medi2i.common import resources
from medi2i.common.inference import engines
from medi2i.pix2pix import convert


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def spoil(monkeypatch, change):
    """Let Chainer's engine give ``change(y)`` for images whose first pixel is the lower end of the clip."""
    plain = engines.ChainerEngine.run
    monkeypatch.setattr(
        engines.ChainerEngine,
        "run",
        lambda self, x, frame=None: change(plain(self, x, frame)) if x[0, 0, 0, 0] == -1 else plain(self, x, frame),
    )


def with_nan(y):
    y[0, 0, 3, 5] = np.nan
    return y


def too_large(y):
    raise MemoryError("Unable to allocate 99 GiB")


@pytest.mark.parametrize(
    "change, words",
    [
        (with_nan, "1 of 1850 values of the network's result are not finite numbers; nothing was written"),
        (lambda y: y * np.inf, "1850 of 1850 values"),
        (too_large, "out of memory at 37 x 50 pixels"),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--imgtype_out", "npy"],
        ["--imgtype_out", "png"],
        ["--imgtype_out", "tif"],
        ["--imgtype_out", "csv"],
        ["-b", "3"],
        ["--shards", "1/1"],
    ],
    ids=str,
)
def test_one_image_without_a_result(tmp_path, capsys, monkeypatch, paired_run, files, change, words, options):
    files.write_series(tmp_path / "in", 3)
    bad = files.stored_image(1)
    bad[0, 0] = 0
    files.write_slice(tmp_path / "in/IM7", bad, z=2, number=2)
    spoil(monkeypatch, change)
    assert run(paired_run(), "-R", tmp_path / "in", "-o", tmp_path / "out", "--engine", "chainer", *options) == 1
    told = capsys.readouterr().err
    assert f"skipped IM7: {words}" in told and "error: 1 image(s) without a result, listed in" in told
    assert "2 written, 0 there already, 1 skipped" in told and "Traceback" not in told
    assert not list((tmp_path / "out").glob("IM7*"))


def test_classes_of_no_number(tmp_path, capsys, monkeypatch, paired_run, files):
    spoil(monkeypatch, with_nan)
    files.write_slice(tmp_path / "in/IM0", np.zeros((37, 50), np.uint16))
    files.write_slice(tmp_path / "in/IM1", files.stored_image(0), number=2, z=2)
    run_folder = paired_run(class_num=3, out_ch=3)
    assert run(run_folder, "-R", tmp_path / "in", "-o", tmp_path / "out", "--engine", "chainer") == 1
    assert "skipped IM0: 1 of 5550 values" in capsys.readouterr().err
    assert files.tree(tmp_path / "out") == ["IM1.npy", "IM1.png", "conversion.json"]


def test_an_error_of_onnx_runtime_is_one_line(tmp_path, capsys, monkeypatch, paired_run, files):
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    def fails(self, names, given):
        x = next(iter(given.values()))
        if x[0, 0, 0, 0] == -1:
            raise state.RuntimeException("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer")
        raise state.InvalidArgument("[ONNXRuntimeError] : 2 : Pad reflect:\n pre-pad exceeds")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", fails)
    files.write_slice(tmp_path / "in/a", np.zeros((37, 50), np.uint16))
    files.write_slice(tmp_path / "in/b", files.stored_image(0), number=2, z=2)
    assert run(paired_run(), "-R", tmp_path / "in", "-o", tmp_path / "out", "--engine", "onnxruntime") == 1
    reasons = {name: entry["reason"] for name, entry in files.report_of(tmp_path / "out")["files"].items()}
    assert reasons["a"].startswith("out of memory at 37 x 50 pixels (onnxruntime: ")
    assert reasons["b"] == (
        "onnxruntime cannot run the network on 37 x 50 pixels ([ONNXRuntimeError] : 2 : Pad "
        "reflect: pre-pad exceeds); --engine chainer might"
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (9, 1), (2, 3)])
@pytest.mark.parametrize("options", [{}, {"pad": "reflect", "gen_chs": [2, 3, 4], "gen_nblock": 1}], ids=str)
def test_images_of_one_row_or_column(tmp_path, paired_run, files, shape, options):
    stored = np.arange(1000, 1000 + shape[0] * shape[1], dtype=np.uint16).reshape(shape)
    files.write_slice(tmp_path / "in/a", stored)
    for engine in ("chainer", "auto"):
        assert run(paired_run(**options), "-R", tmp_path / "in", "-o", tmp_path / engine, "--engine", engine) == 0
        assert files.hu_of(tmp_path / engine / "a").shape == shape
    if not options:
        np.testing.assert_array_equal(files.hu_of(tmp_path / "auto/a"), stored - 1024.0)


def test_tiles_by_itself_where_memory_will_not_do(tmp_path, caplog, monkeypatch, paired_run, files):
    files.write_slice(tmp_path / "in/a", files.stored_image(0, 201, 290))
    run_folder = paired_run(gen_chs=[2, 3, 4], gen_nblock=1, gen_activation="lrelu", gen_out_activation="tanh")
    common = [run_folder, "-R", tmp_path / "in", "--engine", "chainer"]
    assert run(*common, "-o", tmp_path / "whole") == 0
    assert "in tiles" not in caplog.text
    monkeypatch.setattr(resources, "available_memory", lambda: 10_000_000)  # 201 x 290 pixels of 240 bytes are 14 MB
    assert run(*common, "-o", tmp_path / "tiled") == 0
    assert (
        "201 x 290 pixels would take about 0.014 GB of memory, and 0.01 GB are free: in tiles, as with --tile 128"
        in caplog.text
    )
    assert np.abs(files.hu_of(tmp_path / "tiled/a") - files.hu_of(tmp_path / "whole/a")).max() <= 1
