"""Several ranks: the rules, with threads that stand for processes. Real ones are in test_distributed_processes.py."""

import queue
import subprocess
import sys
import threading

import numpy as np
import pytest
from run_files import iteration_of

from medi2i.common.choices import Norm
from medi2i.common.compat import L, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.layers import BatchNormalization
from medi2i.common.options import PairedOptions
from medi2i.common.training import snapshot
from medi2i.common.training.adversarial import HistoryPool, LossScale
from medi2i.common.training.distributed import ALONE, Ranks, joined, share_batches
from medi2i.common.training.ending import Ending
from medi2i.common.training.optimizers import make_optimizer
from medi2i.common.training.randomness import RandomState
from medi2i.common.training.snapshot import SnapshotStore
from medi2i.common.training.validation import error_sums
from medi2i.pix2pix.train import main
from medi2i.pix2pix.validation import PairedMeasure


class Threads:
    """MPI among threads: what of mpi4py and ChainerMN ``Ranks`` uses."""

    def __init__(self, count):
        self.count = count
        self.barrier = threading.Barrier(count, timeout=30)
        self.board = [None] * count
        self.boxes = [queue.Queue() for _ in range(count)]

    def run(self, function):
        """[function(Ranks) of each rank]."""
        results, errors = [None] * self.count, []

        def work(rank):
            try:
                results[rank] = function(Ranks(_Communicator(self, rank), "naive"))
            except BaseException as error:  # told to the test below
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        if errors:
            raise errors[0]
        return results


class _Communicator:
    def __init__(self, threads, rank):
        self.threads, self.rank, self.size, self.intra_rank = threads, rank, threads.count, rank
        self.mpi_comm = self

    def allgather(self, value):
        self.threads.board[self.rank] = value
        self.threads.barrier.wait()
        values = list(self.threads.board)
        self.threads.barrier.wait()
        return values

    def bcast(self, value):
        return self.allgather(value)[0]

    def send(self, value, dest):
        self.threads.boxes[self.rank].put(value)

    def recv(self, source):
        return self.threads.boxes[source].get(timeout=30)

    def _multi_node_mean(self, sent, array):
        array[...] = sum(self.allgather(array.copy())) / self.size

    def multi_node_mean_grad(self, link, zero_fill):
        for _, parameter in sorted(link.namedparams()):
            if parameter.grad is not None:
                self._multi_node_mean(None, parameter.grad)


def test_alone_decides_for_itself():
    assert (ALONE.rank, ALONE.count, ALONE.first) == (0, 1, True)
    assert ALONE.agreed("x") == "x" and ALONE.earliest(None) is None and ALONE.spread(abs, [-1, 2]) == [1, 2]
    optimizers = {"a": object()}
    assert ALONE.wrapped(optimizers) is optimizers and list(ALONE.incoming()) == []


def test_ranks_agree():
    def ask(ranks):
        return (
            ranks.agreed(ranks.rank + 5),
            ranks.earliest("b" if ranks.rank else None),
            ranks.earliest(None),
            ranks.everywhere(ranks.rank < 2),
            ranks.everywhere(True),
            float(ranks.mean(np.float32(ranks.rank))),
        )

    assert Threads(3).run(ask) == [(5, "b", None, False, True, 1.0)] * 3


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_work_is_spread_in_turn_and_known_in_order(count):
    done = [[], [], []]

    def work(ranks):
        return ranks.spread(lambda item: done[ranks.rank].append(item) or item**2, range(count))

    assert Threads(3).run(work) == [[i**2 for i in range(count)]] * 3
    assert done == [list(range(rank, count, 3)) for rank in range(3)]


def test_the_lowest_rank_that_has_a_reason_ends_all():
    def end(ranks):
        ending = Ending(5)
        if ranks.rank == 1:
            ending.stop("dis/loss is nan", status=1, bad=True)
        if ranks.rank == 2:
            ending.stop("SIGTERM received", status=143)
        ending.agree(ranks)
        return ending.reason, ending.status, ending.bad

    assert Threads(3).run(end) == [("dis/loss is nan (rank 1)", 1, True)] * 3


class _Slices:
    """Pairs of different sizes of error; ``load`` as a data set has it."""

    class clip_in:
        from_unit = staticmethod(lambda x: 1000 * x)

    clip_out = clip_in

    def __init__(self, count):
        random = np.random.default_rng(1)
        self.pairs = random.normal(0, 1, (count, 2, 1, 3, 5)).astype(np.float32)

    def __len__(self):
        return len(self.pairs)

    def load(self, index, rng):
        return tuple(self.pairs[index])


@pytest.mark.parametrize("count,batch", [(1, 1), (5, 2), (7, 1), (7, 3)])
def test_validation_gives_the_very_figures_of_one_process(count, batch):
    def measure(ranks):
        return PairedMeasure(
            _Slices(count), lambda x: 0.9 * x, chainer.get_device("@numpy"), PairedOptions(batch_size=batch), ranks
        )()

    alone = measure(ALONE)
    pairs = _Slices(count).pairs.astype(np.float64)
    expected = np.mean((900 * pairs[:, 0] - 1000 * pairs[:, 1]) ** 2) ** 0.5
    assert alone["RMSE"] == pytest.approx(expected, rel=1e-6)
    assert Threads(2).run(measure) == [alone] * 2  # not approximately: the sums are added in the same order
    assert Threads(3).run(measure) == [alone] * 3


def test_added_sums_are_the_sums():
    a, b = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    assert (error_sums(a[:1], b[:1]) + error_sums(a[1:], b[1:]) == error_sums(a, b)).all()
    assert error_sums(a, b).tolist() == [31, 11, 6]


def test_each_rank_draws_its_own_numbers_and_the_first_those_of_a_training_alone():
    draws = [
        [random.integer(10**9) for _ in range(5)]
        for random in (
            RandomState(3),
            RandomState(3, rank=0),
            RandomState(3, rank=1),
            RandomState(3, rank=2),
            RandomState(4, rank=1),
        )
    ]
    assert draws[0] == draws[1]
    assert len({tuple(numbers) for numbers in draws}) == 4
    again, other = RandomState(9, rank=1), RandomState(3, rank=1)
    again.restart(3, 1, 50)
    assert other.integer(10**9) == draws[2][0]
    first = again.integer(10**9)
    again.restart(3, 1, 51)
    assert len({first, draws[2][0], again.integer(10**9)}) == 3
    again.restart(3, 1, 50)
    assert again.integer(10**9) == first


class _Own:
    """What of an updater the ranks have of their own."""

    def __init__(self, rank):
        self.iteration = 7
        self.random = RandomState(5, rank=rank)
        self.pools = {"xy": HistoryPool(4, self.random)}
        self.pools["xy"].query(np.full((2, 1, 3, 5), rank, np.float32))

    def serialize_own(self, serializer):
        self.random.serialize(serializer["random"])
        self.pools["xy"].serialize(serializer["pool:xy"])

    def state(self):
        return [float(image.mean()) for image in self.pools["xy"].images], self.random.integer(10**9)


class _Trainer:
    """As much of a trainer as a snapshot needs; the first rank's own state is where that of a training alone is."""

    def __init__(self, own):
        self.updater = own

    def serialize(self, serializer):
        self.updater.serialize_own(serializer["updater"])


def saved_by(ranks_count, folder):
    """(store, [state of each rank right after]) of a snapshot that so many ranks wrote."""
    store = SnapshotStore(folder)

    def save(ranks):
        own = _Own(ranks.rank)
        more = snapshot.collected(ranks, own)
        if ranks.first:
            store.write(_Trainer(own), more)
        return own.state()

    states = [save(ALONE)] if ranks_count == 1 else Threads(ranks_count).run(save)
    return store, states


@pytest.mark.parametrize("before,now", [(1, 1), (3, 3), (3, 2), (2, 1), (1, 2)])
def test_one_snapshot_holds_what_every_rank_has_of_its_own(tmp_path, before, now):
    store, states = saved_by(before, tmp_path)
    assert len(store.files()) == 1

    def resume(ranks):
        own = _Own(8 + ranks.rank)
        path, arrays, wrote = snapshot.deal(ranks, store.newest() if ranks.first else None)
        assert wrote == before and iteration_of(path) == 7
        snapshot.restore(_Trainer(own), arrays, path)
        snapshot.take_up(ranks, own, arrays, wrote, 5)
        return own.state()

    resumed = [resume(ALONE)] if now == 1 else Threads(now).run(resume)
    both = min(before, now)
    assert resumed[:both] == states[:both]
    for images, number in resumed[both:]:
        assert images == [] and number not in [n for _, n in states]


def weighted(rank, ranks, optimizer="SGD", decay=0.1):
    """A link after two steps, with a gradient that depends on the rank."""
    link = L.Linear(3, 2, initialW=np.arange(6, dtype=np.float32).reshape(2, 3) * (rank + 1))
    made = ranks.wrapped({"a": make_optimizer(optimizer, link, 0.1, decay)})["a"]
    for _ in range(2):
        link.cleargrads()
        link.W.grad = np.full((2, 3), rank, np.float32)  # b stays without, as with a frozen part
        made.update(**({"loss": ranks.mean(np.float32(rank + 1))} if optimizer == "Eve" else {}))
    return link


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "Eve"])
def test_optimizers_step_with_the_mean_gradient_from_the_first_update_on(optimizer):
    links = Threads(2).run(lambda ranks: weighted(ranks.rank, ranks, optimizer))
    assert links[0].W.array.tobytes() == links[1].W.array.tobytes()

    def alone():  # starts from the first rank's weights, steps with the mean of both gradients and losses
        link = L.Linear(3, 2, initialW=np.arange(6, dtype=np.float32).reshape(2, 3))
        made = make_optimizer(optimizer, link, 0.1, 0.1)
        for _ in range(2):
            link.cleargrads()
            link.W.grad = np.full((2, 3), 0.5, np.float32)
            made.update(**({"loss": np.float32(1.5)} if optimizer == "Eve" else {}))
        return link

    np.testing.assert_array_equal(links[0].W.array, alone().W.array)


def test_one_rank_with_an_overflow_leaves_the_update_out_on_all():
    def step(ranks):
        scale, link = LossScale(8.0), L.Linear(1, 1)
        link.W.grad = np.full((1, 1), np.inf if ranks.rank == 1 else 1, np.float32)
        return scale.accept([link], ranks.everywhere), scale.value

    assert Threads(2).run(step) == [(False, 4.0)] * 2


def test_running_statistics_become_the_mean_over_ranks():
    def share(ranks):
        link = chainer.Sequential(BatchNormalization(2), L.BatchRenormalization(1))
        link[0].avg_mean[:] = [ranks.rank, 10 * ranks.rank]
        link[1].avg_var[:] = ranks.rank + 1
        ranks.share_statistics([link, link])
        return link[0].avg_mean.tolist(), link[1].avg_var.tolist()

    assert Threads(3).run(share) == [([1, 10], [2])] * 3


def test_synchronised_batch_normalisation_needs_one():
    with pytest.raises(UserError, match="--sync_bn: these networks have no batch normalisation"):
        share_batches({"a": chainer.Sequential(L.GroupNormalization(1, 2))}, ALONE)
    link = chainer.Sequential(BatchNormalization(2))
    share_batches({"a": link}, ALONE)
    assert link[0].shared is None and Norm.BATCH.value == "batch"


def test_without_mpi4py_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert main(["-R", str(tmp_path), "-o", str(tmp_path / "out"), "-g", "-1", "--communicator", "naive"]) == 1
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: --communicator naive: ") and "pip install 'medi2i[mpi]'" in err and "\n" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["PMI", "OMPI_COMM_WORLD"])
def test_processes_of_mpiexec_that_know_nothing_of_each_other_are_refused(monkeypatch, name):
    monkeypatch.setenv(f"{name}_RANK", "0")
    monkeypatch.setenv(f"{name}_SIZE", "1")
    with joined(None) as ranks:
        assert ranks is ALONE
    monkeypatch.setenv(f"{name}_SIZE", "2")
    with pytest.raises(UserError, match="mpiexec started 2 processes"), joined(None):
        pass


def test_a_training_alone_never_imports_mpi():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from medi2i.pix2pix import train; "
            "from medi2i.cyclegan import train; print({'mpi4py', 'chainermn'} & set(sys.modules))",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "set()", done.stderr
