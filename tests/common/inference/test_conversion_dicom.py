"""DICOM through pix2pix/convert.py: HU exact, headers derived, structure kept, bad files skipped."""

import numpy as np
import pydicom
from scipy import ndimage

from medi2i.pix2pix import convert

KERNEL = np.array([[0, 0.1, 0], [0.2, 0.4, 0.05], [0, 0.25, 0]], np.float32)


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def test_identity_changes_no_pixel_and_keeps_the_folders(tmp_path, capsys, files):
    files.write_series(tmp_path / "in/p1/a", 3)
    files.write_series(tmp_path / "in/p2", 2, series="1.2.3.2", start=1)
    assert run("-m", "identity", "-R", tmp_path / "in", "-o", tmp_path / "out") == 0
    assert files.tree(tmp_path / "out") == files.tree(tmp_path / "in")
    for name in files.tree(tmp_path / "in"):
        np.testing.assert_array_equal(files.hu_of(tmp_path / "out" / name), files.hu_of(tmp_path / "in" / name))
    assert "5 written, 0 there already, 0 skipped" in capsys.readouterr().err


def test_each_series_gets_one_new_uid_and_the_sources_are_named(tmp_path, files):
    folder = files.write_series(tmp_path / "in", 3)
    files.write_series(tmp_path / "in", 2, series="1.2.3.2", start=1)  # the same folder
    assert run("-m", "identity", "-R", folder, "-o", tmp_path / "out") == 0
    found = {}
    for name in files.tree(folder):
        before, after = pydicom.dcmread(folder / name), pydicom.dcmread(tmp_path / "out" / name)
        found.setdefault(before.SeriesInstanceUID, set()).add(after.SeriesInstanceUID)
        assert after.SOPInstanceUID == after.file_meta.MediaStorageSOPInstanceUID != before.SOPInstanceUID
        assert [item.ReferencedSOPInstanceUID for item in after.SourceImageSequence] == [before.SOPInstanceUID]
        assert after.ImagePositionPatient == before.ImagePositionPatient
        assert after.ImageType[:2] == ["DERIVED", "SECONDARY"] and "identity" in after.DerivationDescription
    assert all(len(new) == 1 for new in found.values())
    assert len(set.union(*found.values())) == 2 and not set(found) & set.union(*found.values())


def test_a_known_kernel_in_hu(tmp_path, paired_run, files):
    run_folder = paired_run(KERNEL)
    files.write_slice(tmp_path / "in/x", files.stored_image(0))
    assert run(run_folder, "-R", tmp_path / "in/x", "-o", tmp_path / "out") == 0
    unit = (files.hu_of(tmp_path / "in/x") + 1024) / 1512 - 1
    expected = (ndimage.correlate(unit, KERNEL, mode="constant") + 1) * 1512 - 1024
    np.testing.assert_allclose(files.hu_of(tmp_path / "out/x"), expected, atol=0.51)


def test_what_lies_outside_of_the_crop_is_the_sources(tmp_path, paired_run, files):
    files.write_slice(tmp_path / "in/x", files.stored_image(0))
    assert run(paired_run(offset=0.1), "-R", tmp_path / "in", "-o", tmp_path / "out", "-ch", 20, "-cw", 30) == 0
    difference = files.hu_of(tmp_path / "out/x") - files.hu_of(tmp_path / "in/x")
    inside = np.zeros((37, 50), bool)
    inside[8:28, 10:40] = True  # (37 - 20) // 2, (50 - 30) // 2
    assert not difference[~inside].any()
    assert np.abs(difference[inside] - 0.1 * 1512).max() <= 0.51


def test_padding_is_padding_again(tmp_path, paired_run, files):
    stored = files.stored_image(0)
    stored[:5, :7] = 0
    files.write_slice(tmp_path / "in/x", stored, padding=0)
    assert run(paired_run(offset=0.1), "-R", tmp_path / "in", "-o", tmp_path / "out") == 0
    after = pydicom.dcmread(tmp_path / "out/x")
    np.testing.assert_array_equal(after.pixel_array == after.PixelPaddingValue, stored == 0)


def test_clips_are_those_of_training_unless_given(tmp_path, paired_run, files):
    files.write_slice(tmp_path / "in/x", files.stored_image(0))
    run_folder = paired_run(clipA=[-200, 200], clipB=[0, 800])
    assert run(run_folder, "-R", tmp_path / "in", "-o", tmp_path / "out") == 0
    hu = files.hu_of(tmp_path / "in/x")
    np.testing.assert_allclose(files.hu_of(tmp_path / "out/x"), (hu.clip(-200, 200) + 200) * 2, atol=0.51)
    assert run(run_folder, "-R", tmp_path / "in", "-o", tmp_path / "out2", "-ca", 0, 100) == 0
    np.testing.assert_allclose(files.hu_of(tmp_path / "out2/x"), hu.clip(0, 100) * 8, atol=0.51)


def test_btoa_swaps_the_clips(tmp_path, paired_run, files):
    files.write_slice(tmp_path / "in/x", files.stored_image(0))
    assert (
        run(
            paired_run(clipA=[0, 800], clipB=[-200, 200], btoa=True),
            "-R",
            tmp_path / "in",
            "-o",
            tmp_path / "out",
            "--btoa",
        )
        == 0
    )
    hu = files.hu_of(tmp_path / "in/x")
    np.testing.assert_allclose(files.hu_of(tmp_path / "out/x"), (hu.clip(-200, 200) + 200) * 2, atol=0.51)


def test_the_middle_of_a_stack_is_written_and_ends_are_repeated(tmp_path, paired_run, files):
    files.write_series(tmp_path / "in", 4)
    # channel 0 of the input is the slice below: it becomes every channel of the output
    assert run(paired_run(stack=3, ch=3, out_ch=3), "-R", tmp_path / "in", "-o", tmp_path / "out") == 0
    order = [f"IM{(i * 7) % 10}" for i in range(4)]
    for name, below in zip(order, [order[0], *order], strict=False):
        np.testing.assert_array_equal(files.hu_of(tmp_path / "out" / name), files.hu_of(tmp_path / "in" / below))
    last = pydicom.dcmread(tmp_path / "out" / order[3])
    assert (
        len(last.SourceImageSequence) == 2
        and len(pydicom.dcmread(tmp_path / "out" / order[1]).SourceImageSequence) == 3
    )


def test_any_size_is_padded_to_what_the_network_needs_and_tiles_agree(tmp_path, paired_run, files):
    files.write_slice(tmp_path / "in/x", files.stored_image(0, 101, 90))
    run_folder = paired_run(
        name="deep", gen_chs=[2, 3, 4], gen_nblock=1, gen_activation="lrelu", gen_out_activation="tanh"
    )
    common = [run_folder, "-R", tmp_path / "in", "--structure", "none"]
    assert run(*common, "-o", tmp_path / "whole") == 0
    assert run(*common, "-o", tmp_path / "tiled", "--tile", 88) == 0
    whole = files.hu_of(tmp_path / "whole/x")
    assert whole.shape == (101, 90) and whole.std() > 1
    assert np.abs(files.hu_of(tmp_path / "tiled/x") - whole).max() <= 1


def test_bad_files_are_skipped_counted_and_an_error_with_strict(tmp_path, capsys, files):
    folder = files.write_series(tmp_path / "in", 3)
    (folder / "readme.dcm").write_text("no image")
    (folder / "LICENSE").write_text("as TCIA has it")
    (folder / "metadata.csv").write_text("and this too")
    whole = (folder / "IM7").read_bytes()
    (folder / "IM7").write_bytes(whole[:-900])  # pixels cut off: the header is fine
    assert run("-m", "identity", "-R", folder, "-o", tmp_path / "out") == 0
    report = files.report_of(tmp_path / "out")
    assert report["counts"] == {"skipped": 4, "written": 2} and report["state"] == "complete"
    assert report["files"]["readme.dcm"]["status"] == report["files"]["IM7"]["status"] == "skipped"
    assert not (tmp_path / "out/IM7").exists()
    error = capsys.readouterr().err
    assert "skipped LICENSE: not DICOM" in error and "skipped metadata.csv: not DICOM" in error
    assert "skipped readme.dcm: not DICOM" in error and "skipped IM7: " in error
    assert run("-m", "identity", "-R", folder, "-o", tmp_path / "out2", "--strict") == 1


def test_a_rerun_gives_the_same_bytes_whatever_the_batch_and_the_threads(tmp_path, paired_run, files):
    folder, run_folder = files.write_series(tmp_path / "in", 3), paired_run(KERNEL)
    assert run(run_folder, "-R", folder, "-o", tmp_path / "one", "-b", 1) == 0
    assert run(run_folder, "-R", folder, "-o", tmp_path / "two", "-b", 2, "--workers", 1) == 0
    for name in files.tree(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_another_model_gives_other_uids(tmp_path, paired_run, files):
    folder = files.write_series(tmp_path / "in", 1)
    for name, kernel in (("one", KERNEL), ("two", KERNEL.T)):
        assert run(paired_run(kernel, name=name), "-R", folder, "-o", tmp_path / f"out_{name}") == 0
    first, second = (pydicom.dcmread(tmp_path / f"out_{name}/IM0") for name in ("one", "two"))
    assert first.SOPInstanceUID != second.SOPInstanceUID and first.SeriesInstanceUID != second.SeriesInstanceUID


def test_dicom_as_another_kind(tmp_path, paired_run, files):
    files.write_slice(tmp_path / "in/x.dcm", files.stored_image(0))
    assert run(paired_run(), "-R", tmp_path / "in", "-o", tmp_path / "out", "--imgtype_out", "npy") == 0
    np.testing.assert_allclose(np.load(tmp_path / "out/x.npy"), files.hu_of(tmp_path / "in/x.dcm"), atol=1e-3)


def test_what_the_scan_warns_of_is_told_once(tmp_path, caplog, files):
    folder = files.write_series(tmp_path / "in", 4)
    for path in folder.iterdir():
        d = pydicom.dcmread(path)
        d.BitsStored, d.HighBit = 11, 10  # the values have 12 bits
        if d.InstanceNumber == 4:
            d.ImagePositionPatient = [0, 0, 40]
        d.save_as(path)
    run("-m", "identity", "-R", folder, "-o", tmp_path / "out")
    told = [record.getMessage() for record in caplog.records]
    assert len([text for text in told if "uneven slice distance: 1 of 3 steps" in text]) == 1
    assert len([text for text in told if "use bits above BitsStored 11, which are ignored" in text]) == 1
