"""What stays dense is respelled where that was asked for: the author's products, in the form that a CPU reads best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.drawn import drawn

D, WIDE, LAYERS = 256, 512, 2
FORMS = hire.Config(dense_forms=True)


def projections(w: dict[str, Any], x: Any) -> Any:
    """By columns, with heads as dimensions; and by rows."""
    q = jnp.einsum("bd,dhk->bhk", x, w["q"])
    return x + jnp.tanh(q.reshape(len(x), -1)) @ w["o"].T


def scanned(w: dict[str, Any], x: Any) -> Any:
    return jax.lax.scan(lambda x, own: (projections(own, x), None), x, w)[0]


def several(w: list[dict[str, Any]], x: Any) -> Any:
    for own in w:
        x = projections(own, x)
    return x


def token(w: dict[str, Any], head: Any, x: Any) -> Any:
    y = scanned(w, x)
    return y, jnp.argmax(y @ head.T, axis=-1)


def weights(rng: np.random.Generator, dtype: str = "bfloat16") -> dict[str, Any]:
    shapes = {"q": (LAYERS, D, 4, WIDE // 4), "o": (LAYERS, D, WIDE)}
    return {name: drawn(rng.standard_normal(s) / 20, dtype) for name, s in shapes.items()}


def unstacked(w: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: array[i] for name, array in w.items()} for i in range(LAYERS)]


def inputs(rng: np.random.Generator, rows: int = 1, dtype: str = "bfloat16") -> Any:
    return drawn(rng.standard_normal((rows, D)), dtype)


@pytest.mark.diagonal(keep=2)
@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize(("original", "stacked"), [(scanned, True), (several, False)], ids=["scan", "unrolled"])
def test_every_projection_is_respelled_and_within_a_rounding(
    rng: np.random.Generator, original: Callable[..., Any], stacked: bool, rows: int
) -> None:
    w, x = weights(rng), inputs(rng, rows)
    given = w if stacked else unstacked(w)
    step = hire.transform(original, FORMS)
    got = step(given, x)
    report = step.report()
    assert got.dtype == jnp.bfloat16
    assert len(report.respelled) == (2 if stacked else 2 * LAYERS)
    assert sum(r.nbytes for r in report.respelled) == sum(a.nbytes for a in w.values())
    assert {r.form.split(",")[0] for r in report.respelled} == {"rows", "columns"}
    assert "respelled" in str(report).splitlines()[0]
    assert not any("runs unchanged" in note for note in report.notes)
    wide = original(*jax.tree.map(lambda a: a.astype(jnp.float32), (given, x)))
    off = [np.abs(np.asarray(y, np.float32) - wide).max() for y in (got, jax.jit(original)(given, x))]
    assert off[0] < 2 * off[1] + 1e-3  # no further from the real numbers than the author's own


@pytest.mark.parametrize(("rows", "form", "weight"), [(1, "columns", "q"), (4, "rows", "o")])
@pytest.mark.parametrize(("original", "stacked"), [(scanned, True), (several, False)], ids=["scan", "unrolled"])
def test_float32_is_respelled_where_the_author_s_form_is_slow(
    rng: np.random.Generator, original: Callable[..., Any], stacked: bool, rows: int, form: str, weight: str
) -> None:
    w, x = weights(rng, "float32"), inputs(rng, rows, "float32")
    given = w if stacked else unstacked(w)
    step = hire.transform(original, FORMS)
    got = step(given, x)
    respelled = step.report().respelled
    assert {r.form.split(",")[0] for r in respelled} == {form}
    assert all(weight in r.weight for r in respelled)
    np.testing.assert_allclose(got, jax.jit(original)(given, x), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("config", "rows", "dtype"),
    [(hire.Config(), 1, "bfloat16"), (FORMS, 17, "bfloat16"), (FORMS, 6, "float32"), (FORMS, 1, "float16")],
    ids=["not asked for", "many rows", "several float32 rows", "float16"],
)
def test_other_products_stay_as_they_are(rng: np.random.Generator, config: hire.Config, rows: int, dtype: str) -> None:
    step = hire.transform(several, config)
    report = step.report(unstacked(weights(rng, dtype)), inputs(rng, rows, dtype))
    assert report.respelled == ()
    assert "off" in str(report).splitlines()[0]


def test_weights_may_change_and_hold_anything(rng: np.random.Generator) -> None:
    step, x = hire.transform(scanned, FORMS), inputs(rng)
    step(weights(rng), x)
    other = weights(rng)
    other["q"] = other["q"].at[1, 3, 2, 1].set(jnp.nan)
    np.testing.assert_array_equal(jnp.isnan(step(other, x)), jnp.isnan(scanned(other, x)))


@pytest.mark.slow
def test_beside_a_strict_head_the_token_is_that_of_its_own_input(rng: np.random.Generator) -> None:
    w, head = weights(rng), drawn(rng.standard_normal((16384, D)), jnp.bfloat16)
    step = hire.transform(token, FORMS)
    dense = jax.jit(lambda y: jnp.argmax(y @ head.T, axis=-1))
    for _ in range(4):
        x = inputs(rng)
        y, chosen = step(w, head, x)
        assert int(chosen[0]) == int(dense(y)[0])
    assert len(step.report().rewritten) == 1


def test_a_report_offers_what_is_not_done_unasked(rng: np.random.Generator) -> None:
    big = {"up": drawn(rng.standard_normal((1024, 1024)), jnp.bfloat16)}
    x = jnp.ones((1, 1024), jnp.bfloat16)

    def project(w: dict[str, Any], x: Any) -> Any:
        return jnp.tanh(x @ w["up"])

    (offer,) = [n for n in hire.transform(project).report(big, x).notes if "dense_forms" in n]
    assert offer.startswith("1 product that stays dense, 2.1 MB a call, could be read faster")
    assert not [n for n in hire.transform(project, FORMS).report(big, x).notes if "dense_forms" in n]
