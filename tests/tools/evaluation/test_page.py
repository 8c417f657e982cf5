"""The report in a real browser, without a window and without a network."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from medi2i.tools.evaluation import page
from medi2i.tools.evaluation.packing import Scale
from medi2i.tools.evaluation.verdict import Verdict

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here")
SIZE = (24, 31)


def content(count, rows=("identity", "identity - 100", "mine"), **changes):
    """`count` slices; the RMSE of `mine` on slice i is i, so the last is the worst."""
    fields = dict(
        title="A report",
        lead="lead",
        verdicts=[Verdict("mine: WORSE than identity", True)],
        windows_text="windows",
        tables=[("", [["", "RMSE / HU"], ["identity", "100.00"]])],
        rows=list(rows),
        metrics=["rmse"],
        labels={"rmse": "RMSE"},
        larger_is_better=[],
        judged="mine",
        slices=[
            {"key": f"s{i}", "series": "head", "values": {row: {"rmse": float(i)} for row in rows}}
            for i in range(count)
        ],
        windows=[{"name": "full", "lower": -1024, "upper": 2000}, {"name": "soft", "lower": -160, "upper": 240}],
        unit="HU",
        scale=Scale(-1024.0, 1.0),
        difference_range=50.0,
        derived={"identity - 100": {"of": "identity", "minus": 100, "lower": -1024}},
        provenance={"Data": {"kind": "dcm"}},
    )
    return page.Content(**{**fields, **changes})


def images(number):
    """Truth: a ramp; the input 100 more; mine as much more as the number of the slice."""
    truth = np.arange(SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE) - 400
    return {"identity": truth + 100, "mine": truth + number, "truth": truth}


def in_browser(path, script):
    """Run `script` (the body of an async function with helpers) in the page and return what it returns."""
    text = path.read_text(encoding="utf-8")
    harness = """<pre id="result"></pre><script>window.addEventListener("load", async () => {
      const $ = (id) => document.getElementById(id);
      const drawn = () => Number($("viewer").dataset.ready || 0);
      const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));
      const until = async (test) => { for (let i = 0; i < 400 && !test(); i++) await wait(10); };
      const after = async (act) => { const before = drawn(); act(); await until(() => drawn() > before); };
      const pixel = (x, y, id = "canvas") => [...$(id).getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3);
      await until(() => drawn() > 0);
      await wait(100);
      let result;
      try { result = await (async () => { SCRIPT })(); } catch (error) { result = {error: String(error)}; }
      $("result").textContent = JSON.stringify(result);
    });</script></body>""".replace("SCRIPT", script)
    probe = path.with_name("probe.html")
    probe.write_text(text.replace("</body>", harness), encoding="utf-8")
    switches = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={path.parent / 'profile'}",
        "--virtual-time-budget=20000",
        "--dump-dom",
    ]
    done = subprocess.run([BROWSER, *switches, probe.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    assert found and found.group(1), "the page did not get as far as its result"
    return json.loads(html.unescape(found.group(1)))


@needs_browser
def test_viewer_shows_exact_values_in_every_mode(tmp_path):
    path = tmp_path / "report.html"
    page.write_page(path, content(3), images, budget_mb=1)
    result = in_browser(
        path,
        """
      const told = {first: $("caption").textContent, size: [$("canvas").width, $("canvas").height]};
      told.left = pixel(3, 10);
      told.right = pixel(28, 10);
      await after(() => document.querySelector('[data-mode="difference"]').click());
      told.difference = pixel(3, 10);
      told.bar = $("colourbar").hidden;
      await after(() => document.querySelector('[data-mode="side"]').click());
      told.side = [pixel(3, 10), pixel(3, 10, "canvas-2"), $("canvas-2").parentElement.hidden];
      await after(() => document.querySelectorAll("#presets button")[0].click());
      told.window = $("lower-upper").textContent;
      told.full = pixel(3, 10);
      await after(() => { $("first").value = "identity - 100"; $("first").onchange(); });
      told.derived = pixel(3, 10);
      await after(() => { $("first").value = "identity"; $("first").onchange(); });
      await after(() => document.querySelector('[data-mode="flicker"]').click());
      told.flicker = [$("shown").textContent];
      await until(() => $("shown").textContent !== told.flicker[0]);
      told.flicker.push($("shown").textContent);
      await after(() => document.querySelector('[data-mode="swipe"]').click());
      await after(() => $("next").click());
      told.second = $("caption").textContent;
      await after(() => { $("order").value = "series"; $("order").onchange(); });
      told.series = $("caption").textContent;
      await after(() => document.querySelector('[data-slice="1"]').click());
      told.clicked = $("caption").textContent;
      told.fetched = performance.getEntriesByType("resource").length;
      return told;
    """,
    )
    assert "error" not in result, result

    def grey(value, lower=-160, upper=240):
        return [round(min(255, max(0, 255 * (value - lower) / (upper - lower))))] * 3

    at = 10 * 31 - 400  # the truth where row 10 begins
    assert result["first"].startswith("s2 (head), 1 of 3") and "RMSE 2" in result["first"]
    assert result["size"] == [31, 24]
    assert result["left"] == grey(at + 3 + 2) and result["right"] == grey(at + 28)  # mine and the truth
    assert result["difference"] == [round(255 + (c - 255) * 2 / 50) for c in (178, 24, 43)] and result["bar"] is False
    assert result["side"] == [grey(at + 3 + 2), grey(at + 3), False]
    assert result["window"] == "-1024 … 2000 HU" and result["full"] == grey(at + 5, -1024, 2000)
    assert result["derived"] == grey(at + 3, -1024, 2000)
    assert result["flicker"] == ["identity", "truth"]
    assert result["second"].startswith("s1 (head), 2 of 3")
    assert result["series"].startswith("s0 (head), 1 of 3") and result["clicked"].startswith("s1 (head), 2 of 3")
    assert result["fetched"] == 0


@needs_browser
def test_two_hundred_slices(tmp_path):
    path = tmp_path / "report.html"
    packed = page.write_page(path, content(200), images, budget_mb=20)
    assert len(packed.entries) == 200 and packed.left_out == 0
    result = in_browser(
        path,
        """
      await after(() => { $("place").value = 199; $("place").oninput(); });
      return [$("caption").textContent, document.querySelectorAll("[data-slice]").length, pixel(30, 23)];
    """,
    )
    assert result[0].startswith("s0 (head), 200 of 200") and result[1] == 200
    assert result[2] == [255, 255, 255]


@needs_browser
def test_fits_on_a_phone(tmp_path):
    """In a frame as wide as a phone only wide tables scroll sideways; controls can be touched."""
    path = tmp_path / "report.html"
    wide = ("", [["row", *(f"a long heading {number}" for number in range(12))], ["identity", *"123456789012"]])
    page.write_page(path, content(30, tables=[wide]), images, budget_mb=2)
    frame = tmp_path / "frame.html"
    text = path.read_text(encoding="utf-8")
    frame.write_text(
        '<body style="margin:0"><iframe id="phone" style="border:0;width:375px;height:740px" srcdoc="'
        + html.escape(text.replace("default-src 'none'; ", ""))
        + '"></iframe><pre id="result"></pre>'
        + """<script>
      const read = () => {
        const page = document.getElementById("phone").contentDocument, root = page.documentElement;
        const drawn = Number((page.getElementById("viewer") || {dataset: {}}).dataset.ready || 0);
        if (!drawn) { setTimeout(read, 50); return; }
        const box = (node) => node.getBoundingClientRect();
        document.getElementById("result").textContent = JSON.stringify({
          width: root.clientWidth, scroll: root.scrollWidth,
          canvas: box(page.getElementById("canvas")).width,
          table: page.querySelector(".wide").scrollWidth > page.querySelector(".wide").clientWidth,
          buttons: Math.min(...[...page.querySelectorAll("button")].map((one) => box(one).height)),
          right: Math.max(...[...page.querySelectorAll("button, select, input, h1, p")].map((one) => box(one).right))});
      };
      read();
    </script></body>""",
        encoding="utf-8",
    )
    switches = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=20000",
        "--dump-dom",
    ]
    done = subprocess.run([BROWSER, *switches, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="result">(.+?)</pre>', done.stdout, re.S)
    assert found, "the page did not draw"
    result = json.loads(html.unescape(found.group(1)))
    assert result["scroll"] <= result["width"] >= 345, result
    assert 300 <= result["canvas"] <= 375 and result["right"] <= result["width"] and result["table"] is True
    assert result["buttons"] >= 36


def test_worst_slices_keep_their_size_where_not_all_fit(tmp_path):
    generator = np.random.default_rng(0)
    noisy = {"mine": generator.uniform(0, 1000, (64, 96)).astype(np.float32)}
    one = page.content_size(page.write_page(tmp_path / "one.html", content(1, ("mine",)), lambda _: noisy, 1))
    report = content(20, ("mine",), derived={})
    packed = page.write_page(tmp_path / "some.html", report, lambda _: noisy, budget_mb=10.5 * one / 1e6)
    sizes = {number: (entry["height"], entry["width"], entry["factor"]) for number, entry in packed.entries.items()}
    assert sizes[19] == sizes[15] == (64, 96, 1) and sizes[0] == (32, 48, 2)
    assert len(sizes) + packed.left_out == 20 and packed.left_out <= 1
    assert page.content_size(packed) <= 10.5 * one
    few = page.write_page(tmp_path / "few.html", content(20, ("mine",), derived={}), lambda _: noisy, 0.9 * one / 1e6)
    assert sorted(few.entries) == list(range(few.left_out, 20)) and 0 < few.left_out < 8


def test_names_from_files_cannot_become_markup(tmp_path):
    evil = "</script><script>alert(1)</script><b>"
    report = content(1, (evil,), judged=evil, title=evil, derived={}, provenance={evil: {evil: evil}})
    report.slices[0].update(key=evil, series=evil)
    page.write_page(tmp_path / "report.html", report, lambda _: {evil: np.zeros(SIZE)}, 1)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text and "<b>" not in text
    data = re.search(r'id="report">(.*?)</script>', text, re.S).group(1)
    assert json.loads(data)["slices"][0]["key"] == evil


def test_page_needs_no_other_file(tmp_path):
    page.write_page(tmp_path / "report.html", content(1), images, 1)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", text)
    assert "{{" not in text and 'content="width=device-width' in text and "default-src 'none'" in text


def test_numbers_that_are_none():
    assert [page.number(value) for value in (float("nan"), float("inf"), 12.34567)] == ["–", "∞", "12.35"]
