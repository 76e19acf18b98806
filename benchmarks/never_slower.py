"""Is the default ever slower than dense? A grid of programs, each as its author wrote it and by default.

    python -m benchmarks.never_slower --out never_slower.json --picture docs/pictures/never_slower.png

Blocks with a ReLU of which 2 to 60 % of the neurons are active, and greedy heads of 2048 to 262144 rows, tied to an
embedding or not; one, four and eight rows a call; float32 and bfloat16. Every program first runs until the default
knows whether it pays (64 calls, and the plan made anew), then both run in turns. A ratio is dense over default, of
medians: below 1 the default is slower. Under 15 minutes on two free cores; ``--only REGEX`` runs a part. On a machine
that does other work ``--clock cpu`` compares what the threads of this process spent, not what passed meanwhile. Where
the default leaves all as it was, both are the same program, so those ratios show how far one can be off by chance.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.never_slower_picture import draw
from benchmarks.timing import interleaved, median_ms, print_table
from hire_compiler.calling.adapt import FIRST_CALLS
from hire_compiler.reports.findings import bytes_read

D, WIDTH = 1024, 8192  # of a block: 67 MB in float32
ACTIVE = (0.02, 0.1, 0.2, 0.4, 0.6)
HEADS = {2048: 1024, 8192: 1024, 32768: 512, 131072: 256, 262144: 256}  # rows, and numbers in each: 8 to 268 MB
BATCHES = (1, 4, 8)
TYPES = ("float32", "bfloat16")
AT_LEAST = 0.98
_INPUTS = 8  # different ones, in turns

Arrays = dict[str, jax.Array]


@dataclass(frozen=True)
class Case:
    """One program of the grid.

    Attributes:
      active: of a block, the share of the neurons that are active in one row; 0 for a head.
      rows: of a head; 0 for a block.
      tied: of a head: its matrix is the embedding too, which makes the input.
    """

    batch: int
    dtype: str
    active: float = 0.0
    rows: int = 0
    tied: bool = False

    def __str__(self) -> str:
        what = f"head {self.rows}{' tied' if self.tied else ''}" if self.rows else f"relu {self.active:.0%}"
        return f"{what} batch {self.batch} {self.dtype}"


@dataclass(frozen=True)
class Result:
    """What was measured of a case.

    Attributes:
      ratio: dense over default; above 1 the default is faster.
      now: what the default does after adapting.
      planned_mb, read_mb: weights a call, by plan and by counts.
    """

    case: str
    batch: int
    dtype: str
    dense_ms: float
    default_ms: float
    ratio: float
    now: str
    planned_mb: float
    read_mb: float


def grid() -> Iterator[Case]:
    """All programs."""
    for dtype in TYPES:
        for batch in BATCHES:
            for active in ACTIVE:
                yield Case(batch, dtype, active=active)
            for rows in HEADS:
                yield Case(batch, dtype, rows=rows, tied=dtype == "bfloat16")
        for rows in tuple(HEADS)[::2]:
            yield Case(1, dtype, rows=rows, tied=dtype == "float32")


def block(w: Arrays, x: jax.Array) -> jax.Array:
    """A feed-forward block whose bias decides how many neurons are active."""
    return x + jax.nn.relu(x @ w["up"] + w["bias"]) @ w["down"]


def head(w: Arrays, x: jax.Array) -> jax.Array:
    """A greedy head of its own."""
    return jnp.argmax(x @ w["head"].T, axis=-1)


def tied(w: Arrays, x: jax.Array) -> jax.Array:
    """A head that is the embedding too: from token to token."""
    return jnp.argmax(jnp.tanh(w["head"][x] @ w["mix"]) @ w["head"].T, axis=-1)


def program(case: Case, rng: np.random.Generator) -> tuple[Callable[..., Any], Arrays, list[jax.Array]]:
    """The function of a case, its weights, and inputs for some calls."""

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1])), case.dtype)

    if not case.rows:
        cut = NormalDist().inv_cdf(case.active)  # the products of a row are normally distributed, with variance 1
        up = normal(WIDTH, D).T
        w = {"up": up, "down": normal(WIDTH, D), "bias": jnp.full(WIDTH, cut, case.dtype)}
        return block, w, [jnp.asarray(rng.standard_normal((case.batch, D)), case.dtype) for _ in range(_INPUTS)]
    d = HEADS[case.rows]
    w = {"head": normal(case.rows, d)}
    if case.tied:
        tokens = [jnp.asarray(rng.integers(0, case.rows, case.batch), jnp.int32) for _ in range(_INPUTS)]
        return tied, w | {"mix": normal(d, d)}, tokens
    return head, w, [jnp.asarray(rng.standard_normal((case.batch, d)), case.dtype) for _ in range(_INPUTS)]


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def measure(case: Case, seconds: float, clock: str = "wall") -> Result:
    """One case: adapt, then run both in turns for about so many seconds."""
    function, w, inputs = program(case, np.random.default_rng(len(str(case))))
    dense, default = jax.jit(function), hire.transform(function)
    for call in range(FIRST_CALLS + 2):
        jax.block_until_ready(default(w, inputs[call % _INPUTS]))
    default._replanner.wait()

    def in_turns(run: Callable[..., Any]) -> Callable[[], Any]:
        turn = iter(range(1 << 30))
        return lambda: run(w, inputs[next(turn) % _INPUTS])

    runs = {"dense": in_turns(dense), "default": in_turns(default)}
    start = time.perf_counter()
    for run in runs.values():
        jax.block_until_ready(run())
        jax.block_until_ready(run())
    each = max(time.perf_counter() - start, 1e-4)
    taken = interleaved(runs, int(min(max(seconds / each, 9), 400)), clock=CLOCKS[clock])
    ms = {name: median_ms(times) for name, times in taken.items()}
    report = default.report()
    planned, read = sum(d.sparse_bytes for d in report.decisions), bytes_read(report, report.certificates)[1]
    return Result(
        case=str(case),
        batch=case.batch,
        dtype=case.dtype,
        dense_ms=round(ms["dense"], 4),
        default_ms=round(ms["default"], 4),
        ratio=round(ms["dense"] / ms["default"], 3),
        now=_now(report),
        planned_mb=round(planned / 1e6, 2),
        read_mb=round(read / 1e6, 2),
    )


def _now(report: hire.Report) -> str:
    (decision,) = report.decisions
    if decision.action == "rewritten":
        return decision.exactness.partition(":")[0]
    return "given up" if "was tried" in decision.reason else "left dense"


def main() -> None:
    """Run the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, for each program")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what passed, or what this process spent")
    parser.add_argument("--only", default="", help="regular expression searched for in the names of the programs")
    parser.add_argument("--out", type=Path, help="write results as JSON")
    parser.add_argument("--picture", type=Path, help="write them as a picture")
    parser.add_argument("--draw", type=Path, help="only draw what --out wrote earlier")
    options = parser.parse_args()
    if options.draw:
        results = [Result(**entry) for entry in json.loads(options.draw.read_text())["results"]]
    else:
        results = []
        for case in grid():
            if re.search(options.only, str(case)):
                results.append(measure(case, options.seconds, options.clock))
                print(f"{results[-1].ratio:6.2f}×  {case}: {results[-1].now}", flush=True)
                if options.out:
                    options.out.write_text(
                        json.dumps(
                            {"clock": options.clock, "results": [asdict(result) for result in results]}, indent=1
                        )
                    )
    rows = [
        [
            r.case,
            f"{r.dense_ms:.3f}",
            f"{r.default_ms:.3f}",
            f"{r.ratio:.2f}×",
            r.now,
            f"{r.planned_mb}",
            f"{r.read_mb}",
        ]
        for r in sorted(results, key=lambda r: r.ratio)
    ]
    print_table("The default after adapting", ["program", "dense ms", "ms", "", "now", "MB planned", "MB read"], rows)
    slower = [r.case for r in results if r.ratio < AT_LEAST]
    print(
        f"{len(results)} programs, {len(slower)} slower than {AT_LEAST}× of dense"
        f"{': ' * bool(slower)}{', '.join(slower)}"
    )
    if options.picture:
        draw([(r.case, r.ratio, r.now) for r in results], AT_LEAST, options.picture)


if __name__ == "__main__":
    main()
