"""A conversion in shards leaves the files of one in one process, byte for byte, in whatever order they are run."""

import json
import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import RLELossless

from medi2i.common.errors import UserError
from medi2i.common.inference.report import find_report
from medi2i.common.inference.shards import Shard, parse_shard
from medi2i.cyclegan import convert as unpaired
from medi2i.datasets.catalogue import Catalogue, Skipped, Source, Volume
from medi2i.pix2pix import convert as paired

KERNEL = [[0, 0.1, 0], [0.2, 0.4, 0.05], [0, 0.25, 0]]


def run(*arguments, main=paired.main):
    return main([str(argument) for argument in arguments])


def damage(path):
    """Pixels that cannot be decoded, which is found when it is their turn."""
    bad = pydicom.dcmread(path)
    bad.compress(RLELossless, generate_instance_uid=False)
    item = bad.PixelData.index(b"\xfe\xff\x00\xe0", 8) + 8 + 64  # behind the header of the frame
    bad.PixelData = bad.PixelData[:item] + b"\x80" * (len(bad.PixelData) - item)  # of which nothing comes
    bad.save_as(path)


def mixed(files, folder):
    """Two series of 5 and 3 slices in one folder, a damaged slice in the middle, a file that is no image."""
    files.write_series(folder, 5)
    files.write_series(folder, 3, series="1.2.3.2", start=1)
    damage(folder / "IM4")  # the third slice of the first series
    (folder / "notes.txt").write_text("no image")
    return folder


def split(count, *arguments, order=None, main=paired.main):
    """Run all shards, in ``order``."""
    for number in order or range(1, count + 1):
        assert run(*arguments, "--shards", f"{number}/{count}", main=main) == 0


@pytest.mark.parametrize(("count", "order"), [(2, (2, 1)), (3, (2, 3, 1)), (8, None), (1, None)])
def test_pix2pix_in_shards_is_pix2pix_in_one_process(tmp_path, paired_run, files, count, order):
    folder, model = mixed(files, tmp_path / "in"), paired_run(stack=3, ch=3, out_ch=3)
    assert run(model, "-R", folder, "-o", tmp_path / "one", "--structure", "maps") == 0
    split(count, model, "-R", folder, "-o", tmp_path / "more", "--structure", "maps", order=order)
    expected = files.contents(tmp_path / "one")
    assert files.contents(tmp_path / "more") == expected
    assert len([name for name in expected if name.startswith("IM")]) == 5  # of 8: two lie beside the damaged one
    assert files.report_of(tmp_path / "more")["counts"] == {"skipped": 4, "written": 5}


@pytest.mark.parametrize(("count", "order"), [(2, (2, 1)), (4, (4, 1, 3, 2))])
def test_cyclegans_stacks_overlap_across_the_borders_of_shards(tmp_path, unpaired_run, files, count, order):
    folder, model = mixed(files, tmp_path / "in"), unpaired_run(forth=[[0.9]], stack=3, ch=3, out_ch=3)
    arguments = model, "-R", folder, "-oa", "--uncertainty", "tta"
    assert run(*arguments, "-o", tmp_path / "one", main=unpaired.main) == 0
    assert run(*arguments, "-o", tmp_path / "batch", "-b", 3, "--workers", 4, main=unpaired.main) == 0
    split(count, *arguments, "-o", tmp_path / "more", order=order, main=unpaired.main)
    expected = files.contents(tmp_path / "one")
    assert files.contents(tmp_path / "batch") == expected
    assert files.contents(tmp_path / "more") == expected
    assert {"deviation", "structure"} <= files.report_of(tmp_path / "more").keys()


def test_slices_beside_a_damaged_one_name_what_went_in_and_no_more(tmp_path, unpaired_run, files):
    folder, model = mixed(files, tmp_path / "in"), unpaired_run(stack=2, ch=2, out_ch=2)
    assert run(model, "-R", folder, "-o", tmp_path / "out", "-b", 1, "--workers", 6, main=unpaired.main) == 0
    used = pydicom.dcmread(tmp_path / "out/IM7").SourceImageSequence  # the second: its stack with the third failed
    names = {pydicom.dcmread(folder / name).SOPInstanceUID for name in ("IM0", "IM7")}
    assert {item.ReferencedSOPInstanceUID for item in used} == names


def test_the_dates_of_the_series_are_those_of_the_images(tmp_path, files):
    folder, out = files.write_series(tmp_path / "in", 4), tmp_path / "out"
    for name in files.tree(folder):
        d = pydicom.dcmread(folder / name)
        d.SeriesDate, d.SeriesTime, d.InstanceCreationDate = "20200102", "1201", "20200103"
        d.save_as(folder / name)
    split(2, "-m", "identity", "-R", folder, "-o", out, order=(2, 1))
    made = [pydicom.dcmread(out / name) for name in files.tree(folder)]
    assert {(d.SeriesInstanceUID, d.SeriesDate, d.SeriesTime) for d in made} == {
        (made[0].SeriesInstanceUID, "20200102", "1201")
    }
    assert not any("InstanceCreationDate" in d for d in made)  # of the source's file, not of this one


def test_frames_of_one_file_are_shared_out(tmp_path, files):
    path = files.write_slice(tmp_path / "in/x", files.stored_image(0))
    d = pydicom.dcmread(path)
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7.3"
    d.NumberOfFrames, d.PixelData = 3, d.PixelData + files.stored_image(1).tobytes() + files.stored_image(2).tobytes()
    d.save_as(path)
    assert run("-m", "identity", "-R", path, "-o", tmp_path / "one", "--imgtype_out", "npy") == 0
    split(2, "-m", "identity", "-R", path, "-o", tmp_path / "more", "--imgtype_out", "npy")
    assert files.contents(tmp_path / "more") == files.contents(tmp_path / "one")
    assert files.tree(tmp_path / "one") == ["conversion.json", "x_0001.npy", "x_0002.npy", "x_0003.npy"]


def test_what_is_told(tmp_path, files, capsys):
    files.write_series(tmp_path / "in", 5)
    (tmp_path / "in/notes").write_text("no image")
    arguments, out = ["-m", "identity", "-R", tmp_path / "in", "-o", tmp_path / "out"], tmp_path / "out"
    assert run(*arguments, "--shards", "2/3", "--strict") == 0
    told = capsys.readouterr().err
    assert "shard 2/3: 2 written, 0 there already, 0 skipped" in told
    assert "2 shards of 3 not finished yet: 1, 3; the last one writes conversion.json" in told
    assert files.tree(out) == ["IM4", "IM7", "conversion.shards/2.json"]
    assert run(*arguments, "--shards", "1/3", "--strict") == 1  # what is no image at all is told by the first
    assert "skipped notes: " in (told := capsys.readouterr().err) and "--strict: 1 file(s) skipped" in told
    assert run(*arguments, "--shards", "3/3", "--strict") == 0
    assert "all 3 shards have finished: 5 converted, 1 skipped, listed in" in capsys.readouterr().err
    assert not (out / "conversion.shards").exists()


def test_a_shard_of_damaged_images_alone_is_no_error_unless_all_are(tmp_path, files, capsys):
    folder = files.write_series(tmp_path / "in", 2)
    for name in ("IM0", "IM7"):
        damage(folder / name)
        arguments = ["-m", "identity", "-R", folder, "-o", tmp_path / name, "--shards"]
        first = run(*arguments, "1/2")
        last = run(*arguments, "2/2")
        told = capsys.readouterr().err
        if name == "IM0":
            assert (first, last) == (0, 0) and files.report_of(tmp_path / name)["state"] == "complete"
        else:
            assert (first, last) == (0, 1) and files.report_of(tmp_path / name)["state"] == "nothing converted"
            assert "nor could the other 1 files be converted" in told


def test_a_killed_shard_is_resumed(tmp_path, paired_run, files):
    folder, model = files.write_series(tmp_path / "in", 6), paired_run(KERNEL)
    arguments, out = [model, "-R", folder, "-o"], tmp_path / "more"
    assert run(*arguments, tmp_path / "one") == 0
    split(2, *arguments, out, order=(1,))
    assert run(*arguments, out, "--shards", "2/2") == 0
    expected = files.contents(tmp_path / "one")
    assert files.contents(out) == expected
    # as if the second had been killed before its last image, and the first had finished
    shutil.rmtree(out)
    split(2, *arguments, out, order=(1,))
    second = json.loads((out / "conversion.shards/1.json").read_text()) | {"state": "running"}
    names = list(own_names(model, folder, "2/2"))
    for name in names[:-1]:
        (out / name).write_bytes(expected[name])
    entries = json.loads(expected["conversion.json"])["files"]
    second["files"] = {name: entries[name] for name in names[:-1]}
    (out / "conversion.shards/2.json").write_text(json.dumps(second))
    assert run(*arguments, out, "--shards", "2/2") == 1  # its results are in the way
    assert run(*arguments, out, "--shards", "2/2", "--resume") == 0
    assert files.contents(out) == expected


def own_names(model, folder, shard):
    """Results of a shard, from a conversion of its own."""
    out = folder.parent / "names"
    assert run(model, "-R", folder, "-o", out, "--shards", shard) == 0
    names = sorted(path.name for path in out.glob("IM*"))
    shutil.rmtree(out)
    return names


def test_one_shard_can_be_run_again_when_all_is_done(tmp_path, files):
    folder = files.write_series(tmp_path / "in", 5)
    arguments, out = ["-m", "identity", "-R", folder, "-o", tmp_path / "out"], tmp_path / "out"
    split(3, *arguments)
    expected = files.contents(out)
    for how in ("--resume", "--force"):
        (out / "IM7").unlink()
        split(3, *arguments, how, order=(3, 1, 2))
        assert files.contents(out) == expected, how
    (out / "IM7").unlink()
    for number in (1, 2, 3):
        assert run(*arguments, "--resume", "--shards", f"{number}/3") == 0
        assert find_report(out) and not (out / "conversion.shards").exists()
    assert files.contents(out) == expected
    assert run(*arguments, "--shards", "1/3") == 1


def test_one_process_resumes_what_shards_have_begun(tmp_path, files, capsys):
    folder = files.write_series(tmp_path / "in", 5)
    arguments, out = ["-m", "identity", "-R", folder, "-o"], tmp_path / "out"
    assert run(*arguments, tmp_path / "one") == 0
    split(4, *arguments, out, order=(3, 1))
    for path in [path for path in out.glob("IM*")]:
        path.rename(tmp_path / path.name)  # nothing is in the way, but shards may be running
    assert run(*arguments, out) == 1
    assert "shards of a conversion were begun here" in capsys.readouterr().err
    for path in tmp_path.glob("IM*"):
        path.rename(out / path.name)
    assert run(*arguments, out, "-cw", 20, "--resume") == 1
    assert "another crop" in capsys.readouterr().err
    assert run(*arguments, out, "--resume") == 0
    assert files.contents(out) == files.contents(tmp_path / "one")
    split(4, *arguments, tmp_path / "begun", order=(2,))
    assert run(*arguments, tmp_path / "begun", "--force") == 0
    assert files.tree(tmp_path / "begun") == files.tree(out)


def test_shards_of_different_conversions_do_not_mix(tmp_path, paired_run, files, capsys):
    folder, out = files.write_series(tmp_path / "in", 4), tmp_path / "out"
    one, other = paired_run(), paired_run(KERNEL, name="other")
    assert run(one, "-R", folder, "-o", out, "--shards", "1/2") == 0
    for arguments, words in (
        ([other, "-R", folder, "--shards", "2/2"], "another sha256"),
        ([one, "-R", folder, "-cw", 20, "--shards", "2/2"], "another crop"),
        ([one, "-R", folder / "IM7", folder / "IM4", folder / "IM1", "--shards", "2/2"], "another given"),
        ([one, "-R", folder, "--shards", "4/4"], "another number of shards (2; now 4)"),
    ):
        assert run(*arguments, "-o", out) == 1
        assert words in capsys.readouterr().err, arguments
    split(2, other, "-R", folder, "-o", out, "--force")
    assert run(other, "-R", folder, "-o", tmp_path / "alone") == 0
    assert files.contents(out) == files.contents(tmp_path / "alone")


def test_a_damaged_report_of_a_shard_is_one_line_and_taken_away_by_force(tmp_path, files, capsys):
    folder, damaged = files.write_series(tmp_path / "in", 4), tmp_path / "out/conversion.shards/1.json"
    arguments = ["-m", "identity", "-R", folder, "-o", tmp_path / "out", "--shards"]
    assert run(*arguments, "1/2") == 0
    damaged.write_text("{")
    capsys.readouterr()
    assert run(*arguments, "2/2") == 1
    assert "1.json: not a readable report" in capsys.readouterr().err
    split(2, *arguments[:-1], "--force")
    assert files.report_of(tmp_path / "out")["counts"] == {"written": 4} and not damaged.parent.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3/2", "3/2: shards count from 1, so those of 2 are 1/2 to 2/2"),
        ("0/2", "0/2: shards count from 1, so those of 2 are 1/2 to 2/2"),
        ("2/1", "those of 1 are 1/1"),
        ("1/0", "1/0 are no shards at all"),
        ("a/b", "'a/b' is not I/N; 1/4, 2/4"),
        ("2", "'2' is not I/N"),
        ("-1/2", "is not I/N"),
        ("1/2/3", "is not I/N"),
        ("1.0/2", "is not I/N"),
    ],
)
def test_what_is_no_shard(text, words, tmp_path, files, capsys):
    with pytest.raises(UserError, match="--shards"):
        parse_shard(text)
    for main in (paired.main, unpaired.main):
        assert main(["-m", "identity", "-R", str(tmp_path), "-o", str(tmp_path / "out"), f"--shards={text}"]) == 1
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1


def test_more_shards_than_images_are_refused_before_anything_is_done(tmp_path, files, capsys):
    folder = files.write_series(tmp_path / "in", 3)
    for shard in ("1/4", "4/4"):
        assert run("-m", "identity", "-R", folder, "-o", tmp_path / "out", "--shards", shard) == 1
        assert "4 shards for 3 image(s): each needs one at least, so 3 shard(s) at most" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("total", [1, 2, 7, 12, 100])
def test_every_image_has_one_shard_and_shards_are_as_equal_as_can_be(total):
    for count in range(1, total + 1):
        places = [Shard(number, count).place(total) for number in range(1, count + 1)]
        assert [i for place in places for i in place] == list(range(total))
        assert {len(place) for place in places} <= {total // count, -(-total // count)}


def test_slices_and_names_of_a_shard():
    volumes = [
        Volume([Source((), "npy", f"{letter}{i}.npy") for i in range(count)]) for letter, count in (("a", 2), ("b", 3))
    ]
    inputs = Catalogue(volumes, [Skipped(Path("c.txt"), "no image", "c.txt")])
    a, b = (volume.sources for volume in volumes)
    assert Shard(1, 2).sources(inputs) == a
    assert Shard(2, 2).sources(inputs) == b
    assert Shard(2, 3).sources(inputs) == [a[1], b[0]]
    assert Shard(1, 3).labels(inputs) == {"a0.npy", "c.txt"}
    assert Shard(2, 3).labels(inputs) == {"a1.npy", "b0.npy"}
