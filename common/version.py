"""The version of this distribution, as pyproject.toml has it."""

from importlib import metadata

VERSION = metadata.version("medi2i")
