"""What a calibration says of the neurons of two trained models, and what the compiler makes of it.

python -m examples.neurons [--steps 300]

Trains the two byte-level transformers of ``examples/train_sparse.py`` (one with an ordinary ReLU, one that keeps 1/12
of its neurons in groups of 8), counts their active neurons on real text, and rewrites the decode step three ways: by
default (``Exact()``: lossless, budgets from calibration), and with low-rank predictors for two recall budgets.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.timing import interleaved, median_ms, print_table
from examples.train_sparse import CONTEXT, KEPT, WIDTH, Params, decode, empty_cache, evaluate, forward, text, train

RANK, RECALLS = 96, (0.9, 0.97)


def main() -> None:
    """Train, calibrate, rewrite, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--passages", type=int, default=4, help=f"held-out passages of {CONTEXT} tokens")
    options = parser.parse_args()
    data = text()
    learned, held_out = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]
    starts = np.linspace(0, len(held_out) - CONTEXT - 2, options.passages).astype(int)
    passages = np.stack([held_out[s : s + CONTEXT + 1] for s in starts])
    for name, kept in (("trained dense", WIDTH), (f"trained with {KEPT} of {WIDTH}", KEPT)):
        print(name, flush=True)
        show(name, train(learned, kept, options.steps, options.batch), kept, learned, passages)


def rules() -> dict[str, hire.Config]:
    """How the step is rewritten."""
    predictor = hire.LowRank(rank=RANK, dtype="float32")
    named = {"default": hire.Config()}
    for recall in RECALLS:
        named[f"recall {recall}"] = hire.Config(rules=(hire.Rule(kind="ffn", predictor=predictor, recall=recall),))
    return named


def show(name: str, params: Params, kept: int, learned: np.ndarray, passages: np.ndarray) -> None:
    """Everything about one model."""
    seen = [(params, jnp.asarray(learned[s : s + CONTEXT])) for s in range(0, 64 * CONTEXT, CONTEXT)]
    configs = rules()
    tried = configs[f"recall {RECALLS[0]}"]
    calibration = hire.calibrate(jax.jit(functools.partial(forward, kept=kept)), seen, kind="ffn", config=tried)
    (activity,) = calibration.activities.values()
    sizes = (1, 8, 32)
    rows = [
        [f"{together} rows", *(f"{activity.union(g, together):.1%}" for g in sizes), *(_quantiles(activity, together))]
        for together in (1, 4, 16)
    ]
    header = ["a call of", *(f"groups of {g}" if g > 1 else "neurons" for g in sizes), "median", "99.9 %"]
    print_table(f"{name}: share of all groups touched, {activity.rows} rows", header, rows)
    step = jax.jit(functools.partial(decode, kept=kept))
    first = (params, jnp.int32(passages[0, 0]), jnp.int32(0), empty_cache())
    runs: dict[str, Any] = {"as written": step}
    lines = [["as written", "", "", "", "", "", f"{evaluate(step, params, passages):.4f}"]]
    for label, config in configs.items():
        runs[label] = made = hire.transform(step, config, calibration=calibration)
        made(*first)
        (decision,) = made.report().decisions
        print(decision.reason)
        loss = f"{evaluate(made, params, passages):.4f}"
        measured = ["", ""] if decision.recall is None else [f"{decision.recall:.1%}", f"{decision.error:.1%}"]
        counts = [str(decision.candidates), str(decision.group), str(decision.common)]
        lines.append([label, *counts, *measured, loss] if decision.action == "rewritten" else [label, *[""] * 5, loss])
    ms = {k: median_ms(t) for k, t in interleaved({k: lambda f=f: f(*first) for k, f in runs.items()}, 100).items()}
    for line in lines:
        line += [f"{ms[line[0]]:.3f}", f"{ms['as written'] / ms[line[0]]:.2f}×"]
    header = ["step", "neurons", "group", "common", "recall", "error", "loss", "ms", "speed"]
    print_table(f"{name}, decoding", header, lines)


def _quantiles(activity: Any, together: int) -> list[str]:
    return [f"{activity.most(1, together, q):.1%}" for q in (0.5, 0.999)]


if __name__ == "__main__":
    main()
