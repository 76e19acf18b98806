"""Rewrite and prepare a model of about a billion parameters offline: seconds and the most memory it took.

``python -m benchmarks.offline [--layers 16] [--folder DIR]``: makes a decoder with random weights (written one
tensor at a time), then runs the ``rewrite`` verb of the command line on it in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from hire_compiler.offline.disk.tensor_files import TensorWriter
from hire_compiler.offline.disk.tensors import TensorSpec

VOCABULARY, D, HEADS, LENGTH = 128256, 2048, 16, 256
RULES = """
[[rule]]
kind = "ffn"
predictor = { type = "LowRank", rank = 256 }
density = 0.09

[[rule]]
kind = "head"
predictor = { type = "Quantized", bits = 8 }
candidates = 256
certify = "strict"
"""


def shapes(layers: int, dtype: Any) -> dict[str, Any]:
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
    one = {"q": struct(D, D), "k": struct(D, D // 4), "v": struct(D, D // 4), "o": struct(D, D), "norm": struct(D)}
    one |= {"up": struct(D, 4 * D), "down": struct(4 * D, D)}
    return {"embed": struct(VOCABULARY, D), "layers": [one] * layers}


def step(params: Any, token: jax.Array, keys: jax.Array, values: jax.Array, position: jax.Array) -> Any:
    """One greedy step of a ReLU decoder with grouped attention."""
    x = params["embed"][token].astype(jnp.float32)
    for i, layer in enumerate(params["layers"]):
        h = x * jax.lax.rsqrt(jnp.mean(x * x) + 1e-6) * layer["norm"]
        q = (h @ layer["q"]).reshape(HEADS // 4, 4, D // HEADS)
        keys = keys.at[i, position].set((h @ layer["k"]).reshape(HEADS // 4, -1).astype(keys.dtype))
        values = values.at[i, position].set((h @ layer["v"]).reshape(HEADS // 4, -1).astype(values.dtype))
        scores = jnp.einsum("ghd,tgd->ght", q, keys[i]) / np.sqrt(D // HEADS)
        scores = jnp.where(jnp.arange(LENGTH) <= position, scores, -1e9)
        mixed = jnp.einsum("ght,tgd->ghd", jax.nn.softmax(scores), values[i]).reshape(1, D)
        x = x + mixed @ layer["o"]
        h = x * jax.lax.rsqrt(jnp.mean(x * x) + 1e-6) * layer["norm"]
        x = x + jax.nn.relu(h @ layer["up"]) @ layer["down"]
    return jnp.argmax(x @ params["embed"].T, axis=-1).astype(jnp.int32), keys, values


def write_model(folder: Path, layers: int, dtype: str) -> int:
    """The export and the weights file; how many parameters there are."""
    params = shapes(layers, jnp.dtype(dtype))
    cache = jax.ShapeDtypeStruct((layers, LENGTH, HEADS // 4, D // HEADS), jnp.float32)
    token, position = jax.ShapeDtypeStruct((1,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    one = jax.export.export(jax.jit(step, donate_argnums=(2, 3)))(params, token, cache, cache, position)
    (folder / "model.jax_export").write_bytes(one.serialize())
    (folder / "rules.toml").write_text(RULES)
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    specs = {
        ".".join(str(getattr(k, "key", getattr(k, "idx", ""))) for k in path): TensorSpec(leaf.shape, dtype)
        for path, leaf in leaves
    }
    rng = np.random.default_rng(0)
    with (folder / "weights.safetensors").open("wb") as file:
        writer = TensorWriter(file, specs, {})
        for name, spec in specs.items():
            array = rng.standard_normal(spec.shape, np.float32) / np.sqrt(D)
            writer.write(name, array.astype(jnp.dtype(dtype)))
    return sum(int(np.prod(spec.shape)) for spec in specs.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=17)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary directory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        count = write_model(folder, options.layers, options.dtype)
        size = (folder / "weights.safetensors").stat().st_size / 1e9
        print(f"{count / 1e9:.2f} billion parameters, {options.dtype}, {size:.2f} GB", flush=True)
        command = [sys.executable, "-m", "hire_compiler", "rewrite", str(folder / "model.jax_export")]
        command += ["--weights", str(folder / "weights.safetensors"), "--rules", str(folder / "rules.toml")]
        command += ["--platform", "cpu", "--force", "--json", "-o", str(folder / "model.hire")]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        made = json.loads(done.stdout)["files"]["weights.cpu.safetensors"]["bytes"] / 1e9
        print(f"rewritten and prepared in {seconds:.0f} s, at most {peak:.2f} GB in memory, {made:.2f} GB of weights")


if __name__ == "__main__":
    main()
