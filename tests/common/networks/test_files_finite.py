"""Weights with NaN or infinities are refused where they are loaded, in every format, with the name of the array."""

import shutil

import numpy as np
import pytest
from run_files import join_generator

from medi2i.common.choices import Pretrained
from medi2i.common.errors import UserError
from medi2i.common.networks.checkpoint import load_generator
from medi2i.common.networks.files import arrays_of, load_link, write_arrays
from medi2i.common.networks.network import using_dtype
from medi2i.common.networks.pretrained import load_pretrained, pretrained_features
from medi2i.common.networks.spec import PretrainedSpec
from medi2i.common.options import PairedOptions, save_args
from medi2i.common.training.snapshot import SnapshotStore, read_npz, write_npz
from medi2i.pix2pix import convert, train
from medi2i.pix2pix.net import build

OPTIONS = dict(gen_chs=[2, 4], gen_nblock=2, lambda_dis=0, ch=1, out_ch=1)


def spoil(path, chosen, value, everywhere=False):
    """Set one element of an array of an npz file, or all."""
    arrays = dict(np.load(path))
    arrays[chosen].reshape(-1)[slice(None) if everywhere else -1] = value
    write_arrays(path, arrays)


@pytest.fixture
def run(tmp_path):
    """A run folder with an epoch in both layouts."""
    networks = build(PairedOptions(**OPTIONS))
    save_args(PairedOptions(**OPTIONS), tmp_path / "args")
    parts = [arrays_of(link) for link in (networks.enc_x, networks.dec_y)]
    for name, arrays in (("enc_x1", parts[0]), ("dec_y1", parts[1]), ("gen_2", join_generator(*parts))):
        write_arrays(tmp_path / f"{name}.npz", arrays)
    return tmp_path


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("enc_x1", "c0/c1/c/W"),
        ("dec_y1", "ul/c1/c/b"),
        ("enc_x1", "c0/n1/avg_var"),
        ("gen_2", "encoder/d1/c1/c/W"),
        ("gen_2", "decoder/r0/c0/c/b"),
    ],
)
def test_files_of_a_generator(run, capsys, file, name, value):
    everywhere = value == np.inf
    names = dict(np.load(run / f"{file}.npz"))
    name = name if name in names else next(iter(names))
    spoil(run / f"{file}.npz", name, value, everywhere)
    count = names[name].size if everywhere else 1
    words = (
        f"{name.split('/', 1)[1] if file == 'gen_2' else name} is not finite, {count} of its {names[name].size} "
        "values are NaN or infinite; weights of an earlier epoch would be right"
    )
    with pytest.raises(UserError) as refused:
        load_generator(run / f"{'enc_x1' if file == 'dec_y1' else file}.npz")
    assert str(refused.value) == f"{run / file}.npz: {words}"
    np.save(run / "image.npy", np.zeros((8, 8), np.float32))
    model = run / f"{'enc_x1' if file == 'dec_y1' else file}.npz"
    assert convert.main(["-m", str(model), "-R", str(run / "image.npy"), "-o", str(run / "out")]) == 1
    assert words in capsys.readouterr().err and not (run / "out").exists()


def test_values_that_only_float32_holds(run):
    spoil(run / "enc_x1.npz", "c0/c1/c/W", 1e5)
    load_generator(run / "enc_x1.npz")
    with pytest.raises(UserError, match=r"c0/c1/c/W has values up to 1e\+05, which float16 does not hold"):
        load_link(run / "enc_x1.npz", build(PairedOptions(**OPTIONS, dtype="fp16")).enc_x)
    arrays = dict(np.load(run / "enc_x1.npz"))
    arrays["c0/c1/c/W"] = np.full(arrays["c0/c1/c/W"].shape, 1e39)
    write_arrays(run / "enc_x1.npz", arrays)
    with pytest.raises(UserError, match="which float32 does not hold"):
        load_generator(run / "enc_x1.npz")


def test_weights_to_start_from(run, tmp_path):
    spoil(run / "enc_x1.npz", "c0/c1/c/W", np.nan)
    with using_dtype("fp16"):
        link = build(PairedOptions(**OPTIONS)).enc_x
    before = link.c0.c1.c.W.array.copy()
    with pytest.raises(UserError, match="is not finite"):
        load_link(run / "enc_x1.npz", link)
    np.testing.assert_array_equal(link.c0.c1.c.W.array, before)


def test_imagenet_weights(tmp_path):
    link = pretrained_features(PretrainedSpec(Pretrained.VGG16, (2, 4), frozen=True))
    arrays = arrays_of(link)
    write_arrays(tmp_path / "vgg.npz", arrays)
    load_pretrained(link, tmp_path / "vgg.npz", "--gen_pretrained_weights")
    spoil(tmp_path / "vgg.npz", "conv2_1/W", np.nan)
    with pytest.raises(UserError, match=r"--gen_pretrained_weights: .*vgg.npz: conv2_1/W is not finite, 1 of its 72"):
        load_pretrained(link, tmp_path / "vgg.npz", "--gen_pretrained_weights")


def test_resume_of_a_run_with_nan_says_so(tmp_path, capsys):
    for domain in "AB":
        (tmp_path / f"train{domain}").mkdir()
        np.save(tmp_path / f"train{domain}" / "1.npy", np.linspace(-1, 1, 256, dtype=np.float32).reshape(16, 16))
    arguments = [
        "-g",
        "-1",
        "-R",
        tmp_path,
        "-o",
        tmp_path / "runs",
        "-gc",
        "2",
        "-gnb",
        "0",
        "-ldis",
        "0",
        "-e",
        "2",
        "--ema",
        "0.9",
        "--nvis",
        "0",
        "--snapshot_interval",
        "1",
    ]
    assert train.main([str(word) for word in arguments]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    newest = SnapshotStore(run / "snapshots").files()[-1]
    whole = read_npz(newest)
    averaged = next(name for name in whole if "weight_average" in name and name.endswith("W"))
    trained = next(name for name in whole if "enc_x" in name and name.endswith("c/W") and "weight_average" not in name)
    copy = shutil.copytree(run, tmp_path / "copy")
    for name in (averaged, trained):
        arrays = dict(whole)
        arrays[name] = np.full_like(arrays[name], np.nan)
        write_npz(copy / "snapshots" / newest.name, arrays)
        capsys.readouterr()
        assert train.main(["--resume", str(copy), "-e", "3"]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(f"error: {copy / 'snapshots' / newest.name}: {name} is not finite")
        assert error.endswith("without this file, --resume takes the snapshot before it")
    (copy / "snapshots" / newest.name).unlink()
    assert train.main(["--resume", str(copy)]) == 0
