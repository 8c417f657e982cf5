"""What the site shows of the options: a page for each command, made from the fields that the command itself reads.

MkDocs calls what is named on_… when the site is built (mkdocs.yml names this file).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from medi2i.command import COMMANDS, Command, about_of
from medi2i.common.options.machinery import Checked, Preset, default_of

KINDS = {int: "N", float: "X", str: "TEXT", bool: ""}


def on_startup(**_: Any) -> None:
    """Make build/tree/medi2i of links to the folders of the root, as ``make lint`` does: the mapping of setup.py.

    mkdocstrings looks for medi2i there, and at once.
    """
    root = Path(__file__).parents[1]
    tree = root / "build" / "tree" / "medi2i"
    tree.mkdir(parents=True, exist_ok=True)
    folders = [path.parent for path in root.glob("*/__init__.py") if path.parent.name != "api"]
    for path in (*folders, *(root / "api").glob("*.py")):
        if not (tree / path.name).is_symlink():
            (tree / path.name).symlink_to(path)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The pages of options go where mkdocs.yml says ``Options``."""
    pages = [{command.name: address(command)} for group in COMMANDS.values() for command in group]
    pages += [{"Presets": "options/presets.md"}, {"Source": "options/source.md"}]
    config.nav = [{part: pages} if part == "Options" else part for part in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, which are in no folder."""
    for group in COMMANDS.values():
        for command in group:
            files.append(File.generated(config, address(command), content="\n".join(page(command))))
    files.append(File.generated(config, "options/source.md", content="\n".join(sources())))
    files.append(File.generated(config, "options/presets.md", content="\n".join(presets())))
    return files


def address(command: Command) -> str:
    return f"options/{command.name.replace(' ', '-')}.md"


def options_of(command: Command) -> type[Checked]:
    """The class that holds the options of a command."""
    place, _, name = (command.options if "." in command.options else f"{command.module}.{command.options}").rpartition(
        "."
    )
    found: type[Checked] = getattr(import_module(f"medi2i.{place}"), name)
    return found


def page(command: Command) -> Iterator[str]:
    """The lines of a command's page."""
    cls = options_of(command)
    yield from (f"# medi2i {command.name}", "", command.what[0].upper() + command.what[1:] + ".", "")
    about = about_of(command.module).split("\n", 1)[1].strip("\n") if command.module else ""
    yield from ("```text", about, "```", "") if about else ()
    fields = [field for field in dataclasses.fields(cls) if field.metadata["flags"] is not None]
    first = any(field.metadata["first"] for field in fields)
    if first:
        yield from ("Options in **bold** are those of `--help`; the others are in `--help-all`.", "")
    bases = groups(cls)
    for title in dict.fromkeys(map(title_of, bases)):
        yield from (f"## {title}", "", "| option | default | |", "|---|---|---|")
        here = [base for base in bases if title_of(base) == title]
        yield from (row(field, first) for field in fields if owner(cls, field.name) in here)
        yield from ("", f"Defined by {' and '.join(map(link_to, here))}.", "")
    if cls.PRESETS:
        yield from ("`--list_presets` prints what [presets](presets.md) set and why.", "")


def groups(cls: type[Checked]) -> list[type]:
    """The classes that options of a command are defined by, in the order of ``--help``."""
    shown = [field.name for field in dataclasses.fields(cls) if field.metadata["flags"] is not None]
    return [base for base in (*cls.__mro__[1:], cls) if any(owner(cls, name) is base for name in shown)]


def title_of(base: type) -> str:
    return (base.__doc__ or "").strip().splitlines()[0].rstrip(".")


def link_to(base: type) -> str:
    return f"[`{base.__name__}`][{base.__module__}.{base.__qualname__}]"


def sources() -> Iterator[str]:
    """The lines of the page that shows where options are defined."""
    yield from ("# Where options are defined", "")
    yield from (
        "An option is a field of one of these classes: its default, its help and its bounds stand nowhere else.",
        "",
    )
    found = {base: None for group in COMMANDS.values() for command in group for base in groups(options_of(command))}
    for base in found:
        yield from (f"::: {base.__module__}.{base.__qualname__}", "    options:", "      members: false")
        yield from ("      show_source: true", "      show_bases: false", "")


def owner(cls: type, name: str) -> type:
    """The group that defines an option first, as in ``--help``."""
    return next(base for base in reversed(cls.__mro__) if name in base.__dict__.get("__annotations__", {}))


def row(field: dataclasses.Field, first: bool) -> str:
    """A line of the table: spellings, default, what it does, and within what bounds."""
    rule = field.metadata
    value = rule["metavar"] or KINDS.get(rule["type"], "VALUE")
    value = " ".join(value) if isinstance(value, tuple) else value
    names = [f"--{field.name}", *rule["flags"]]
    shown = " ".join(f"`{name}{' ' + value if value else ''}`" if name == names[0] else f"`{name}`" for name in names)
    text = cell(rule["help"])
    if rule["choices"] is not None:
        text += ": " + (
            cell(rule["choices_text"] or "") or ", ".join(f"`{one or repr('')}`" for one in rule["choices"])
        )
    ends = [(word, rule[end]) for word, end in (("from", "low"), ("to", "high")) if rule[end] is not None]
    bounds = " ".join(f"{word} {end:g}" for word, end in ends if abs(end) < 1e9)
    text += f" <small>({bounds})</small>" if bounds else ""
    return f"| {f'**{shown}**' if first and rule['first'] else shown} | {default(field)} | {text} |"


def default(field: dataclasses.Field) -> str:
    value = default_of(field)
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value == "" or value == []:
        return "none"
    return f"`{' '.join(map(str, value)) if isinstance(value, list) else value}`"


def cell(text: str) -> str:
    """Text as a cell of a table shows it."""
    for sign in "\\|<>*_[]":
        text = text.replace(sign, f"&#{ord(sign)};")
    return text


def presets() -> Iterator[str]:
    """The lines of the page of presets."""
    yield from ("# Presets", "", "`--preset NAME` sets what is below; what else is on the command line wins.", "")
    for command in COMMANDS["Train"]:
        found: Mapping[str, Preset] = options_of(command).PRESETS
        for name, preset in found.items():
            yield from (f"## {command.name} --preset {name}", "", f"For: {cell(preset.purpose)}.", "")
            yield from ("| option | value | why |", "|---|---|---|")
            for setting in preset.settings:
                yield f"| `--{setting.name}` | `{plain(setting.value)}` | {cell(setting.reason)} |"
            yield ""


def plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
