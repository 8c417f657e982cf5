"""Complete text of a CUDA source, which needs no CuPy: to be compiled and run."""

from medi2i.common.kernels.gpu.sources import C_TYPES, HALF


def text(source, dtype="float32", half=HALF):
    """One ``extern "C" __global__`` function ``source.name`` for T = ``dtype``, complete in itself.

    A raw source is compiled as this. For the others CuPy writes a function of its own around the same body; the
    function here takes the arrays' pointers and the numbers in order, then a ``long long`` with the count of elements.
    half: what defines float16.
    """
    body = {"raw": lambda source: source.operation, "elementwise": _elementwise, "reduction": _reduction}[source.kind]
    return source.definitions(dtype, half) + body(source)


def parameters(source):
    """(type, name, is raw, is an output) of each parameter of an elementwise kernel or a reduction."""
    found = []
    for params, is_output in ((source.in_params, False), (source.out_params, True)):
        for entry in filter(None, (p.strip() for p in params.split(","))):
            *raw, kind, name = entry.split()
            found.append((kind, name, bool(raw), is_output))
    return found


def _head(source):
    arguments = [
        f"{'' if is_output else 'const '}{C_TYPES.get(kind, 'T')}* {name if is_raw else f'{name}_'}"
        for kind, name, is_raw, is_output in parameters(source)
    ]
    return f'extern "C" __global__ void {source.name}({", ".join([*arguments, "long long n_"])}) {{'


def _elementwise(source):
    elements = [(C_TYPES.get(kind, "T"), name, out) for kind, name, raw, out in parameters(source) if not raw]
    loads = [
        f"        {'' if out else 'const '}{kind}{'& ' if out else ' '}{name} = {name}_[i];"
        for kind, name, out in elements
    ]
    return "\n".join(
        [
            _head(source),
            "    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n_;"
            " i += (long long)gridDim.x * blockDim.x) {",
            *loads,
            source.operation,
            "    }",
            "}",
        ]
    )


def _reduction(source):
    loads = [
        f"        const {C_TYPES.get(kind, 'T')} {name} = {name}_[i];"
        for kind, name, raw, out in parameters(source)
        if not raw and not out
    ]
    ((kind, out),) = [(C_TYPES.get(kind, "T"), name) for kind, name, _, is_out in parameters(source) if is_out]
    return "\n".join(
        [
            _head(source),
            "    if (blockIdx.x || threadIdx.x) return;",
            "    float a = 0;",
            "    for (long long i = 0; i < n_; ++i) {",
            *loads,
            f"        a += {source.operation};",
            "    }",
            f"    {kind}& {out} = {out}_[0];",
            f"    {out} = a;",
            "}",
        ]
    )
