"""The programs that run on a lent GPU: what fails is noted, what is measured is rendered, errors are seen."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu.measure import Clock, Row, Table, kernels
from benchmarks.gpu.page import page, short
from benchmarks.gpu_checks import functions, heads, products


def table_of_three() -> dict[str, Any]:
    """One form that runs, one that raises when it is built, one for which no time is left."""

    def fails(row: Row) -> Any:
        raise RuntimeError("no room")

    clock = Clock(60.0)
    table = Table("A product", 1000, clock)
    doubled = jax.jit(lambda x: 2 * x)
    table.add("dense, as written", "dense", lambda row: lambda: doubled(jnp.ones(4)))
    table.add("dense, other", "dense", fails)
    clock.seconds = 0.0
    table.add("late", "hire", lambda row: lambda: doubled(jnp.ones(4)))
    table.measure()
    return table.to_dict()


def test_a_form_that_fails_does_not_stop_the_others() -> None:
    runs, fails, late = table_of_three()["rows"]
    assert runs["chained_us"] > 0
    assert runs["single_us"] > 0
    assert fails["note"] == "RuntimeError: no room"
    assert late["note"] == "left out: no time was left"
    assert fails["chained_us"] == late["chained_us"] == 0


def test_a_page_without_a_gpu_says_so() -> None:
    machine = {"device": "cpu", "platform": "cpu", "jax": "1", "jaxlib": "1", "date": "today"}
    found = {"machine": machine, "quick": False, "tables": {"head": [table_of_three()]}}
    assert "not a measurement" in page(found)
    assert "RuntimeError: no room" in page(found)
    assert "RuntimeError: no room" in short(found["tables"]["head"][0])


def test_kernels_are_read_off_a_compiled_program() -> None:
    compiled = jax.jit(lambda x: jnp.sort(x) + 1).lower(jnp.ones((8, 64))).compile()
    assert any("sort" in line for line in kernels(compiled.as_text()))


def test_a_rounded_function_is_seen_as_off() -> None:
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, 1000), jnp.float32)
    with jax.enable_x64(True):
        truth = jnp.exp(x.astype(jnp.float64))
        rounded = jax.lax.reduce_precision(jnp.exp(x), exponent_bits=8, mantissa_bits=20)
        assert float(functions._worst(x, rounded, truth, "float32")["units"]) > 2
        assert float(functions._worst(x, truth.astype(jnp.float32), truth, "float32")["units"]) <= 0.5


def test_a_product_of_rounded_operands_is_seen_as_off() -> None:
    rows, make = (
        side(np.random.default_rng(0), 64, *more) for side, more in zip(products.KINDS["between"], ((), (2,)))
    )

    def coarse(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10) @ w.T

    spec = products.FORMS["float32, highest"]
    with jax.enable_x64(True):
        good = products._error(products._product(spec, "[V, d]"), spec, "[V, d]", make, rows)
        bad = products._error(coarse, spec, "[V, d]", make, rows)
    assert good["units"] <= 64
    assert bad["tf32"] > 0.05
    assert bad["units"] > 64


@pytest.mark.slow
def test_rows_of_signs_are_told_apart() -> None:
    found = heads.rows_of_signs(4, calls=8)
    assert found["wrong"] == 0
    assert found["proven"] > 0
