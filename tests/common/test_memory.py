"""What memory is left: the least of what the machine, the control groups and the limit of the process say."""
import resource

from medi2i.common import memory


def test_the_machine_says_how_much_is_free():
    assert 1e7 < memory.available() < 1e14


def test_a_group_counts_with_what_holds_it_and_the_cache_of_files_gives_way(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_of_machine", lambda: None)
    for name, limit, used, cache in (("", "max", 9, 0), ("inner", "5000000", 3000000, 500000)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(str(used))
        (folder / "memory.stat").write_text(f"anon 7\ninactive_file {cache}\n")
    assert memory._left(tmp_path / "inner", "memory.max", "memory.current") == 2500000
    assert memory._left(tmp_path, "memory.max", "memory.current") is None
    assert memory._left(tmp_path / "none", "memory.max", "memory.current") is None


def test_a_limit_of_the_process_counts(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**40, 2**40))
    assert 0 < memory._of_limit() < 2**40
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1, 1))
    assert memory.available() == 0
