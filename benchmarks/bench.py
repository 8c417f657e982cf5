"""All measurements in one run: tables on the terminal, figures and machine as JSON.

make bench
OMP_NUM_THREADS=1 python benchmarks/bench.py --only training --repeats 5
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import conversion
import end_to_end
import gpu
import loader
import measure
import speed_page
import training

PARTS = ("conversion", "end_to_end", "training", "memory", "loader", "gpu")


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the JSON file")
    parser.add_argument("--write", type=Path, help="page to write, as docs/speed.md")
    options = parser.parse_args()
    about = measure.machine()
    print(json.dumps(about, indent=1))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / time.strftime("%Y%m%d_%H%M%S.json")
    results = []
    for part in options.only:
        results += measured(part, options.repeats, options.quick)
        # After each part: what was measured is not lost where a later one fails.
        path.write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n", encoding="utf-8")
    print(f"\n{path}")
    if options.write:
        speed_page.write(options.write, path)


def measured(part: str, repeats: int, quick: bool) -> list[dict[str, Any]]:
    """Measure and print a part. Returns a list of dicts."""
    if part == "conversion":
        return conversion.run(repeats, (64,) if quick else conversion.SIZES)
    if part == "end_to_end":
        return end_to_end.run(1, 64, 3) if quick else end_to_end.run(3)
    if part == "training":
        return training.run(repeats, (("pix2pix", 32, 1), ("cyclegan", 32, 1)) if quick else training.CASES)
    if part == "memory":
        return [training.memory(64 if quick else 512, 1 if quick else 4)]
    if part == "loader":
        return loader.measured(64, 4, 2, 2, 32) if quick else loader.measured()
    return gpu.run(3 if quick else 20, (("pix2pix", 32, 1),) if quick else gpu.CASES)


if __name__ == "__main__":
    main()
