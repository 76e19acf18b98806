"""Numbers that are hard to rank: ties, neighbours one unit apart, subnormals, overflow, NaN, saturation.

Everything is made from a seeded generator, so a kind, a shape and a seed name the same array in every run.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

Array = np.ndarray
Rng = np.random.Generator

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def cast(array: Array, dtype: str) -> Array:
    """To a narrow type; what is too large becomes infinite, without a warning."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(array, np.float32).astype(DTYPES[dtype])


def largest(dtype: str) -> float:
    return float(ml_dtypes.finfo(DTYPES[dtype]).max)


def smallest(dtype: str) -> float:
    """The smallest normal number."""
    return float(ml_dtypes.finfo(DTYPES[dtype]).smallest_normal)


def neighbour(array: Array, dtype: str) -> Array:
    """The next larger number of the type, exactly one unit in the last place away."""
    return np.nextafter(array, DTYPES[dtype](np.inf), dtype=DTYPES[dtype])


# ----------------------------------------------------------------------------- weights [n, d], a row for every token


def _gaussian(rng: Rng, n: int, d: int, dtype: str) -> Array:
    return cast(rng.standard_normal((n, d)) * d**-0.5, dtype)


def _ties(rng: Rng, n: int, d: int, dtype: str) -> Array:
    """Every row stands in the matrix about eight times."""
    few = max(n // 8, 1)
    return _gaussian(rng, few, d, dtype)[rng.integers(0, few, n)]


def _neighbours(rng: Rng, n: int, d: int, dtype: str) -> Array:
    """The same, with three entries of ten one unit larger."""
    rows = _ties(rng, n, d, dtype)
    return np.where(rng.random(rows.shape) < 0.3, neighbour(rows, dtype), rows)


def _clusters(rng: Rng, n: int, d: int, dtype: str) -> Array:
    few = max(n // 32, 1)
    centres = rng.standard_normal((few, d))[rng.integers(0, few, n)]
    return cast((centres + rng.standard_normal((n, d)) * 10 ** rng.uniform(-6, -2)) * d**-0.5, dtype)


def _integers(rng: Rng, n: int, d: int, dtype: str) -> Array:
    return cast(rng.integers(-3, 4, (n, d)), dtype)


def _one_hot(rng: Rng, n: int, d: int, dtype: str) -> Array:
    rows = np.zeros((n, d))
    rows[np.arange(n), rng.integers(0, d, n)] = rng.choice([1.0, 2.0, -1.0, 1.5], n)
    return cast(rows, dtype)


def _constant_rows(rng: Rng, n: int, d: int, dtype: str) -> Array:
    """Rows of one number each, and rows of zeros among them."""
    numbers = np.where(rng.random(n) < 0.3, 0, rng.standard_normal(n))
    return cast(np.broadcast_to(numbers[:, None], (n, d)), dtype)


def _all_zero(rng: Rng, n: int, d: int, dtype: str) -> Array:
    return cast(np.zeros((n, d)), dtype)


def _all_equal(rng: Rng, n: int, d: int, dtype: str) -> Array:
    return np.broadcast_to(_gaussian(rng, 1, d, dtype), (n, d)).copy()


def _subnormal(rng: Rng, n: int, d: int, dtype: str) -> Array:
    return cast(rng.standard_normal((n, d)) * smallest(dtype) * 10 ** rng.uniform(-2, 1.5), dtype)


def _tiny(rng: Rng, n: int, d: int, dtype: str) -> Array:
    return cast(rng.standard_normal((n, d)) * smallest(dtype) * 10 ** rng.uniform(0, 3), dtype)


def _huge(rng: Rng, n: int, d: int, dtype: str) -> Array:
    scale = largest(dtype) / 6 * 10 ** rng.uniform(-3, 0)
    return cast(np.clip(rng.standard_normal((n, d)), -5, 5) * scale, dtype)


def _norm_ratios(rng: Rng, n: int, d: int, dtype: str) -> Array:
    span = 3 if dtype == "float16" else rng.choice([3, 10, 18])
    return cast(rng.standard_normal((n, d)) * 10.0 ** rng.uniform(-span, span, (n, 1)) * d**-0.5, dtype)


def _few_large_rows(rng: Rng, n: int, d: int, dtype: str) -> Array:
    rows = rng.standard_normal((n, d)) * 1e-3
    rows[rng.integers(0, n, max(n // 100, 1))] *= 10 ** rng.uniform(1, 5)
    return cast(rows, dtype)


def _spikes(rng: Rng, n: int, d: int, dtype: str) -> Array:
    """One large entry a row spoils the copy's scale for all others."""
    rows = rng.standard_normal((n, d)) * 0.05
    rows[np.arange(n), rng.integers(0, d, n)] = rng.choice([20.0, 200.0]) * rng.standard_normal(n)
    return cast(rows, dtype)


def _sorted(rng: Rng, n: int, d: int, dtype: str) -> Array:
    rows = rng.standard_normal((n, d))
    order = np.argsort(rows[:, 0]) if rng.random() < 0.5 else np.argsort(-rows[:, 0])
    return cast(rows[order], dtype)


def _saturating(rng: Rng, n: int, d: int, dtype: str) -> Array:
    """All logits of ``x = e₀`` lie close together, where a softcap is flat."""
    rows = rng.standard_normal((n, d)) * rng.choice([0.0, 0.01])
    rows[:, 0] = rng.uniform(4, 9) + rng.uniform(0, 10 ** rng.uniform(-4, 0), n)
    return cast(rows, dtype)


def _close_to_zero(rng: Rng, n: int, d: int, dtype: str) -> Array:
    """Every other row is the one before with its sign turned: logits come in pairs ±z."""
    rows = _gaussian(rng, n, d, dtype)
    rows[1::2] = -rows[: 2 * (n // 2) : 2]
    return rows


def _powers(rng: Rng, n: int, d: int, dtype: str) -> Array:
    return cast(rng.choice([-1.0, 1.0], (n, d)) * 2.0 ** rng.integers(-8, 4, (n, d)), dtype)


WEIGHTS: dict[str, Callable[[Rng, int, int, str], Array]] = {
    "gaussian": _gaussian,
    "ties": _ties,
    "neighbours": _neighbours,
    "clusters": _clusters,
    "integers": _integers,
    "one_hot": _one_hot,
    "constant_rows": _constant_rows,
    "all_zero": _all_zero,
    "all_equal": _all_equal,
    "subnormal": _subnormal,
    "tiny": _tiny,
    "huge": _huge,
    "norm_ratios": _norm_ratios,
    "few_large_rows": _few_large_rows,
    "spikes": _spikes,
    "sorted": _sorted,
    "saturating": _saturating,
    "close_to_zero": _close_to_zero,
    "powers": _powers,
}


def weights(kind: str, rng: Rng, n: int, d: int, dtype: str) -> Array:
    """Rows ``[n, d]`` of a kind; all of them finite."""
    rows = WEIGHTS[kind](rng, n, d, dtype)
    top = DTYPES[dtype](largest(dtype))
    return np.where(np.isfinite(rows), rows, np.where(rows > 0, top, -top)).astype(DTYPES[dtype])


# ------------------------------------------------------------------------------------------- inputs [d], one row each


def _plain(rng: Rng, w: Array, d: int, dtype: str) -> Array:
    return rng.standard_normal(d)


def _near_tie(rng: Rng, w: Array, d: int, dtype: str) -> Array:
    """The two best rows of a random input are brought as close together as the type allows."""
    x = rng.standard_normal(d)
    few = rng.choice(len(w), min(len(w), 512), replace=False)
    rows = np.asarray(w[few], np.float64)
    best = rows[np.argsort(-(rows @ x))[:2]]
    apart = best[0] - best[1]
    square = apart @ apart
    return x - apart * (apart @ x) / square if 0 < square < np.inf else x


def _own_row(rng: Rng, w: Array, d: int, dtype: str) -> Array:
    return np.asarray(w[rng.integers(len(w))], np.float64) * rng.choice([1, -1, 3])


def _along_error(rng: Rng, w: Array, d: int, dtype: str) -> Array:
    """In the direction in which the int8 copy of some row is wrong."""
    row = np.asarray(w[rng.integers(len(w))], np.float64)
    scale = np.abs(row).max() / 127
    return row - np.round(row / scale) * scale if scale > 0 else rng.standard_normal(d)


def _with(bad: float) -> Callable[[Rng, Array, int, str], Array]:
    def make(rng: Rng, w: Array, d: int, dtype: str) -> Array:
        x = rng.standard_normal(d)
        x[rng.integers(d)] = bad
        return x

    return make


def _both_infinities(rng: Rng, w: Array, d: int, dtype: str) -> Array:
    x = rng.standard_normal(d)
    x[rng.integers(d)], x[rng.integers(d)] = np.inf, -np.inf
    return x


def _hot(rng: Rng, w: Array, d: int, dtype: str) -> Array:
    x = np.zeros(d)
    x[rng.integers(d)] = rng.choice([1.0, -1.0, 100.0])
    return x


def _first(rng: Rng, w: Array, d: int, dtype: str) -> Array:
    x = np.zeros(d)
    x[0] = 1.0
    return x


def _very_large(rng: Rng, w: Array, d: int, dtype: str) -> Array:
    """Large enough for a product with an int8 copy to overflow, or the square of a norm."""
    top = largest(dtype)
    return np.clip(rng.standard_normal(d), -3, 3) * top / 4 * 10 ** rng.uniform(-3, 0)


def _root_large(rng: Rng, w: Array, d: int, dtype: str) -> Array:
    return rng.standard_normal(d) * largest(dtype) ** 0.5 * 10 ** rng.uniform(-1, 1)


def _very_small(rng: Rng, w: Array, d: int, dtype: str) -> Array:
    return rng.standard_normal(d) * smallest(dtype) * 10 ** rng.uniform(-2, 3)


def _root_small(rng: Rng, w: Array, d: int, dtype: str) -> Array:
    return rng.standard_normal(d) * smallest(dtype) ** 0.5 * 10 ** rng.uniform(-1, 1)


def _wide_range(rng: Rng, w: Array, d: int, dtype: str) -> Array:
    span = 3 if dtype == "float16" else rng.choice([3, 15, 30])
    return rng.standard_normal(d) * 10.0 ** rng.uniform(-span, span, d)


INPUTS: dict[str, Callable[[Rng, Array, int, str], Array]] = {
    "gaussian": _plain,
    "near_tie": _near_tie,
    "own_row": _own_row,
    "along_error": _along_error,
    "nan": _with(np.nan),
    "inf": _with(np.inf),
    "minus_inf": _with(-np.inf),
    "both_infinities": _both_infinities,
    "hot": _hot,
    "first": _first,
    "zero": lambda rng, w, d, dtype: np.zeros(d),
    "integers": lambda rng, w, d, dtype: rng.integers(-3, 4, d).astype(float),
    "constant": lambda rng, w, d, dtype: np.full(d, rng.standard_normal()),
    "very_large": _very_large,
    "root_large": _root_large,
    "very_small": _very_small,
    "root_small": _root_small,
    "wide_range": _wide_range,
}


def inputs(kinds: list[str], rng: Rng, w: Array, dtype: str) -> Array:
    """One row of input ``[len(kinds), d]`` for each kind."""
    d = w.shape[1]
    with np.errstate(all="ignore"):
        return cast(np.stack([INPUTS[kind](rng, w, d, dtype) for kind in kinds]), dtype)


def input_kinds(rng: Rng, count: int, plain_share: float) -> list[str]:
    """Kinds for so many rows: plain ones, and all others equally often."""
    others = [kind for kind in INPUTS if kind != "gaussian"]
    plain = rng.random(count) < plain_share
    return ["gaussian" if p else others[i] for p, i in zip(plain, rng.integers(0, len(others), count), strict=True)]
