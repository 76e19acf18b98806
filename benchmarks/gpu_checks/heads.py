"""Certified heads on the card: the fuzzer's programs against the author's own, and against float64.

Strict: the same indices as the author's program on the same card. Else: within the printed slack of float64. Products
of float32 are tried as JAX multiplies them by default (TF32) and with the highest precision. One program is made by
hand: rows of signs, whose int8 copy is exact, and inputs that TF32 rounds to one number, so that only a predictor that
is as precise as its bound says can tell the rows apart.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from tests.fuzz import check_heads, values
from tests.fuzz.heads import Head
from tests.fuzz.tally import Tally

# Type, and the precision that the author asks for.
ASKED = (("bfloat16", None), ("float32", "highest"), ("float16", None), ("float32", None), ("float16", "highest"))
TAILS: tuple[tuple[tuple[str, float], ...], ...] = (
    (), (("softcap", 30.0),), (("bias", 1.0),), (("mask", 1.0),), (("gumbel", 1.0),), (("widen", 1.0),),
    (("softcap", 5.0), ("widen", 1.0)), (("temperature", 1.0),),
)  # fmt: skip
SIZES = ((1024, 33), (2048, 64), (4096, 640), (1537, 257), (8192, 256))


def check(number: int, count: int, over: Callable[[], bool], quick: bool) -> Iterator[dict[str, Any]]:
    """Counts, and every fault with its program."""
    tally, faults, notes = Tally(), [], {}
    signs: dict[str, Any] = {}
    for batch in (1, 4, 16)[number::count]:
        with contextlib.suppress(Exception):
            signs[f"batch {batch}"] = rows_of_signs(batch)
            yield {"signs": signs}
    rng = np.random.default_rng(number)
    for i in range(4 if quick else 10_000):
        if over():
            return
        dtype, precision = ASKED[i % len(ASKED)]
        program = draw(rng, dtype, i)
        kind = f"{program.rule} {dtype}{' ' + precision if precision else ''}"
        with jax.default_matmul_precision(precision):
            outcome = check_heads.run(program, 64 if quick else 400)
        tally.add_outcome(kind, outcome)
        if outcome.note:
            notes.setdefault(f"{kind}: {outcome.status}: {outcome.note[:160]}", 0)
            notes[f"{kind}: {outcome.status}: {outcome.note[:160]}"] += 1
        faults += [
            {"what": f.what, "kinds": f.kinds, "precision": precision, "program": program.to_dict(),
             "text": program.describe()}
            for f in outcome.faults[:1]
        ]  # fmt: skip
        yield {"tally": tally.to_dict(), "faults": faults, "notes": notes}


def draw(rng: np.random.Generator, dtype: str, i: int) -> Head:
    """The i-th program: rules, layouts and batches in turns, the rest at random."""
    rule = ("strict", "true", "strict", "default")[i // len(ASKED) % 4]
    rows, d = (
        ((16384, 64) if dtype == "float32" else (16384, 128)) if rule == "default" else SIZES[rng.integers(len(SIZES))]
    )
    readers = (("argmax",), ("argmax",), ("top_k",), ("argmax", "max"))[rng.integers(4)]
    kinds = rng.choice(sorted(values.WEIGHTS), 4, replace=False)
    return Head(
        rule=rule, dtype=dtype, layout=("vd", "dv")[int(rng.integers(2))],
        form=("matmul", "matmul", "einsum", "wide_result")[rng.integers(4)], before="",
        after=TAILS[rng.integers(len(TAILS))], readers=readers, k=int(rng.choice([1, 8, 32])), loop="",
        batch=1 if rule == "default" else int(rng.choice([1, 4, 16])), rows=rows, d=d, candidates=128,
        weight_kinds=("gaussian", "ties", "neighbours", *(str(kind) for kind in kinds)), plain_share=0.5,
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def rows_of_signs(batch: int, d: int = 16, calls: int = 32) -> dict[str, Any]:
    """All predictions tie where x is rounded to TF32; the true logits differ by more than the bound of float32 sums."""
    rng = np.random.default_rng(batch)

    def greedy(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.argmax(jnp.dot(x, w.T, precision="highest"), axis=-1)

    rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=64, certify="strict")
    step, dense = hire.transform(jax.jit(greedy), hire.Config(rules=(rule,))), jax.jit(greedy)
    negative = list(itertools.combinations(range(d), d // 4))
    signs = np.ones((len(negative), d))
    signs[np.arange(len(negative))[:, None], negative] = -1
    w, wrong, wrong64 = jnp.asarray(signs, jnp.float32), 0, 0
    for _ in range(calls):
        x = (1 + 2.0**-11 * rng.uniform(0, 1, (batch, d))).astype(np.float32)
        got, wanted = np.asarray(step(w, jnp.asarray(x))), np.asarray(dense(w, jnp.asarray(x)))
        wrong += int((got != wanted).sum())
        wrong64 += int((got != np.argmax(x.astype(np.float64) @ signs.T, axis=1)).sum())
    (certificate,) = step.report().certificates
    return {
        "rows": batch * calls, "proven": certificate.proven, "wrong": wrong, "not float64's": wrong64
    }  # fmt: skip


def summary(workers: list[dict[str, Any]]) -> str:
    """The counts, the reasons of what stayed dense, and the faults."""
    tally, notes, faults, signs = Tally(), {}, [], {}
    for worker in workers:
        tally.merge(worker.get("tally", {}))
        notes.update(worker.get("notes", {}))
        faults += worker.get("faults", [])
        signs.update(worker.get("signs", {}))
    lines = [tally.table(), f"rows of signs: {signs}"]
    lines += [f"  {note}" for note in list(dict.fromkeys(note[:170] for note in notes))[:10]]
    lines += [f"  FAULT {f['text']} ({f['precision']}): {f['what'][:220]}; {f['kinds'][:80]}" for f in faults[:8]]
    return "\n".join(lines)
