"""Run one head as written and rewritten, on many inputs and several sets of weights, and compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from tests.fuzz.heads import STEPS, Head
from tests.fuzz.oracle import TINY, TOP, answer

Array = np.ndarray
Place = Callable[[str, Array], Any]


@dataclass
class Fault:
    """One call that came out wrong, with everything that it takes to see it again."""

    what: str
    program: Any
    p: dict[str, Array]
    x: Array
    q: dict[str, Array]
    kinds: str = ""


@dataclass
class Outcome:
    """What came of one program.

    Attributes:
      status: ``rewritten``, ``dense`` or ``refused``.
      mode: what was promised: ``strict`` or ``true``.
      rows, hard, fell_back: rows compared; of them with hard numbers; of them not proven.
    """

    status: str = "rewritten"
    mode: str = "strict"
    rows: int = 0
    hard: int = 0
    fell_back: int = 0
    note: str = ""
    faults: list[Fault] = field(default_factory=list)


def build(program: Head) -> tuple[Any, Any]:
    """The author's jitted program, and the transformed one."""
    scope: dict[str, Any] = {"jax": jax, "jnp": jnp}
    exec(compile(program.source(), "<fuzz>", "exec"), scope)
    dense = jax.jit(scope["step"])
    return dense, hire.transform(dense, eval(program.config_source(), {"hire": hire}))


def calls(program: Head, rows: int) -> Iterator[tuple[str, dict[str, Array], Array, dict[str, Array], list[str]]]:
    """``(kind of weights, p, x, q, kinds of rows)``, for at least so many rows, spread over the sets of weights."""
    rng = np.random.default_rng(program.seed)
    sets = len(program.weight_kinds)
    each = -(-rows // (program.rows_a_call * sets))
    for kind in program.weight_kinds:
        p = program.weights(kind, rng)
        for _ in range(each):
            x, q, kinds = program.call(rng, p)
            yield kind, p, x, q, kinds


def on_one_device(_name: str, array: Array) -> Any:
    return jnp.asarray(array)


def run(program: Head, rows: int = 600, stop_after: int = 3, place: Place = on_one_device) -> Outcome:
    """Compare one program on many calls; gives up after a few faults."""
    outcome = Outcome(mode="true" if program.rule == "true" else "strict")
    dense, step = build(program)
    last, placed = None, None
    worst, worst_call = 0.0, None
    for kind, p, x, q, kinds in calls(program, rows):
        if p is not last:
            last, placed = p, {name: place(name, array) for name, array in p.items()}
        there = (placed, place("x", x), {name: place(name, array) for name, array in q.items()})
        try:
            got = [np.asarray(a) for a in step(*there)]
        except hire.HireError as error:
            outcome.status, outcome.note = "refused", str(error)
            if program.rule == "default" and not raises(dense, there):
                outcome.faults.append(Fault(f"the default refuses: {str(error)[:200]}", program, p, x, q))
            return outcome
        except Exception as error:
            if raises(dense, there):
                outcome.status, outcome.note = "refused", f"the author's program raises {type(error).__name__} too"
                return outcome
            outcome.faults.append(Fault(f"raises {type(error).__name__}: {str(error)[:200]}", program, p, x, q))
            return outcome
        wanted = [np.asarray(a) for a in dense(*there)]
        if outcome.rows == 0 and not _settle(outcome, program, step):
            return outcome
        what, off = compare(program, outcome.mode, p, x, q, got, wanted)
        if off > worst:
            worst, worst_call = off, (p, x, q)
        outcome.rows += program.rows_a_call
        hard = kind != "gaussian"
        outcome.hard += program.rows_a_call if hard else sum(k != "gaussian" for k in kinds)
        if what:
            again = [np.asarray(a) for a in dense(*there)]
            if not all(map(equal, again, wanted)):
                what += " (and dense does not repeat itself)"
            outcome.faults.append(
                Fault(what, program, p, x, q, f"weights {kind}, inputs {','.join(sorted(set(kinds)))}")
            )
            if len(outcome.faults) >= stop_after:
                break
    for certificate in step.report().certificates:
        outcome.fell_back += certificate.rows - certificate.proven
        if worst_call and worst > certificate.slack * (1 + 1e-5) and not outcome.faults:
            what = f"differs from float64 by {worst:.3g}, more than the printed slack {certificate.slack:.3g}"
            outcome.faults.append(Fault(what, program, *worst_call))
    return outcome


def raises(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    try:
        function(*arguments)
    except Exception:
        return True
    return False


def _settle(outcome: Outcome, program: Head, step: Any) -> bool:
    """Note what was promised; False where the program was left dense."""
    decisions = step.report().decisions
    if not any(decision.action == "rewritten" for decision in decisions):
        outcome.status = "dense"
        outcome.note = why_dense(step.report())
        return False
    if program.rule == "default" and "top_k" in program.readers:
        outcome.mode = "true"
    return True


def why_dense(report: hire.Report) -> str:
    """Why nothing of a program was rewritten."""
    return "; ".join([d.reason for d in report.decisions] or [m.reason for m in report.misses])


def compare(
    program: Head, mode: str, p: dict[str, Array], x: Array, q: dict[str, Array], got: list[Array], wanted: list[Array]
) -> tuple[str, float]:
    """``(what is wrong, how far the worst index is off beyond roundings of the rest)``; '' where all is right."""
    for a, b in zip(got, wanted, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{a.dtype}{list(a.shape)} instead of {b.dtype}{list(b.shape)}", 0.0
    winners = [(a, b) for a, b in zip(got, wanted) if a.dtype.kind in "iu"]
    if mode == "strict" and not all(np.array_equal(a, b) for a, b in winners):
        told = [~_left_to_xla(program, p, x, q)[:, None] & (_flat(a, program) != _flat(b, program)) for a, b in winners]
        counts = [(int(differ.sum()), differ.size) for differ in told]
        if any(n for n, _ in counts):
            shown = ", ".join(f"{n} of {size}" for n, size in counts)
            return f"strict, and {shown} indices differ from dense", 0.0
    if program.feeds_back or all(map(equal, got, wanted)):
        return "", 0.0
    return _by_value(program, mode, p, x, q, got, wanted)


def _left_to_xla(program: Head, p: dict[str, Array], x: Array, q: dict[str, Array]) -> Array:
    """Rows whose winner depends on how XLA compiles the author's own operations, ``[rows]``.

    XLA:CPU's minimum and maximum may keep a NaN or drop it. A GPU reduces in parts, so that of several NaN any place
    may come out; and it sums with another kernel in another program, so that an overflow may come out as NaN or
    infinity.
    """
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and "clip" not in program.names():
        return np.zeros(_rows(program), bool)
    if program.feeds_back:  # there is no float64 answer: one number may have gone everywhere
        largest = float(np.abs(program.matrix(p).astype(np.float64)).max()) * float(np.abs(x.astype(np.float64)).max())
        return np.full(_rows(program), not largest * program.d < TOP)
    truth = answer(program, p, x, q)
    missing = np.isnan(truth.compared).any(axis=1)
    return missing if on_cpu else missing | truth.wild


def equal(a: Array, b: Array) -> bool:
    """Whether two results are equal, NaN where NaN is."""
    return np.array_equal(a, b, equal_nan=a.dtype.kind not in "iub")


def _rows(program: Head) -> int:
    """Rows of results of one call; steps of a token loop lie in one row."""
    return (STEPS if program.loop == "scan" else 1) * program.batch


def _flat(array: Array, program: Head) -> Array:
    """Results as ``[rows, k]``."""
    return array.reshape(_rows(program), -1)


def _by_value(
    program: Head, mode: str, p: dict[str, Array], x: Array, q: dict[str, Array], got: list[Array], wanted: list[Array]
) -> tuple[str, float]:
    truth = answer(program, p, x, q)
    worst = 0.0
    with np.errstate(all="ignore"):
        best = -np.sort(-truth.compared, axis=1)[:, : max(program.k, 1)]
        room = truth.slack + truth.rounding
        for a, b in zip(got, wanted, strict=True):
            a, b = _flat(a, program), _flat(b, program)
            if a.dtype.kind not in "iu":
                a, b = a.astype(np.float64), b.astype(np.float64)
                # A strict row that is not proven is the author's own, NaN and overflow included.
                order = truth.open | np.isnan(truth.compared).any(1) if mode != "strict" else np.zeros(len(a), bool)
                what = _values_differ(a, b, _value_room(program, room, b), order)
                if what:
                    return what, worst
                continue
            if mode == "strict":
                continue
            if ((a < 0) | (a >= program.rows)).any():
                return "an index outside the vocabulary", worst
            if any(len(set(row)) < len(row) for row in a):
                return "an index twice", worst
            same = (a == b).all(axis=1)
            taken = np.take_along_axis(truth.compared, a, axis=1)
            off = np.abs(taken - best[:, : a.shape[1]])
            off = np.where(np.isnan(off), np.where(taken == best[:, : a.shape[1]], 0, np.inf), off).max(axis=1)
            bad = ~same & ~truth.open & (off > room)
            if bad.any():
                row = int(np.argmax(bad))
                return (
                    f"certify=True, and {int(bad.sum())} of {len(bad)} rows are no valid answer: row {row} is off by "
                    f"{off[row]:.3g} of {best[row, 0]:.3g}, allowed {room[row]:.3g}"
                    + (
                        " (its numbers overflow or are not finite, and dense answers otherwise)"
                        if truth.wild[row]
                        else ""
                    )
                ), worst
            beyond = np.where(same | truth.wild, 0, (off - truth.rounding) / truth.factor)
            worst = max(worst, float(beyond.max()))
    return "", worst


def _value_room(program: Head, room: Array, b: Array) -> Array:
    """How far values may be from dense's, ``[rows, k]``: the numbers that are compared have room on both sides.

    A softmax compares logarithms and returns their exponentials, all of which its sum moves, too.
    """
    last = program.after[-1][0] if program.after else ""
    if last == "softmax":
        return np.abs(b) * np.expm1(np.minimum(4 * room, 50))[:, None] + TINY
    if last == "log_softmax":
        return np.broadcast_to(4 * room[:, None], b.shape)
    behind = any(name in ("softmax", "log_softmax") for name in program.names())
    return np.broadcast_to(np.inf if behind else 2 * room[:, None], b.shape)


def _values_differ(a: Array, b: Array, room: Array, wild: Array) -> str:
    """Compare the largest values with dense's: within their room, infinities where dense has them.

    Not where an order of sums decides, or NaN is among the logits (``wild``): XLA:CPU's maximum of numbers and NaN may
    be either.
    """
    off = np.abs(a - b)
    fine = (a == b) | (np.isnan(a) & np.isnan(b)) | (off <= room) | wild[:, None]
    if fine.all():
        return ""
    row = int(np.argmax(~fine.all(axis=1)))
    return f"values differ: row {row} has {a[row][:3]} where dense has {b[row][:3]}, allowed {room[row].max():.3g}"
