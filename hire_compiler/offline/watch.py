"""How long an artifact and its original take, in turns on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from hire_compiler.comparison.comparison import AS_WRITTEN, REWRITTEN, Comparison, Timing
from hire_compiler.comparison.difference import Difference
from hire_compiler.comparison.outputs import output_of
from hire_compiler.comparison.turns import LEAST, MOST, SECONDS, Turn, Turns, machine
from hire_compiler.offline.artifact.artifact import Artifact
from hire_compiler.offline.original import Original
from hire_compiler.reports.findings import split_seconds
from hire_compiler.reports.report import Certificate, bytes_read, report_of
from hire_compiler.runtime.target import lowering_platform


class Watch:
    """Times both, input by input."""

    def __init__(self, original: Original, artifact: Artifact, stored: Mapping[str, Any]) -> None:
        self._original, self._artifact, self._stored = original, artifact, stored
        self._turns = Turns()
        self._donated = 0

    def time(self, values: Sequence[Any], of: int) -> None:
        """Time one of so many inputs."""
        self._donated = sum(values[i].nbytes for i in self._artifact.manifest.donate)
        turns = {
            AS_WRITTEN: Turn(lambda: self._original.ready(values)),
            REWRITTEN: Turn(lambda: self._ready(values)),
        }
        self._turns.round(turns, timed=False)
        before, done = self._spent, 0
        while done < ceil(LEAST / of) or (done < MOST / of and self._spent - before < SECONDS / of):
            self._turns.round(turns)
            done += 1

    @property
    def _spent(self) -> float:
        return sum(sum(seconds) for seconds in self._turns.seconds.values())

    def _ready(self, values: Sequence[Any]) -> Callable[[], Any]:
        args, kwargs = self._artifact.inputs(jax.block_until_ready([jnp.array(value) for value in values]))
        return lambda: self._artifact.step(self._stored, *args, **kwargs)

    def found(
        self, differences: Sequence[Difference], certificates: Mapping[str, tuple[int, int]], calls: int
    ) -> Comparison:
        """Everything so far, beside what was compared."""
        report = report_of(self._artifact.report()[self._platform])
        proofs = tuple(Certificate(site=s, rows=rows, proven=held) for s, (rows, held) in certificates.items())
        dense_bytes, read_bytes = bytes_read(report, proofs)
        return Comparison(
            name=Path(self._artifact.manifest.name).name,
            machine=machine(),
            calls=calls,
            fed="calls",
            timings=tuple(
                Timing(program=name, seconds=tuple(self._turns.seconds[name])) for name in (AS_WRITTEN, REWRITTEN)
            ),
            outputs=tuple(output_of(difference) for difference in differences),
            proofs=proofs,
            dense_bytes=dense_bytes,
            read_bytes=read_bytes,
            added_bytes=sum(d.added_bytes for d in report.rewritten),
            copied_bytes=self._donated,
            seconds=split_seconds(report.seconds),
        )

    @property
    def _platform(self) -> str:
        return lowering_platform(jax.default_backend())
