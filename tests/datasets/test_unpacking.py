"""NIfTI files and zip archives in place of folders: what they hold is found, and nothing else is touched."""

import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medi2i.common.errors import Unreadable
from medi2i.cyclegan import train as cyclegan_train
from medi2i.datasets import dicom, unpacking
from medi2i.datasets.unpacking import packed_in, unpacked, write_back
from medi2i.pix2pix import convert, train
from medi2i.tools import make_noisy, make_phantom, scan

AFFINE = np.diag([-0.8, -0.9, 2.0, 1])
TINY = "-e 1 -g -1 -gnb 1 -gc 2 4 -dc 2 2 -cw 16 -ch 16 --nvis 1".split()


def volume(path, seed=0, shape=(24, 20, 5), low=-1000):
    values = np.random.default_rng(seed).integers(low, 1000, shape).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    return values


def archive(path, files):
    """A zip of {name: bytes}."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    assert make_phantom.main(f"-o {folder / 'ct'} --size 32 --slices 3".split()) == 0
    return folder / "ct"


def test_a_volume_is_a_series_of_its_values(tmp_path):
    values = volume(tmp_path / "sub-01.nii.gz")
    folder = unpacked(tmp_path / "sub-01.nii.gz")
    (series,) = dicom.scan(folder).series
    np.testing.assert_array_equal(dicom.read_volume(series), values.transpose(2, 1, 0))
    assert (series.modality, series.patient) == ("CT", "sub-01") and folder not in (tmp_path, *tmp_path.parents)
    assert unpacked(str(tmp_path / "sub-01.nii.gz")) == folder


def test_what_has_no_air_is_taken_as_mr_with_its_values(tmp_path):
    values = volume(tmp_path / "mr.nii", low=0)
    (series,) = dicom.scan(unpacked(tmp_path / "mr.nii")).series
    assert series.modality == "MR"
    np.testing.assert_array_equal(dicom.read_volume(series), values.transpose(2, 1, 0))


def test_volumes_of_a_folder_keep_their_places(tmp_path):
    for name in ("trainA/a.nii.gz", "trainA/b.nii", "trainB/a.nii.gz", "trainB/b.nii"):
        volume(tmp_path / name)
    (tmp_path / "README.txt").write_text("about")
    folder = unpacked(tmp_path)
    names = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.dcm")}
    assert names == {"trainA/a", "trainA/b", "trainB/a", "trainB/b"}


def test_a_folder_with_other_images_stays_what_it_is(tmp_path, ct):
    volume(tmp_path / "a.nii")
    (tmp_path / "b.png").touch()
    assert packed_in(tmp_path) == [] and unpacked(tmp_path) == tmp_path
    assert unpacked(ct) == ct and unpacked(tmp_path / "none") == tmp_path / "none"
    assert unpacked(tmp_path / "b.png") == tmp_path / "b.png"


def test_an_archive_is_its_files_without_what_hides_and_its_outer_folder(tmp_path, ct):
    files = {f"download/{path.relative_to(ct)}": path.read_bytes() for path in ct.rglob("*.dcm")}
    name = archive(tmp_path / "ct.zip", files | {"__MACOSX/._a.dcm": b"x", "download/.DS_Store": b"x"})
    folder = unpacked(name)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {Path(name).name: content for name, content in files.items()}


def test_volumes_of_an_archive_are_series_too(tmp_path):
    volume(tmp_path / "in/a.nii.gz")
    name = archive(tmp_path / "a.zip", {f"in/{n}.nii.gz": (tmp_path / "in/a.nii.gz").read_bytes() for n in "xy"})
    assert sorted(path.name for path in unpacked(name).iterdir()) == ["x", "y"]
    assert len(dicom.scan(unpacked(name)).series[0].slices) == 5


def test_nothing_of_an_archive_lands_outside(tmp_path):
    name = archive(tmp_path / "a.zip", {"../../out.txt": b"1", "/abs.txt": b"2", "in/../../../up.txt": b"3"})
    folder = unpacked(name)
    everything = {path for path in Path(unpacking._unpacked[name].name).rglob("*") if path.is_file()}
    assert everything == {folder / "abs.txt"}


def test_an_archive_that_unpacks_to_more_than_memory_may_hold_is_refused(tmp_path, monkeypatch):
    name = archive(tmp_path / "bomb.zip", {f"{n}.dcm": bytes(1 << 20) for n in range(5)})
    monkeypatch.setenv("MEDI2I_MAX_PIXELS", str(4 << 15))  # 4 MiB
    assert name.stat().st_size < 1 << 16
    with pytest.raises(Unreadable, match="unpacks to 5 MiB, more than 4 MiB; --max-pixels"):
        unpacked(name)


@pytest.mark.parametrize("damage", ["cut", "text", "crc"])
def test_damaged_archives_are_refused_in_one_line(tmp_path, damage):
    name = archive(tmp_path / "a.zip", {"a.dcm": bytes(range(256)) * 50})
    content = bytearray(name.read_bytes())
    if damage == "crc":
        content[60] ^= 255
    name.write_bytes({"cut": content[:-40], "text": b"no zip", "crc": content}[damage])
    for _ in range(2):  # what was unpacked before the damage is nothing to go on with
        with pytest.raises(Unreadable, match="cannot be unpacked as a zip archive"):
            unpacked(name)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "a/b.dcm"], "a.zip: cannot be unpacked as a zip archive"),
        (["x" * 300], "a.zip: cannot be unpacked as a zip archive .File name too long"),
        (["sub/a.dcm", "sub//a.dcm"], "a.zip: holds two files of one name"),
    ],
)
def test_files_that_no_folder_can_hold_together(tmp_path, names, said):
    with pytest.raises(Unreadable, match=said) as caught:
        unpacked(archive(tmp_path / "a.zip", dict.fromkeys(names, b"1")))
    assert "medi2i-" not in str(caught.value)


def test_messages_name_the_archive_and_not_where_it_was_unpacked(tmp_path, ct, capsys):
    files = {f"in/{path.name}": path.read_bytes() for path in ct.rglob("*.dcm")}
    name = archive(tmp_path / "a.zip", {**files, "in/note.txt": b"1", "in/inner.zip": b"2"})
    assert scan.main([str(name)]) == 0
    said = capsys.readouterr().out
    assert f"skipped {name}/in/note.txt: " in said and f"skipped {name}/in/inner.zip: " in said
    assert str(unpacked(name)) not in said


def test_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MOST_MEMBERS", 2)
    with pytest.raises(Unreadable, match="holds 3 files; up to 2 are unpacked"):
        unpacked(archive(tmp_path / "a.zip", {f"{n}.dcm": b"" for n in range(3)}))


def test_results_go_back_onto_the_grid_of_the_file(tmp_path):
    values = volume(tmp_path / "in/sub/a.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    for path in unpacked(tmp_path / "in").rglob("*.dcm"):
        target = out / path.relative_to(unpacked(tmp_path / "in"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    write_back(tmp_path / "in", out, True, False)
    made = nibabel.load(out / "sub/a.nii.gz")
    np.testing.assert_array_equal(np.asarray(made.dataobj), values)
    np.testing.assert_allclose(made.affine, AFFINE, atol=1e-4)


def test_a_conversion_of_a_volume_gives_a_volume(tmp_path, capsys):
    values = volume(tmp_path / "a.nii.gz")
    assert convert.main(["-m", "identity", f"{tmp_path}/a.nii.gz", "-o", f"{tmp_path}/out", "-g", "-1"]) == 0
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "out/a.nii.gz").dataobj), values)
    assert convert.main(["-m", "identity", f"{tmp_path}/a.nii.gz", "-o", f"{tmp_path}/out", "-g", "-1"]) == 1
    assert "--force" in capsys.readouterr().err


def test_training_reads_volumes_and_archives(tmp_path, ct):
    for name in ("trainA/a.nii.gz", "trainB/a.nii.gz"):
        volume(tmp_path / "volumes" / name)
    assert train.main([f"{tmp_path}/volumes", "-o", f"{tmp_path}/run", *TINY]) == 0
    assert len(list((tmp_path / "run").glob("*/enc_x1.npz"))) == 1
    slices = {path.name: path.read_bytes() for path in ct.rglob("*.dcm")}
    files = {f"set/{part}/{name}": slices[name] for part in ("trainA", "trainB") for name in slices}
    name = archive(tmp_path / "set.zip", files)
    assert (
        cyclegan_train.main([f"{name}", "-o", f"{tmp_path}/cycle", *TINY[:-2], "--nvis_A", "1", "--nvis_B", "1"]) == 0
    )
    assert len(list((tmp_path / "cycle").glob("*/enc_x1.npz"))) == 1


def test_tools_read_volumes_and_archives(tmp_path, ct, capsys):
    volume(tmp_path / "a.nii.gz")
    assert make_noisy.main([f"{tmp_path}/a.nii.gz", "-o", f"{tmp_path}/pairs"]) == 0
    assert len((tmp_path / "pairs/pairs.txt").read_text().splitlines()) == 5
    capsys.readouterr()
    assert scan.main([str(archive(tmp_path / "ct.zip", {p.name: p.read_bytes() for p in ct.rglob("*.dcm")}))]) == 0
    assert "32×32×3" in capsys.readouterr().out
