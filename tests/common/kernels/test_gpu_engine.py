"""Which code computes a convolution on a GPU, with a stand-in for NVIDIA's module that computes on the CPU."""

import ctypes
import os
import types

import numpy as np
import pytest

from medi2i.common.compat import F, chainer
from medi2i.common.kernels import chunked_convolution, cpu_engine, gpu_engine
from medi2i.common.kernels.chunked_convolution import Geometry
from medi2i.common.kernels.gpu_engine import WORKSPACE, CudnnConvolutions

_CONV = chainer.functions.connection.convolution_2d
_DECONV = chainer.functions.connection.deconvolution_2d
_NUMBERS = {"HALF": "float16", "FLOAT": "float32", "DOUBLE": "float64"}


class Refused(Exception):
    """Stands for cudnnGraphNotSupportedError, which is no RuntimeError."""


class Tensor:
    def __init__(self, dim=None, stride=None, data_type=None, name=""):
        self.dim, self.stride, self.data_type, self.name, self.output = dim, stride, data_type, name, False

    def set_output(self, value):
        self.output = value

    def set_dim(self, dim):
        self.dim = dim

    def set_stride(self, stride):
        self.stride = stride

    def set_data_type(self, data_type):
        self.data_type = data_type

    def array(self, address):
        dtype = np.dtype(_NUMBERS[self.data_type])
        count = sum((n - 1) * s for n, s in zip(self.dim, self.stride, strict=True)) + 1
        flat = np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype)
        return np.lib.stride_tricks.as_strided(flat, self.dim, [s * dtype.itemsize for s in self.stride])


class Graph:
    """Computes what cuDNN's documentation says, from addresses, sizes and strides alone."""

    def __init__(self, log, refuse, **types):
        self.log, self.refuse, self.steps, self.left_out = log, refuse, [], []
        self.types = types

    def tensor(self, dim, stride, data_type, name):
        return Tensor(dim, stride, data_type, name)

    def conv_fprop(self, image, weight, **settings):
        return self._add("fprop", settings, image, weight)

    def conv_dgrad(self, loss, filter, **settings):
        return self._add("dgrad", settings, loss, filter)

    def conv_wgrad(self, image, loss, **settings):
        return self._add("wgrad", settings, image, loss)

    def _add(self, kind, settings, *inputs):
        self.kind, self.settings, self.inputs, self.result = kind, settings, inputs, Tensor()
        return self.result

    def deselect_numeric_notes(self, notes):
        self.left_out = notes

    def deselect_workspace_greater_than(self, size):
        assert size == WORKSPACE

    def __getattr__(self, name):
        if name not in ("validate", "build_operation_graph", "create_execution_plans", "check_support", "build_plans"):
            raise AttributeError(name)
        if name == self.refuse:
            raise Refused("no engine")
        self.steps.append(name)
        return lambda *args: None

    def get_workspace_size(self):
        return 0

    def execute(self, buffers, workspace, handle):
        assert (
            self.steps
            == ["validate", "build_operation_graph", "create_execution_plans", "check_support", "build_plans"]
            and self.result.output
            and workspace
        )
        a, b = (t.array(buffers[t]) for t in self.inputs)
        out = self.result.array(buffers[self.result])
        s = self.settings
        shapes = {
            "fprop": (a.shape, out.shape, b.shape),
            "dgrad": (out.shape, a.shape, b.shape),
            "wgrad": (a.shape, b.shape, out.shape),
        }[self.kind]
        # What cuDNN infers must be what it is told.
        for size, k, before, after, step, d, told in zip(
            shapes[0][2:],
            shapes[2][2:],
            s["pre_padding"],
            s["post_padding"],
            s["stride"],
            s["dilation"],
            shapes[1][2:],
            strict=True,
        ):
            assert min(before, after) >= 0 and (size + before + after - (k - 1) * d - 1) // step + 1 == told
        geometry = Geometry(
            *shapes, tuple(s["stride"]), tuple(s["pre_padding"]), tuple(s["dilation"]), shapes[0][1] // shapes[2][1]
        )
        out[...] = {
            "fprop": lambda: chunked_convolution.forward(a, b, None, geometry),
            "dgrad": lambda: chunked_convolution.backward_data(a, b, geometry),
            "wgrad": lambda: chunked_convolution.backward_weights(a, b, geometry),
        }[self.kind]()
        self.log.append((self.kind, handle))


def module(refuse=None):
    names = ("HALF", "FLOAT", "DOUBLE", "A", "FALLBACK", "TENSOR_CORE", "DOWN_CONVERT_INPUTS", "NONDETERMINISTIC")
    every = types.SimpleNamespace(**{name: name for name in names})
    made = types.SimpleNamespace(
        data_type=every,
        heur_mode=every,
        numerical_note=every,
        log=[],
        graphs=[],
        streams=[],
        cudnnGraphNotSupportedError=Refused,
        create_handle=lambda: 77,
        backend_version=lambda: 91002,
    )
    made.set_stream = lambda handle, stream: made.streams.append((handle, stream))

    def pygraph(handle, **settings):
        made.graphs.append(Graph(made.log, refuse, **settings))
        return made.graphs[-1]

    made.pygraph = pygraph
    return made


@pytest.fixture(autouse=True)
def chainers_own_before_and_after():
    gpu_engine.disable()
    yield
    gpu_engine.disable()


@pytest.fixture
def on_host(monkeypatch):
    """Arrays of NumPy where those of a GPU would be."""
    for name, stand_in in dict(device=lambda: 0, stream=lambda: 5, address=lambda array: array.ctypes.data).items():
        monkeypatch.setattr(gpu_engine, f"_{name}", stand_in)


SETTINGS = [
    dict(stride=1, pad=1),
    dict(stride=2, pad=1),
    dict(stride=(2, 3), pad=0),
    dict(stride=1, pad=2, dilate=2),
    dict(stride=1, pad=1, groups=2),
]


@pytest.fixture
def on_numpy(monkeypatch):
    """Chainer's functions compute NumPy arrays by what is their way on a GPU, with the given code."""

    def put(code):
        for owner, name, make in gpu_engine.on_gpu(code):
            monkeypatch.setattr(owner, "forward_cpu", make(vars(owner)[name]))

    with cpu_engine.using("chainer"):
        yield put
        monkeypatch.undo()


def everything(settings, dtype="float64"):
    """Convolution, its gradients, and theirs: (y, gx, gw, gb, second-order gradients by x and w)."""
    rng = np.random.default_rng(0)
    x = chainer.Variable(rng.standard_normal((2, 4, 9, 8)).astype(dtype))
    w = chainer.Variable(rng.standard_normal((6, 4 // settings.get("groups", 1), 3, 4)).astype(dtype))
    b = chainer.Variable(rng.standard_normal(6).astype(dtype))
    y = F.convolution_2d(x, w, b, **settings)
    gx, gw, gb = chainer.grad([F.sum(y * y)], [x, w, b], enable_double_backprop=True)
    second = chainer.grad([F.sum(gx * gx) + F.sum(gw * gw)], [x, w])
    return [v.array for v in (y, gx, gw, gb, *second)]


@pytest.mark.parametrize("settings", SETTINGS)
def test_all_derivatives_through_cudnn(on_numpy, on_host, settings):
    expected = everything(settings)
    cudnn = module()
    on_numpy(CudnnConvolutions(cudnn))
    for got, want in zip(everything(settings), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-9)
    assert {kind for kind, _ in cudnn.log} == {"fprop", "dgrad", "wgrad"}
    assert {handle for _, handle in cudnn.log} == {77} and set(cudnn.streams) == {(77, 5)}


def test_plans_are_built_once_for_a_shape(on_numpy, on_host):
    cudnn = module()
    on_numpy(CudnnConvolutions(cudnn))
    everything(SETTINGS[0])
    built = len(cudnn.graphs)
    everything(SETTINGS[0])
    assert len(cudnn.graphs) == built < len(cudnn.log)
    everything(SETTINGS[0], "float32")
    assert len(cudnn.graphs) == 2 * built


@pytest.mark.parametrize("step", ["validate", "check_support", "build_plans"])
def test_without_a_plan_the_layer_is_computed_in_chunks_with_one_warning(on_numpy, on_host, step):
    expected = everything(SETTINGS[1])
    cudnn = module(refuse=step)
    on_numpy(CudnnConvolutions(cudnn))
    with pytest.warns(RuntimeWarning, match="no engine") as told:
        results = everything(SETTINGS[1])
    for got, want in zip(results, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-9)
    assert len(told) == 1 and cudnn.log == []


@pytest.mark.parametrize(
    "tf32, dtype, left_out",
    [
        (False, "float32", ["TENSOR_CORE", "DOWN_CONVERT_INPUTS"]),
        (True, "float32", []),
        (False, "float16", []),
        (False, "float64", []),
    ],
)
def test_tensor_cores_round_float32_only_where_asked(on_host, tf32, dtype, left_out):
    cudnn = module()
    geometry = Geometry((1, 1, 3, 3), (1, 1, 3, 3), (1, 1, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    x, w = np.ones((1, 1, 3, 3), dtype), np.ones((1, 1, 3, 3), dtype)
    y = CudnnConvolutions(cudnn, tf32).forward(x, w, None, geometry)
    assert y.dtype == dtype and y[0, 0].tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
    assert cudnn.graphs[0].left_out == left_out
    assert cudnn.graphs[0].types["compute_data_type"] == ("DOUBLE" if dtype == "float64" else "FLOAT")


def test_deterministic_plans_are_others(on_host):
    cudnn = module()
    code = CudnnConvolutions(cudnn, True)
    geometry = Geometry((1, 1, 3, 3), (1, 1, 3, 3), (1, 1, 1, 1), (1, 1), (0, 0), (1, 1), 1)
    x, w = np.ones((1, 1, 3, 3), "float32"), np.ones((1, 1, 1, 1), "float32")
    code.forward(x, w, None, geometry)
    with chainer.using_config("cudnn_deterministic", True):
        code.forward(x, w, None, geometry)
    assert [graph.left_out for graph in cudnn.graphs] == [[], ["NONDETERMINISTIC"]]


def test_mixed_dtypes_go_to_chainer():
    calls = []
    (_, _, make), *_ = gpu_engine.on_gpu(chunked_convolution)
    forward = make(lambda self, inputs: calls.append(inputs))
    node = _CONV.Convolution2DFunction(1, 0)
    node._input_layouts = (None, None)
    forward(node, (np.ones((1, 1, 2, 2), "float16"), np.ones((1, 1, 1, 1), "float32")))
    assert len(calls) == 1


def test_enabling_replaces_the_three_and_disabling_brings_them_back(monkeypatch):
    owners = (_CONV.Convolution2DFunction, _CONV.Convolution2DGradW, _DECONV.Deconvolution2DFunction)
    before = [vars(owner)["forward_gpu"] for owner in owners]
    monkeypatch.setattr(gpu_engine.importlib, "import_module", lambda name: module())
    monkeypatch.setattr(chainer.backends.cuda, "cudnn_enabled", False)
    try:
        assert gpu_engine.enable() == "cuDNN 9 by its Python module"
        assert gpu_engine.enable() == "cuDNN 9 by its Python module"
        assert not any(vars(o)["forward_gpu"] is b for o, b in zip(owners, before, strict=True))
    finally:
        gpu_engine.disable()
    assert all(vars(o)["forward_gpu"] is b for o, b in zip(owners, before, strict=True))


@pytest.mark.parametrize("error", [ImportError("nothing there"), OSError("no library"), RuntimeError("no symbol")])
def test_without_cudnn_convolutions_are_matrix_products(monkeypatch, error):
    def missing(name):
        raise error

    monkeypatch.setattr(gpu_engine.importlib, "import_module", missing)
    monkeypatch.setattr(chainer.backends.cuda, "cudnn_enabled", False)
    try:
        assert gpu_engine.enable() == f"matrix products (no cuDNN: {error})"
    finally:
        gpu_engine.disable()


def test_cupys_own_cudnn_is_left_to_chainer(monkeypatch):
    sizes = []
    monkeypatch.setattr(chainer.backends.cuda, "cudnn_enabled", True)
    monkeypatch.setattr(chainer.backends.cuda, "set_max_workspace_size", sizes.append)
    before = vars(_CONV.Convolution2DFunction)["forward_gpu"]
    mode = chainer.global_config.use_cudnn_tensor_core
    try:
        assert gpu_engine.enable(tf32=True) == "cuDNN by CuPy"
        assert chainer.global_config.use_cudnn_tensor_core == "always"
    finally:
        chainer.global_config.use_cudnn_tensor_core = mode
    assert sizes == [512 << 20] and vars(_CONV.Convolution2DFunction)["forward_gpu"] is before


def test_tf32_is_decided_by_the_environment(monkeypatch):
    for name in ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    gpu_engine.set_precision(tf32=False)
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0" and "CUPY_TF32" not in os.environ
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    gpu_engine.set_precision(tf32=True)
    assert os.environ["CUPY_TF32"] == "1" and "NVIDIA_TF32_OVERRIDE" not in os.environ


@pytest.mark.gpu
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("code", ["best", "chunks"])
def test_a_gpu_computes_what_the_cpu_does(settings, code):
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("there is no GPU")
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 4, 33, 31)).astype("float32")
    w = rng.standard_normal((6, 4 // settings.get("groups", 1), 3, 4)).astype("float32")
    with cpu_engine.using("chainer"):
        expected = F.convolution_2d(x, w, **settings).array
    if code == "best":
        gpu_engine.enable()
        try:
            got = F.convolution_2d(cupy.asarray(x), cupy.asarray(w), **settings).array.get()
        finally:
            gpu_engine.disable()
    else:
        geometry = Geometry(
            x.shape,
            expected.shape,
            w.shape,
            *(
                value if isinstance(value, tuple) else (value, value)
                for value in (settings["stride"], settings["pad"], settings.get("dilate", 1))
            ),
            settings.get("groups", 1),
        )
        got = chunked_convolution.forward(cupy.asarray(x), cupy.asarray(w), None, geometry, limit=1000).get()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
