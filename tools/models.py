"""Which trained models there are by name, what each one's card says, and which epoch of a run is its best.

python tools/models.py
python tools/models.py ct-denoise
python tools/models.py result
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from medi2i.common import registry
from medi2i.common.bounded_files import read_json
from medi2i.common.errors import UserError, as_main
from medi2i.common.options import Checked, option, parse


@dataclass
class ModelsOptions(Checked):
    """What to show"""

    name: str | None = option(
        None, "-m", bare=True, metavar="NAME", help="of a model whose card is to be shown; or a folder of runs"
    )


def command(argv: list[str]) -> int:
    """Print the list, or the card of one. Raises UserError."""
    name = parse(ModelsOptions, argv, __doc__).name
    found = registry.models()
    if name is None:
        print("\n".join(listing()))
        return 0
    if name not in found and Path(name).is_dir():
        print("\n".join(of_runs(Path(name))))
        return 0
    if name not in found:
        raise UserError(f"{name}: no model of this name; there are {', '.join(sorted(found)) or 'none'}")
    card, text = registry.card_of(found[name]), found[name] / registry.TEXT
    print(f"{name}: {card.summary}\n{found[name]}")
    for what, unit, known in (("noise", "HU", card.noise_hu), ("pixels", "mm", card.pixel_mm)):
        if known is not None:
            print(f"{what} that it has seen: {known[0]:g} to {known[1]:g} {unit}")
    if text.is_file():
        print("\n" + text.read_text(encoding="utf-8").rstrip())
    return 0


def listing() -> list[str]:
    """A line for each model, then where they may lie."""
    found = sorted(registry.models().items())
    width = max((len(name) for name, _ in found), default=0)
    cards = [(name, registry.card_of(folder).summary, size_of(folder)) for name, folder in found]
    lines = [f"{name:{width}}  {summary}  ({size:.1f} MB)" for name, summary, size in cards]
    return [
        *(lines or ["no models"]),
        "",
        "your own: a run folder below one of " + ", ".join(map(str, registry.places()[:-1])),
        f"{registry.VARIABLE} names further places; nothing is fetched from any network",
    ]


def of_runs(folder: Path) -> list[str]:
    """A line for each run that ``folder`` is or holds: its epochs, and which is the best; then which run is, where all
    were validated by the same images. Raises UserError."""
    from medi2i.common.networks.checkpoint import BEST, find_run
    from medi2i.tools.evaluation.metrics import larger_is_better

    inside = sorted(args.parent for args in (*folder.glob("args"), *folder.glob("*/args")))
    if not inside:
        raise UserError(f"{folder}: holds no run, whose args would be there; {registry.known_names()[3:]}")
    lines, judged = [], {}
    for place in inside:
        try:
            run = find_run(place)
        except UserError as error:
            lines.append(str(error))
            continue
        text = "none is known to be the best, the last one converts"
        if run.best is not None:
            best = read_json(place / BEST, "epoch, metric and value would be right")
            text, metric, value = f"the best is {run.best}", str(best.get("metric")), best.get("value")
            if isinstance(value, (int, float)):
                text += f", {metric} {value:.5g}"
                files = place / "files_val.txt"
                judged[place] = value, (metric, files.read_text("utf-8") if files.is_file() else str(place))
        lines.append(f"{place}: epochs {', '.join(map(str, run.epochs))}; {text}")
    if len({by for _, by in judged.values()}) > 1 or len(judged) < 2:
        return [*lines, "", "by validation images of its own each; what they convert medi2i evaluate compares"]
    ((metric, images),) = {by for _, by in judged.values()}
    better = max if larger_is_better(metric.rpartition("/")[2].lower()) else min
    place = better(judged, key=lambda one: judged[one][0])
    return [*lines, "", f"the best of all, by the same {len(images.splitlines())} validation images: {place}"]


def size_of(folder: Path) -> float:
    """Megabytes of its weights."""
    return sum(file.stat().st_size for file in folder.glob("*.npz")) / 1e6


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
