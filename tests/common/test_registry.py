"""Models by name: where they are looked for, and what their cards say."""

import json

import pytest

from medi2i.common import registry
from medi2i.common.errors import UserError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A place of models that holds ``mine``, and no other but medi2i's own."""
    monkeypatch.setenv(registry.VARIABLE, str(tmp_path / "given"))
    monkeypatch.setattr(registry.Path, "home", staticmethod(lambda: tmp_path / "home"))
    folder = tmp_path / "given" / "mine"
    folder.mkdir(parents=True)
    (folder / "args").write_text("{}")
    return tmp_path


def test_a_name_is_the_model_of_the_first_place_that_has_it(place):
    assert registry.located("mine") == place / "given/mine"
    own = place / "home/.medi2i/models"
    for name in ("mine", "other"):
        (own / name).mkdir(parents=True)
        (own / name / "args").write_text("{}")
    assert registry.models()["mine"] == place / "given/mine" and registry.located("other") == own / "other"
    assert registry.places()[:2] == [place / "given", own]


def test_what_is_there_is_meant_before_a_model_of_that_name(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "mine").mkdir()
    assert registry.located("mine") == registry.Path("mine")


@pytest.mark.parametrize("text", ["absent", "folder/mine", "./x.npz"])
def test_what_is_neither_stays_as_it_is(place, text):
    assert registry.located(text) == registry.Path(text)


def test_errors_name_the_models_there_are(place):
    assert "mine" in registry.known_names()


def test_a_card_says_what_a_model_knows(place):
    folder = place / "given/mine"
    assert registry.card_of(folder) == registry.Card()
    content = {"summary": "a test", "modality": "CT", "noise_hu": [3, 60], "pixel_mm": [0.4, 1.0], "more": 1}
    (folder / registry.CARD).write_text(json.dumps(content))
    assert registry.card_of(folder) == registry.Card("a test", "CT", (3.0, 60.0), (0.4, 1.0))


@pytest.mark.parametrize("content", ["[]", '{"noise_hu": [3, 60]}', '{"summary": "a", "pixel_mm": 3}', "no json"])
def test_a_card_that_is_none_is_refused_with_what_would_be_right(place, content):
    (place / "given/mine" / registry.CARD).write_text(content)
    with pytest.raises(UserError, match=r"card\.json"):
        registry.card_of(place / "given/mine")
