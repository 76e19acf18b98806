"""Force every branch that runs when a proof or a budget fails: by type, layout, batch and mesh.

``python -m tests.fuzz.forced`` prints tables in markdown. Each cell counts the rows that were forced through the
branch (the proof did not hold for them), and those that came out otherwise than in the author's program.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from tests.fuzz import check_blocks, check_heads, values
from tests.fuzz.blocks import Block
from tests.fuzz.heads import Head
from tests.fuzz.oracle import EPS
from tests.fuzz.shards import ShardedHead

Array = np.ndarray
DTYPES = ("float32", "bfloat16", "float16")
BATCHES = (1, 2, 4, 8, 16)
MESHES = ("none", "4", "8")
HARD = (1, 2, 3, 5, 16)  # rows of a batch that fail: one for each size of the branches, and all of them
ROWS, D = 1024, 64


@dataclass(frozen=True)
class Cell:
    """What was forced where."""

    kind: str
    branch: str
    dtype: str
    layout: str
    mesh: str
    batch: int


# --------------------------------------------------------------------------------------------------------------- heads


def head(mode: str, dtype: str, layout: str, batch: int, mesh: str) -> Head:
    """A greedy head, with its largest logit."""
    same = dict(
        rule=mode, dtype=dtype, layout=layout, form="matmul", before="", after=(), readers=("argmax", "max"), k=1,
        loop="", batch=batch, rows=ROWS, d=D, candidates=64, weight_kinds=("gaussian",), plain_share=1.0, seed=0,
    )  # fmt: skip
    return Head(**same) if mesh == "none" else ShardedHead(**same, mesh=mesh)


def _easy(dtype: str, rows: Array) -> Array:
    """Make one row a clear winner for ``x = e₀``, whatever the others are."""
    rows = rows.copy()
    rows[:, 0] = 0
    rows[7, 0] = 40
    return rows.astype(values.DTYPES[dtype])


def excluded(rng: np.random.Generator, dtype: str) -> tuple[Array, Callable[[], Array]]:
    """Bounds so wide that rows outside the candidates could win; yet no near tie among the best."""
    rows = rng.standard_normal((ROWS, D)) * 0.3
    rows[:, D // 2 :] = 0
    rows[np.arange(ROWS), rng.integers(D // 2, D, ROWS)] = 60.0  # spoils the scale of the copy
    rows = _easy(dtype, values.cast(rows, dtype))
    wide = rows.astype(np.float64)

    def hard() -> Array:
        while True:
            x = rng.standard_normal(D)
            x[D // 2 :] = 0
            x = np.asarray(values.cast(x, dtype), np.float64)
            best = np.sort(wide @ x)[-2:]
            if best[1] - best[0] > 8 * (EPS[dtype] if dtype != "float32" else 1e-3) * abs(best[1]):
                return x

    return rows, hard


def near_ties(rng: np.random.Generator, dtype: str) -> tuple[Array, Callable[[], Array]]:
    """The best rows are an ulp apart, or on two sides of a rounding: only the author's own product can order them.

    Two large terms cancel, so that the rounding of a sum is not small beside an ulp of bfloat16.
    """
    rows = values.weights("neighbours", rng, ROWS, D, dtype)
    rows[:, 1:3] = 300
    rows = _easy(dtype, rows)

    def hard() -> Array:
        x = rng.standard_normal(D)
        x[1:3] = 1, -1
        return x

    return rows, hard


def not_finite(rng: np.random.Generator, dtype: str) -> tuple[Array, Callable[[], Array]]:
    rows = _easy(dtype, values.weights("gaussian", rng, ROWS, D, dtype))

    def hard() -> Array:
        x = rng.standard_normal(D)
        x[rng.integers(D)] = rng.choice([np.nan, np.inf, -np.inf])
        return x

    return rows, hard


def overflowing(rng: np.random.Generator, dtype: str) -> tuple[Array, Callable[[], Array]]:
    """The prediction (an int8 copy times x) overflows, the logits do not."""
    rows = _easy(dtype, values.weights("gaussian", rng, ROWS, D, dtype))
    rows = (rows.astype(np.float64) * 1e-2).astype(values.DTYPES[dtype])
    return rows, lambda: rng.standard_normal(D) * values.largest(dtype) / 8


HEADS = {f.__name__.replace("_", " "): f for f in (excluded, near_ties, not_finite, overflowing)}


def force_heads(mesh: str, dtypes: Sequence[str], draws: int) -> Iterator[tuple[Cell, int, int]]:
    """``(cell, rows forced, rows wrong)``."""
    for mode in ("strict", "true"):
        for dtype in dtypes:
            for layout in ("vd", "dv"):
                for batch in BATCHES:
                    program = head(mode, dtype, layout, batch, mesh)
                    yield from _force_head(program, mesh, draws)


def _force_head(program: Head, mesh: str, draws: int) -> Iterator[tuple[Cell, int, int]]:
    place = program.put if isinstance(program, ShardedHead) else check_heads.on_one_device
    dense, step = check_heads.build(program)
    rng = np.random.default_rng([program.batch, len(program.dtype)])
    seen = 0
    for branch, make in HEADS.items():
        if branch == "near ties" and program.rule != "strict":
            continue  # a certificate without order does not mind them
        rows, hard = make(rng, program.dtype)
        w = rows if program.layout == "vd" else np.ascontiguousarray(rows.T)
        placed, wrong = {"w": place("w", w)}, 0
        for count in sorted({min(count, program.batch) for count in HARD}):
            for _ in range(draws):
                x = np.zeros((program.batch, D))
                x[:, 0] = 1.0
                for at in rng.choice(program.batch, count, replace=False):
                    x[at] = hard()
                x = values.cast(x, program.dtype)
                there = (placed, place("x", x), {})
                got, wanted = ([np.asarray(a) for a in f(*there)] for f in (step, dense))
                mode = "strict" if program.rule == "strict" else "true"
                what, _ = check_heads.compare(program, mode, {"w": w}, x, {}, got, wanted)
                wrong += max(int((got[0] != wanted[0]).sum()), 1) if what else 0
        (certificate,) = step.report().certificates
        cell = Cell(f"head, {program.rule}", branch, program.dtype, program.layout, mesh, program.batch)
        yield cell, certificate.rows - certificate.proven - seen, wrong
        seen = certificate.rows - certificate.proven


# -------------------------------------------------------------------------------------------------------------- blocks


def force_blocks(dtypes: Sequence[str], draws: int) -> Iterator[tuple[Cell, int, int]]:
    """Blocks where more neurons are active than there is room for, and where not."""
    for rule in ("exact_budget", "certified"):
        for gated in (False, True):
            for dtype in dtypes:
                for layout in ("in_out", "out_in"):
                    for batch in BATCHES:
                        yield from _force_block(rule, gated, dtype, layout, batch, draws)


def _force_block(
    rule: str, gated: bool, dtype: str, layout: str, batch: int, draws: int
) -> Iterator[tuple[Cell, int, int]]:
    program = Block(
        rule=rule, gated=gated, activation="relu", c=0.5, dtype=dtype, layout=layout, bias=-3.0, down_bias=False,
        batch=batch, d=64, width=512, layers=0, group=1, weight_kinds=("gaussian",), plain_share=1.0, seed=0,
    )  # fmt: skip
    dense, step = check_blocks.build(program)
    rng = np.random.default_rng([batch, len(dtype)])
    seen = 0
    for branch in ("budget exceeded", "not finite"):
        p, wrong = program.weights("gaussian", rng), 0
        placed = {name: jnp.asarray(array) for name, array in p.items()}
        for _ in range(3 * draws):
            x = rng.standard_normal((batch, program.d)) * (8 if branch == "budget exceeded" else 1)
            if branch == "not finite":
                x[rng.integers(batch), rng.integers(program.d)] = rng.choice([np.nan, np.inf, -np.inf])
            x = values.cast(x, dtype)
            got, wanted = (np.asarray(f(placed, jnp.asarray(x), {})[0]) for f in (step, dense))
            wrong += bool(check_blocks.compare(program, p, x, got, wanted))
        (certificate,) = step.report().certificates
        cell = Cell(f"block, {rule}{', gated' if gated else ''}", branch, dtype, layout, "none", batch)
        yield cell, certificate.rows - certificate.proven - seen, wrong
        seen = certificate.rows - certificate.proven


# -------------------------------------------------------------------------------------------------------------- tables


def tables(found: list[tuple[Cell, int, int]]) -> str:
    """One table for each kind and branch: types, layouts and meshes down, batches across."""
    lines, total = [], Counter[str]()
    for kind, branch in dict.fromkeys((cell.kind, cell.branch) for cell, *_ in found):
        lines += [f"\n**{kind}: {branch}**\n", "| | " + " | ".join(f"batch {b}" for b in BATCHES) + " |"]
        lines.append("|---" * (len(BATCHES) + 1) + "|")
        cells = {cell: numbers for cell, *numbers in found if (cell.kind, cell.branch) == (kind, branch)}
        for dtype, layout, mesh in dict.fromkeys((c.dtype, c.layout, c.mesh) for c in cells):
            row = [cells.get(Cell(kind, branch, dtype, layout, mesh, batch), (0, 0)) for batch in BATCHES]
            text = " | ".join(f"{forced} × {wrong} wrong" if wrong else str(forced) for forced, wrong in row)
            where = "one device" if mesh == "none" else f"{mesh} devices"
            lines.append(f"| {dtype} {layout}, {where} | {text} |")
            total.update(forced=sum(r[0] for r in row), wrong=sum(r[1] for r in row))
    lines.append(f"\n{total['forced']} rows forced, {total['wrong']} of them wrong.")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run every mesh and type in a process of its own, and print tables. The exit code is 1 where a row is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.forced", description=__doc__)
    parser.add_argument("--draws", type=int, default=4, help="calls for each number of failing rows")
    parser.add_argument("--mesh", choices=MESHES, nargs="+", default=MESHES)
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        (mesh,) = options.mesh
        found = list(force_heads(mesh, options.dtype, options.draws))
        found += force_blocks(options.dtype, options.draws) if mesh == "none" else []
        print(json.dumps([[vars(cell), forced, wrong] for cell, forced, wrong in found]))
        return 0
    cells = [(mesh, dtype) for mesh in options.mesh for dtype in options.dtype]
    with ThreadPoolExecutor(options.jobs) as pool:
        parts = list(pool.map(lambda cell: _in_a_process(*cell, options.draws), cells))
    found = [row for part in parts for row in part]
    print(tables(found))
    return int(any(wrong for *_, wrong in found))


def _in_a_process(mesh: str, dtype: str, draws: int) -> list[tuple[Cell, int, int]]:
    environment: dict[str, Any] = dict(os.environ)
    if mesh != "none":
        environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "tests.fuzz.forced", "--inside", "--mesh", mesh]
    command += ["--dtype", dtype, "--draws", str(draws)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [(Cell(**cell), forced, wrong) for cell, forced, wrong in json.loads(done.stdout.splitlines()[-1])]


if __name__ == "__main__":
    sys.exit(main())
