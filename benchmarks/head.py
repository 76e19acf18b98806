"""One real LM head: every predictor against every dense form, with what it finds and what it must read.

    python -m benchmarks.head [--model gemma3-270m] [--rows 32768] [--dtype float32] [--batch 1] [--rivals]

The head is greedy: hidden states of held-out text times the first ``--rows`` rows of the model's table, then argmax.
A form's tokens are compared with dense's on ``--positions`` positions; where only the winner is read that is recall@1.
The byte limit is the ratio that both would have at the same bytes a second. Times are interleaved medians; on a machine
that does other work the fastest runs, beside them, say more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.best_dense import dense_heads
from benchmarks.hidden import heldout_states
from benchmarks.timing import interleaved, median_ms, print_table
from examples.calibration import calibrate_head
from examples.models import load_model
from hire_compiler.config.predictors import Predictor

Run = Callable[[jax.Array], Any]
CERTIFIED = "Quantized(8), certified strictly"
RULES: dict[str, tuple[Predictor, bool | str]] = {
    CERTIFIED: (hire.Quantized(bits=8), "strict"),
    "Quantized(8)": (hire.Quantized(bits=8), False),
    "Quantized(4, columns=64)": (hire.Quantized(bits=4, columns=64), False),
    "LowRank(256), bfloat16": (hire.LowRank(rank=256), False),
    "LowRank(256), int8": (hire.LowRank(rank=256, dtype="int8"), False),
    "LowRank(320), int8": (hire.LowRank(rank=320, dtype="int8"), False),
    "Cascade(128, 8192)": (
        hire.Cascade(hire.LowRank(rank=128, dtype="int8"), hire.Quantized(bits=8), survivors=8192),
        False,
    ),
}


@dataclass
class Form:
    """One way to compute the head.

    Attributes:
      run: from hidden states ``[b, d]`` to tokens ``[b]``.
      nbytes: weight bytes that a call reads.
      counted: the same, counting proofs.
      proofs: how often they held.
      found: share of the tokens that are dense's.
    """

    run: Run
    nbytes: int
    counted: Run | None = None
    proofs: Callable[[], str] = str
    found: str = ""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--rows", type=int, default=0, help="the first so many rows of the table; all by default")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--positions", type=int, default=2048, help="0: time only")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rivals", action="store_true", help="also torch and onnxruntime, where they are installed")
    options = parser.parse_args()
    model = load_model(options.model)
    calibration = calibrate_head(model)
    embed = model.params["embed"][: options.rows or None].astype(options.dtype)
    states = heldout_states(model).astype(options.dtype)
    del model
    x = states[: options.batch]

    forms = _dense(embed, options.batch)
    for name, (predictor, certify) in RULES.items():
        forms |= _rewritten(name, predictor, certify, embed, x, calibration, options)
    seconds = _time(forms, states, options)
    if options.rivals:
        # Afterwards: their threads wait for work in a busy loop, which whoever is timed beside them pays for.
        from benchmarks.rivals import rival_heads

        rivals = {name: Form(run, nbytes) for name, (run, nbytes) in rival_heads(embed).items()}
        for name, form in rivals.items():
            seconds |= _time({name: form}, states, options)
        forms |= rivals
    if options.positions:
        _compare(forms, states[: options.positions], options.batch)
    _print(forms, seconds, embed, options)


def _dense(embed: jax.Array, batch: int) -> dict[str, Form]:
    def written(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.argmax(x @ w.T, axis=-1)

    heads = {"dense, as written": (written, embed), **dense_heads(embed, batch)}
    compiled = {name: (jax.jit(head), stored) for name, (head, stored) in heads.items()}
    return {
        name: Form(lambda x, head=head, stored=stored: head(x, stored), stored.nbytes)
        for name, (head, stored) in compiled.items()
    }


def _rewritten(
    name: str,
    predictor: Predictor,
    certify: Any,
    embed: jax.Array,
    x: jax.Array,
    calibration: hire.Calibration,
    options: argparse.Namespace,
) -> dict[str, Form]:
    """The form of one rule: prepared once, called as the head of an outer step would be."""
    candidates = 128 if certify else options.candidates
    rule = hire.Rule(kind="head", predictor=predictor, candidates=candidates, certify=certify)

    def greedy(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jnp.argmax(x @ params["embed"].T, axis=-1)

    step = hire.transform(jax.jit(greedy), hire.Config(rules=(rule,)), calibration=calibration)
    params = {"embed": embed}
    prepared = step.prepare(params, x)
    (decision,) = step.report(params, x).decisions
    if decision.action != "rewritten":
        print(f"{name} left dense: {decision.reason}")
        return {}
    outer = jax.jit(lambda p, x, q: step(p, x, prepared=q))

    def proofs() -> str:
        seen = step.report().certificates
        return f"{seen[0].proven / seen[0].rows:.2%}" if certify and seen and seen[0].rows else ""

    return {name: Form(lambda x: outer(params, x, prepared), decision.sparse_bytes, lambda x: step(params, x), proofs)}


def _time(forms: dict[str, Form], states: jax.Array, options: argparse.Namespace) -> dict[str, np.ndarray]:
    some = [states[i : i + options.batch] for i in range(0, 64 * options.batch, options.batch)]
    jax.block_until_ready(some)

    def with_states(form: Form, source: Iterator[jax.Array]) -> Callable[[], Any]:
        return lambda: form.run(next(source))

    runs = {name: with_states(form, cycle(some)) for name, form in forms.items()}
    return interleaved(runs, options.rounds)


def _compare(forms: dict[str, Form], states: jax.Array, batch: int) -> None:
    """Tokens of every form against the author's own, on all positions."""
    parts = [states[i : i + batch] for i in range(0, len(states) - batch + 1, batch)]
    # The author's own product decides; of narrow rows in larger batches it would take minutes.
    dense = [name for name in forms if name.startswith("dense")]
    reference = dense[0] if states.dtype == jnp.float32 or batch == 1 else dense[1]
    wanted = np.concatenate([np.asarray(forms[reference].run(x)) for x in parts])
    for name, form in forms.items():
        if name not in dense:
            some = parts if form.counted else parts[: 256 // batch]  # the rivals are slow
            got = np.concatenate([np.asarray((form.counted or form.run)(x)) for x in some])
            form.found = f"{np.mean(got == wanted[: len(got)]):.4f}" + ("" if form.counted else f" of {len(got)}")


def _print(
    forms: dict[str, Form], seconds: dict[str, np.ndarray], embed: jax.Array, options: argparse.Namespace
) -> None:
    ms = {name: median_ms(taken) for name, taken in seconds.items()}
    fastest = {name: float(taken.min()) * 1e3 for name, taken in seconds.items()}
    written, best = ms["dense, as written"], min(t for name, t in ms.items() if name.startswith("dense"))
    best_fastest = min(t for name, t in fastest.items() if name.startswith("dense"))
    rows = []
    for name, form in forms.items():
        limit = "" if name.startswith("dense") else f"{embed.nbytes / form.nbytes:.1f}×"
        times = [f"{ms[name]:.3f}", f"{form.nbytes / ms[name] / 1e6:.0f}"]
        ratios = [f"{written / ms[name]:.2f}×", f"{best / ms[name]:.2f}×", limit]
        ratios += [f"{fastest[name]:.3f}", f"{best_fastest / fastest[name]:.2f}×"]
        rows.append([name, *times, *ratios, form.found, form.proofs()])
    header = ["form", "ms", "GB/s", "over as written", "over best dense", "byte limit"]
    header += ["fastest run", "over fastest dense", "recall@1", "proven"]
    n, d = embed.shape
    print_table(f"Greedy head {d}→{n}, {options.dtype}, batch {options.batch}", header, rows)


if __name__ == "__main__":
    main()
