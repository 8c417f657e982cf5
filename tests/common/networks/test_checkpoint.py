"""Weights are written whole, read whole, and never unpickled."""

import dataclasses
import json
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from run_files import join_generator, translation

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.networks import files
from medi2i.common.networks.checkpoint import digest, find_run, load_generator
from medi2i.common.networks.files import arrays_of, load_link, save_link, save_networks, write_arrays
from medi2i.common.options import PairedOptions, UnpairedOptions, save_args
from medi2i.cyclegan import net as cyclegan_net
from medi2i.pix2pix import net as pix2pix_net

RNG = np.random.default_rng(6)


def paired(**given):
    options = PairedOptions(**{"gen_chs": [3, 4], "dis_chs": [2, 2], "gen_nblock": 3, **given})
    options.ch, options.out_ch = 1, 2
    return options


def image(height=8, width=12, ch=1):
    return RNG.uniform(-1, 1, (2, ch, height, width)).astype(np.float32)


def translated(networks, x):
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        return networks.translate(x).array


@pytest.fixture
def run(tmp_path):
    """A folder of a pix2pix training with epochs 5 and 10; (folder, {epoch: networks})."""
    folder = tmp_path / "20260101_120000"
    folder.mkdir()
    options = paired()
    save_args(options, folder / "args")
    networks = {epoch: pix2pix_net.build(options) for epoch in (5, 10)}
    for epoch, nets in networks.items():
        save_networks(folder, nets.as_dict(), epoch)
    return folder, networks


def test_saved_names_are_the_released_ones(run):
    folder, networks = run
    assert sorted(p.name for p in folder.glob("*.npz")) == sorted(
        f"{name}{epoch}.npz" for name in ("enc_x", "dec_y", "dis") for epoch in (5, 10)
    )
    with np.load(folder / "enc_x5.npz") as file:
        assert {"c0/c1/c/W", "c0/n1/avg_mean", "r1/norm0/gamma", "s0/c1/c/b"} <= set(file.files)
        np.testing.assert_array_equal(file["d1/c1/c/W"], networks[5].enc_x.d1.c1.c.W.array)


def test_chainers_own_loader_reads_our_files(run):
    folder, networks = run
    again = pix2pix_net.build(paired())
    chainer.serializers.load_npz(folder / "dec_y10.npz", again.dec_y)
    np.testing.assert_array_equal(again.dec_y.ul.c1.c.W.array, networks[10].dec_y.ul.c1.c.W.array)


@pytest.mark.parametrize(
    "which, epoch",
    [
        (lambda f: dict(model=f / "enc_x5.npz"), 5),
        (lambda f: dict(model=f / "dec_y5.npz"), 5),
        (lambda f: dict(model=f), 10),
        (lambda f: dict(args=f / "args"), 10),
        (lambda f: dict(args=f), 10),
        (lambda f: dict(args=f / "args", epoch=5), 5),
        (lambda f: dict(model=f.parent, epoch="last"), 10),
        (lambda f: dict(model=f / "enc_x10.npz", args=f / "args"), 10),
    ],
)
def test_loading_needs_no_options(run, which, epoch):
    folder, networks = run
    generator = load_generator(**which(folder))
    x = image()
    np.testing.assert_allclose(translation(generator, x), translated(networks[epoch], x), atol=1e-6)
    assert generator.direction == "xy"
    assert [f.name for f in generator.files] == [f"enc_x{epoch}.npz", f"dec_y{epoch}.npz"]
    assert generator.sha256 == digest(generator.files) and len(generator.sha256) == 64
    assert generator.options == paired()


def test_the_best_epoch_is_the_one_named(run):
    folder, networks = run
    with pytest.raises(UserError, match="no best.json.*last one is 10"):
        load_generator(folder, epoch="best")
    (folder / "best.json").write_text(json.dumps({"epoch": 5, "metric": "rmse", "value": 3.0}))
    x = image()
    np.testing.assert_allclose(
        translation(load_generator(folder, epoch="best"), x), translated(networks[5], x), atol=1e-6
    )
    (folder / "best.json").write_text("{")
    with pytest.raises(UserError, match=r"best\.json: not readable"):
        find_run(folder)
    for epoch in ('"../../x"', "1e400", "[]", "null"):
        (folder / "best.json").write_text(f'{{"epoch": {epoch}}}')
        with pytest.raises(UserError, match=r"best\.json: "):
            load_generator(folder, epoch="best")


def test_find_run(run, tmp_path):
    folder, _ = run
    found = find_run(folder)
    assert (found.epochs, found.best, found.args) == ((5, 10), None, folder / "args")
    later = tmp_path / "20260102_000000"  # newer, but without weights yet
    later.mkdir()
    save_args(paired(), later / "args")
    assert find_run(tmp_path).folder == folder
    with pytest.raises(UserError, match="no weights of epoch 7; there are those of 5, 10"):
        found.epoch(7)
    with pytest.raises(UserError, match="no weights"):
        find_run(later)
    (folder / "dec_y10.npz").unlink()  # half of epoch 10
    assert find_run(folder).epochs == (5,)
    with pytest.raises(UserError, match="absent: no such"):
        find_run(tmp_path / "absent")


def test_both_directions_of_cyclegan(tmp_path):
    options = UnpairedOptions(gen_chs=[3, 4], dis_chs=[2], gen_nblock=2)
    options.ch, options.out_ch = 1, 3
    networks = cyclegan_net.build(options)
    save_args(options, tmp_path / "args")
    save_networks(tmp_path, networks.as_dict(), 50)
    y = image(ch=3)
    with chainer.using_config("train", False):
        expected = networks.translate_back(y).array
    for generator in (
        load_generator(tmp_path / "enc_y50.npz"),
        load_generator(tmp_path / "dec_x50.npz"),
        load_generator(tmp_path, direction="yx"),
    ):
        assert generator.direction == "yx"
        np.testing.assert_allclose(translation(generator, y), expected, atol=1e-6)
    assert translation(load_generator(tmp_path), image()).shape == (2, 3, 8, 12)


def test_a_shared_encoder_is_written_under_both_names(tmp_path):
    options = UnpairedOptions(gen_chs=[3], dis_chs=[2], gen_nblock=0, single_encoder=True)
    options.ch = options.out_ch = 1
    save_networks(tmp_path, cyclegan_net.build(options).as_dict(), 1)
    with np.load(tmp_path / "enc_x1.npz") as x, np.load(tmp_path / "enc_y1.npz") as y:
        assert x.files == y.files
        np.testing.assert_array_equal(x["c0/c1/c/W"], y["c0/c1/c/W"])


def test_a_generator_of_one_file(run):
    folder, networks = run
    parts = arrays_of(networks[5].enc_x), arrays_of(networks[5].dec_y)
    write_arrays(folder / "gen_7.npz", join_generator(*parts))
    flat = dict(parts[0])
    for name, array in parts[1].items():  # one network, residual blocks numbered through
        flat[name.replace("r0/", "r2/", 1) if name.startswith("r0/") else name] = array
    write_arrays(folder / "gen_g20.npz", flat)
    x = image()
    expected = translated(networks[5], x)
    for file in ("gen_7.npz", "gen_g20.npz"):
        generator = load_generator(folder / file)
        np.testing.assert_allclose(translation(generator, x), expected, atol=1e-6)
        assert generator.files == (folder / file,)
    assert load_generator(folder).files == (folder / "gen_g20.npz",)
    write_arrays(folder / "gen_8.npz", {**flat, "zz/W": np.zeros(3, "f")})
    with pytest.raises(UserError, match="gen_8.npz: zz/W belongs neither"):
        load_generator(folder / "gen_8.npz")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.pop("d1/c1/c/W"), "d1/c1/c/W is not in the file; the network has it 4x3x3x3"),
        (
            lambda a: a.update({"d9/c1/c/W": np.zeros((2, 3), "f")}),
            "d9/c1/c/W 2x3 is in the file; the network has no",
        ),
        (
            lambda a: a.update({"c0/c1/c/W": np.zeros((3, 2, 7, 7), "f")}),
            "c0/c1/c/W is 3x2x7x7 in the file, 3x1x7x7 in the network",
        ),
        (
            lambda a: a.update({"c0/c1/c/b": np.array(["a", "b", "c"])}),
            "c0/c1/c/b is 3 <U1 in the file, 3 in the net",
        ),
        (
            lambda a: a.update({"c0/n1/N": np.float32(1.5)}),
            "c0/n1/N is a number in the file, a number int64 in the net",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(run, change, message):
    folder, networks = run
    arrays = arrays_of(networks[5].enc_x)
    change(arrays)
    write_arrays(folder / "enc_x6.npz", arrays)
    link = pix2pix_net.build(paired()).enc_x
    before = {name: np.copy(array) for name, array in arrays_of(link).items()}
    with pytest.raises(UserError, match=f"enc_x6.npz: does not fit Encoder.*{message}"):
        load_link(folder / "enc_x6.npz", link)
    for name, array in arrays_of(link).items():
        np.testing.assert_array_equal(array, before[name])


def test_a_misfit_names_a_few_and_counts_the_rest(run):
    folder, _ = run
    with pytest.raises(UserError, match=r"in the network; .* and \d+ more\. Use the args file saved beside"):
        load_link(folder / "enc_x5.npz", pix2pix_net.build(paired(gen_chs=[5, 6])).enc_x)


def test_weights_of_another_args_file_are_refused(run, tmp_path):
    folder, _ = run
    other = tmp_path / "other_args"
    save_args(dataclasses.replace(paired(), gen_norm="none"), other)
    with pytest.raises(UserError, match="c0/n1/N a number int64 is in the file; the network has no such parameter"):
        load_generator(folder / "enc_x5.npz", args=other)


@pytest.mark.parametrize("content", [b"not a zip", b"", b"PK\3\4"])
def test_damaged_files(tmp_path, content):
    (tmp_path / "enc_x1.npz").write_bytes(content)
    with pytest.raises(UserError, match="enc_x1.npz: not a readable npz"):
        load_link(tmp_path / "enc_x1.npz", chainer.links.Linear(1, 1))


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "enc_x1.npz", W=np.array([Trap()], dtype=object), b=np.zeros(1))
    np.save(tmp_path / "bare.npy", np.array([Trap()], dtype=object))
    os.rename(tmp_path / "bare.npy", tmp_path / "enc_x2.npz")
    for name in ("enc_x1.npz", "enc_x2.npz"):
        with pytest.raises(UserError, match="not a readable npz"):
            load_link(tmp_path / name, chainer.links.Linear(1, 1))
    assert not (tmp_path / "sprung").exists()


def test_a_truncated_file_is_refused(run):
    folder, _ = run
    content = (folder / "enc_x5.npz").read_bytes()
    (folder / "enc_x5.npz").write_bytes(content[:-300])
    with pytest.raises(UserError, match="enc_x5.npz: not a readable npz"):
        load_generator(folder / "enc_x5.npz")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    link = chainer.links.Linear(2, 3)
    save_link(tmp_path / "enc_x1.npz", link)
    before = (tmp_path / "enc_x1.npz").read_bytes()

    def broken(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.np, "savez", broken)
    with pytest.raises(OSError, match="No space"):
        save_link(tmp_path / "enc_x1.npz", link)
    assert (tmp_path / "enc_x1.npz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["enc_x1.npz"]


def test_a_layer_without_values_yet_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="W has no values before the network saw its first image"):
        save_link(tmp_path / "dis1.npz", chainer.links.Linear(None, 3))
    assert not list(tmp_path.iterdir())


def test_a_waiting_layer_takes_its_size_from_the_file(tmp_path):
    save_link(tmp_path / "dis1.npz", chainer.links.Linear(4, 3))
    link = chainer.links.Linear(None, 3)
    load_link(tmp_path / "dis1.npz", link)
    assert link.W.shape == (3, 4)


@pytest.mark.parametrize(
    "name, message",
    [
        ("dis5.npz", "dis5.npz: not named like a generator's weights"),
        ("args", "args: not named like a generator's weights"),
        ("weights.npz", "weights.npz: no such file or folder"),
        ("20990101", "20990101: no such file or folder"),
        ("enc_x7.npz", "enc_x7.npz and dec_y7.npz missing; translating X to Y needs"),
    ],
)
def test_names_that_are_no_generator(run, name, message):
    folder, _ = run
    with pytest.raises(UserError, match=message):
        load_generator(folder / name)


def test_without_args_there_is_a_message(run):
    folder, _ = run
    (folder / "args").unlink()
    with pytest.raises(UserError, match="args: no such file"):
        load_generator(folder / "enc_x5.npz")
    with pytest.raises(UserError, match="one of them is needed"):
        load_generator()


def test_fp16_weights_run_in_fp32(tmp_path):
    options = paired(dtype="fp16")
    networks = pix2pix_net.build(options)
    save_args(options, tmp_path / "args")
    save_networks(tmp_path, networks.as_dict(), 1)
    with np.load(tmp_path / "enc_x1.npz") as file:
        assert file["c0/c1/c/W"].dtype == np.float16
    generator = load_generator(tmp_path)
    assert generator.encoder.c0.c1.c.W.dtype == np.float32
    x = image()
    wide = translation(generator, x)
    assert wide.dtype == np.float32 and abs(wide - translated(networks, x)).max() < 2e-2


def test_what_the_network_does_not_have_is_refused_without_being_unpacked(tmp_path):
    """128 MB in 500 kB, beside weights that fit."""
    link = chainer.links.Linear(2, 1)
    save_link(tmp_path / "enc_x1.npz", link)
    with (
        zipfile.ZipFile(tmp_path / "enc_x1.npz", "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("more.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 25,)})
        for _ in range(128):
            member.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="more 33554432 is in the file; the network has no such parameter"):
            load_link(tmp_path / "enc_x1.npz", link)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
