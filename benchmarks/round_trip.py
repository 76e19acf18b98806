"""Rewrite every module of a folder offline at full width, run the artifacts elsewhere, and compare with dense.

``python -m benchmarks.round_trip FOLDER --python PYTHON``: FOLDER holds ``*.mlir``, ``*.mlir.gz``, ``*.vhlo`` or
``*.jax_export``; PYTHON is an interpreter that has jax, numpy, flatbuffers and safetensors and need not have this
package. Weights and inputs are random. At full width (every row a candidate) the artifact must equal dense to rounding.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

import hire_compiler as hire
from hire_compiler import _mlir
from hire_compiler.offline.source.source import read_source

# Everything that an artifact needs to run: no line of this names hire_compiler.
RUNNER = """
import sys, jax, jax.export, numpy as np
from safetensors.flax import load_file, save_file
assert sys.modules.setdefault("hire_compiler", None) is None
step = jax.export.deserialize(bytearray(open(f"{sys.argv[1]}/step.cpu.jax_export", "rb").read()))
given = load_file(sys.argv[2])
args = [given[str(i)] for i in range(len(given))]
out = jax.tree.leaves(step.call(load_file(f"{sys.argv[1]}/weights.cpu.safetensors"), *args))
save_file({str(i): jax.numpy.asarray(a) for i, a in enumerate(out)}, sys.argv[3])
"""
FULL = hire.Config(
    rules=(
        hire.Rule(kind="ffn", predictor=hire.Quantized(), density=1.0, group=1, max_batch=1 << 20),
        hire.Rule(kind="head", predictor=hire.Quantized(), density=1.0, max_batch=1 << 20),
    )
)


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Small normal floats, integers below 16: what an embedding, a norm, a position and a token can all be."""
    kind = np.dtype(jnp.dtype(dtype))
    if kind == np.bool_:
        return np.ones(shape, kind)
    if jnp.issubdtype(kind, np.integer):
        return rng.integers(0, 16, shape).astype(kind)
    scale = 1 / np.sqrt(shape[-1]) if len(shape) > 1 else 1.0
    return (rng.standard_normal(shape, np.float32) * scale).astype(kind)


def round_trip(path: Path, python: str, folder: Path, config: hire.Config) -> dict[str, Any]:
    """One module through the whole way; how it compares."""
    start = time.perf_counter()
    data = path.read_bytes()
    module = folder / path.name.removesuffix(".gz")
    module.write_bytes(gzip.decompress(data) if path.suffix == ".gz" else data)
    source = read_source(module)
    rng = np.random.default_rng(0)
    values = {name: random_array(rng, *type_) for name, type_ in zip(source.names, source.types, strict=True)}
    artifact = hire.rewrite(module, config, platforms=("cpu",))
    inputs = [entry.name for entry in artifact.manifest.inputs]
    artifact = artifact.with_weights({name: values[name] for name in artifact.manifest.sources})
    saved = artifact.save(folder / "model.folder", overwrite=True)
    save_file({str(i): values[name] for i, name in enumerate(inputs)}, folder / "in.safetensors")
    command = [python, "-c", RUNNER, str(saved), str(folder / "in.safetensors"), str(folder / "out.safetensors")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    found = load_file(folder / "out.safetensors")
    program = source.program("cpu")
    operands = [*program.constants, *(values[source.names[i]] for i in source.kept)]
    dense = jax.jit(lambda *a: _mlir.run_module(program.module, program.out_avals, a))(*operands)
    return {
        "name": path.name,
        "bf16": "bf16" in _mlir.to_text(source.module),
        "rewritten": sum(d["action"] == "rewritten" for d in artifact.report()["cpu"]["decisions"]),
        "sites": len(artifact.report()["cpu"]["sites"]),
        **compare([np.asarray(d) for d in dense], [found[str(i)] for i in range(len(dense))]),
        "seconds": time.perf_counter() - start,
    }


def compare(dense: list[np.ndarray], found: list[np.ndarray]) -> dict[str, float]:
    """Largest error relative to the largest value of its result, and the share of integers that agree."""
    error, equal, total = 0.0, 0, 0
    for wanted, got in zip(dense, found, strict=True):
        if jnp.issubdtype(wanted.dtype, np.floating):
            wide, narrow = wanted.astype(np.float64), got.astype(np.float64)
            finite = np.isfinite(wide)
            assert np.array_equal(finite, np.isfinite(narrow)), "NaN or Inf in other places than dense"
            scale = np.abs(wide[finite]).max(initial=1e-30)
            error = max(error, float(np.abs(wide - narrow)[finite].max(initial=0) / scale))
        else:
            equal, total = equal + int((wanted == got).sum()), total + wanted.size
    return {"error": error, "equal": equal, "integers": total}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="where all is float32; with bfloat16 100 times that"
    )
    options = parser.parse_args()
    modules = sorted(p for p in options.folder.iterdir() if ".mlir" in p.name or p.suffix in (".jax_export", ".vhlo"))
    failed = 0
    for path in modules:
        with tempfile.TemporaryDirectory() as folder:
            row = round_trip(path, options.python, Path(folder), FULL)
        good = row["error"] <= options.tolerance * (100 if row["bf16"] else 1) and row["equal"] == row["integers"]
        failed += not good
        kind = " (bfloat16)" if row["bf16"] else ""
        print(
            f"{row['name']:<32} {row['rewritten']:>2} of {row['sites']:>2} sites rewritten, "
            f"error {row['error']:.1e}{kind}, "
            f"integers {row['equal']} of {row['integers']}, {row['seconds']:.1f} s{'' if good else '   DIFFERENT'}",
            flush=True,
        )
    print(f"{len(modules) - failed} of {len(modules)} equal dense at full width")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
