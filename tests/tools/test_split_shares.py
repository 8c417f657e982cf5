"""No list is left empty, whatever rounding does."""
import pytest

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


def test_list_of_one_column_is_refused_and_nothing_written(tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("a.dcm\tb.dcm\n\nc.dcm\n")
    assert main(["-i", str(names)]) == 1
    assert f"{names}: line 3 has one column" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [names]
