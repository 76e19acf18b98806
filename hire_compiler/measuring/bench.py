"""The programs of a comparison, run in turns on copies of what they give away, and what is found of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from hire_compiler import _mlir
from hire_compiler.calling.transformed import HireFunction
from hire_compiler.capture.function import UserFunction
from hire_compiler.comparison.comparison import AS_WRITTEN, DENSE, REWRITTEN, Comparison, Timing
from hire_compiler.comparison.outputs import Outputs
from hire_compiler.comparison.turns import Ready, Turn, Turns, machine
from hire_compiler.errors import ConfigError
from hire_compiler.reports.findings import split_seconds
from hire_compiler.reports.report import Certificate, Report, bytes_read

Call = tuple[Any, ...]


class Program:
    """One of the programs: how it is called, and which arguments it gives away."""

    def __init__(self, run: Callable[..., Any], function: UserFunction, donated: list[bool]) -> None:
        self._run = run
        self._function = function
        self._donated = donated
        self.runs = 0

    def ready(self, leaves: list[Any], tree: Any) -> Ready:
        """A run on copies of what is given away, whose results are kept as ``self.results``."""

        def bring() -> Callable[[], Any]:
            own = [_copy(leaf) if given else leaf for leaf, given in zip(leaves, self._donated, strict=True)]
            args, kwargs = self._function.rebuild(tree, jax.block_until_ready(own))
            return lambda: self._keep(self._run(*args, **kwargs))

        return bring

    def _keep(self, results: Any) -> Any:
        self.results, self.runs = results, self.runs + 1
        return results


def _gives_all_away(function: Any) -> bool:
    """Whether a function of equinox donates; of which arguments, it alone knows."""
    return bool(getattr(function, "donate_first", False) or getattr(function, "donate_rest", False))


def _copy(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, jax.Array) else leaf


class Bench:
    """The programs, and what is found of them."""

    def __init__(
        self, step: HireFunction, dense: Callable[..., Any] | None, first: Call, kwargs: dict[str, Any]
    ) -> None:
        self._step, self._kwargs, self._first = step, kwargs, first
        self._function = UserFunction(step.__wrapped__)
        leaves, tree = self._flat(first)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) or _mlir.is_tracer(leaf) for leaf in leaves):
            raise ConfigError("compare runs the programs: give it arrays, not types or values that are being traced")
        donated = self._function.donated(tree)
        given = [_gives_all_away(self._function.original) or one for one in donated]
        self._programs = {
            AS_WRITTEN: Program(step.as_written, self._function, given),
            REWRITTEN: Program(step, self._function, donated),
        }
        if dense is not None:
            self._programs[DENSE] = _dense_program(dense, self._function, first, kwargs)
        self.copied = sum(leaf.nbytes for leaf, gone in zip(leaves, given, strict=True) if gone)
        self._turns = Turns()
        report = step.report(*first, **kwargs)
        heads = {site.width for site in report.sites if site.kind == "head"}
        unread = {REWRITTEN: report.unread}
        self._outputs = {n: Outputs(heads, unread.get(n, ())) for n in self._programs if n != AS_WRITTEN}
        self._before = report.certificates
        self._warm: set[Any] = set()
        self.calls = 0
        self.alone: int | None = None
        self._differed = False

    def _flat(self, args: Call) -> tuple[list[Any], Any]:
        return self._function.flatten(args, self._kwargs)

    @property
    def spent(self) -> float:
        """Seconds of all timed calls so far."""
        return sum(sum(seconds) for seconds in self._turns.seconds.values())

    @property
    def last_timed(self) -> Any:
        """The results of the rewritten program's last timed call."""
        return self._programs[REWRITTEN].results

    def warm(self, args: Call) -> None:
        """Compile the programs for the types of a call, if they are not."""
        leaves, tree = self._flat(args)
        types = (tree, tuple(str(jax.typeof(leaf)) for leaf in leaves))
        if types not in self._warm:
            self._warm.add(types)
            self._turns.round({name: Turn(p.ready(leaves, tree)) for name, p in self._programs.items()}, timed=False)

    def round(
        self, args: Call, own: Call | None = None, *, timed: bool = True, compared: bool = True
    ) -> dict[str, Any]:
        """One round, its results compared; timed, the rewritten program gets ``own``."""
        leaves, tree = self._flat(args)
        turns = {name: Turn(program.ready(leaves, tree)) for name, program in self._programs.items()}
        if own is not None:
            rewritten = self._programs[REWRITTEN]
            turns[REWRITTEN] = Turn(rewritten.ready(leaves, tree), rewritten.ready(*self._flat(own)))
        results = self._turns.round(turns, timed=timed)
        if compared:
            self.calls += 1
            for name, outputs in self._outputs.items():
                outputs.add(results[AS_WRITTEN], results[name], name)
        return results

    def count_alone(self, wanted: Any, got: Any, done: int) -> None:
        """Count the calls in which the rewritten program, fed with its own results, gave the author's integers."""
        if not self._differed and Outputs.same_integers(wanted, got):
            self.alone = done
        else:
            self._differed = True

    def found(self, fed: str) -> Comparison:
        """Everything so far."""
        report = self._step.report(*self._first, **self._kwargs)
        proofs = _proofs(self._before, report, self._programs[REWRITTEN].runs, self.calls)
        dense_bytes, read_bytes = bytes_read(report, proofs)
        has_integers = any(output.total for output in self._outputs[REWRITTEN].found())
        return Comparison(
            name=getattr(self._step, "__name__", self._function.name),
            machine=machine(),
            calls=self.calls,
            fed=fed,
            timings=tuple(Timing(program=name, seconds=tuple(self._turns.seconds[name])) for name in self._programs),
            outputs=self._outputs[REWRITTEN].found(),
            dense_outputs=self._outputs[DENSE].found() if DENSE in self._outputs else (),
            alone=self.alone if has_integers else None,
            proofs=proofs,
            dense_bytes=dense_bytes,
            read_bytes=read_bytes,
            added_bytes=sum(d.added_bytes for d in report.rewritten),
            copied_bytes=self.copied,
            seconds=split_seconds(report.seconds),
        )


def _dense_program(dense: Any, wrapped: UserFunction, first: Call, kwargs: dict[str, Any]) -> Program:
    function = UserFunction(dense)
    _, tree = function.flatten(first, kwargs)
    taken = len(wrapped.flatten(first, kwargs)[0])  # the rest, in front, is a module that is called
    run = function.original if function.is_jitted else jax.jit(dense)
    return Program(run, wrapped, function.donated(tree)[-taken:])


def _proofs(before: tuple[Certificate, ...], report: Report, runs: int, calls: int) -> tuple[Certificate, ...]:
    """How often proofs held in so many runs, each call counted once (it ran several times)."""
    known = {proof.site: proof for proof in before}
    proofs = []
    for after in report.certificates:
        start = known.get(after.site)
        rows = after.rows - (start.rows if start else 0)
        proven = after.proven - (start.proven if start else 0)
        counted = round(rows * calls / max(runs, 1))
        held = min(round(proven * calls / max(runs, 1)), counted if proven == rows else counted - 1)
        proofs.append(Certificate(site=after.site, rows=counted, proven=held))
    return tuple(proofs)
