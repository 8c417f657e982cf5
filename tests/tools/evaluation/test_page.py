"""The report in a real browser, without a window and without a network."""

import dataclasses
import html
import json
import math
import re
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest

from medi2i.datasets.reading import Image
from medi2i.tools.evaluation import measure, page
from medi2i.tools.evaluation.files import Slice
from medi2i.tools.evaluation.measure import Evaluation, Record, Row, Shift, Summary
from medi2i.tools.evaluation.metrics import FULL, WINDOWS, Window
from medi2i.tools.evaluation.table import Verdict

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here")
SIZE = (24, 31)


@pytest.fixture(autouse=True)
def _truths_come_from_functions(monkeypatch):
    for module in (measure, page):
        monkeypatch.setattr(module, "load", lambda truth: Image(truth.images(truth.number)["truth"]))


def evaluation(
    count,
    rows=("identity", "identity - 100", "mine"),
    load=None,
    key="s{}",
    series="head",
    names=("rmse",),
    left_out=None,
):
    """`count` slices; every metric of every row on slice i is i, so the last is the worst."""
    files = [Truth(number, load or images) for number in range(count)]
    slices = [Slice(key.replace("{}", str(number)), series, file, {rows[0]: file}) for number, file in enumerate(files)]
    return Evaluation(
        rows=[row(name, load or images) for name in rows],
        slices=slices,
        windows=[FULL, WINDOWS["soft"]],
        shown=WINDOWS["soft"],
        unit="HU",
        records=[
            Record(row, series, one.key, dict.fromkeys(names, float(i))) for i, one in enumerate(slices) for row in rows
        ],
        summary={(row, "all", name): Summary(count, 1.0, 0.5, 0.5, 1.5) for row in rows for name in names},
        physics=None,
        folders={},
        left_out=left_out or {},
        pooled={},
    )


def row(name, load):
    """A row of what `load` gives, or of that minus 100 as its name says."""
    source, _, minus = name.partition(" - ")
    shift = Shift(source, float(minus), -1024) if minus else None

    def image(one):
        array = load(one.truth.number)[source]
        return shift(array) if shift else array

    return Row(name, "doing nothing" if name == "identity" else "", image, shift)


@dataclass(frozen=True)
class Truth:
    """In place of a file: the truth of the slice `number`."""

    number: int
    images: object
    kind: str = "dcm"
    modality: str = "CT"
    spacing: tuple = (1.0, 1.0)


def images(number):
    """Truth: a ramp; the input 100 more; mine as much more as the number of the slice, and 50 on slice 1."""
    truth = np.arange(SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE) - 400
    return {"identity": truth + 100, "mine": truth + (50 if number == 1 else number), "truth": truth}


def write(path, evaluation, budget_mb, title="A report", judged="mine"):
    verdicts = [Verdict("mine: WORSE than identity", True)]
    return page.write_page(path, evaluation, title, judged, verdicts, budget_mb)


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
    write(path, evaluation(3), 1)
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
      await after(() => { $("first").value = "truth"; $("first").onchange(); });
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
    assert result["left"] == grey(at + 103) and result["right"] == grey(at + 28 + 2)  # the input and mine
    assert result["difference"] == [178, 24, 43] and result["bar"] is False
    assert result["side"] == [grey(at + 103), grey(at + 3 + 2), False]
    assert result["window"] == "-1024 … 2000 HU" and result["full"] == grey(at + 103, -1024, 2000)
    assert result["derived"] == grey(at + 3, -1024, 2000)
    assert result["flicker"] == ["truth", "mine"]
    assert result["second"].startswith("s1 (head), 2 of 3")
    assert result["series"].startswith("s0 (head), 1 of 3") and result["clicked"].startswith("s1 (head), 2 of 3")
    assert result["fetched"] == 0


def of_classes(count):
    """Slices of four classes: columns of the truth are 0, 1, 2, 3 in turn; mine is one more, 4 being none of them."""
    truth = np.indices(SIZE)[1].astype(np.float32) % 4
    shown = evaluation(count, ("mine",), lambda number: {"mine": truth + 1, "truth": truth}, names=("dice mean",))
    shown.pooled["mine"] = {"dice": [0.0] * 3, "iou": [0.0] * 3, "dice mean": [0.0], "iou mean": [0.0]}
    return dataclasses.replace(shown, unit="", windows=[], shown=Window("classes", 0, 3))


COLOURS = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
"""Of the first classes, by the colour map of PASCAL VOC: the bits of the number, dealt to red, green and blue."""


@needs_browser
def test_classes_have_the_colours_of_the_pictures(tmp_path):
    path = tmp_path / "report.html"
    write(path, of_classes(2), 1)
    result = in_browser(
        path,
        """
      await after(() => document.querySelector('[data-mode="side"]').click());
      const four = (id) => [0, 1, 2, 3].map((column) => pixel(column, 5, id));
      const legend = [...document.querySelectorAll("#classes span")];
      return {truth: four("canvas"), mine: four("canvas-2"), window: $("window").hidden,
        legend: legend.map((one) => [one.textContent, one.style.borderLeftColor])};
    """,
    )
    assert result["truth"] == COLOURS and result["mine"] == [*COLOURS[1:], [255, 255, 255]]
    assert result["legend"] == [[str(n), f"rgb({', '.join(map(str, one))})"] for n, one in enumerate(COLOURS)]
    assert result["window"] is True


@needs_browser
def test_a_circle_is_measured_in_all_images(tmp_path):
    path = tmp_path / "report.html"
    write(path, evaluation(3), 1)
    result = in_browser(
        path,
        """
      const measured = () => Number($("measured").dataset.ready || 0);
      const told = {before: $("measured").hidden};
      const measuring = async (act) => { const before = measured(); act(); await until(() => measured() > before); };
      const rows = () => [...$("means").rows].slice(1).map((row) => [...row.cells].map((cell) => cell.textContent));
      const box = $("canvas").getBoundingClientRect();
      const at = (x, y, buttons = 1) => ({
        clientX: box.left + x / 31 * box.width, clientY: box.top + y / 24 * box.height, target: $("canvas"), buttons});
      await measuring(() => $("region").click());
      await measuring(() => $("canvas").onpointerdown(at(10.5, 8.5)));
      await measuring(() => $("canvas").onpointermove(at(11.6, 8.5)));  // the pixel and its four neighbours
      told.five = rows();
      told.size = $("circle-size").textContent;
      await measuring(() => $("next").click());
      told.next = rows()[2];
      $("canvas").onpointermove(at(20, 8.5, 0));  // no button is pressed
      await after(() => document.querySelector('[data-mode="side"]').click());
      told.circles = [...document.querySelectorAll(".circle")].map((one) => one.hidden);
      $("region").click();
      told.after = [$("measured").hidden, ...[...document.querySelectorAll(".circle")].map((one) => one.hidden)];
      return told;
    """,
    )
    assert "error" not in result, result
    middle = 8 * 31 + 10 - 400
    deviation = f"{math.sqrt((2 * 31**2 + 2) / 4):.2f}"  # of -31, -1, 0, 1 and 31 around the middle
    shown = {"identity": middle + 100, "identity - 100": middle, "mine": middle + 2, "truth": middle}
    assert result["before"] is True
    assert result["five"] == [[name, f"{mean:.2f}", deviation] for name, mean in shown.items()]
    assert result["size"] == "5 pixels, 2.2 mm across, centre in row 8, column 10"
    assert result["next"] == ["mine", f"{middle + 50:.2f}", deviation]  # the next slice, the same circle
    assert result["circles"] == [False, False] and result["after"] == [True, True, True]


@needs_browser
def test_a_reduced_slice_has_no_standard_deviation(tmp_path):
    generator = np.random.default_rng(0)
    noisy = {name: generator.uniform(0, 1000, (64, 96)).astype(np.float32) for name in ("mine", "truth")}
    one = write(tmp_path / "one.html", evaluation(1, ("mine",), lambda _: noisy), 1).size
    write(tmp_path / "report.html", evaluation(4, ("mine",), lambda _: noisy), 2.2 * one / 1e6)
    result = in_browser(
        tmp_path / "report.html",
        """
      await after(() => { $("place").value = 3; $("place").oninput(); });
      $("region").click();
      await until(() => $("measured").dataset.ready);
      return [$("means").rows[1].cells[2].textContent, $("circle-size").textContent];
    """,
    )
    assert result[0] == "–" and "no standard deviation: this slice is shown reduced" in result[1]


def test_the_page_opens_with_numbers_and_images_before_any_table(tmp_path):
    write(tmp_path / "report.html", evaluation(2, names=("rmse", "ssim full", "ssim soft", "bias")), 1)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    places = [text.index(one) for one in ("Not a medical device", "RMSE / HU", 'id="canvas"', ">Tables<", "<table>")]
    assert places == sorted(places)
    assert re.findall("<dt>(.*?)</dt><dd><strong>(.*?)</strong> <span>(.*?)</span>", text) == [
        ("RMSE / HU", "1", "identity 1"),
        ("SSIM soft", "1", "identity 1"),
        ("Bias / HU", "1", "identity 1"),
    ]
    assert text.index("<strong>identity</strong>: doing nothing") < text.index('id="canvas"')


@needs_browser
def test_two_hundred_slices(tmp_path):
    path = tmp_path / "report.html"
    packed = write(path, evaluation(200), 20)
    assert len(packed.entries) == 200
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
    write(path, evaluation(30, names=["rmse", *(f"psnr a long heading {number}" for number in range(12))]), 2)
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
          height: box(page.getElementById("canvas").parentElement).height,
          table: [...page.querySelectorAll(".wide")].some((one) => one.scrollWidth > one.clientWidth),
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
    assert result["height"] == pytest.approx(result["canvas"] * SIZE[0] / SIZE[1], abs=1)
    assert 300 <= result["canvas"] <= 375 and result["right"] <= result["width"] and result["table"] is True
    assert result["buttons"] >= 36


def test_worst_slices_keep_their_size_where_not_all_fit(tmp_path):
    generator = np.random.default_rng(0)
    noisy = {name: generator.uniform(0, 1000, (64, 96)).astype(np.float32) for name in ("mine", "truth")}
    one = write(tmp_path / "one.html", evaluation(1, ("mine",), lambda _: noisy), 1).size
    twenty = evaluation(20, ("mine",), lambda _: noisy)
    packed = write(tmp_path / "some.html", twenty, 10.5 * one / 1e6)
    sizes = {number: (entry["height"], entry["width"], entry["factor"]) for number, entry in packed.entries.items()}
    assert sizes[19] == sizes[15] == (64, 96, 1) and sizes[0] == (32, 48, 2)
    assert len(sizes) in (19, 20)
    assert packed.size <= 10.5 * one
    few = write(tmp_path / "few.html", twenty, 0.9 * one / 1e6)
    assert sorted(few.entries) == list(range(20 - len(few.entries), 20)) and 12 < len(few.entries) < 20


def test_names_from_files_cannot_become_markup(tmp_path):
    evil = "</script><script>alert(1)</script><b>{{ 7 * 7 }}{% raw %}$\\frac$"
    zeros = np.zeros(SIZE, dtype=np.float32)
    report = evaluation(
        1, (evil,), lambda _: {evil: zeros, "truth": zeros}, key=evil, series=evil, left_out={evil: [evil]}
    )
    write(tmp_path / "report.html", report, 1, title=evil, judged=evil)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text and "<b>" not in text and "{{ 7 * 7 }}{% raw %}$\\frac$" in text
    data = re.search(r'id="report">(.*?)</script>', text, re.S).group(1)
    assert json.loads(data)["slices"][0]["key"] == evil


def test_page_needs_no_other_file(tmp_path):
    write(tmp_path / "report.html", evaluation(1), 1)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    plots = re.findall("<svg.*?</svg>", text, re.S)  # name their own parts, and the standards they follow
    assert plots and all(re.findall(r'(?:href="|url\()(?!#)', plot) == [] for plot in plots)
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", re.sub("<svg.*?</svg>", "", text, flags=re.S))
    assert (
        "{{" not in text and "{%" not in text and 'content="width=device-width' in text and "default-src 'none'" in text
    )


def test_numbers_that_are_none():
    assert [page.number(value) for value in (float("nan"), float("inf"), 12.34567)] == ["–", "∞", "12.35"]
