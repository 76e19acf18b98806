"""Size: a module of 96 unrolled layers, about 100k operations once inlined, is inspected in seconds and linearly."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from hire_compiler import _mlir
from hire_compiler.capture.program import Program
from hire_compiler.graph.graph import read_graph
from hire_compiler.offline.source.source import source_from_bytes
from hire_compiler.passes.normalize.normalize import normalize
from hire_compiler.passes.pipeline import inspect_program

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


@pytest.mark.slow
def test_inspection_is_fast_and_linear() -> None:
    source_from_bytes(lowered(2), "warm", {}).program()
    seconds, operations = {}, {}
    for layers in (12, 24, 48, 96):
        program = source_from_bytes(lowered(layers), "scale", {}).program()
        assert len(inspect_program(program).sites) == layers + 1
        seconds[layers] = min(_seconds(program) for _ in range(2))
        operations[layers] = _operations(program)
    print({n: (operations[n], round(seconds[n], 2)) for n in seconds})
    assert operations[96] > 90_000
    assert seconds[96] < 10
    assert seconds[96] / seconds[24] < 4 * 1.5


@pytest.mark.slow
def test_inspection_takes_less_than_four_times_the_memory_of_parsing(tmp_path: Path) -> None:
    small, large = tmp_path / "small.mlirbc", tmp_path / "large.mlirbc"
    small.write_bytes(lowered(2))
    large.write_bytes(lowered(96))
    parsing, inspecting = (_peak(work, small, large) for work in ("parse", "inspect"))
    print(f"parsing {parsing >> 20} MiB, inspecting {inspecting >> 20} MiB")
    assert parsing > 20 << 20, "too small a module to measure"
    assert inspecting < 4 * parsing


def _seconds(program: Program) -> float:
    """Seconds of one core from bytecode to report."""
    start = time.process_time()
    inspect_program(program)
    return time.process_time() - start


def _operations(program: Program) -> int:
    with _mlir.fresh_context():
        module = _mlir.parse(program.module)
        normalize(module)
        return sum(1 for _ in read_graph(module).ops())


_PEAK = r"""
import re, sys
import scipy.special
from pathlib import Path
import hire_compiler as hire
from hire_compiler import _mlir

def peak():
    # getrusage would begin with what the parent process held when it forked.
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

work, small, large = sys.argv[1:]
hire.inspect(small)  # everything imported and every dialect loaded
before = peak()
if work == "inspect":
    hire.inspect(large)
else:
    with _mlir.fresh_context():
        module = _mlir.parse(Path(large).read_bytes())
print(peak() - before)
"""


def _peak(work: str, small: Path, large: Path) -> int:
    """Bytes by which the peak of a fresh process rises."""
    command = [sys.executable, "-c", _PEAK, work, str(small), str(large)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    return int(done.stdout)
