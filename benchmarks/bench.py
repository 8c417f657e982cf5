"""All measurements in one run: tables on the terminal, figures and machine as JSON.

    make bench
    OMP_NUM_THREADS=1 python benchmarks/bench.py --only training --repeats 5
"""
import argparse
import json
import time
from pathlib import Path

import conversion
import gpu
import measure
import training

PARTS = ("conversion", "training", "memory", "gpu")


def main():
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the JSON file")
    options = parser.parse_args()
    about = measure.machine()
    print(json.dumps(about, indent=1))
    results = []
    if "conversion" in options.only:
        results += conversion.run(options.repeats, (64,) if options.quick else conversion.SIZES)
    if "training" in options.only:
        cases = (("pix2pix", 32, 1), ("cyclegan", 32, 1)) if options.quick else training.CASES
        results += training.run(options.repeats, cases)
    if "memory" in options.only:
        results.append(training.memory(64 if options.quick else 512, 1 if options.quick else 4))
    if "gpu" in options.only:
        results += gpu.run(3 if options.quick else 20, (("pix2pix", 32, 1),) if options.quick else gpu.CASES)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / time.strftime("%Y%m%d_%H%M%S.json")
    path.write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n", encoding="utf-8")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
