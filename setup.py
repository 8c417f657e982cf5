"""Package layout: a folder at the root is ``medi2i.<folder>`` when imported, and ``api`` is ``medi2i`` itself.

Nothing called ``datasets`` or ``tools`` lands in site-packages, where such names belong to others.
Everything else about the distribution is in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup

FOLDERS = ("common", "datasets", "pix2pix", "cyclegan", "reconstruction", "synthesis", "models", "tools")

packages = {"medi2i": "api"} | {
    "medi2i." + init.parent.as_posix().replace("/", "."): init.parent.as_posix()
    for folder in FOLDERS
    for init in sorted(Path(folder).glob("**/__init__.py"))
}
setup(packages=list(packages), package_dir=packages)
