"""Several processes ("ranks") that are one training, by ChainerMN. Without ``--communicator`` nothing here imports MPI.

All ranks hold the same weights. Each computes the gradient of its own batch; before every step of every optimizer
ChainerMN replaces it by the mean over the ranks; with ``--sync_bn`` they also normalise by their batches together.
``docs/distributed.md`` says what follows for users.
"""

import contextlib
import itertools
import logging
import operator
import os
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from medi2i.common import compat
from medi2i.common.choices import COMMUNICATORS
from medi2i.common.compat import Array, ArrayOrVariable, L, chainer
from medi2i.common.errors import UserError, one_line
from medi2i.common.resources import launched

_batch_normalization = chainer.functions.normalization.batch_normalization
_NO_MPI = types.SimpleNamespace(bcast=lambda value: value, allgather=lambda value: [value])
_SINGLE = types.SimpleNamespace(rank=0, size=1, intra_rank=0, mpi_comm=_NO_MPI)


class Ranks:
    """One of the ranks of a training: all of it where there is no communicator.

    ``communicator``: of ChainerMN; ``name``: what ``--communicator`` says. ``rank`` of ``count`` ranks, ``local``: its
    number on this machine; ``first``: whether it writes files and speaks. What a method gives is the same on all ranks
    unless it says otherwise; all of them must call it, in the same order.
    """

    def __init__(self, communicator: Any = None, name: str | None = None) -> None:
        self.communicator = communicator
        self.name = name
        group: Any = _SINGLE if communicator is None else communicator
        self.mpi = group.mpi_comm
        self.rank, self.count, self.local = group.rank, group.size, group.intra_rank
        self.first = self.rank == 0

    def __deepcopy__(self, memo: dict) -> "Ranks":
        return self  # a copied network belongs to the same training

    def agreed(self, value: Any) -> Any:
        """The first rank's ``value``."""
        return self.mpi.bcast(value)

    def everywhere(self, condition: Any) -> bool:
        """Whether ``condition`` holds on every rank."""
        return all(self.mpi.allgather(bool(condition)))

    def earliest(self, value: Any) -> Any:
        """The value of the lowest rank on which it is not None; None where there is no such rank."""
        return next((found for found in self.mpi.allgather(value) if found is not None), None)

    def spread(self, function: Callable, items: Sequence) -> list:
        """[function(item) for item in items], each computed by one rank and known to all, in the order of ``items``."""
        own = [(i, function(item)) for i, item in enumerate(items) if i % self.count == self.rank]
        together = itertools.chain.from_iterable(self.mpi.allgather(own))
        return [value for _, value in sorted(together, key=operator.itemgetter(0))]

    def mean(self, loss: ArrayOrVariable) -> ArrayOrVariable:
        """``loss`` (Variable or array of one element), averaged over the ranks where there are several."""
        if self.communicator is None:
            return loss
        array = chainer.as_array(loss)
        total = sum(self.mpi.allgather(float(array)))  # added in the same order everywhere: the same bits
        return chainer.backend.get_array_module(array).asarray(total / self.count, dtype=np.float64)

    def incoming(self) -> Iterator[tuple[str, np.ndarray]]:
        """On the first rank: (name, array) of all that the others ``send``, rank by rank."""
        for rank in range(1, self.count):
            while (pair := self.mpi.recv(source=rank)) is not None:
                yield pair

    def send(self, arrays: dict[str, np.ndarray]) -> None:
        """Hand the dict ``arrays`` over to the first rank, which is in ``incoming``."""
        for pair in (*arrays.items(), None):
            self.mpi.send(pair, dest=0)

    def fits(self, device: chainer.backend.Device) -> None:
        """Raises UserError where the communicator cannot work on ``device``."""
        if self.name not in (None, "naive") and device.xp is np:
            raise UserError(
                f"--communicator {self.name}: it is for GPUs and this rank computes on the CPU; "
                "--communicator naive would do"
            )

    def initialise(self, links: Mapping[str, chainer.Link], sizes: Mapping[str, tuple[int, int]]) -> None:
        """Run networks once on zeros where a layer learns its size from its first input: weights must be there to be
        sent to other ranks. Nothing that is saved changes but those.

        links: dict name -> network on its device. sizes: dict "x" (and "y") -> (height, width) of that domain's images.
        """
        known = all(param.is_initialized for link in links.values() for param in link.params())
        if known or self.communicator is None:
            return

        def zeros(link: chainer.Link, domain: str) -> Array:
            return link.xp.zeros((1, link.spec.in_ch, *sizes.get(domain, sizes["x"])), dtype=np.float32)

        with chainer.using_config("train", False), chainer.no_backprop_mode():
            latent = {}
            for encoder, decoder in (("enc_x", "dec_y"), ("enc_y", "dec_x")):
                if encoder in links:
                    features = links[encoder](zeros(links[encoder], encoder[-1]))
                    links[decoder](features)
                    latent["dis_z"] = features[-2 if links[encoder].spec.latent_dim > 0 else -1].array
            for name, link in links.items():
                if name.startswith("dis"):
                    link(latent[name] if name in latent else zeros(link, name.removeprefix("dis_")))

    def wrapped(self, optimizers: Mapping[str, chainer.Optimizer]) -> Mapping[str, chainer.Optimizer]:
        """``optimizers`` (name -> optimizer, set up on weights that are there) for this many ranks."""
        if self.communicator is None:
            return optimizers
        arrays = [array for optimizer in optimizers.values() for _, array in named_arrays(optimizer.target)]
        values = self.agreed([chainer.backends.cuda.to_cpu(array) for array in arrays] if self.first else None)
        for array, value in zip(arrays, values, strict=True):
            array[...] = chainer.backend.get_array_module(array).asarray(value)
        wrapped = {
            name: compat.chainermn.create_multi_node_optimizer(optimizer, self.communicator, zero_fill=False)
            for name, optimizer in optimizers.items()
        }
        for optimizer in wrapped.values():
            # ChainerMN makes of the first update after a change of shape a mere broadcast. There was one already;
            # and a resumed training must not leave an update out.
            optimizer.is_changed(optimizer.target)
        return wrapped

    def share_statistics(self, links: Iterable[chainer.Link]) -> None:
        """Replace the running statistics of local batch normalisations by their mean over the ranks."""
        if self.communicator is None:
            return
        parts = {
            id(part): part
            for link in links
            for part in link.links()
            if isinstance(part, L.BatchNormalization) and getattr(part, "shared", None) is None
        }
        arrays = [array for part in parts.values() for array in (part.avg_mean, part.avg_var)]
        if not arrays:
            return
        # Through the host, in one message: MPI from wheels knows nothing of GPU memory, and they are small.
        packed = np.concatenate([chainer.backends.cuda.to_cpu(array).astype(np.float32) for array in arrays])
        self.communicator._multi_node_mean(None, packed)
        ends = np.cumsum([array.size for array in arrays])
        for array, value in zip(arrays, np.split(packed, ends[:-1]), strict=True):
            array[...] = chainer.backend.get_array_module(array).asarray(value)

    def normalised(self, link: chainer.Link, x: Array) -> chainer.Variable:
        """What the batch normalisation ``link`` gives in training for x (N, C, H, W) of this rank.

        Mean and variance are those of the whole batch, over all ranks, and so are their gradients (ChainerMN's
        multi-node batch normalisation). The running variance is corrected by the number of pixels of one rank.
        """
        multi_node = compat.chainermn.functions.batch_normalization
        backend = multi_node.get_communication_backend(self.communicator)
        shape, dtype = link.avg_mean.shape, link.avg_mean.dtype
        gamma = link.xp.ones(shape, dtype) if link.gamma is None else link.gamma
        beta = link.xp.zeros(shape, dtype) if link.beta is None else link.beta
        function = _batch_normalization.BatchNormalization(
            link.eps,
            link.avg_mean,
            link.avg_var,
            link.decay,
            impl_selector=multi_node.MultiNodeBNImplSelector(self.communicator, backend),
        )
        (y,) = function.apply((x, gamma, beta))
        if not chainer.config.in_recomputing:
            link.avg_mean[...] = function.running_mean
            link.avg_var[...] = function.running_var
        return y


ALONE = Ranks()


def named_arrays(link: chainer.Link) -> Iterator[tuple[str, Array]]:
    """(name, array) of every weight that is there and every saved array of a link, in an order that all ranks have."""
    yield from ((path, param.array) for path, param in sorted(link.namedparams()) if param.array is not None)
    for path, part in sorted(link.namedlinks()):
        yield from (
            (f"{path}/{key}", value)
            for key in sorted(part._persistent)
            if isinstance(value := getattr(part, key), chainer.get_array_types())
        )


@contextlib.contextmanager
def joined(name: str | None) -> Iterator[Ranks]:
    """The ranks of ``--communicator`` ``name`` (None: ``ALONE``) for a block.

    Where there are several, what the block raises ends all of them at once, with one line that names the rank; others
    than the first print nothing on stdout and no warnings. Raises UserError where MPI or the communicator is missing.
    """
    if name is None:
        started = launched()
        if started is not None and started.launcher != "srun":  # which also starts sweeps of trainings that are apart
            raise UserError(
                f"--communicator: mpiexec started {started.size} processes that know nothing of each other; "
                f"--communicator {' or '.join(COMMUNICATORS)} makes one training of them"
            )
        yield ALONE
        return
    ranks = Ranks(_create(name), name)
    if ranks.count == 1:
        yield ranks
        return
    with contextlib.ExitStack() as stack:
        if not ranks.first:
            quiet = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(quiet))
            logging.getLogger("medi2i").setLevel(logging.ERROR)
        try:
            yield ranks
        except (Exception, KeyboardInterrupt) as error:
            _abort(ranks, error)


def _create(name: str) -> Any:
    try:
        import mpi4py.MPI  # noqa: F401 it also starts MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, and no MPI
        raise UserError(
            f"--communicator {name}: MPI cannot be used ({one_line(error)}); pip install 'medi2i[mpi]'"
        ) from None
    try:
        return compat.communicator(name)
    except RuntimeError as error:
        why = one_line(error).rstrip(".")
        raise UserError(f"--communicator {name}: {why}; --communicator naive is for the CPU") from None


def _abort(ranks: Ranks, error: BaseException) -> None:
    """Say what is wrong and end all ranks. The first speaks at once: what is wrong everywhere is then said once."""
    if not ranks.first:
        time.sleep(1)
    known = isinstance(error, UserError | OSError | MemoryError | KeyboardInterrupt)
    if not known or "--debug" in sys.argv or os.environ.get("MEDI2I_DEBUG") == "1":
        traceback.print_exception(error)
    text = "interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error)
    if not known:
        text = f"{type(error).__name__}: {text}"
    print(f"error: rank {ranks.rank} of {ranks.count}: {text}", file=sys.stderr, flush=True)
    ranks.mpi.Abort(130 if isinstance(error, KeyboardInterrupt) else 1)


def share_batches(links: Mapping[str, chainer.Link], ranks: Ranks) -> None:
    """``--sync_bn``: batch normalisations of ``links`` (dict name -> network) take statistics over all ranks.

    Raises UserError where there is none.
    """
    parts = [part for link in links.values() for part in link.links() if hasattr(part, "shared")]
    if not parts:
        raise UserError(
            "--sync_bn: these networks have no batch normalisation; --gen_norm or --dis_norm batch or "
            "batch_aff would be one"
        )
    if ranks.count > 1:
        for part in parts:
            part.shared = ranks.normalised
