"""Fixtures that the tests of this folder share."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from tests.support.models import (
    weights,
)


@pytest.fixture
def params(rng: np.random.Generator) -> dict[str, Any]:
    return weights(rng)


# Compilations by XLA in this process, counted by JAX's own monitoring.
_COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_args, **_more: _COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


@pytest.fixture
def compilations() -> list[str]:
    _COMPILED.clear()
    return _COMPILED
