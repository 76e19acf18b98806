"""Decode with a real pretrained model, dense and rewritten, and compare: text, tokens, time, report.

    python -m examples.decode "The history of bread begins"
    python -m examples.decode --predictor low-rank --tokens 32 "Dear Anna,"

The model (``examples/models``) is plain JAX and knows nothing of the compiler; all that happens to it is one
line: ``hire.transform(step, config)``.
"""

from __future__ import annotations

import argparse
import sys
import time

import jax

import hire_compiler as hire
from benchmarks.best_dense import dense_steps
from examples.calibration import calibrate_head
from examples.models import MODEL_NAMES, MissingWheelError, Model, load_model
from examples.models.generate import Generation, Step, generate

DEFAULT_PROMPT = "The history of bread begins"


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default=DEFAULT_PROMPT)
    parser.add_argument("--model", default="auto", choices=["auto", *MODEL_NAMES])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--predictor", default="quantized", choices=["quantized", "low-rank"])
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--rank", type=int, default=256)
    options = parser.parse_args()
    try:
        model = load_model(options.model)
    except MissingWheelError as error:
        sys.exit(str(error))
    print(f"{model.name} on {jax.devices()[0].device_kind}, {len(jax.tree.leaves(model.params))} weights\n", flush=True)

    dense = jax.jit(model.greedy_step, donate_argnums=2)
    step = _rewritten(dense, model, options)

    ids = model.tokenizer.encode(options.prompt, add_bos=True)
    length = len(ids) + options.tokens
    began = time.perf_counter()
    sparse_run = generate(model, ids, options.tokens, step=step, cache_length=length)
    first = time.perf_counter() - began - sum(sparse_run.step_seconds)
    written_run = generate(model, ids, options.tokens, step=dense, cache_length=length)
    _show("dense", model, options.prompt, written_run)
    _show("rewritten", model, options.prompt, sparse_run)
    equal = sum(a == b for a, b in zip(written_run.tokens, sparse_run.tokens, strict=False))
    count = max(len(written_run.tokens), len(sparse_run.tokens))
    print(f"equal tokens: {equal} of {count} ({equal / max(count, 1):.1%})\n")

    forms = {"as written": dense, **dense_steps(model)}
    times = {name: generate(model, ids, options.tokens, step=form, cache_length=length) for name, form in forms.items()}
    again = generate(model, ids, options.tokens, step=step, cache_length=length)
    _print_times({name: run.median_milliseconds() for name, run in times.items()}, again.median_milliseconds())
    print(f"first call (lower, rewrite, prepare, compile; prefill and decode): {first:.1f} s\n")
    print(step.report())


def _rewritten(dense: Step, model: Model, options: argparse.Namespace) -> hire.HireFunction:
    if options.predictor == "quantized":
        rule = hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=options.candidates)
        return hire.transform(dense, hire.Config(rules=(rule,)))
    print("calibrating on examples/text/calibration.txt …", flush=True)
    calibration = calibrate_head(model)
    rule = hire.Rule(kind="head", predictor=hire.LowRank(rank=options.rank), candidates=options.candidates)
    return hire.transform(dense, hire.Config(rules=(rule,)), calibration=calibration)


def _show(name: str, model: Model, prompt: str, run: Generation) -> None:
    text = model.tokenizer.decode(run.tokens)
    print(f"--- {name}\n{prompt}{text}\n")


def _print_times(dense: dict[str, float], rewritten: float) -> None:
    best = min(dense, key=lambda name: dense[name])
    written = dense["as written"]
    print("milliseconds a token (median):")
    print(f"  dense, as written           {written:7.2f}")
    print(f"  dense, best form            {dense[best]:7.2f}   ({best})")
    print(f"  rewritten                   {rewritten:7.2f}   {written / rewritten:.2f}× over as written, "
          f"{dense[best] / rewritten:.2f}× over the best dense form")  # fmt: skip


if __name__ == "__main__":
    main()
