"""All measurements in one run: tables on the terminal, figures and machine as JSON.

    make bench
    OMP_NUM_THREADS=1 python benchmarks/bench.py --only training --repeats 5
"""
import argparse
import json
import time
from pathlib import Path

import conversion
import end_to_end
import gpu
import loader
import measure
import training

PARTS = ("conversion", "end_to_end", "training", "memory", "loader", "gpu")


def main():
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the JSON file")
    options = parser.parse_args()
    about = measure.machine()
    print(json.dumps(about, indent=1))
    results = []
    if "conversion" in options.only:
        results += conversion.run(options.repeats, (64,) if options.quick else conversion.SIZES)
    if "end_to_end" in options.only:
        results += end_to_end.run(1, 64, 3) if options.quick else end_to_end.run(3)
    if "training" in options.only:
        cases = (("pix2pix", 32, 1), ("cyclegan", 32, 1)) if options.quick else training.CASES
        results += training.run(options.repeats, cases)
    if "memory" in options.only:
        results.append(training.memory(64 if options.quick else 512, 1 if options.quick else 4))
    if "loader" in options.only:
        results += loader.measured(64, 4, 2, 2, 32) if options.quick else loader.measured()
    if "gpu" in options.only:
        results += gpu.run(3 if options.quick else 20, (("pix2pix", 32, 1),) if options.quick else gpu.CASES)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / time.strftime("%Y%m%d_%H%M%S.json")
    path.write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n", encoding="utf-8")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
