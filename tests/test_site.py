"""The site of docs/ is built without a warning, asks for nothing from elsewhere, and has every option."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medi2i.command import BY_NAME
from medi2i.common.options import PairedOptions

pytest.importorskip("mkdocs", reason="MkDocs is not installed: pip install 'medi2i[docs]'")
pytest.importorskip("mkdocstrings_handlers.python", reason="mkdocstrings is not installed: pip install 'medi2i[docs]'")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", out], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_nothing_is_fetched_from_elsewhere(site):
    pattern = (
        r"""<(?:script|img|iframe|source)[^>]*src=["']?(https?:|//)|"""
        r"""<link[^>]*rel=["']?(?:stylesheet|preconnect|icon)["']?[^>]*href=["']?(https?:|//)"""
    )
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    assert [page.name for page in pages if re.search(pattern, page.read_text(encoding="utf-8"))] == []
    assert [sheet.name for sheet in site.rglob("*.css") if re.search(r"url\(.?https?:", sheet.read_text())] == []


def test_each_command_has_its_page_and_each_option_its_row(site):
    for name in BY_NAME:
        assert (site / "options" / f"{name.replace(' ', '-')}.html").is_file()
    page = (site / "options" / "train-pix2pix.html").read_text(encoding="utf-8")
    options = [field for field in dataclasses.fields(PairedOptions) if field.metadata["flags"] is not None]
    missing = [field.name for field in options if not re.search(rf"<code>--{field.name}\b", page)]
    assert missing == []
    assert "source.html#medi2i.common.options.shared.GeneratorOptions" in page
