"""Run one feed-forward block as written and rewritten, on many inputs and several sets of weights, and compare."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from tests.fuzz import check_heads
from tests.fuzz.blocks import GATED, PLAIN, Block
from tests.fuzz.check_heads import Fault, Outcome, Place, on_one_device
from tests.fuzz.oracle import EPS, TINY

Array = np.ndarray
SQUARES = ("relu2", "other_squared")


def build(program: Block) -> tuple[Any, Any]:
    """The author's jitted program, and the transformed one."""
    scope: dict[str, Any] = {"jax": jax, "jnp": jnp, "hire": hire}
    exec(compile(program.source(), "<fuzz>", "exec"), scope)
    dense = jax.jit(scope["step"])
    return dense, hire.transform(dense, eval(program.config_source(), {"hire": hire}))


def run(program: Block, rows: int = 200, stop_after: int = 3, place: Place = on_one_device) -> Outcome:
    """Compare one program on many calls; gives up after a few faults."""
    outcome = Outcome(mode="block " + program.rule)
    dense, step = build(program)
    rng = np.random.default_rng(program.seed)
    each = -(-rows // (program.rows_a_call * len(program.weight_kinds)))
    for kind in program.weight_kinds:
        p = program.weights(kind, rng)
        placed = {name: place(name, array) for name, array in p.items()}
        for _ in range(each):
            x, q, kinds = program.call(rng, p)
            try:
                got = np.asarray(step(placed, place("x", x), q)[0])
            except hire.HireError as error:
                outcome.status, outcome.note = "refused", str(error)
                if program.rule == "default":
                    outcome.faults.append(Fault(f"the default refuses: {str(error)[:200]}", program, p, x, q))
                return outcome
            except Exception as error:
                outcome.faults.append(Fault(f"raises {type(error).__name__}: {str(error)[:200]}", program, p, x, q))
                return outcome
            if outcome.rows == 0 and not step.report().rewritten:
                outcome.status = "dense"
                outcome.note = check_heads.why_dense(step.report())
                return outcome
            wanted = np.asarray(dense(placed, place("x", x), q)[0])
            outcome.rows += program.rows_a_call
            outcome.hard += program.rows_a_call if kind != "gaussian" else sum(k != "gaussian" for k in kinds)
            what = compare(program, p, x, got, wanted)
            if what:
                outcome.faults.append(
                    Fault(what, program, p, x, q, f"weights {kind}, inputs {','.join(sorted(set(kinds)))}")
                )
                if len(outcome.faults) >= stop_after:
                    return outcome
    outcome.fell_back = sum(c.rows - c.proven for c in step.report().certificates)
    return outcome


def compare(program: Block, p: dict[str, Array], x: Array, got: Array, wanted: Array) -> str:
    """What is wrong, '' if nothing."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"{got.dtype}{list(got.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
    if np.array_equal(got, wanted, equal_nan=True):
        return ""
    for layer in range(program.layers or 1):
        own = {name: a[layer] if program.layers else a for name, a in p.items()}
        pair = (got[layer], wanted[layer]) if program.layers else (got, wanted)
        with np.errstate(all="ignore"):
            what = _layer(program, own, np.roll(x, layer, -1).astype(np.float64), *(a.astype(np.float64) for a in pair))
        if what:
            return what + (f" (layer {layer})" if program.layers else "")
    return ""


def _layer(program: Block, p: dict[str, Array], x: Array, got: Array, wanted: Array) -> str:
    room = tolerance(program, p, x)
    off = np.abs(got - wanted)
    fine = (
        (got == wanted) | (np.isnan(got) & np.isnan(wanted)) | (off <= room + 4 * EPS[program.dtype] * np.abs(wanted))
    )
    if fine.all():
        return ""
    row = int(np.argmax(~fine.all(axis=1)))
    at = int(np.argmax(~fine[row]))
    which = "NaN or infinity of dense is hidden" if not np.isfinite(wanted[row, at]) else "block differs from dense"
    return (
        f"{which}, {int((~fine).any(axis=1).sum())} of {len(fine)} rows: {got[row, at]:.6g} where dense has "
        f"{wanted[row, at]:.6g}, allowed {room[row, at]:.2g}"
    )


def tolerance(program: Block, p: dict[str, Array], x: Array) -> Array:
    """How far results may be from dense's, ``[rows, d]``.

    Sums of d and of m terms may be taken in another order; what is stored in between is rounded to the storage type.
    Where an order decides whether something overflows, the author's own operations run: nothing is allowed for it.
    """
    wide = {name: a.astype(np.float64) for name, a in p.items()}
    finite = np.where(np.isfinite(x), x, 0)
    down = np.abs(wide["down"].T if program.layout == "out_in" else wide["down"])
    down = down if down.shape[0] == program.width else down.T

    def sums(name: str) -> tuple[Array, Array]:
        w = wide[name] if program.layout == "in_out" else wide[name].T
        return finite @ w, np.abs(finite) @ np.abs(w)

    z, z_abs = sums("gate")
    bias = wide.get("b", 0.0)
    size, size_abs = np.abs(z + bias) + program.c + np.abs(bias), z_abs + program.c + np.abs(bias)
    if program.activation in SQUARES:
        power = 2 if program.activation == "relu2" else 1
        size, size_abs = size**power, size_abs**power
    if program.gated:
        u, u_abs = sums("up")
        extra = 2 if program.activation == "other_squared" else 1
        size, size_abs = size * (np.abs(u) + program.c + 1) ** extra, size_abs * (u_abs + program.c + 1) ** extra
    total = size_abs @ down + np.abs(wide.get("db", 0.0))
    eps, unit = EPS[program.dtype], EPS["float32"]
    # A rounding more or less moves a neuron by half a unit, up or down; 8 of them is more than all outputs ever see.
    stored = 0.0 if program.dtype == "float32" else 2 * eps * np.sqrt((size**2) @ (down**2))
    room = stored + unit * (8 + program.d**0.5 + program.width**0.5) * total
    if program.dtype != "float32" and len(x) == 1 and jax.default_backend() != "cpu":
        room = room + eps * total + (2.0**-24 * program.width if program.dtype == "float16" else 0)  # rounded terms
    flushed = TINY * (1 + np.abs(finite).sum() + down.max() * program.width + program.width + program.d)
    return room + flushed * (1 + down.max())


assert set(PLAIN) <= set(GATED)
