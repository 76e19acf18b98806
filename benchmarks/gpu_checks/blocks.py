"""Feed-forward blocks on the card: what is skipped exactly, against the author's own program on the same card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np

from tests.fuzz import check_blocks, values
from tests.fuzz.blocks import Block
from tests.fuzz.oracle import EPS
from tests.fuzz.tally import Tally

ASKED = (("bfloat16", None), ("float32", "highest"), ("float32", None), ("float16", None))
TF32 = {**EPS, "float32": 2.0**-10}  # by default the card multiplies float32 numbers with eleven bits
KINDS = ("relu", "relu2", "shifted", "statistical", "group_topk", "threshold", "topk", "by_size")


def check(number: int, count: int, over: Callable[[], bool], quick: bool) -> Iterator[dict[str, Any]]:
    """Counts, and every fault with its program."""
    tally, faults, notes = Tally(), [], {}
    rng = np.random.default_rng(100 + number)
    for i in range(3 if quick else 10_000):
        if over():
            return
        dtype, precision = ASKED[i % len(ASKED)]
        program = draw(rng, dtype, i)
        coarse = dtype == "float32" and precision is None and jax.default_backend() == "gpu"
        with (
            jax.default_matmul_precision(precision),
            mock.patch.object(check_blocks, "EPS", TF32 if coarse else EPS),
        ):
            outcome = check_blocks.run(program, 32 if quick else 160)
        kind = f"{program.rule} {dtype}{' ' + precision if precision else ''}"
        tally.add_outcome(kind, outcome)
        if outcome.note:
            notes[f"{kind}: {outcome.status}: {outcome.note[:160]}"] = 1
        faults += [
            {"what": f.what, "kinds": f.kinds, "precision": precision, "program": vars(program),
             "text": program.describe()}
            for f in outcome.faults[:1]
        ]  # fmt: skip
        yield {"tally": tally.to_dict(), "faults": faults, "notes": notes}


def draw(rng: np.random.Generator, dtype: str, i: int) -> Block:
    """The i-th program: rules in turns, the rest at random."""
    rule = ("exact_budget", "default", "exact", "certified")[i // len(ASKED) % 4]
    gated = bool(rng.integers(2))
    large = rule in ("default", "exact")
    d, width = ((256, 4096) if dtype != "float32" and not gated else (256, 2048)) if large else (64, 1024)
    activation = "relu" if rule == "certified" else str(KINDS[rng.integers(len(KINDS))])
    kinds = rng.choice(sorted(values.WEIGHTS), 3, replace=False)
    return Block(
        rule=rule, gated=gated, activation=activation, c=0.5, dtype=dtype,
        layout=("in_out", "out_in")[int(rng.integers(2))], bias=(None, -2.5, -1.0)[rng.integers(3)],
        down_bias=bool(rng.integers(2)), batch=int(rng.choice([1, 4, 16])), d=d, width=width, layers=0, group=1,
        weight_kinds=("gaussian", *(str(kind) for kind in kinds)), plain_share=0.5, seed=int(rng.integers(2**31)),
    )  # fmt: skip


def summary(workers: list[dict[str, Any]]) -> str:
    """The counts, the reasons of what stayed dense, and the faults."""
    tally, notes, faults = Tally(), {}, []
    for worker in workers:
        tally.merge(worker.get("tally", {}))
        notes.update(worker.get("notes", {}))
        faults += worker.get("faults", [])
    lines = [tally.table()]
    lines += [f"  {note}" for note in list(dict.fromkeys(note[:150] for note in notes))[:6]]
    lines += [f"  FAULT {f['text']} ({f['precision']}): {f['what'][:220]}; {f['kinds'][:80]}" for f in faults[:8]]
    return "\n".join(lines)
