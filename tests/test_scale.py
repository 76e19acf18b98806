"""Size: a module of 96 unrolled layers, about 100k operations once inlined, is inspected in seconds and linearly."""

from __future__ import annotations

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from hire_compiler import _mlir
from hire_compiler.graph import read_graph
from hire_compiler.passes.detect import detect
from hire_compiler.passes.normalize import normalize
from hire_compiler.program import Program, read_module

D, WIDTH, VOCABULARY, HEADS, LENGTH = 64, 256, 4096, 4, 32
PADDING = 980  # elementwise operations a layer beside the model's own: rotary tables, masks, casts of real code


def step(params: dict, token: jax.Array, caches: list, position: jax.Array) -> tuple:
    """A decode step with everything unrolled, as exporters write it."""
    x = params["embed"][token]
    updated = []
    for layer, (keys, values) in zip(params["layers"], caches, strict=True):
        h = _norm(x, layer["norm"])
        q, k, v = ((h @ layer[name]).reshape(-1, HEADS, D // HEADS) for name in "qkv")
        for i in range(PADDING // 4):
            q = jnp.tanh(q * (1 + 0.001 * i) + 0.5) - 0.25
        keys = jax.lax.dynamic_update_slice(keys, k[:, None], (0, position, 0, 0))
        values = jax.lax.dynamic_update_slice(values, v[:, None], (0, position, 0, 0))
        updated.append((keys, values))
        scores = jnp.where(jnp.arange(LENGTH) <= position, jnp.einsum("bhd,bshd->bhs", q, keys), -1e9)
        x = x + jnp.einsum("bhs,bshd->bhd", jax.nn.softmax(scores, -1), values).reshape(-1, D) @ layer["o"]
        h = _norm(x, layer["norm"])
        x = x + (jax.nn.gelu(h @ layer["gate"]) * (h @ layer["up"])) @ layer["down"]
    return jnp.argmax(_norm(x, params["norm"]) @ params["embed"].T, -1), updated


def _norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def lowered(layers: int) -> bytes:
    def shape(*dims: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(dims, jnp.float32)

    layer = {name: shape(D, D) for name in "qkvo"}
    layer |= {"norm": shape(D), "gate": shape(D, WIDTH), "up": shape(D, WIDTH), "down": shape(WIDTH, D)}
    params = {"embed": shape(VOCABULARY, D), "norm": shape(D), "layers": [layer] * layers}
    caches = [(shape(2, LENGTH, HEADS, D // HEADS),) * 2] * layers
    arguments = (params, jax.ShapeDtypeStruct((2,), jnp.int32), caches, jax.ShapeDtypeStruct((), jnp.int32))
    return _mlir.to_bytecode(jax.jit(step).lower(*arguments).compiler_ir())


def inspect_timed(program: Program) -> tuple[float, int, int, list[int]]:
    """Seconds from bytecode to report, operations, sites, and resident pages before, after parsing, at the end."""
    pages = [_resident()]
    start = time.perf_counter()
    with _mlir.fresh_context():
        module = _mlir.parse(program.module)
        pages.append(_resident())
        normalize(module)
        graph = read_graph(module)
        found = detect(graph, program.arguments)
        seconds = time.perf_counter() - start
        pages.append(_resident())
        return seconds, sum(1 for _ in graph.ops()), len(found.sites), pages


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.slow
def test_inspection_is_fast_and_linear() -> None:
    seconds, operations = {}, {}
    for layers in (12, 24, 48, 96):
        program = read_module(lowered(layers), name="scale")
        seconds[layers], operations[layers], sites, _ = inspect_timed(program)
        assert sites == layers + 1
    print({n: (operations[n], round(seconds[n], 2)) for n in seconds})
    assert operations[96] > 90_000
    assert seconds[96] < 10
    # MLIR's inliner splits one long block for every call, so a little more than linear; and machines are noisy.
    assert seconds[96] / seconds[24] < 4 * 2.5
