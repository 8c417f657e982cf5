"""What test_distributed_processes.py starts under mpiexec: checks that need two processes, trainings to look into.

mpiexec -n 2 python two_ranks.py check <data of pix2pix> <data of cyclegan> <folder>
mpiexec -n 2 python two_ranks.py train <folder> [--fail] <options of pix2pix>     # writes <folder>/pid<rank>
"""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np

from medi2i.common import compat
from medi2i.common.compat import F, chainer
from medi2i.common.kernels import cpu_engine
from medi2i.common.networks.layers import BatchNormalization
from medi2i.common.options import PairedOptions, UnpairedOptions, parse
from medi2i.common.training.distributed import ALONE, joined, share_batches
from medi2i.common.training.pictures import Plots
from medi2i.common.training.trainer import Training
from medi2i.cyclegan import train as cyclegan
from medi2i.pix2pix import train as pix2pix

SMALL = [
    "-cw",
    "16",
    "-ch",
    "16",
    "-gc",
    "4",
    "8",
    "-gnb",
    "1",
    "-dc",
    "4",
    "8",
    "-g",
    "-1",
    "-gn",
    "instance",
    "-dn",
    "none",
    "--dis_jitter",
    "0",
    "--workers",
    "0",
    "--cpu_engine",
    "numpy",
]
RESTLESS = [
    "-n",
    "0.1",
    "-nz",
    "0.1",
    "-gdo",
    "0.3",
    "-ddo",
    "0.2",
    "-rs",
    "0.1",
    "--dis_jitter",
    "0.2",
    "-gn",
    "batch_aff",
    "-dn",
    "batch_aff",
    "--cpu_engine",
    "auto",
]
APPLICATIONS = {
    "pix2pix": (pix2pix, PairedOptions, ["-lreg", "0.1"]),
    "cyclegan": (cyclegan, UnpairedOptions, ["-it", "png", "-lz", "1", "-b", "1"]),
}


class Looked(Training):
    """Remembers the last training of this process, and draws no plots."""

    def extend(self, extension, **kwargs):
        if not isinstance(extension, Plots):
            super().extend(extension, **kwargs)

    def run(self):
        Looked.last = self
        return super().run()


def trained(application, data, out, ranks, *argv):
    """The updater of a training in this process, after it."""
    module, options, own = APPLICATIONS[application]
    argv = ["-R", str(data), "-o", str(out), *SMALL, *own, *argv]
    assert module.train(parse(options, argv), None, argv, ranks)[0] == 0
    return Looked.last.updater


def parameters(updater):
    for name, optimizer in sorted(updater.get_all_optimizers().items()):
        for path, parameter in sorted(optimizer.target.namedparams()):
            yield name + path, parameter


def digest(updater):
    """Of all weights and saved arrays (running statistics)."""
    found = hashlib.sha256()
    for _, parameter in parameters(updater):
        found.update(parameter.array.tobytes())
    for _, optimizer in sorted(updater.get_all_optimizers().items()):
        for _, link in sorted(optimizer.target.namedlinks()):
            for key in sorted(link._persistent):
                found.update(np.asarray(getattr(link, key)).tobytes())
    return found.hexdigest()


def check_applications(application, data, out, ranks):
    # Twenty updates with everything that draws: equal weights, though each rank draws its own numbers.
    many = ["-e", "6"] if application == "pix2pix" else ["-e", "8", "-op", "Eve"]  # of 7 pairs, two an update; of 5
    updater = trained(application, data, out / f"many_{application}", ranks, *RESTLESS, *many)
    assert updater.iteration >= 20, updater.iteration
    assert len(set(ranks.mpi.allgather(digest(updater)))) == 1, "weights differ between ranks"
    assert len(set(ranks.mpi.allgather(updater.random.integer(2**62)))) == ranks.count
    # One update: the gradient that the optimizers saw is that of one process with the joined batch.
    end = ["-e", "1", "-rt", "2", "--bn_reestimate", "0"]
    if application == "cyclegan":
        end += ["--iteration", "1"]
    images = out / "pairs" if application == "pix2pix" else data
    joint = trained(application, images, out / f"joint_{application}", ranks, *end)
    gradients = {name: parameter.grad for name, parameter in parameters(joint)}
    assert joint.iteration == 1 and joint.get_optimizer("enc_x").t == 1  # a step, not a mere broadcast
    if ranks.first:
        alone = trained(application, images, out / f"alone_{application}", ALONE, *end, "-b", "2")
        assert alone.iteration == 1
        worst = 0.0
        for name, parameter in parameters(alone):
            scale = max(float(abs(parameter.grad).max()), 1e-3)
            worst = max(worst, float(abs(gradients[name] - parameter.grad).max()) / scale)
        print(f"{application}: gradient differs by {worst:.2g} of its scale", flush=True)
        assert worst <= 1e-5, worst
    ranks.mpi.barrier()


def check_batch_normalisation(ranks):
    """Two halves of a batch on two ranks, with --sync_bn, against the whole batch on one; and the mend of the mean."""
    random = np.random.default_rng(0)
    whole = random.normal(2, 3, (6, 3, 5, 7)).astype(np.float32)
    weight = random.normal(0, 1, whole.shape).astype(np.float32)
    for engine in ("auto", "numpy", "chainer"):
        with cpu_engine.using(engine):
            results = []
            for x, w, ranks_of in (
                (whole, weight, ALONE),
                (whole[ranks.rank * 3 :][:3], weight[ranks.rank * 3 :][:3], ranks),
            ):
                link = chainer.Sequential(BatchNormalization(3))
                share_batches({"link": link}, ranks_of)
                x = chainer.Variable(x)
                link.cleargrads()
                y = link(x)
                F.mean(y * w).backward()
                results.append((y.array, x.grad, link[0].gamma.grad, link[0].avg_mean))
            (y, gx, ggamma, mean), (y_own, gx_own, ggamma_own, mean_own) = results
            mine = slice(ranks.rank * 3, ranks.rank * 3 + 3)
            assert abs(y[mine] - y_own).max() < 1e-5
            assert abs(gx[mine] - gx_own / 2).max() < 1e-6  # of the mean over half as many pixels
            assert abs(mean - mean_own).max() < 1e-6
            together = sum(ranks.mpi.allgather(ggamma_own)) / 2
            assert abs(ggamma - together).max() < 1e-5


def check_mends(ranks):
    """The patches of compat.py that only several processes can show."""
    turned = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3) * (1 + ranks.rank))
    ranks.communicator._multi_node_mean(None, turned)
    assert turned.tolist() == [[0, 1.5, 3], [4.5, 6, 7.5]], turned
    base = compat.chainermn.communicators.mpi_communicator_base.MpiCommunicatorBase
    lost = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3) * (1 + ranks.rank))
    base._multi_node_mean.__wrapped__(ranks.communicator, None, lost)
    assert lost.tolist() != turned.tolist(), "ChainerMN's own keeps it now: the mend can go"
    numbers = chainer.iterators.SerialIterator(np.arange(4, dtype=np.float32), 2, shuffle=False)
    iterator = compat.chainermn.iterators.create_multi_node_iterator(numbers, ranks.communicator)
    assert [list(map(float, iterator.next())) for _ in range(2)] == [[0, 1], [2, 3]]


def check(paired, unpaired, out):
    pix2pix.Training = cyclegan.Training = Looked
    with joined("naive") as ranks:
        assert ranks.count == 2 and ranks.local == ranks.rank
        check_mends(ranks)
        check_batch_normalisation(ranks)
        check_applications("pix2pix", paired, out, ranks)
        check_applications("cyclegan", unpaired, out, ranks)
        print("all checks passed", flush=True)


def train(folder, argv):
    rank = os.environ["PMI_RANK"]
    (Path(folder) / f"pid{rank}").write_text(str(os.getpid()))
    if argv[0] == "--fail":
        argv = argv[1:]
        if rank == "1":
            pix2pix.Pix2pixUpdater.update_core = _failing(pix2pix.Pix2pixUpdater.update_core)
    return pix2pix.main(argv)


def _failing(update_core):
    def fail_at_the_fourth(self):
        if self.iteration == 3:
            raise OSError(28, "No space left on device", "/scratch/cache")
        update_core(self)

    return fail_at_the_fourth


if __name__ == "__main__":
    if sys.argv[1] == "check":
        sys.exit(check(*map(Path, sys.argv[2:])))
    sys.exit(train(sys.argv[2], sys.argv[3:]))
