"""What README and docs/ name is there: the pages they lead to, and the files of this project."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FOLDERS = "api|common|datasets|pix2pix|cyclegan|reconstruction|synthesis|tools|tests|benchmarks|docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    made = [target for target in targets if target.startswith("options/")]  # of the site, which looks at links to them
    assert [target for target in targets if target not in made and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    names = set(
        re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w/]+\.(?:py|md|png|html)\b", page.read_text(encoding="utf-8"))
    )
    assert sorted(name for name in names if not (ROOT / name).exists()) == []


def test_modules_of_the_architecture_exist():
    """Its drawings name modules without their folders."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.name for folder in FOLDERS.split("|")[:8] for path in (ROOT / folder).rglob("*.py")}
    assert sorted(set(re.findall(r"\b\w+\.py\b", text)) - modules) == []
