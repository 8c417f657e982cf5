"""``python -m medi2i``."""

import sys

from medi2i.command import main

if __name__ == "__main__":
    sys.exit(main())
