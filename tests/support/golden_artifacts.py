"""Artifacts of each release, kept to see that every later one still loads them.

``python -m tests.support.golden_artifacts`` makes those of the version that runs, in ``tests/artifacts/VERSION``: do so
once, right before a release. What an earlier release wrote is never made again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire

FOLDER = Path(__file__).parents[1] / "artifacts"
D, WIDTH, ROWS, BATCH = 8, 32, 64, 2


def head(w: dict[str, Any], x: Any) -> Any:
    """A certified head: the tokens of dense."""
    return jnp.argmax(x @ w["embed"].T, axis=-1)


def block(w: dict[str, Any], x: Any) -> Any:
    """A block that skips only zeros."""
    return x + jax.nn.relu(x @ w["up"]) @ w["down"]


KINDS: dict[str, tuple[Callable[..., Any], hire.Rule]] = {
    "certified_head": (head, hire.Rule(kind="head", predictor=hire.Quantized(), candidates=8, certify="strict")),
    "exact_block": (block, hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.25)),
    "low_rank_block": (block, hire.Rule(kind="ffn", predictor=hire.LowRank(rank=1), density=0.25)),
}


def weights_of(function: Callable[..., Any]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    if function is block:
        return {"up": rng.standard_normal((D, WIDTH), np.float32), "down": rng.standard_normal((WIDTH, D), np.float32)}
    return {"embed": rng.standard_normal((ROWS, D), np.float32)}


def make(folder: Path) -> None:
    """Every kind of artifact, with inputs and what it returned for them."""
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_traceback_in_locations_limit", 0)  # no paths of the machine that makes them
    for name, (function, rule) in KINDS.items():
        weights = weights_of(function)
        x = np.random.default_rng(1).standard_normal((BATCH, D), np.float32)
        types = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (weights, x))
        exported = jax.export.export(jax.jit(function), platforms=["cpu"])(*types)
        artifact = hire.rewrite(exported, hire.Config(rules=(rule,)), weights={"w": weights})
        actions = [decision["action"] for decision in artifact.report()["cpu"]["decisions"]]
        if actions != ["rewritten"]:
            raise SystemExit(f"{name}: {actions} where one site should be rewritten")
        artifact.save(folder / f"{name}.hire", overwrite=True)
        results = {f"result{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(artifact(x)))}
        np.savez_compressed(folder / f"{name}.npz", **{f"w.{n}": a for n, a in weights.items()}, x=x, **results)  # type: ignore[arg-type]
        print(folder / f"{name}.hire")


if __name__ == "__main__":
    target = FOLDER / hire.__version__
    if target.exists() and "--again" not in sys.argv:
        raise SystemExit(f"{target} exists: artifacts of a release stay as they are (--again before it is released)")
    make(target)
