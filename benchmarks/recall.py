"""Which predictor finds the top rows of a real head, and how often its certificates hold.

    python -m benchmarks.recall [--model gemma3-270m] [--stride 1] [--proofs]

Recall is the share of dense's top 1 / 8 / 64 among the candidates, on text that calibration never saw. A stride above 1
takes every so-manyth position only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.hidden import heldout_states
from benchmarks.timing import print_table
from examples.calibration import calibrate_head
from examples.models import load_model
from hire_compiler.runtime.logits import select_candidates
from hire_compiler.runtime.low_rank import prepare_low_rank
from hire_compiler.runtime.quantized import prepare_int4, prepare_quantized
from hire_compiler.runtime.target import store, target_for

WIDTHS, TOPS, BATCH = (128, 256, 1024), (1, 8, 64), 16
Prepare = Callable[[jax.Array, jax.Array], dict[str, jax.Array]]


def predictors() -> dict[str, tuple[Prepare, int]]:
    """How each predictor is prepared from rows and second moment, and the survivors of a cascade."""
    found: dict[str, tuple[Prepare, int]] = {
        "Quantized(8)": (lambda w, m: prepare_quantized(w), 0),
        "Quantized(4, columns=64)": (lambda w, m: prepare_int4(w, 64), 0),
        "LowRank(256), bfloat16": (lambda w, m: prepare_low_rank(w, 256, m, "bfloat16"), 0),
    }
    for rank in (128, 256, 320):
        found[f"LowRank({rank}), int8"] = (lambda w, m, r=rank: prepare_low_rank(w, r, m, "int8"), 0)
    for rank, survivors in ((128, 8192), (192, 8192)):
        name = f"Cascade(LowRank({rank}), Quantized(8), {survivors})"
        found[name] = (lambda w, m, r=rank: prepare_low_rank(w, r, m, "int8") | prepare_quantized(w), survivors)
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--proofs", action="store_true", help="also count how often certificates hold (minutes)")
    options = parser.parse_args()
    model = load_model(options.model)
    calibration = calibrate_head(model)
    (moment,) = calibration.moments.values()
    states = heldout_states(model)[:: options.stride]
    states = states[: len(states) // BATCH * BATCH].reshape(-1, BATCH, states.shape[1])
    embed, mean = model.params["embed"], jnp.asarray(moment.mean)
    dense = jax.jit(lambda w, x: jax.lax.top_k(x @ w.T, TOPS[-1])[1])
    wanted = [np.asarray(dense(embed, x)) for x in states]
    rows = []
    for name, how in predictors().items():
        rows.append([name, *_recall(embed, mean, states, wanted, *how)])
        print("  ".join(rows[-1]), flush=True)
    title = f"{model.name}: recall @1 / @8 / @64 on {states.shape[0] * BATCH} held-out positions"
    print_table(title, ["predictor", *(f"k' = {width}" for width in WIDTHS)], rows)
    if options.proofs:
        _proofs(embed, states)


def _recall(
    embed: jax.Array, moment: jax.Array, states: Any, wanted: list[np.ndarray], prepare: Prepare, survivors: int
) -> list[str]:
    target = target_for(jax.default_backend())
    arrays = {name: store(array, target) for name, array in prepare(embed, moment).items()}
    cells = []
    for width in WIDTHS:
        choose = jax.jit(lambda a, x, k=width: select_candidates(x, a, k, target, survivors=survivors)[0])
        hits = np.zeros(len(TOPS))
        for x, best in zip(states, wanted, strict=True):
            for row, chosen in zip(best, np.asarray(choose(arrays, x)), strict=True):
                found = np.isin(row, chosen)
                hits += [found[:top].mean() for top in TOPS]
        cells.append(" / ".join(f"{share:.4f}" for share in hits / states.shape[0] / BATCH))
    return cells


def _proofs(embed: jax.Array, states: Any) -> None:
    rows = []
    for dtype in ("float32", "bfloat16"):
        weight = embed.astype(dtype)
        for top, candidates, certify in ((1, 128, "strict"), (8, 256, True), (64, 256, True)):
            rule = hire.Rule(kind="head", predictor=hire.Quantized(8), candidates=candidates, certify=certify)
            head = jax.jit(lambda x, w, k=top: jax.lax.top_k(x @ w.T, k)[1])
            step = hire.transform(head, hire.Config(rules=(rule,)))
            equal = 0
            for x in states.astype(dtype):
                equal += int((np.asarray(step(x, weight)) == np.asarray(head(x, weight))).all(axis=1).sum())
            (seen,) = step.report().certificates
            proven = f"{seen.proven / seen.rows:.2%}"
            rows.append([dtype, f"top {top}", str(certify), str(candidates), proven, f"{equal / seen.rows:.2%}"])
            print("  ".join(rows[-1]), flush=True)
    print_table("Certificates", ["dtype", "read", "certify", "k'", "proven", "indices equal to dense"], rows)


if __name__ == "__main__":
    main()
