"""What the tests of the offline way share."""

from __future__ import annotations

from typing import Any

import jax
import jax.export
import numpy as np

import hire_compiler as hire


def same(found: Any, wanted: Any) -> None:
    found, wanted = jax.tree.leaves(found), jax.tree.leaves(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def rewritten(artifact: hire.Artifact, platform: str = "cpu") -> list[str]:
    return [d["site"] for d in artifact.report()[platform]["decisions"] if d["action"] == "rewritten"]
