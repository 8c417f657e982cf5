"""The ONNX file of a run: right when it is written, refused when it is not, never in part."""

import numpy as np
import pytest
from run_files import translation

from medi2i.common.networks.checkpoint import load_generator
from medi2i.common.networks.files import save_networks
from medi2i.common.options import PairedOptions, save_args
from medi2i.pix2pix import net
from medi2i.tools import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def run_folder(tmp_path):
    options = PairedOptions(gen_chs=[4, 8], gen_nblock=1, lambda_dis=0)
    options.ch = options.out_ch = 1
    folder = tmp_path / "run"
    folder.mkdir()
    save_args(options, folder / "args")
    save_networks(folder, net.build(options).as_dict(), 3)
    return folder


def test_what_is_written_is_the_network(run_folder, tmp_path, capsys):
    out = tmp_path / "generator.onnx"
    assert export_onnx.main([str(run_folder), "-o", str(out)]) == 0
    assert "differs from Chainer by at most" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).uniform(-1, 1, (3, 1, 10, 34)).astype(np.float32)
    generator = load_generator(run_folder)
    np.testing.assert_allclose(session.run(None, {"image": x})[0], translation(generator, x), atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["sha256"] == generator.sha256 and metadata["weights"] == "enc_x3.npz dec_y3.npz"
    assert metadata["size_multiple"] == "2"


def test_an_existing_file_stays(run_folder, tmp_path, capsys):
    out = tmp_path / "generator.onnx"
    out.write_text("mine")
    assert export_onnx.main([str(run_folder), "-o", str(out)]) == 1
    assert out.read_text() == "mine" and "--force would overwrite it" in capsys.readouterr().err
    assert export_onnx.main([str(run_folder), "-o", str(out), "--force"]) == 0
    assert out.stat().st_size > 1000


def test_a_wrong_graph_is_not_written(run_folder, tmp_path, monkeypatch, capsys):
    export = export_onnx.export
    monkeypatch.setattr(
        export_onnx, "export", lambda encoder, decoder, metadata: export(encoder, decoder.copy(mode="init"), metadata)
    )
    out = tmp_path / "generator.onnx"
    assert export_onnx.main([str(run_folder), "-o", str(out)]) == 1
    assert "the graph differs from Chainer" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
