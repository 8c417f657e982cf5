"""Options from a command line, its preset and an ``args`` file, and back to one.

The ``args`` file beside the weights holds all options as flat JSON, ours or the released codes'.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from medi2i.common import VERSION
from medi2i.common.bounded_files import read_json
from medi2i.common.errors import UserError
from medi2i.common.options.learned import LearnedOptions, SynthesisOptions
from medi2i.common.options.machinery import Checked, build_parser, default_of, fold, given_values
from medi2i.common.options.paired import PairedOptions
from medi2i.common.options.presets import preset_values
from medi2i.common.options.unpaired import UnpairedOptions
from medi2i.common.outputs import write_text
from medi2i.common.registry import located

ARGS, CONTINUED = "args", "continued"  # what ``released`` can be
APPLICATIONS: dict[str, type["AnyTraining"]] = {
    cls.APPLICATION: cls for cls in (PairedOptions, UnpairedOptions, LearnedOptions, SynthesisOptions)
}

AnyOptions: TypeAlias = PairedOptions | UnpairedOptions  # of what translates images
AnyTraining: TypeAlias = AnyOptions | LearnedOptions | SynthesisOptions
T = TypeVar("T", bound=Checked)


def parse(cls: type[T], argv: Sequence[str] | None, about: str | None = None) -> T:
    """The options of a command line: given there, else in its preset, else in the file of ``-a``, else the default.

    ``-m`` with a run folder or a model by name says which network is trained on, before any preset. about: the
    docstring of the command, for its ``--help``. Raises UserError for a value that is not allowed; argparse ends the
    process with status 2 for an unknown option.
    """
    given = given_values(build_parser(cls, about), argv, cls)
    base: Any = None
    if given.get("argfile"):
        base = load_args(given["argfile"])
        if not isinstance(base, cls):
            raise UserError(
                f"--argfile: {given['argfile']} is of another application; "
                f"{cls.APPLICATION} needs one that {cls.APPLICATION} wrote"
            )
    given = {**preset_values(cls, given, base), **_network_of(cls, given), **given}
    return cls(**given) if base is None else dataclasses.replace(base, **given)


def _network_of(cls: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """{option: value} of the network, the clips and the scales of grey levels in the folder that training starts from.
    Raises UserError."""
    start = given.get("model_gen")
    if not start or not located(start).is_dir():
        return {}
    trained = load_training(start)
    if not isinstance(trained, cls):
        raise UserError(f"--model_gen: {start} is of {trained.APPLICATION}; one of {cls.APPLICATION} would be right")
    known = {field.name: getattr(trained, field.name) for field in dataclasses.fields(cls) if field.metadata["network"]}
    checked = cls(**{name: given[name] for name in known if name in given})
    for name in known:
        if name in given and getattr(checked, name) != known[name]:
            raise UserError(
                f"--{name}: {given[name]} is not what {start} was trained with ({known[name]}); leave it out"
            )
    level = getattr(trained, "noise_level", None)
    if level is not None and given.get("noise_level") is None:
        raise UserError(
            f"--model_gen: {start} has seen images scaled to {level:g} HU of noise; --noise_level with the noise of "
            f"yours, and its clips times that / {level:g}, would be right (medi2i denoise --adapt does)"
        )
    scales = ["clipA", "clipB", "clips_in_hu"]
    for domain in "AB":
        if f"normalise{domain}" not in given:
            scales += [f"normalise{domain}", f"landmarks{domain}"]
    return {**known, **{name: getattr(trained, name) for name in scales if name in cls.__dataclass_fields__}}


def options_from_dict(values: Any, source: str = "args") -> AnyTraining:
    """Options from the content of an ``args`` file. Names that are not known are passed over. Raises UserError."""
    if not isinstance(values, dict):
        raise UserError(f"{source}: not an args file; it must hold one JSON object of options")
    application = values.get("application")
    if application is None:  # a released file does not say; only CycleGAN has two cycle weights
        application = "cyclegan" if "lambda_A" in values else "pix2pix"
    if not isinstance(application, str) or application not in APPLICATIONS:
        raise UserError(f"{source}: application {application!r} is unknown; it can be {', '.join(APPLICATIONS)}")
    if not any(name in values for name in ("gen_chs", "gen_norm", "dis_chs", "learns", "network")):
        raise UserError(f"{source}: not an args file; it names no network (gen_chs, gen_norm)")
    cls = APPLICATIONS[application]
    released = None if "medi2i_version" in values else ARGS  # ours say who wrote them
    values = {"released": released, **_renamed(cls, values)}
    defaults = {field.name: default_of(field) for field in dataclasses.fields(cls)}
    known = {name: value for name, value in values.items() if name in defaults}
    try:  # null is "not given" where the option needs a value
        return cls(**{name: value for name, value in known.items() if value is not None or defaults[name] is None})
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _renamed(cls: type[AnyTraining], values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a released ``args`` file with the names used here."""
    values = dict(values)
    for field in dataclasses.fields(cls):
        for flag in field.metadata["flags"] or ():
            if flag.startswith("--") and flag[2:] in values:
                values.setdefault(field.name, values.pop(flag[2:]))
    fold(cls, values)
    if isinstance(values.get("gpu"), list):
        values["gpu"] = values["gpu"][0] if values["gpu"] else None
    nothing = (("clipA", [None, None]), ("clipB", [None, None]), ("argfile", ""), ("model_gen", ""), ("model_dis", ""))
    for name, none in nothing:  # what those codes save for none
        if values.get(name) == none:
            values[name] = None
    return values


def load_args(path: str | Path) -> AnyOptions:
    """The options saved in the file ``path`` (or in the ``args`` of a run folder, or of a model by name): PairedOptions
    or UnpairedOptions."""
    options = load_training(path)
    if not isinstance(options, AnyOptions):
        taken_by = {"reconstruction": "reconstruct", "synthesis": "generate"}[options.APPLICATION]
        raise UserError(
            f"{path}: is a run of {options.APPLICATION}/train.py, which {options.APPLICATION}/{taken_by}.py takes"
        )
    return options


def load_training(path: str | Path) -> AnyTraining:
    """The same of any training here."""
    path = located(path)
    if path.is_dir():
        path = path / "args"
    if not path.exists():
        raise UserError(f"{path}: no such file; it should be the args file that training writes beside its weights")
    return options_from_dict(read_json(path, "it should be the args file that training writes"), str(path))


def save_args(options: AnyTraining, path: str | Path) -> None:
    """Write ``options`` as JSON, with the application and the version that wrote it, whole or not at all."""
    values = {"application": options.APPLICATION, "medi2i_version": VERSION, **dataclasses.asdict(options)}
    values["released"] = CONTINUED if getattr(options, "released", None) else None
    write_text(Path(path), json.dumps(values, indent=1, sort_keys=True) + "\n")
