"""Dense forms in an artifact: they run with the weights as they were, and from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn

D, LAYERS = 384, 2


def scanned(w: dict[str, Any], x: Any) -> Any:
    return jax.lax.scan(lambda x, own: (jnp.tanh(x @ own["q"]) + x @ own["o"].T, None), x, w)[0]


def several(w: dict[str, Any], x: Any) -> Any:
    for layer in range(LAYERS):
        x = jnp.tanh(x @ w[f"q{layer}"]) + x @ w[f"o{layer}"].T
    return x


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("original", [scanned, several])
def test_an_artifact_reads_in_dense_forms(rng: np.random.Generator, tmp_path: Path, original: Any, rows: int) -> None:
    stacks = {name: drawn(rng.standard_normal((LAYERS, D, D)) / 20, jnp.bfloat16) for name in ("q", "o")}
    apart = {f"{name}{layer}": stack[layer] for name, stack in stacks.items() for layer in range(LAYERS)}
    w = stacks if original is scanned else apart
    x = drawn(rng.standard_normal((rows, D)), jnp.bfloat16)
    exported = jax.export.export(jax.jit(original))(w, x)
    named = {f"w['{name}']": array for name, array in w.items()}
    artifact = hire.rewrite(exported, hire.Config(dense_forms=True), weights=named, platforms=("cpu",))
    assert len(artifact.report()["cpu"]["respelled"]) == len(w)
    loaded = hire.load(artifact.save(tmp_path / "model.hire"))
    got = loaded(x)
    np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(original(w, x), np.float32), atol=0.05)
