"""A greedy head by itself: every dense form that XLA has for it, and the rewritten ones.

Three copies of the weights take turns, so that what is read does not stay in the card's cache. The states lean towards
a row each, as those of a language model do; otherwise no logit would stand out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import hire_compiler as hire
from benchmarks.gpu.measure import Clock, Row, Run, Table, kernels

COPIES, STATES = 3, 16
Dense = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Shape:
    """A head: ``precision`` None is JAX's default, which on a GPU multiplies float32 as TF32."""

    rows: int
    d: int
    dtype: str = "bfloat16"
    precision: str | None = None
    batch: int = 1

    def __str__(self) -> str:
        asked = f" ({self.precision} precision)" if self.precision else ""
        return f"Head {self.d}→{self.rows}, {self.dtype}{asked}, batch {self.batch}"


# The most telling first: time may run out.
SHAPES = (
    Shape(262144, 1152), Shape(262144, 1152, batch=8), Shape(128256, 2048), Shape(131072, 640),
    Shape(262144, 1152, "float32", "highest"), Shape(262144, 1152, "float32"), Shape(128256, 4096),
    Shape(131072, 640, batch=8), Shape(262144, 1152, "float32", batch=8), Shape(128256, 2048, batch=8),
    Shape(131072, 640, "float32"), Shape(262144, 1152, "float32", "highest", batch=8), Shape(128256, 4096, batch=8),
    Shape(131072, 640, "float32", batch=8),
)  # fmt: skip
RULES: dict[str, hire.Rule] = {
    "certified, strict": hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=128, certify="strict"),
    "Quantized(8), not certified": hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=256),
    "LowRank(256), int8": hire.Rule(kind="head", predictor=hire.LowRank(rank=256, dtype="int8"), candidates=256),
}


def heads(clock: Clock, quick: bool) -> Iterator[dict[str, Any]]:
    """One table a shape."""
    shapes = (Shape(32768, 256), Shape(65536, 256, "float32", "highest")) if quick else SHAPES
    for shape in shapes:
        if clock.is_over():
            yield {"title": str(shape), "dense_bytes": 0, "rows": [], "note": "left out: no time was left"}
            continue
        yield _table(shape, clock)


def _table(shape: Shape, clock: Clock) -> dict[str, Any]:
    weights, states = _arrays(shape)
    table = Table(str(shape), weights[0].nbytes, clock)
    written = _written(shape)
    wanted = jax.jit(written)
    expected = np.stack([np.asarray(wanted(weights[0], x)) for x in states])
    for form, (head, by_columns) in _dense(shape).items():
        stored = [jnp.asarray(w.T.copy()) for w in weights] if by_columns else weights
        table.add(form, "dense", lambda row, head=head, stored=stored: _dense_run(row, head, stored, states, expected))
    steps = {}
    for form, rule in RULES.items():
        step = steps[form] = hire.transform(jax.jit(written), hire.Config(rules=(rule,)))
        table.add(form, "hire", lambda row, step=step: _hire_run(row, step, weights, states, expected))
    first = next(iter(RULES))
    if first in table.runs:
        step = steps[first]
        planned = next(row.nbytes for row in table.rows if row.form == first)
        table.add(f"{first}, called directly", "direct", lambda row: _direct(row, step, weights[0], states), planned)
    table.measure()
    return table.to_dict()


def _arrays(shape: Shape) -> tuple[list[jax.Array], list[jax.Array]]:
    keys = jax.random.split(jax.random.key(shape.rows + shape.d), 4)
    w = (jax.random.normal(keys[0], (shape.rows, shape.d), jnp.float32) * shape.d**-0.5).astype(shape.dtype)
    noise = jax.random.normal(keys[1], (STATES * shape.batch, shape.d), jnp.float32)
    own = w[jax.random.randint(keys[2], (len(noise),), 0, shape.rows)].astype(jnp.float32)
    lean = jax.random.uniform(keys[3], (len(noise), 1), minval=5.0, maxval=12.0)
    x = (noise + lean * own).astype(shape.dtype)
    return [w, *(jnp.copy(w) for _ in range(COPIES - 1))], list(x.reshape(STATES, shape.batch, shape.d))


def _product(shape: Shape) -> Callable[..., jax.Array]:
    def product(a: jax.Array, b: jax.Array, contracted: tuple[int, int], **options: Any) -> jax.Array:
        dimensions = (((contracted[0],), (contracted[1],)), ((), ()))
        precision = lax.Precision.HIGHEST if shape.precision == "highest" else None
        return lax.dot_general(a, b, dimensions, precision=precision, **options)

    return product


def _written(shape: Shape) -> Callable[[jax.Array, jax.Array], jax.Array]:
    def greedy(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.argmax(jnp.dot(x, w.T, precision=shape.precision), axis=-1)

    return greedy


def _dense(shape: Shape) -> dict[str, tuple[Dense, bool]]:
    """By form: from (weights, x) to tokens, and whether the weights lie as ``[d, V]``."""
    product, narrow = _product(shape), jnp.dtype(shape.dtype)

    def padded(w: jax.Array, x: jax.Array) -> jax.Array:
        return product(jnp.pad(x, ((0, 16 - len(x)), (0, 0))), w, (1, 1))[: len(x)]

    def reduced(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(w.astype(jnp.float32) * x.astype(jnp.float32), axis=-1).astype(narrow)[None]

    logits: dict[str, tuple[Dense, bool]] = {
        "dense, as written: x @ w.T": (lambda w, x: product(x, w, (1, 1)), False),
        "dense, [d, V]: x @ w": (lambda w, x: product(x, w, (1, 0)), True),
        "dense, float32 result": (
            lambda w, x: product(x, w, (1, 1), preferred_element_type=jnp.float32).astype(narrow), False,
        ),
        "dense, rows first": (lambda w, x: product(w, x, (1, 1)).T, False),
    }  # fmt: skip
    if shape.batch == 1:
        logits["dense, padded to 16 rows"] = (padded, False)
        logits["dense, multiplied and reduced"] = (reduced, False)
    return {
        name: (lambda w, x, form=form: jnp.argmax(form(w, x), axis=-1), by_columns)
        for name, (form, by_columns) in logits.items()
    }


def _dense_run(row: Row, head: Dense, stored: list[jax.Array], states: list[jax.Array], expected: np.ndarray) -> Run:
    compiled = jax.jit(head).lower(stored[0], states[0]).compile()
    row.kernels = kernels(compiled.as_text() or "")
    row.equal = _equal([compiled(stored[0], x) for x in states], expected)
    pairs = cycle([(stored[i % len(stored)], x) for i, x in enumerate(states)])
    return lambda: compiled(*next(pairs))


def _hire_run(
    row: Row, step: Any, weights: list[jax.Array], states: list[jax.Array], expected: np.ndarray
) -> Run | None:
    (decision,) = step.report(weights[0], states[0]).decisions
    if decision.action != "rewritten":
        row.note = f"left dense: {decision.reason}"
        return None
    row.nbytes, row.note = decision.sparse_bytes, decision.exactness
    prepared = step.prepare(weights[0], states[0])
    sets = [(w, jax.tree.map(jnp.copy, prepared) if i else prepared) for i, w in enumerate(weights)]
    outer = jax.jit(lambda w, x, q: step(w, x, prepared=q)).lower(weights[0], states[0], prepared).compile()
    row.kernels = kernels(outer.as_text() or "")
    row.equal = _equal([outer(weights[0], x, prepared) for x in states], expected)
    calls = cycle([(*sets[i % len(sets)], x) for i, x in enumerate(states)])

    def run() -> Any:
        w, q, x = next(calls)
        return outer(w, x, q)

    return run


def _direct(row: Row, step: Any, w: jax.Array, states: list[jax.Array]) -> Run:
    for x in states:
        step(w, x)
    row.proofs = held(step)
    xs = cycle(states)
    return lambda: step(w, next(xs))


def held(step: Any) -> str:
    """How often the proofs of a step held, ``"rows held of rows"`` over all its sites."""
    certificates = step.report().certificates
    return f"{sum(c.proven for c in certificates)} of {sum(c.rows for c in certificates)}" if certificates else ""


def _equal(tokens: list[jax.Array], expected: np.ndarray) -> str:
    got = np.stack([np.asarray(t) for t in tokens])
    return f"{int((got == expected).sum())} of {expected.size}"
