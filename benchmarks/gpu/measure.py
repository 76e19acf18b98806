"""Timing on a GPU: calls are enqueued, so one call by itself and a chain of them are two different figures.

*One by one*: the wall time of a call that is waited for, dispatch and launch included. *Chained*: many calls enqueued,
waited for once, divided; this is how a decode loop runs. Both are medians, candidates taken in turns.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import numpy as np

Run = Callable[[], Any]
ROUNDS, SINGLES, CHAIN_SECONDS = 7, 15, 4e-3
_KERNEL = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\S+|\([^)]*\)) (\w[\w\-]*)\(")
_SHOWN = {
    "fusion", "custom-call", "gather", "sort", "copy", "conditional", "while", "reduce", "dot", "convert", "transpose",
    "topk", "scatter", "dynamic-slice", "dynamic-update-slice", "call", "async-start", "copy-start",
}  # fmt: skip


class Clock:
    """The time that a part may take."""

    def __init__(self, seconds: float) -> None:
        self.began, self.seconds = time.monotonic(), seconds

    def spent(self) -> float:
        return time.monotonic() - self.began

    def is_over(self) -> bool:
        return self.spent() > self.seconds


@dataclass
class Row:
    """One form of a computation, and what was measured of it.

    Attributes:
      kind: ``dense``, ``hire``, or ``direct`` (rewritten, called as Python calls it, not inside an outer jit).
      nbytes: bytes of weights that a call reads, as planned.
      build_seconds: tracing, preparing, compiling, tuning.
      note: why it was not timed, or what else is to be said.
      proofs: how often a proof or a budget held, ``"held of rows"``.
      equal: answers that are those of the program as written.
    """

    form: str
    kind: str
    nbytes: int
    build_seconds: float = 0.0
    chained_us: float = 0.0
    chained_fastest_us: float = 0.0
    single_us: float = 0.0
    note: str = ""
    proofs: str = ""
    equal: str = ""
    kernels: list[str] = field(default_factory=list)


@dataclass
class Table:
    """Forms of one computation, side by side; ``dense_bytes`` is what the dense ones read."""

    title: str
    dense_bytes: int
    clock: Clock
    rows: list[Row] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)

    def add(
        self, form: str, kind: str, make: Callable[[Row], Run | None], nbytes: int = 0, *, fresh: bool = True
    ) -> None:
        """Build a form, run it once, and keep it for :meth:`measure`; what fails is noted and does not stop others."""
        row = Row(form, kind, nbytes or self.dense_bytes)
        self.rows.append(row)
        if fresh and self.clock.is_over():
            row.note = "left out: no time was left"
            return
        began = time.monotonic()
        try:
            run = make(row)
            if run is not None:
                jax.block_until_ready(run())
                self.runs[form] = run
        except Exception as error:
            traceback.print_exc(limit=-4)
            row.note = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
        row.build_seconds = time.monotonic() - began

    def measure(self) -> None:
        """Fill in the times of everything that was built."""
        try:
            found = timed(self.runs)
        except Exception as error:  # one that fails now takes the table with it, not the tables behind it
            traceback.print_exc(limit=-4)
            self.rows.append(Row("timing", "note", 0, note=f"{type(error).__name__}: {str(error)[:200]}"))
            return
        for row in self.rows:
            if row.form in found:
                row.chained_us, row.chained_fastest_us, row.single_us = found[row.form]

    def to_dict(self) -> dict[str, Any]:
        return {"title": self.title, "dense_bytes": self.dense_bytes, "rows": [asdict(row) for row in self.rows]}


def timed(runs: dict[str, Run]) -> dict[str, tuple[float, float, float]]:
    """Of every candidate: chained median, chained fastest, one by one; microseconds a call."""
    calls = {name: _calls_for(run) for name, run in runs.items()}
    chained: dict[str, list[float]] = {name: [] for name in runs}
    single: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            chained[name].append(chain(run, calls[name]))
    for _ in range(SINGLES):
        for name, run in runs.items():
            jax.block_until_ready(run())
            single[name].append(chain(run, 1))
    return {
        name: (1e6 * float(np.median(chained[name])), 1e6 * min(chained[name]), 1e6 * float(np.median(single[name])))
        for name in runs
    }


def chain(run: Run, calls: int) -> float:
    """Seconds a call, of so many that are enqueued behind each other."""
    jax.block_until_ready(run())
    began = time.perf_counter()
    for _ in range(calls - 1):
        run()
    jax.block_until_ready(run())
    return (time.perf_counter() - began) / calls


def _calls_for(run: Run) -> int:
    taken = min(chain(run, 3) for _ in range(2))
    return int(np.clip(CHAIN_SECONDS / taken, 10, 100))


def kernels(text: str) -> list[str]:
    """What a compiled program launches: the operations of its HLO that stand outside fusions."""
    found: list[str] = []
    inside, where = False, ""
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")) or re.match(r"^\w\S* \(", line):
            inside = not line.startswith(
                ("%fused", "fused", "%wrapped", "%gemm_fusion", "%triton", "%region", "%command")
            )
            where = line.split("(")[0].strip()
            continue
        match = _KERNEL.match(line) if inside else None
        if match and match.group(3) in _SHOWN:
            target = re.search(r'custom_call_target="([^"]+)"', line)
            shape = re.sub(r"\{[^}]*\}", "", match.group(2))[:60]
            if where:
                found.append(f"in {where}")
                where = ""
            found.append(f"{match.group(3)} {target.group(1) if target else match.group(1)} {shape}"[:120])
    return found[:400]
