"""The stand-in for CuPy refuses what CuPy refuses and counts what costs; faults that are planted do not get past it."""

import dataclasses

import numpy as np
import pytest

from medi2i.common import losses
from medi2i.common.compat import chainer
from medi2i.common.device import choose_device
from medi2i.common.kernels.gpu import augment
from medi2i.datasets.augment import Draw

cupy = pytest.importorskip("cupy")
if not hasattr(cupy, "stand_in"):
    pytest.skip("CuPy is not the stand-in", allow_module_level=True)
pytestmark = pytest.mark.gpu
from gpu.test_updates import after_updates, grown, networks_of, updater_of  # noqa: E402

X = np.float32([[1, -2, 3], [4, 5, -6]])
MIXED = {
    "sum": lambda x, n: x + n,
    "sum from the left": lambda x, n: n + x,
    "in place": lambda x, n: x.__iadd__(n),
    "NumPy's function": lambda x, n: np.maximum(x, n),
    "assigned": lambda x, n: x.__setitem__(slice(None), n),
    "joined": lambda x, n: cupy.concatenate([x, n]),
    "joined by NumPy": lambda x, n: np.concatenate([x, n]),
    "converted": lambda x, n: np.asarray(x),
    "a function of NumPy's array": lambda x, n: cupy.sum(n),
    "a kernel": lambda x, n: cupy.ElementwiseKernel("T x, T y", "T z", "z = x + y", "mixed")(x, n),
    "copied into": lambda x, n: cupy.copyto(x, n),
}


@pytest.mark.parametrize("what", MIXED)
def test_arrays_do_not_mix_with_numpys(what):
    with pytest.raises(TypeError):
        MIXED[what](cupy.asarray(X), X.copy())


def test_what_is_allowed():
    x = cupy.asarray(X)
    y = np.sqrt(np.float32(2) * abs(x)) + 1
    assert type(y) is cupy.ndarray and y.dtype == np.float32
    np.testing.assert_array_equal(y.get(), np.sqrt(2 * np.abs(X)) + 1)
    assert type(x[0, 0]) is type(x.sum()) is cupy.ndarray and x[0, 0].shape == ()
    x[0, 0] += 1
    x.T[1] = 7
    assert x.get().tolist() == [[2, 7, 3], [4, 7, -6]]


def test_numbers_of_numpy_give_way_in_version_13_alone():
    dtype = (cupy.asarray(X) * np.float64(2)).dtype
    assert dtype == (np.float64 if cupy.VERSION >= 14 else np.float32)


@pytest.mark.parametrize(
    "what", [float, bool, lambda x: x.item(), lambda x: x.get(), lambda x: x.tolist(), repr, lambda x: X[x.astype(int)]]
)
def test_numbers_that_are_read_back_are_counted(what):
    x = cupy.asarray(np.float32(1))
    with cupy.watched() as counts:
        what(x)
    assert len(counts.to_host) == 1 and "test_stand_in.py" in counts.to_host[0] and counts.to_device == []


def test_copies_and_waits_are_counted():
    with cupy.watched() as counts:
        x = cupy.asarray(X)
        cupy.empty((2, 3), np.float32).set(X)
        cupy.cuda.Event().synchronize()
        cupy.cuda.Device().synchronize()
        x[x > 0]
        x[x > 0] = 0
    assert (len(counts.to_device), len(counts.waits), len(counts.to_host)) == (2, 3, 0)


def test_an_array_is_on_one_device():
    with cupy.cuda.Device(1):
        there = cupy.asarray(X)
    for do in (lambda: there + 1, lambda: cupy.ElementwiseKernel("T x", "T y", "y = x", "same")(there)):
        with pytest.raises(ValueError, match=r"the array resides \(1\) is different from the current device \(0\)"):
            do()
    assert cupy.asarray(there).device.id == 0
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        cupy.cuda.Device(2)


def test_what_it_has_not_is_named():
    for module, name in ((cupy, "polynomial"), (cupy.random, "poisson"), (cupy.cuda, "cutensor")):
        with pytest.raises(AttributeError, match=f"has no {module.__name__}.{name}"):
            getattr(module, name)
    has = chainer.backends.cuda.cudnn_enabled
    assert chainer.backends.cuda.available and has == (cupy.VERSION < 14)


def test_chainer_gives_no_advice_to_install_cupy_again(recwarn):
    chainer.backends.cuda.check_cuda_available()
    assert not [w for w in recwarn if "cuDNN" in str(w.message)]


def test_memory_is_counted():
    pool = cupy.get_default_memory_pool()
    before = pool.used_bytes()
    x = cupy.empty(1000, np.float64)
    view = x[::2]
    assert pool.used_bytes() == before + 8000
    del x
    assert pool.used_bytes() == before + 8000
    del view
    assert pool.used_bytes() == before and pool.total_bytes() >= before + 8000


def test_kernels():
    x = cupy.asarray(X)
    twice = cupy.ElementwiseKernel("T x, T s, raw int32 t", "T y, int64 k", "y = s * x + t[i % 2]; k = i;", "twice")
    y, k = twice(x.T, 2, cupy.asarray(np.int32([0, 10])))
    np.testing.assert_array_equal(y.get(), 2 * X.T + [0, 10])
    assert k.get().tolist() == [[0, 1], [2, 3], [4, 5]]
    total = cupy.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "length")
    np.testing.assert_allclose(total(x, axis=1).get(), np.sqrt((X**2).sum(1)), rtol=1e-6)
    assert total(x).shape == ()
    with pytest.raises(TypeError, match="Type is mismatched"):
        twice(x, 2, cupy.asarray(np.int64([0])))
    with pytest.raises(ValueError, match="Loop size is undecided"):
        cupy.ElementwiseKernel("raw T x", "raw T y", "y[i] = x[i]", "raw")(x, x)
    with pytest.raises(ValueError, match="Out shape is mismatched"):
        twice(x, 2, cupy.asarray(np.int32([0, 1])), cupy.empty((1, 3), "f"), cupy.empty((1, 3), "q"))


FUSED = {
    "read back": lambda x, y: x + y if x.sum() > 0 else y,
    "an item": lambda x, y: x * y.sum().item(),
    "to the host": lambda x, y: x + cupy.asarray(y.get()),
    "sorted": lambda x, y: cupy.sort(x) + y,
    "a matrix product": lambda x, y: x @ y.T,
}


def test_fuse():
    x = cupy.asarray(X)
    fused = cupy.fuse(lambda x, y, s: cupy.maximum(x, y) * s + cupy.sqrt(abs(x)))
    np.testing.assert_allclose(fused(x, -x, 2).get(), np.abs(X) * 2 + np.sqrt(np.abs(X)), rtol=1e-6)
    assert cupy.fuse(kernel_name="total")(lambda x: cupy.sum(x * x))(x).get() == (X**2).sum()
    assert cupy.fuse(lambda x: float(x.sum()))(X) == X.sum()  # of NumPy's alone nothing is fused
    with pytest.raises(TypeError, match="Invalid argument type for '<lambda>'"):
        fused(x, X, 2)
    with pytest.raises(TypeError):
        fused(x, y=x, s=2)
    x.sum().item()


@pytest.mark.parametrize("what", FUSED)
def test_what_cannot_be_one_kernel_is_not_fused(what):
    with pytest.raises(TypeError, match="cannot be fused"):
        cupy.fuse(FUSED[what])(cupy.asarray(X), cupy.asarray(X))


def test_sparse_matrices():
    from cupyx.scipy import sparse as on_gpu
    from scipy import sparse

    host = sparse.csr_matrix((np.float32([1, 2, 3, 4]), [2, 0, 1, 1], [0, 2, 4]), shape=(2, 3))  # unsorted, one twice
    x, y = cupy.arange(3, dtype="f"), cupy.arange(2, dtype="f")
    with cupy.watched() as counts:
        matrix = on_gpu.csr_matrix(host)
        assert (matrix @ x).get().tolist() == [2, 7] and (matrix.T @ y).get().tolist() == [0, 7, 0]
    assert (len(counts.to_device), len(counts.waits), len(counts.to_host)) == (3, 1, 3)  # two of which are get()
    matrix = on_gpu.csr_matrix(host)
    with cupy.watched() as counts:
        for _ in range(3):
            matrix.T @ y
    assert (len(counts.to_host), len(counts.waits)) == (1, 3)  # each transpose is another matrix
    with pytest.raises(TypeError):
        matrix @ x.get()
    with pytest.raises(ValueError, match="Only bool"):
        on_gpu.csr_matrix(host.astype(np.int32))


def test_raw_kernels():
    code = 'extern "C" __global__ void put(const float* x, float* y, int n) {{ __shared__ float s[4]; {} }}'
    turned = "s[threadIdx.x] = x[threadIdx.x]; __syncthreads(); y[threadIdx.x] = s[n - 1 - threadIdx.x];"
    x, y = cupy.arange(4, dtype="f"), cupy.empty(4, "f")
    cupy.RawModule(code=code.format(turned)).get_function("put")((1,), (4,), (x, y, np.int32(4)))
    assert y.get().tolist() == [3, 2, 1, 0]
    put = cupy.RawKernel(code.format(turned.replace("__syncthreads();", "")), "put")
    put((1,), (4,), (x, y, np.int32(4)))
    assert y.get().tolist() != [3, 2, 1, 0]
    apart = cupy.RawKernel(code.format("if (threadIdx.x) __syncthreads();"), "put")
    with pytest.raises(ValueError, match="left before a barrier"):
        apart((1,), (4,), (x, y, np.int32(4)))
    with pytest.raises(ValueError, match="is not dense"):
        put((1,), (4,), (cupy.arange(8, dtype="f")[::2], y, np.int32(4)))
    with pytest.raises(TypeError, match="Unsupported type"):
        put((1,), (4,), (x, y, 4))


# Faults that a real GPU would show in the first hour, each planted into an update.
def update_of(case="pix2pix, classes"):
    options, networks = networks_of(case)
    return options, grown(options, networks)


def test_numpys_array_in_an_update(monkeypatch):
    options, networks = update_of()
    mean_absolute = losses.mean_absolute

    def with_numpys(y, t, weight):
        return mean_absolute(y, chainer.as_array(t).get(), weight)

    monkeypatch.setattr(losses, "mean_absolute", with_numpys)
    with pytest.raises(TypeError):
        after_updates(options, networks, choose_device(0))


def test_a_hidden_wait_in_a_loss(monkeypatch):
    options, networks = update_of()
    mean_absolute = losses.mean_absolute

    def waiting(y, t, weight):
        loss = mean_absolute(y, t, weight)
        return loss if loss.array.item() < 1e9 else 2 * loss

    monkeypatch.setattr(losses, "mean_absolute", waiting)
    _, _, counts = after_updates(options, networks, choose_device(0))
    assert len(counts.to_host) == 1 and "waiting" in counts.to_host[0]


def test_a_kernel_with_swapped_indices(monkeypatch):
    """Into another row it is wrong, past the end it is told."""
    right = augment.AFFINE
    swapped = dataclasses.replace(
        right, operation=right.operation.replace("* columns", "* rows").replace("rows * rows", "rows * columns")
    )
    assert swapped.operation != right.operation
    x, draws = np.random.default_rng(0).random((1, 2, 9, 13), np.float32), [Draw(degrees=10.0)]
    expected = augment.augment(x, draws, (9, 13))
    np.testing.assert_allclose(augment.augment(cupy.asarray(x), draws, (9, 13)).get(), expected, atol=1e-6)
    monkeypatch.setattr(augment, "AFFINE", swapped)
    assert np.abs(augment.augment(cupy.asarray(x), draws, (9, 13)).get() - expected).max() > 0.1
    past = dataclasses.replace(right, operation=right.operation.replace("plane / channels * 6", "plane * 6 + 6"))
    monkeypatch.setattr(augment, "AFFINE", past)
    with pytest.raises(IndexError, match="affine_gather: index .* is outside"):
        augment.augment(cupy.asarray(x), draws, (9, 13))


def test_an_array_on_the_wrong_device():
    options, networks = update_of()
    device = choose_device(0)

    def elsewhere(batch, device=None):
        return tuple(chainer.get_device("@cupy:1").send(np.stack(part)) for part in zip(*batch, strict=True))

    with chainer.using_device(device):
        updater = updater_of(options, networks, device, "SGD")
        updater.converter = elsewhere
        with pytest.raises(ValueError, match="different from the current device"):
            updater.update()
