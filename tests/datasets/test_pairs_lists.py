import os
from pathlib import Path

import numpy as np
import pytest

from medi2i.common.errors import UserError
from medi2i.common.inference.inputs import find_inputs
from medi2i.datasets.catalogue import describe, find_files, matches, number_key, walk
from medi2i.datasets.pairs import Row, locate_list, read_list


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def relative(folder, files):
    return [file.relative_to(folder).as_posix() for file in files]


def test_files_sort_by_the_number_made_of_their_digits():
    def ordered(names):
        return [path.as_posix() for path in sorted(map(Path, names), key=number_key)]

    names = ["s10.png", "s9.png", "b1.png", "a2.png", "1_05.png", "none.png"]
    assert ordered(names) == ["none.png", "b1.png", "a2.png", "s9.png", "s10.png", "1_05.png"]
    assert ordered(["p10/1.png", "p9/2.png", "3.png"]) == ["3.png", "p9/2.png", "p10/1.png"]


def test_walk_goes_into_sub_folders_and_passes_over_hidden_things(tmp_path):
    touch(tmp_path, "p2/2.png", "p2/1.png", "p10/deep/1.png", ".hidden/1.png", "p2/.DS_Store")
    assert relative(tmp_path, walk(tmp_path)) == ["p2/1.png", "p2/2.png", "p10/deep/1.png"]


def test_linked_folder_that_holds_itself_ends(tmp_path):
    touch(tmp_path, "a/1.png")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert relative(tmp_path, walk(tmp_path)) == ["a/1.png"]


def test_pattern():
    assert matches("x_axial_1.png", "*_axial*") and matches("x_axial_1.png", "axial")
    assert not matches("x_axial_1.png", "axial*") and not matches("x.png", "Y")
    assert matches("anything", None)


def test_kind_is_found_and_notes_do_not_count(tmp_path):
    touch(tmp_path, "2.png", "10.PNG", "README.txt", "table.csv")
    kind, files = find_files(tmp_path)
    assert kind == "png" and relative(tmp_path, files) == ["2.png", "10.PNG"]
    assert relative(tmp_path, find_files(tmp_path, "csv")[1]) == ["table.csv"]
    assert relative(tmp_path, find_files(tmp_path, "png", "1*")[1]) == ["10.PNG"]


def test_dicom_is_known_by_its_content(tmp_path):
    (tmp_path / "1.2.840.99").write_bytes(bytes(128) + b"DICM")
    touch(tmp_path, "IM2", "notes.txt")
    kind, files = find_files(tmp_path)
    assert kind == "dcm" and relative(tmp_path, files) == ["IM2", "1.2.840.99"]


@pytest.mark.parametrize(
    ("names", "kind", "pattern", "words"),
    [
        ([], "auto", None, "empty"),
        (["a.doc", "b"], "auto", None, "no images among its 2 files"),
        (["a.png", "b.jpg"], "auto", None, "1 jpg, 1 png.*--imgtype"),
        (["a.png"], "dcm", None, "no dcm images.*1 png"),
        (["a.png"], "png", "zz*", "--fn_pattern"),
        (["a.nii"], "nii", None, "no nii images here .*tools/nifti.py"),
    ],
)
def test_folders_without_images(tmp_path, names, kind, pattern, words):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match=words):
        find_files(tmp_path, kind, pattern)


def test_missing_folder(tmp_path):
    touch(tmp_path, "file")
    with pytest.raises(UserError, match="no such folder"):
        find_files(tmp_path / "none")
    with pytest.raises(UserError, match="not a folder"):
        find_files(tmp_path / "file")


def test_list_file(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_bytes("\ufeff# a comment\r\ntrainA/a 1.dcm\ttrainB/a 1.dcm\r\n\r\nx\ty\tz\r\n".encode())
    assert read_list(path) == [Row(2, ("trainA/a 1.dcm", "trainB/a 1.dcm")), Row(4, ("x", "y", "z"))]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_in_the_encodings_of_windows(tmp_path, encoding, end):
    (tmp_path / "pairs.txt").write_bytes(f"a/é 1.png\tb/ü.png{end}{end}c\td{end}".encode(encoding))
    assert read_list(tmp_path / "pairs.txt") == [Row(1, ("a/é 1.png", "b/ü.png")), Row(3, ("c", "d"))]


@pytest.mark.parametrize(
    "line",
    [
        '"trainA/a, 1.png"\t"trainB/b.png"',
        "trainA\\a, 1.png\ttrainB\\b.png",
        "'trainA/a, 1.png'\t“trainB\\b.png”",
        ' "trainA/a, 1.png" \t trainB/b.png\t\t',
        "\ufefftrainA/a, 1.png\ttrainB/b.png\x1a",
        "trainA/a, 1.png\xa0\t\xa0trainB/b.png",
    ],
)
def test_what_windows_does_to_a_path_is_undone(tmp_path, line):
    (tmp_path / "pairs.txt").write_text(line + "\n", encoding="utf-8")
    assert read_list(tmp_path / "pairs.txt") == [Row(1, ("trainA/a, 1.png", "trainB/b.png"))]


def test_quotes_within_a_quoted_path_are_doubled(tmp_path):
    (tmp_path / "pairs.txt").write_text('"a ""b"".png"\tc\n')
    assert read_list(tmp_path / "pairs.txt") == [Row(1, ('a "b".png', "c"))]


@pytest.mark.parametrize("mark", [";", ","])
def test_the_separators_of_csv_count_where_every_part_is_an_image(tmp_path, mark):
    path = tmp_path / "pairs.csv"
    path.write_text(f'sep={mark}\na.png{mark}b.png\n"c d.png"{mark}e.png\n')
    assert read_list(path) == [Row(2, ("a.png", "b.png")), Row(3, ("c d.png", "e.png"))]
    for line in (f"Smith{mark} John/1.png", f"a{mark}b"):  # part of a name
        path.write_text(line)
        assert read_list(path) == [Row(1, (line,))]
    path.write_text(f"a{mark}1.png\tb.png\nc.png{mark}d.png\te.png\n")
    assert read_list(path)[1] == Row(2, (f"c.png{mark}d.png", "e.png"))


def test_a_drive_of_windows_is_told(tmp_path):
    (tmp_path / "pairs.txt").write_text('a.png\tb.png\n"C:\\data\\a.png"\tb.png\n')
    with pytest.raises(UserError, match="pairs.txt, line 2: .*begins with a drive of Windows; paths below --root"):
        read_list(tmp_path / "pairs.txt")


def test_a_list_that_is_no_text_or_no_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_bytes("Müller.png\tb.png\n".encode("cp1252"))
    with pytest.raises(UserError, match="is not a text file in UTF-8; saving it as UTF-8 would help"):
        read_list(path)
    path.write_bytes("a.png\tb.png\n".encode("utf-16")[2:])  # without its mark
    with pytest.raises(UserError, match="zero bytes"):
        read_list(path)
    (tmp_path / "pairs.xlsx").write_bytes(b"PK\3\4\0\0")
    with pytest.raises(UserError, match="pairs.xlsx: save it as text with tabs, in UTF-8"):
        read_list(tmp_path / "pairs.xlsx")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file"):
        read_list(path)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("a.mha", "save it as NIfTI"),
        ("a.nrrd", "save it as NIfTI"),
        ("a.tar.gz", "unpack it first"),
        ("a.npz", "as .npy"),
        ("a.mat", "as .npy"),
        ("a.webp", "as .png"),
        ("a.jp2", "as .png"),
        ("a.xlsx", "with tabs"),
    ],
)
def test_the_next_step_is_named_for_what_no_reader_takes(tmp_path, name, step):
    touch(tmp_path, name)
    with pytest.raises(UserError, match=f"no images among its 1 files; .*; {name}: .*{step}"):
        find_files(tmp_path)
    with pytest.raises(UserError, match=f"{name}: .*{step}"):
        find_inputs([tmp_path / name])
    (tmp_path / "list.txt").write_text(name + "\n")
    with pytest.raises(UserError, match=f"{name}: .*{step}"):
        find_inputs([tmp_path], list_file="list.txt")
    assert step in describe([tmp_path / name], tmp_path).skipped[0].advice


@pytest.mark.parametrize("content", [b"", b"\n# nothing\n", b"\xff\xfe\x80"])
def test_list_file_without_rows(tmp_path, content):
    (tmp_path / "pairs.txt").write_bytes(content)
    with pytest.raises(UserError, match="pairs.txt"):
        read_list(tmp_path / "pairs.txt")


def test_list_is_looked_for_here_then_in_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "root/a.txt", "root/b.txt", "b.txt")
    assert locate_list("a.txt", "root") == Path("root/a.txt")
    assert locate_list("b.txt", "root") == Path("b.txt")
    with pytest.raises(UserError, match="c.txt"):
        locate_list("c.txt", "root")


def test_two_rows_that_begin_with_one_file_are_refused_whatever_its_kind(tmp_path, ct):
    for name in "abc":
        ct(np.zeros((5, 7), np.uint16)).save_as(tmp_path / name, enforce_file_format=True)
        np.save(tmp_path / f"{name}.npy", np.zeros((5, 7)))
    for suffix in ("", ".npy"):
        (tmp_path / "list.txt").write_text(f"a{suffix}\tb{suffix}\na{suffix}\tc{suffix}\n")
        with pytest.raises(UserError, match=f"a{suffix} and .*a{suffix} would both be written as a{suffix}"):
            find_inputs([tmp_path], list_file="list.txt", columns=(0, 1))
