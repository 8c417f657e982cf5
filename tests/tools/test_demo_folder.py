"""A folder that is emptied again must never lose what others put there."""

import pytest

from medi2i.common.errors import UserError
from medi2i.tools.demo import StepFolders


def fill(folder, name, text="made"):
    with folder.step(name) as path:
        path.mkdir()
        (path / "a.txt").write_text(text)


def test_second_run_replaces_what_the_first_made_and_keeps_the_rest(tmp_path):
    out = tmp_path / "demo"
    fill(StepFolders(out), "data")
    (out / "notes.txt").write_text("mine")
    again = StepFolders(out)
    again.clear()
    assert not (out / "data").exists()
    fill(again, "data", "new")
    assert (out / "data" / "a.txt").read_text() == "new" and (out / "notes.txt").read_text() == "mine"


def test_a_run_that_broke_off_is_cleared(tmp_path):
    with pytest.raises(KeyboardInterrupt), StepFolders(tmp_path / "demo").step("data") as path:
        (path / "deep").mkdir(parents=True)
        raise KeyboardInterrupt
    again = StepFolders(tmp_path / "demo")
    again.clear()
    assert not path.exists()
    fill(again, "data")


def test_foreign_files_in_a_step_stop_it_before_anything_is_deleted(tmp_path):
    folder = StepFolders(tmp_path)
    fill(folder, "first")
    fill(folder, "second")
    (tmp_path / "second" / "b.txt").write_text("mine")
    with pytest.raises(UserError, match=r"second/b\.txt: was not made by medi2i demo"):
        StepFolders(tmp_path).clear()
    assert (tmp_path / "first" / "a.txt").exists() and (tmp_path / "second" / "a.txt").exists()


def test_a_folder_of_others_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="was not made by medi2i demo; give a new folder"):
        StepFolders(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        StepFolders(tmp_path / "thesis.txt")
    assert StepFolders(tmp_path / "empty").path == tmp_path / "empty"


def test_a_step_does_not_write_into_a_folder_that_is_there(tmp_path):
    folder = StepFolders(tmp_path / "demo")
    folder.clear()
    (tmp_path / "demo" / "data").mkdir()
    with pytest.raises(UserError, match="is in the way"), folder.step("data"):
        raise AssertionError("the body must not run")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"steps": {"../x": []}, "under_way": null}',
        '{"steps": {}, "under_way": ".."}',
    ],
)
def test_a_damaged_record_is_not_trusted(tmp_path, text):
    (tmp_path / ".made-by.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        StepFolders(tmp_path)
