"""TensorBoard event files, on request, written by tensorboardX."""
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError


class EventFiles(chainer.training.Extension):
    """Writes every line of ``log`` (a ``Log``) as scalars to event files in ``folder``."""

    priority = chainer.training.PRIORITY_READER - 10  # after the log

    def __init__(self, log, folder):
        self.log = log
        self.folder = folder
        self._writer = None

    def initialize(self, trainer):
        """Called by the trainer before the first iteration: hides what a resumed run writes again."""
        self._writer = summary_writer()(str(self.folder), purge_step=trainer.updater.iteration + 1)

    def __call__(self, trainer):
        entry = self.log.entry
        if entry is None:
            return
        for name, value in entry.items():
            if name not in ("iteration", "elapsed_time"):
                self._writer.add_scalar(name, value, entry["iteration"])
        self._writer.flush()

    def finalize(self):
        """Called by the trainer when training ends."""
        if self._writer is not None:
            self._writer.close()


def summary_writer():
    """tensorboardX's SummaryWriter. Raises UserError if it is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(f"--tensorboard: tensorboardX cannot be imported ({error}); "
                        "pip install 'medi2i[tensorboard]'") from None
    return SummaryWriter
