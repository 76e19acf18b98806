"""The float64 answer of a head, and how far a float32 program may be from it."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from tests.fuzz import values
from tests.fuzz.heads import STEPS, Head

Array = np.ndarray
EPS = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
TINY = 2.0**-126
TOP = 3.0e38
UNPROVEN = 2.0**60  # of weights and inputs with a larger norm no bound is known


@dataclass(frozen=True)
class Answer:
    """What the program compares, in float64.

    Attributes:
      compared: ``[rows, V]``.
      slack: τ of the product, ``[rows]``, in units of what is compared: what two sums of d products, the storage of the
        result and flushed subnormals can move two values apart.
      rounding: of everything behind (and before) the product, ``[rows]``.
      wild: rows that hold NaN or infinities, or numbers so large that a result overflows or nothing is proven of it:
        dense says what comes out, ``[rows]``.
      open: rows where a float32 sum may overflow on the way, so that its order (or what is flushed) decides,
        ``[rows]``.
      factor: what the code behind the product multiplies a difference of logits by, at most.
    """

    compared: Array
    slack: Array
    rounding: Array
    wild: Array
    open: Array
    factor: Array


def answer(program: Head, p: dict[str, Array], x: Array, q: dict[str, Array]) -> Answer:
    """Follow the program in float64. Only for programs whose inputs do not depend on tokens."""
    steps = STEPS if program.loop == "scan" else 1
    rows = x[:, -1] if program.loop == "last" else x.reshape(-1, program.d)
    with np.errstate(all="ignore"):
        return _answer(program, p, rows.astype(np.float64), q, steps)


@dataclass(frozen=True)
class _Matrix:
    """What one set of weights contributes to every answer, and takes longer to compute than the rest of it."""

    wide: Array
    sizes: Array
    norm: float
    length: float
    subnormal: bool

    @classmethod
    def of(cls, w: Array) -> _Matrix:
        sizes = np.abs(w)
        return cls(
            w, sizes, np.linalg.norm(w, axis=1).max(), sizes.sum(1).max(), bool((sizes[sizes != 0] < TINY).any())
        )


_last: list[tuple[dict[str, Array], _Matrix]] = []  # of the weights that were asked for last


def _matrix(program: Head, p: dict[str, Array]) -> _Matrix:
    if not _last or _last[0][0] is not p:
        _last[:] = [(p, _Matrix.of(program.matrix(p).astype(np.float64)))]
    return _last[0][1]


def _tiled(array: Array, steps: int) -> Array:
    return np.tile(array.astype(np.float64), (steps, 1))


def _answer(program: Head, p: dict[str, Array], x: Array, q: dict[str, Array], steps: int) -> Answer:
    matrix = _matrix(program, p)
    eps = EPS[program.dtype]
    x, before, gain = _before(program, p, x, eps)
    norms, length = matrix.norm, np.linalg.norm(x, axis=1)
    z = x @ matrix.wide.T
    finite = np.where(np.isfinite(x), x, 0)
    sums = (np.abs(finite) @ matrix.sizes.T).max(1)
    unit = program.d * 2.0**-24
    wide_result = program.form in ("wide_result", "wide_operands")
    store = 0.0 if program.dtype == "float32" or wide_result else eps
    flushed = TINY * (np.abs(x).sum(1) + gain * matrix.length + 2 * program.d + 2)
    top = np.where(np.isfinite(z), np.abs(z), 0).max(1)
    slack = 2 * unit / (1 - unit) * norms * length + store * top + flushed
    if store and len(x) == 1 and jax.default_backend() != "cpu":
        slack = slack + eps / 2 * norms * length  # a GPU rounds each term of such a product
    if store and program.dtype == "float16":
        slack = slack + 2.0**-24  # what is smaller is stored as zero
    limit = values.largest("float16") if program.dtype == "float16" and not wide_result else TOP
    wild = ~(sums < limit / 2) | ~(np.maximum(norms, length) < UNPROVEN)
    state = _State(z, before * norms * length, np.ones(len(z)), store, limit)
    for name, constant in program.after:
        _after(program, name, constant, state, p, q, steps)
    wild |= np.isnan(state.z).any(1) | (np.isfinite(state.z) & (np.abs(state.z) > state.limit / 2)).any(1)
    open_ = ~(sums < TOP / 2)
    if matrix.subnormal:
        open_ |= ~np.isfinite(length)  # infinity times a subnormal weight, which may be flushed
    return Answer(state.z, slack * state.factor, state.room, wild, open_, state.factor)


def _before(program: Head, p: dict[str, Array], x: Array, eps: float) -> tuple[Array, float, Array | float]:
    """The input of the product, its relative error, and by how much a number that is flushed before it counts more."""
    if program.before == "scaled":
        return x * float(values.cast(np.array(0.7), program.dtype)), 2 * eps, 1.0
    if program.before == "normed":
        size = np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)
        g = p["g"].astype(np.float64)
        return x / size * g, 6 * eps, 1 + np.abs(g).max() / size[:, 0]
    if program.before == "added":
        return x + p["g"].astype(np.float64), 2 * eps, 1.0
    return x, 0.0, 1.0


class _State:
    """The values on their way, with what their roundings may have added up to."""

    def __init__(self, z: Array, room: Array, factor: Array, store: float, limit: float) -> None:
        self.z, self.room, self.factor, self.store, self.limit = z, room, factor, store, limit

    def round(self, eps: float, ulps: float = 1.0) -> None:
        self.room = self.room + ulps * (eps * np.where(np.isfinite(self.z), np.abs(self.z), 0).max(1) + self.least)

    @property
    def least(self) -> float:
        """Half a step between the smallest numbers."""
        return 2.0**-25 if self.store == EPS["float16"] else TINY

    def scale(self, by: Array | float) -> None:
        self.room, self.factor = self.room * np.abs(by), self.factor * np.abs(by)


def _after(program: Head, name: str, c: float, s: _State, p: dict[str, Array], q: dict[str, Array], steps: int) -> None:
    eps = EPS[program.dtype]
    narrow = eps if s.store else EPS["float32"]
    if name in ("bias", "wide_bias", "mask_bias"):
        s.round(narrow)  # of what is added to
        s.z = s.z + p[name].astype(np.float64)
        if name == "wide_bias":
            s.store, s.limit = 0.0, TOP
    elif name in ("widen", "carried"):
        s.store, s.limit = 0.0, TOP
    elif name == "scale":
        s.z = s.z * c
        s.scale(c)
    elif name == "negative":
        s.z = -s.z
    elif name == "temperature":
        t = _tiled(q["t"], steps)
        s.z = s.z / t
        s.scale(1 / t[:, 0])
    elif name == "softcap":
        s.z = c * np.tanh(s.z / c)
        s.round(narrow, 8)
        s.room = s.room + 2 * c * s.least  # of z / c and of its tanh, before they are multiplied
    elif name == "tanh":
        s.z = np.tanh(s.z)
        s.round(narrow, 8)
    elif name == "clip":
        s.z = np.clip(s.z, -c, c)
    elif name == "mask":
        s.z = np.where(np.tile(q["mask"], (steps, 1)), s.z, -np.inf)
    elif name == "finite_mask":
        low = -6e4 if eps == EPS["float16"] and s.store else -1e9
        kept = p["keep"]
        room = s.room + 2 * narrow * np.where(np.isfinite(s.z), np.abs(s.z), 0)[:, kept].max(1, initial=0)
        s.z = np.where(kept, s.z, low)
        s.room = room
        return
    elif name in ("softmax", "log_softmax"):
        # Both keep the order; what is far below the best may become an exact zero, so it counts as one value.
        s.round(narrow, 4)
        s.z = np.maximum(s.z - s.z.max(1, keepdims=True), -80 if eps != EPS["float16"] or not s.store else -10)
        s.room = s.room + 16 * narrow * (1 if name == "softmax" else np.abs(s.z).max(1) + 20)
    elif name == "gumbel":
        s.round(narrow, 2)
        kind = program.dtype if s.store else "float32"
        shape = (len(s.z) // steps, s.z.shape[1])
        s.z = s.z + _tiled(np.asarray(jax.random.gumbel(jax.random.key(q["seed"]), shape, kind)), steps)
    s.round(narrow, 2)
