"""What scripts of this folder find as ``medi2i`` when they are run by their path: api/by_path.py."""

import runpy
import sys
from pathlib import Path

if __name__ == "medi2i":
    here = Path(__file__).resolve().parent
    runpy.run_path(str(here.with_name("api") / "by_path.py"), {"HERE": here, "WORDS": sys.argv[:]}, "by_path")
