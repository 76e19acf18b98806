"""What approximate logits cost in perplexity: both tails of every predictor against dense, on held-out text.

    python -m benchmarks.perplexity [--model gemma3-270m] [--candidates 256]

With the tail ``"predicted"`` the rows outside the candidates keep their predicted logit; ``"dropped"`` makes them −inf,
so that a token which was no candidate has no probability. Those are counted, and the perplexity is of the others.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import jax
import numpy as np

import hire_compiler as hire
from benchmarks.timing import print_table
from examples.calibration import calibrate_head
from examples.models import Model, load_model
from examples.models.score import head_losses, token_losses
from examples.models.text import heldout_text
from hire_compiler.config.predictors import Predictor

PREDICTORS: dict[str, Predictor] = {
    "Quantized(8)": hire.Quantized(bits=8),
    "LowRank(256), int8": hire.LowRank(rank=256, dtype="int8"),
    "LowRank(320), int8": hire.LowRank(rank=320, dtype="int8"),
    "Cascade(128, 8192)": hire.Cascade(hire.LowRank(128, dtype="int8"), hire.Quantized(8), survivors=8192),
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--block", type=int, default=16, help="positions scored in one call")
    options = parser.parse_args()
    model = load_model(options.model)
    ids = model.tokenizer.encode(heldout_text(), add_bos=False)
    calibration = calibrate_head(model)
    written = jax.jit(partial(head_losses, model))
    dense = _losses(model, ids, written, options)
    base = float(np.exp(dense.mean()))
    rows = [["dense", "", f"{base:.4f}", "", "", "0"]]
    for tail in ("predicted", "dropped"):
        for name, predictor in PREDICTORS.items():
            rule = hire.Rule(kind="head", predictor=predictor, candidates=options.candidates, tail=tail)
            step = hire.transform(written, hire.Config(rules=(rule,)), calibration=calibration)
            losses = _losses(model, ids, step, options)
            known = np.isfinite(losses)
            reached = float(np.exp(losses[known].mean()))
            change = reached / float(np.exp(dense[known].mean())) - 1
            (error,) = step.report().tails
            rows.append([name, tail, f"{reached:.4f}", f"{change:+.4%}", f"{error.rms:.2g}", str(int((~known).sum()))])
            print("  ".join(rows[-1]), flush=True)
    title = f"{model.name}: perplexity of {len(dense)} held-out tokens, {options.candidates} candidates"
    header = ["predictor", "tail", "perplexity", "against dense", "rms error of predicted logits", "tokens without one"]
    print_table(title, header, rows)


def _losses(model: Model, ids: list[int], step: Any, options: argparse.Namespace) -> np.ndarray:
    score = lambda x, targets: step(model.params, x, targets)  # noqa: E731
    return token_losses(model, ids, score, options.window, options.block)


if __name__ == "__main__":
    main()
