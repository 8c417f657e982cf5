"""What both applications use, and nothing else; the version of this distribution, as pyproject.toml has it."""

from medi2i.common.errors import quiet_while_starting

quiet_while_starting()

from importlib import metadata  # noqa: E402  after what a Ctrl-C finds in place

VERSION = metadata.version("medi2i")
