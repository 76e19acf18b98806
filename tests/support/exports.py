"""A small exported model in every form it may come in, with its weights, for tests of the offline way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

import hire_compiler as hire
from tests.support.models import VOCABULARY, WIDTH, D

FULL = hire.Config(
    rules=tuple(hire.Rule(kind=kind, predictor=hire.Quantized(), density=1.0) for kind in ("ffn", "head"))
)
CERTIFIED = hire.Config(
    rules=(
        hire.Rule(kind="ffn", predictor=hire.Quantized(), density=1.0),
        hire.Rule(kind="head", predictor=hire.Quantized(), candidates=128, certify="strict"),
    )
)
BATCH = 2


RULES = """
[[rule]]
kind = "ffn"
predictor = { type = "Quantized", bits = 8 }
density = 1.0

[[rule]]
kind = "head"
predictor = "Quantized"
candidates = 128
certify = "strict"
"""


def step(params: dict[str, Any], tokens: jax.Array, cache: jax.Array) -> dict[str, jax.Array]:
    """A decode step: a feed-forward block with a bias, a tied head, a cache that it gives back."""
    x = params["embed"][tokens] + cache[0]
    h = x + jax.nn.relu(x @ params["mlp"]["up"] + params["mlp"]["bias"]) @ params["mlp"]["down"]
    logits = h @ params["embed"].T
    return {"token": jnp.argmax(logits, axis=-1), "best": jax.lax.top_k(logits, 1)[0][..., 0], "cache": cache + 1}


def parameters(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    mlp = {"up": normal(D, WIDTH) / 4, "down": normal(WIDTH, D) / 8, "bias": normal(WIDTH)}
    return {"embed": normal(VOCABULARY, D), "mlp": mlp}


def structs(batch: Any = BATCH) -> tuple[Any, ...]:
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), parameters())
    return params, jax.ShapeDtypeStruct((batch,), jnp.int32), jax.ShapeDtypeStruct((4, D), jnp.float32)


def exported(function: Callable[..., Any] = step, *, platforms: tuple[str, ...] = ("cpu",), batch: Any = BATCH) -> Any:
    return jax.export.export(jax.jit(function, donate_argnums=2), platforms=platforms)(*structs(batch))


def inputs(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, VOCABULARY, BATCH).astype(np.int32), rng.standard_normal((4, D), np.float32)


def dotted(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """The parameters under the names that a safetensors file would have."""
    return {"embed": params["embed"], **{f"mlp.{name}": array for name, array in params["mlp"].items()}}


def write_all(folder: Path, seed: int = 0) -> None:
    """The model in every form, its weights, inputs and rules, as files."""
    one = exported()
    (folder / "model.jax_export").write_bytes(one.serialize())
    (folder / "model.vhlo").write_bytes(one.mlir_module_serialized)
    (folder / "model.mlir").write_text(jax.jit(step).lower(*structs()).as_text())
    save_file(dotted(parameters(seed)), folder / "weights.safetensors")
    np.savez(folder / "weights.npz", **dotted(parameters(seed)))
    tokens, cache = inputs()
    np.savez(folder / "inputs.npz", tokens=tokens, cache=cache)
    (folder / "rules.toml").write_text(RULES)
