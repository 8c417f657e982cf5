"""The ``args`` file beside the weights: all options as flat JSON, ours or the released codes'."""

import dataclasses
import json
from pathlib import Path

from medi2i.common.errors import UserError
from medi2i.common.json_files import read_json
from medi2i.common.options.machinery import default_of
from medi2i.common.options.old_spellings import fold_json
from medi2i.common.options.paired import PairedOptions
from medi2i.common.options.unpaired import UnpairedOptions
from medi2i.common.version import VERSION
from medi2i.datasets.outputs import write_text

ARGS, CONTINUED = "args", "continued"  # what ``released`` can be
APPLICATIONS = {cls.APPLICATION: cls for cls in (PairedOptions, UnpairedOptions)}


def options_to_dict(options):
    """All options as a dict that JSON can hold, with the application and the version that wrote it."""
    values = {"application": options.APPLICATION, "medi2i_version": VERSION, **dataclasses.asdict(options)}
    return {**values, "released": CONTINUED if options.released else None}


def options_from_dict(values, source="args"):
    """Options from the content of an ``args`` file. Names that are not known are passed over. Raises UserError."""
    if not isinstance(values, dict):
        raise UserError(f"{source}: not an args file; it must hold one JSON object of options")
    application = values.get("application")
    if application is None:  # a released file does not say; only CycleGAN has two cycle weights
        application = "cyclegan" if "lambda_A" in values else "pix2pix"
    if not isinstance(application, str) or application not in APPLICATIONS:
        raise UserError(f"{source}: application {application!r} is unknown; it can be {', '.join(APPLICATIONS)}")
    if not any(name in values for name in ("gen_chs", "gen_norm", "dis_chs")):
        raise UserError(f"{source}: not an args file; it names no network (gen_chs, gen_norm)")
    cls = APPLICATIONS[application]
    values = {"released": None if "medi2i_version" in values else ARGS, **fold_json(values)}  # ours say who wrote them
    defaults = {field.name: default_of(field) for field in dataclasses.fields(cls)}
    try:  # null is "not given" where the option needs a value
        return cls(
            **{
                name: value
                for name, value in values.items()
                if name in defaults and (value is not None or defaults[name] is None)
            }
        )
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def load_args(path):
    """The options saved in the file ``path`` (or in a run folder's ``args``): PairedOptions or UnpairedOptions."""
    path = Path(path)
    if path.is_dir():
        path = path / "args"
    if not path.exists():
        raise UserError(f"{path}: no such file; it should be the args file that training writes beside its weights")
    return options_from_dict(read_json(path, "it should be the args file that training writes"), str(path))


def save_args(options, path):
    """Write ``options`` as JSON, whole or not at all."""
    write_text(Path(path), json.dumps(options_to_dict(options), indent=1, sort_keys=True) + "\n")
