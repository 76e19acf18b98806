"""A rewritten program beside the author's: plain frozen data, printed as text or JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hire_compiler.reports.findings import Certificate, Speed, megabytes
from hire_compiler.reports.text import labelled, proof_lines

AS_WRITTEN, REWRITTEN, DENSE = "as written", "rewritten", "dense="


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one program took.

    Attributes:
      program: ``"as written"``, ``"rewritten"``, or ``"dense="`` for the one given as that.
      seconds: of every timed call, in order; one number where it is an estimate.
    """

    program: str
    seconds: tuple[float, ...]

    @property
    def ms(self) -> float:
        """The median, in milliseconds."""
        return statistics.median(self.seconds) * 1e3

    @property
    def spread_ms(self) -> tuple[float, float]:
        """Between which milliseconds the middle half of the calls lies."""
        ordered = sorted(self.seconds)
        quarter = (len(ordered) - 1) // 4
        return ordered[quarter] * 1e3, ordered[len(ordered) - 1 - quarter] * 1e3


@dataclass(frozen=True, kw_only=True)
class Output:
    """How one result of the rewritten program differs from the author's, over all calls.

    Attributes:
      name: where it stands among the results, ``[0]`` or ``['cache'][3]``.
      type: its dtype and shape.
      largest: largest absolute difference of a float result.
      scale: largest absolute value of the author's.
      equal, total: entries of an integer result that agree, of how many; 0 of 0 for floats.
      recall: of a result as wide as a head's vocabulary: share of the author's best k, by k.
    """

    name: str
    type: str
    largest: float = 0.0
    scale: float = 0.0
    equal: int = 0
    total: int = 0
    recall: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The author's program and the rewritten one, on the same arguments.

    Attributes:
      name: of the function.
      machine: where they ran, or are estimated for.
      estimated: by what, where nothing was measured; else ''.
      calls: how many different calls were compared.
      fed: what the calls were: ``"one call"``, ``"calls"``, or ``"carry"`` where outputs were fed back.
      timings: of the author's program, the rewritten one, and the one given as ``dense=``.
      outputs: of the rewritten program, fed with the author's outputs where ``fed`` is ``"carry"``.
      dense_outputs: the same of ``dense=``.
      alone: with ``"carry"``, for how many calls the rewritten program, fed with its own outputs, gave the author's
        integers; equal to ``calls`` if it always did. None otherwise, or where no result is an integer.
      proofs: of the sites that prove their answer, over the calls compared.
      bytes_of: what the next two count.
      dense_bytes, read_bytes: in one call, as written and rewritten.
      added_bytes: memory that the rewritten program keeps beside the weights.
      copied_bytes: of donated arguments, copied before each call and not timed.
      seconds: what had to be done once: ``rewriting``, ``preparing``, ``compiling``, as far as known.
    """

    name: str
    machine: str
    estimated: str = ""
    calls: int = 1
    fed: str = "one call"
    timings: tuple[Timing, ...]
    outputs: tuple[Output, ...] = ()
    dense_outputs: tuple[Output, ...] = ()
    alone: int | None = None
    proofs: tuple[Certificate, ...] = ()
    bytes_of: str = "weights of its sites"
    dense_bytes: int = 0
    read_bytes: int = 0
    added_bytes: int = 0
    copied_bytes: int = 0
    seconds: tuple[tuple[str, float], ...] = ()

    @property
    def ratio(self) -> float:
        """How many times faster the rewritten program is than the author's: a ratio of medians."""
        return self.ratio_of(REWRITTEN)

    @property
    def best_ratio(self) -> float:
        """How many times faster the rewritten program is than the fastest dense one."""
        dense = [timing.ms for timing in self.timings if timing.program != REWRITTEN]
        return min(dense) / self.timing(REWRITTEN).ms

    def ratio_of(self, program: str) -> float:
        """How many times faster a program is than the author's."""
        return self.timing(AS_WRITTEN).ms / self.timing(program).ms

    def timing(self, program: str) -> Timing:
        """Of one program."""
        return next(timing for timing in self.timings if timing.program == program)

    @property
    def tokens(self) -> tuple[int, int]:
        """Integers of all results that equal the author's, of how many."""
        return _integers(self.outputs)

    @property
    def largest_difference(self) -> float:
        """Of any float result, relative to that result's largest value."""
        return _largest(self.outputs)

    @property
    def speed(self) -> Speed:
        """What a report keeps of it."""
        low, high = self.timing(REWRITTEN).spread_ms
        return Speed(
            machine=self.machine,
            estimated=self.estimated,
            calls=len(self.timing(REWRITTEN).seconds),
            written_ms=self.timing(AS_WRITTEN).ms,
            rewritten_ms=self.timing(REWRITTEN).ms,
            low_ms=low,
            high_ms=high,
            outputs=_summary(self.outputs),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        equal, total = self.tokens
        summary = {
            "ratio": self.ratio,
            "best_ratio": self.best_ratio,
            "tokens": {"equal": equal, "total": total},
            "largest_difference": self.largest_difference,
        }
        timings = [
            {**asdict(t), "median_ms": t.ms, "spread_ms": list(t.spread_ms), "ratio": self.ratio_of(t.program)}
            for t in self.timings
        ]
        return {**asdict(self), "timings": timings, "seconds": dict(self.seconds), **summary}

    def to_json(self, *, indent: int | None = 2) -> str:
        """The comparison as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        return "\n".join([_title(self), "", *_timing_lines(self), "", *_answer_lines(self), *_cost_lines(self)])


# --------------------------------------------------------------------------- printing


def _title(found: Comparison) -> str:
    if found.estimated:
        return f"{found.name} on {found.machine}: an estimate by {found.estimated}, not a measurement"
    each = f"{len(found.timing(REWRITTEN).seconds)} timed calls each, in turns"
    return f"{found.name} on {found.machine}: {each}"


def _timing_lines(found: Comparison) -> list[str]:
    measured = not found.estimated
    lines = [f"{'':<14}{'ms a call':>10}{'middle half' if measured else '':>20}{'over as written':>18}".rstrip()]
    for timing in found.timings:
        low, high = timing.spread_ms
        spread = f"{_ms(low)} – {_ms(high)}" if measured else ""
        ratio = "" if timing.program == AS_WRITTEN else f"{found.ratio_of(timing.program):.2f}×"
        lines.append(f"  {timing.program:<12}{_ms(timing.ms):>10}{spread:>20}{ratio:>18}".rstrip())
    if len(found.timings) > 2:
        lines.append(f"  rewritten over the best dense program: {found.best_ratio:.2f}×")
    return lines


def _answer_lines(found: Comparison) -> list[str]:
    if found.estimated:
        return []
    lines = _output_lines(found.outputs)
    if found.fed == "carry":
        lines.append(f"{found.calls} calls of a decode, both fed with the outputs of the author's program")
    if found.alone is not None:
        differs = f"first differs in call {found.alone + 1}"
        lines.append(
            f"fed with its own outputs: {'the same integers throughout' if found.alone == found.calls else differs}"
        )
    text = labelled("right?", lines, repeat="")
    text += labelled("proof", proof_lines(found.proofs, advised=False))
    return text + labelled("dense=", [_summary(found.dense_outputs)] * bool(found.dense_outputs))


def _cost_lines(found: Comparison) -> list[str]:
    read = f"{megabytes(found.dense_bytes)} → {megabytes(found.read_bytes)} of {found.bytes_of} a call"
    copied = f"donated arguments ({megabytes(found.copied_bytes)}) are copied before each call, untimed"
    return [
        *labelled("reads", [read]),
        *labelled("memory", [f"{megabytes(found.added_bytes)} added"] * bool(found.added_bytes)),
        *labelled("once", [", ".join(f"{what} {taken:.2f} s" for what, taken in found.seconds)] * bool(found.seconds)),
        *labelled("note", [copied] * bool(found.copied_bytes)),
    ]


def _output_lines(outputs: Sequence[Output]) -> list[str]:
    """One line a result; those below one first key (the layers of a cache) share one."""
    groups: dict[tuple[str, bool], list[Output]] = {}
    for output in outputs:
        groups.setdefault((_first_key(output.name), bool(output.total)), []).append(output)
    return [_group_line(key, group) for (key, _), group in groups.items()]


def _group_line(key: str, group: Sequence[Output]) -> str:
    what = f"{group[0].name} {group[0].type}" if len(group) == 1 else f"{key}, {len(group)} arrays"
    if group[0].total:
        return f"{what}: {sum(o.equal for o in group)} of {sum(o.total for o in group)} integers equal"
    worst = max(group, key=lambda o: o.largest / (o.scale or 1.0))
    if worst.largest == 0:
        return f"{what}: equal to the last bit"
    recall = "".join(f", recall@{k} {share:.4f}" for k, share in worst.recall)
    return f"{what}: off by at most {worst.largest:.2g} of {worst.scale:.3g}{recall}"


def _first_key(name: str) -> str:
    """``['cache'][3].k`` to ``['cache']``."""
    end = name.find("]") + 1 if name.startswith("[") else 0
    return name[:end] or name


def _summary(outputs: Sequence[Output]) -> str:
    """All results in one line."""
    equal, total = _integers(outputs)
    said = [f"{equal} of {total} integers equal"] if total else []
    if any(not output.total for output in outputs):
        off = _largest(outputs)
        said.append(f"floats off by at most {off:.1g} of their largest" if off else "floats equal to the last bit")
    return ", ".join(said)


def _integers(outputs: Sequence[Output]) -> tuple[int, int]:
    return sum(o.equal for o in outputs), sum(o.total for o in outputs)


def _largest(outputs: Sequence[Output]) -> float:
    return max((o.largest / (o.scale or 1.0) for o in outputs if not o.total), default=0.0)


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"
