"""No list is left empty, whatever rounding does."""

import pytest
from PIL import Image

from medi2i.common.errors import UserError
from medi2i.tools.split_pairs import main, shares_of

SHARES = {"train": 0.75, "val": 0.1, "test": 0.15}


@pytest.mark.parametrize("count", range(3, 60))
def test_every_list_gets_its_share_and_at_least_one(count):
    shares = shares_of(count, SHARES)
    assert sum(shares.values()) == count and min(shares.values()) >= 1
    assert all(abs(shares[name] - share * count) <= 1.5 for name, share in SHARES.items())


def test_too_few_for_all_lists():
    with pytest.raises(UserError, match="2 image"):
        shares_of(2, SHARES)


def test_one_is_not_told_as_several(tmp_path, capsys):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("".join(f"{name}\t{name}\n" for name in ("a/1.png", "a/2.png", "b/1.png")))
    assert main(["-i", str(pairs), "--ratio", "0.6"]) == 0
    told = capsys.readouterr().out
    assert "pairs_train.txt: 2 pairs, 1 folder\n" in told and "pairs_val.txt: 1 pair, 1 folder\n" in told


def test_list_of_one_column_is_refused_and_nothing_written(tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("a.dcm\tb.dcm\n\nc.dcm\n")
    assert main(["-i", str(names)]) == 1
    assert f"{names}: line 3 has one column" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [names]


@pytest.mark.parametrize("ratio", ["-r", "-tr", "--ratio"])
def test_spellings_of_the_released_helper(tmp_path, ratio):
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("".join(f"{number}.png\t{number}.png\n" for number in range(10)))
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(b"")
    assert main(["-f", str(pairs), ratio, "0.7", "--outdir", str(tmp_path / "lists"), "--by", "image"]) == 0
    assert [len((tmp_path / f"lists/pairs_{name}.txt").read_text().splitlines()) for name in ("train", "val")] == [7, 3]


def split(tmp_path, names, *options):
    """What split_pairs makes of a list of empty pictures: the note it prints, and the names of each list."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("".join(f"{name}\t{name}\n" for name in names))
    assert main(["-i", str(pairs), "--ratio", "0.5", "--force", *options]) == 0
    return [
        {line.split("\t")[0] for line in (tmp_path / f"pairs_{part}.txt").read_text().splitlines()}
        for part in ("train", "val")
    ]


@pytest.mark.parametrize(
    ("layout", "note"),
    [
        ("trainB/patient{}/slice_00{}.png", "by patient: 4 patients"),
        ("trainB/sub-{}/ses-{}/anat/a.png", "by patient: 4 patients"),
        ("trainB/sub-{0}_ses-{1}_{1}.png", "by patient: 4 patients"),
        ("case_000{}_000{}.png", "by patient: 4 patients"),
        ("P{}_S{}.npy", "by patient: 4 patients"),
        ("smith{}/ses{}/png/x.png", "by folder: 4 folders"),
    ],
)
def test_patients_of_pictures_are_those_of_their_names(tmp_path, capsys, layout, note):
    names = [layout.format(person, image) for person in (1, 2, 3, 4) for image in (1, 2)]
    train, val = split(tmp_path, names)
    assert note in capsys.readouterr().out
    assert len(train) == len(val) == 4
    for one, other in zip(names[::2], names[1::2], strict=True):
        assert (one in train) == (other in train)


def test_names_that_only_some_pictures_have_do_not_count(tmp_path, capsys):
    split(tmp_path, ["patient1/1.png", "patient2/1.png", "smith/1.png"])
    assert "by folder: 3 folders" in capsys.readouterr().out


def test_a_folder_of_pairs_is_split_as_its_list_would_be(tmp_path, capsys):
    for side in ("trainA", "trainB"):
        for number in range(5):
            path = tmp_path / side / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (8, 6)).save(path)
    assert main([str(tmp_path), "--ratio", "0.6", "--by", "image"]) == 0
    rows = [line for name in ("train", "val") for line in (tmp_path / f"pairs_{name}.txt").read_text().splitlines()]
    assert sorted(rows) == [f"trainA/{number}.png\ttrainB/{number}.png" for number in range(5)]
    assert f"{tmp_path}/pairs_train.txt: 3 pairs" in capsys.readouterr().out
