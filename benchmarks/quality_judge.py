"""How good is what was trained: rows of metrics on the test part, a picture, and the same on slices from elsewhere."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.data import get_testdata_file
from quality_steps import IDENTITY, command, input_rows, known_bias, slices_of
from quality_subjects import DATA, SPECTRAL, SUBJECTS, conversion_words, lists_in
from quality_work import Work, write_json

from medi2i.tools.evaluation import classical, files, measure, picture
from medi2i.tools.evaluation.measure import evaluate
from medi2i.tools.evaluation.metrics import FULL, WINDOWS
from medi2i.tools.evaluation.physics import TRUTH

OURS = "medi2i, seed {}"
RANGES = (FULL, WINDOWS["soft"])
ELSEWHERE = "elsewhere"
# The CT slices among pydicom's files; left out are a segmented brain and one that lossy compression has spoilt.
# The last two are there where pydicom-data is installed.
SLICES_ELSEWHERE = ("CT_small.dcm", "J2K_pixelrep_mismatch.dcm", "693_UNCR.dcm", "explicit_VR-UN.dcm")


def judge(work: Work, name: str, seeds: Sequence[int], picture_path: Path | None = None) -> dict[str, Any]:
    """Measure all rows of a subject on its test part; kept as judged/<name>.json. Draws a picture where asked to."""
    subject = SUBJECTS[name]
    data = work.finished(f"data/{subject.data}")["facts"]
    test = slices_of(work.folder(f"data/{subject.data}") / "images", "test")
    rows = input_rows(data["bias"], FULL.lower)
    numbers = {one.key: number for number, one in enumerate(test)}
    for filter_name in DATA[subject.data].classical:
        folder = work.folder(f"classical/{subject.data}/{filter_name}")
        if folder.is_dir():
            rows.append(measure.Row(filter_name, "", partial(_kept, folder, numbers)))
    ours = {OURS.format(seed): work.folder(f"trained/{name}/{seed}") / "converted" for seed in seeds}
    found, scene = measured(rows, ours, test)
    found["trainings"] = {str(seed): work.record(f"trained/{name}/{seed}") for seed in seeds}
    found["classical"] = {
        one: work.finished(f"classical/{subject.data}/{one}")["facts"]
        for one in DATA[subject.data].classical
        if one in found["rows"]
    }
    if picture_path is not None:
        draw(picture_path, f"{subject.title}, seed {seeds[0]}", scene, OURS.format(seeds[0]))
    write_json(work.path / "judged" / f"{name}.json", found)
    return found


def measured(
    rows: list[measure.Row], ours: dict[str, Path], slices: Sequence[files.Slice]
) -> tuple[dict[str, Any], measure.Scene]:
    """({"rows": row -> metric -> mean over the slices, "slices": row -> [RMSE of each], "keys", "truth": its noise and
    edge}, the middling scene).

    ours: name -> folder of converted images, the rows that come last. Middling: by RMSE of the first of these.
    """
    listings = {name: files.list_folder(folder) for name, folder in ours.items()}
    names = {one.truth.group: one.series for one in slices}
    truths = files.Listing({one.key: one.truth for one in slices}, names)
    inputs = files.Listing({one.key: one.images[IDENTITY] for one in slices}, names)
    slices, missing, _ = files.match(truths, {IDENTITY: inputs, **listings})
    lacking = {name: keys for name, keys in missing.items() if keys}
    if lacking:
        raise SystemExit(f"not converted: {lacking}")
    rows = rows + [measure.file_row(name, str(folder)) for name, folder in ours.items()]
    evaluation = evaluate(rows, slices, list(RANGES), RANGES[1], "HU")
    means: dict[str, dict[str, float]] = {}
    for (row, series, metric), one in evaluation.summary.items():
        if series == measure.ALL:
            means.setdefault(row, {})[metric] = one.mean
    physical = {
        row: {key: one[key] for key in ("noise", "edge") if key in one}
        for row, one in (evaluation.physics or {"rows": {}})["rows"].items()
    }
    of_truth = physical.pop(TRUTH, {})
    for row, of_physics in physical.items():
        means[row].update(of_physics)
    each = {row.name: evaluation.of(row.name, "rmse") for row in rows}
    last = each[next(iter(ours))]
    middle = sorted(range(len(last)), key=last.__getitem__)[(len(last) - 1) // 2]
    return (
        {"rows": means, "slices": each, "keys": [one.key for one in slices], "truth": of_truth},
        measure.read(slices[middle], rows),
    )


def _kept(folder: Path, numbers: dict[str, int], one: files.Slice) -> np.ndarray:
    """The image of a slice that ``filter_test_part`` left in a folder."""
    return np.load(folder / f"{numbers[one.key]}.npy", allow_pickle=False)


def _filtered(tuned: classical.Tuned, source: measure.Row, one: files.Slice) -> np.ndarray:
    return tuned(source.image(one))


def draw(path: Path, title: str, scene: measure.Scene, own: str) -> None:
    """The input without its bias, the best classical filter there is, ours and the truth, with difference maps."""
    nothing = [name for name in scene.images if name.startswith(IDENTITY)][-1]
    others = [name for name in (SPECTRAL, "bm3d", "nlm", "tv") if name in scene.images][:1]
    images = {name: scene.images[name] for name in (nothing, *others, own)}
    notes = {name: f"RMSE {np.sqrt(np.mean((image - scene.truth) ** 2)):.2f} HU" for name, image in images.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.comparison(
        path,
        f"{title}: {Path(scene.key).name} (middling of the test slices)",
        images,
        scene.truth,
        RANGES[1],
        "HU",
        notes=notes,
        scaled_by=own,
    )


def elsewhere(work: Work, seed: int) -> dict[str, Any]:
    """The denoising model on CT slices of other heads and bodies that pydicom brings, with the same noise.

    Filters keep the strengths that were chosen on the first series. Kept as judged/elsewhere.json.
    """
    subject = SUBJECTS["denoise"]
    data = DATA[subject.data]
    trained = work.finished(f"trained/denoise/{seed}")

    def make(folder: Path) -> dict[str, Any]:
        (folder / "ct").mkdir()
        there = {name: get_testdata_file(name, download=False) for name in SLICES_ELSEWHERE}
        for name, path in there.items():
            if path:
                shutil.copyfile(path, folder / "ct" / name)
        images = folder / "images"
        # What lies outside of a scanner's circle has values that are no HU: -2000 and the like.
        command(
            [
                "pix2pix/convert.py",
                "-m",
                "identity",
                "-R",
                folder / "ct",
                "-o",
                folder / "clipped",
                "-ca",
                FULL.lower,
                FULL.upper,
            ],
            folder / "clip.txt",
        )
        command([f"tools/{data.tool}.py", *data.options, "-i", folder / "clipped", "-o", images], folder / "log.txt")
        (images / "pairs.txt").rename(lists_in(images)["test"])
        command(
            conversion_words(subject, images, work.path / trained["facts"]["run"], folder / "converted"),
            folder / "convert.txt",
        )
        return {"absent": [name for name, path in there.items() if not path]}

    facts = work.step(ELSEWHERE, {"trained": trained["decided_by"], "slices": SLICES_ELSEWHERE}, make)
    folder = work.folder(ELSEWHERE)
    test = slices_of(folder / "images", "test")
    rows = input_rows(known_bias(folder / "images", data.bias, "test"), FULL.lower)
    nothing = rows[-1]
    for name in (one for one in data.classical if one in classical.FILTERS):
        record = work.record(f"classical/{subject.data}/{name}")
        if record:
            known = record["facts"]
            tuned = classical.Tuned(classical.FILTERS[name], known["strength"], known["sigma"], {})
            rows.append(measure.Row(name, "", partial(_filtered, tuned, nothing)))
    found, _ = measured(rows, {OURS.format(seed): folder / "converted"}, test)
    found.update(facts)
    write_json(work.path / "judged" / f"{ELSEWHERE}.json", found)
    return found
