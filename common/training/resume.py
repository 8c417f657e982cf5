"""The options of a command line that may begin with ``--resume RUN``."""
import dataclasses
from pathlib import Path

from medi2i.common.errors import UserError
from medi2i.common.options import load_args, parse
from medi2i.common.options.machinery import default_of, given_values
from medi2i.common.training.tensorboard import summary_writer
from medi2i.datasets.pairs import FOLDERS

# What can change without the training being another one: where it runs, how far, what it shows. -e also stretches
# the learning-rate schedule from here on.
CHANGEABLE = ("epoch", "iteration", "minutes", "gpu", "gpu_engine", "root", "workers", "cache_mb", "snapinterval",
              "snapshot_minutes", "snapshot_interval", "snapshot_keep", "patience", "max_hours", "loss_limit",
              "display_interval", "vis_freq", "vis_window", "vis_windowB", "vis_random", "nvis", "nvis_A",
              "nvis_B", "parameter_statistics", "profile", "tensorboard", "train", "val")
# What concerns the one command and not the run.
MOMENTARY = ("resume", "check", "summary", "argfile", "communicator")


def training_options(cls, argv, description):
    """Options of a training: (options, run folder to resume or None).

    With ``--resume RUN`` the options are those in RUN's ``args``, with the changes that leave it the same training.
    Raises UserError for any other change.
    """
    options = parse(cls, argv, description=description)
    if options.tensorboard:
        summary_writer()  # now, not when the data are read
    if options.resume is None:
        return options, None
    given = given_values(cls, argv)
    if "argfile" in given:
        raise UserError("--argfile: a resumed run has its own args file; give one of --resume and --argfile")
    if not Path(options.resume).is_dir():
        raise UserError(f"--resume: {options.resume}: no such folder; it should be the folder of a run, as training "
                        "makes and names it")
    saved = load_args(options.resume)
    if not isinstance(saved, cls):
        raise UserError(f"--resume: {options.resume} is a run of {saved.APPLICATION}, not of {cls.APPLICATION}")
    for name in given:
        if name not in CHANGEABLE and name not in MOMENTARY and getattr(options, name) != getattr(saved, name):
            raise UserError(f"--{name}: cannot change in a resumed run, which has {getattr(saved, name)}; "
                            "start a new run, with -m for the weights")
    resumed = dataclasses.replace(saved, **given)
    _find_data(resumed, options.resume)
    return resumed, options.resume


def _find_data(options, run):
    """Raises UserError where the data of ``run`` are no longer where they were."""
    root, listed = Path(options.root), getattr(options, "train", "__train__")
    if listed in FOLDERS:
        there = [root / folder for folder in FOLDERS[listed]]
        missing = next((folder for folder in (root, *there) if not folder.is_dir()), None)
        where = "-R FOLDER"
    else:
        missing = root if not root.is_dir() else None if any(path.is_file() for path in (
            Path(listed), root / listed)) else Path(listed)
        where = "-R FOLDER (and -t LIST)"
    if missing is not None:
        raise UserError(f"--resume: {missing}, with data of this run, is not there; if they were moved, "
                        f"--resume {run} {where} goes on with them where they are")


def lasting(options):
    """``options`` as they are saved in the run folder, without what concerned the one command."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    return dataclasses.replace(options, **{name: default_of(fields[name]) for name in MOMENTARY})
