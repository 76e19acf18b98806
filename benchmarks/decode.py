"""The whole decode step of a real model: dense as written, best dense form, and rewritten heads.

    python -m benchmarks.decode [--model gemma3-270m] [--prompts 10] [--tokens 64]
    python -m benchmarks.decode --speed [--dtype bfloat16] [--batches 1,2,4,8,16] [--rivals] [--dense-forms]
    python -m benchmarks.decode --beside-compare 5

Prints, for every predictor: tokens equal to dense (teacher-forced, the dense tokens are fed to all), time a
step against both dense baselines (interleaved medians), and recall on text that calibration never saw. With
``--speed`` the times alone; ``--rivals`` adds llama.cpp's step with its own 4-bit weights, where it is installed;
``--dense-forms`` adds every step with ``Config(dense_forms=True)``, and the dense step so as one more baseline.
``--beside-compare`` holds ``hire.compare`` to what this file measures: so many turns of each, and their ratios.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.best_dense import dense_steps
from benchmarks.hidden import heldout_states
from benchmarks.timing import interleaved, median_ms, print_table
from examples.calibration import calibrate_head
from examples.models import Model, load_model
from examples.models.text import prompts
from hire_compiler.passes.replace.preparing import predictor_arrays
from hire_compiler.runtime.logits import select_candidates
from hire_compiler.runtime.target import target_for

Step = Callable[..., Any]
DEFAULT = "certified, strict: the default"
PREDICTORS: dict[str, hire.Quantized | hire.LowRank | hire.Cascade] = {
    "Quantized(8)": hire.Quantized(bits=8),
    "LowRank(256) bf16": hire.LowRank(rank=256, dtype="bfloat16"),
    "LowRank(320) int8": hire.LowRank(rank=320, dtype="int8"),
    "LowRank(128) int8 → Quantized(8)": hire.Cascade(
        hire.LowRank(rank=128, dtype="int8"), hire.Quantized(bits=8), survivors=8192
    ),
}


@dataclass
class Agreement:
    """Token agreement of one step with dense."""

    equal: int = 0
    ties: int = 0
    different: int = 0


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--cache", type=int, default=128, help="static cache length")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of all weights")
    parser.add_argument("--batches", default="1", help="numbers of sequences, of --speed; 1,2,4,8,16 for instance")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--dense-forms", action="store_true", help="every step with dense forms, too")
    parser.add_argument(
        "--only", default="", metavar="NAMES", help="a regular expression: rewritten steps and dense forms that match"
    )
    parser.add_argument("--beside-compare", type=int, metavar="TURNS", help="only ratios, by this file and by compare")
    options = parser.parse_args()
    batches = [int(batch) for batch in options.batches.split(",")]
    if max(batches) > 1 and not options.speed:
        parser.error("tokens are compared at batch 1: add --speed")
    if options.dense_forms and not options.speed:
        parser.error("dense forms are timed, not compared: add --speed")
    model = load_model(options.model, options.dtype)
    print(f"{model.name}, {options.dtype}, cache of {options.cache}, {jax.devices()[0].platform}")
    calibration = calibrate_head(model)
    print(calibration)

    written = jax.jit(model.greedy_step, donate_argnums=2)
    sparse = _rewritten(written, calibration, options.candidates, dense_forms=False)
    if options.dense_forms:
        with_forms = _rewritten(written, calibration, options.candidates, dense_forms=True)
        sparse |= {f"{name}, dense forms": step for name, step in with_forms.items()}
        sparse["dense, by dense forms"] = hire.transform(written, hire.Config(exact=False, dense_forms=True))
    sparse = {name: step for name, step in sparse.items() if re.search(options.only, name)}
    ids = [model.tokenizer.encode(text, add_bos=True) for text in prompts()[: options.prompts]]
    if options.beside_compare:
        _beside_compare(model, ids[0], written, sparse, options)
        return
    if not options.speed:
        _agreement(model, ids, written, sparse, options)
    for batch in batches:
        _speed(model, ids[0], written, sparse, batch, options)
    if not options.speed:
        _recall(model, sparse, options)


def _rewritten(written: Step, calibration: Any, candidates: int, *, dense_forms: bool) -> dict[str, Any]:
    """Every rewritten step, by what it is called in the tables."""

    def by_rule(predictor: Any, **rest: Any) -> Any:
        rule = hire.Rule(kind="head", predictor=predictor, candidates=candidates, **rest)
        return hire.transform(written, hire.Config(rules=(rule,), dense_forms=dense_forms), calibration=calibration)

    steps = {name: by_rule(predictor) for name, predictor in PREDICTORS.items()}
    steps[DEFAULT] = hire.transform(written, hire.Config(dense_forms=dense_forms))
    steps["certified, True"] = by_rule(hire.Quantized(bits=8), certify=True)
    return steps


def _agreement(
    model: Model, ids: list[list[int]], written: Step, sparse: dict[str, Any], options: argparse.Namespace
) -> None:
    counts = {name: Agreement() for name in sparse}
    for prompt in ids:
        tokens = jnp.asarray([prompt], jnp.int32)
        caches = {name: model.init_cache(1, options.cache) for name in ["dense", *sparse]}
        for _ in range(options.tokens):
            before = jax.tree.map(jnp.copy, caches["dense"])
            token, caches["dense"] = written(model.params, tokens, caches["dense"])
            for name, step in sparse.items():
                other, caches[name] = step(model.params, tokens, caches[name])
                _count(counts[name], model, int(token[0]), int(other[0]), tokens, before)
            tokens = token[:, None]
    rows = [[name, str(c.equal), str(c.ties), str(c.different)] for name, c in counts.items()]
    print_table(
        f"Tokens against dense, {len(ids)} prompts × {options.tokens} tokens, {options.candidates} candidates",
        ["predictor", "equal", "tied below float32 rounding", "different"],
        rows,
    )


def _count(counts: Agreement, model: Model, dense: int, other: int, tokens: Any, cache: Any) -> None:
    if dense == other:
        counts.equal += 1
        return
    hidden, _ = model.hidden_states(model.params, tokens, cache)
    x = np.asarray(hidden[0, -1], np.float64)
    rows = np.asarray(model.params["embed"][jnp.array([dense, other])], np.float64)
    gap = float(rows[0] @ x - rows[1] @ x)
    rounding = len(x) * np.finfo(np.float32).eps * float(np.abs(rows[0]) @ np.abs(x))
    if gap <= rounding:
        counts.ties += 1
    else:
        counts.different += 1


def _beside_compare(
    model: Model, prompt: list[int], written: Step, sparse: dict[str, Any], options: argparse.Namespace
) -> None:
    """How many times as fast as written two steps are, by this file and by ``hire.compare``, in turns."""
    prefix, token = jnp.asarray([prompt], jnp.int32), jnp.asarray([prompt[-1:]], jnp.int32)
    rows = []
    for name in (DEFAULT, "LowRank(320) int8"):
        _, cache = written(model.params, prefix, model.init_cache(1, options.cache))
        here, by_compare = [], []
        for _ in range(options.beside_compare):
            ms = _step_ms(model, {"dense": written, name: sparse[name]}, prefix, token, options)
            here.append(ms["dense"] / ms[name])
            by_compare.append(
                hire.compare(sparse[name], model.params, token, cache, rounds=_rounds(prefix, options)).ratio
            )
            print(f"{name}: {here[-1]:.3f} here, {by_compare[-1]:.3f} by compare", flush=True)
        ours, theirs = (float(np.median(ratios)) for ratios in (here, by_compare))
        rows.append([name, f"{ours:.3f}×", f"{theirs:.3f}×", f"{theirs / ours - 1:+.1%}"])
    header = ["step", "over as written, by this file", "by compare", "difference"]
    print_table(f"Medians of {options.beside_compare} turns", header, rows)


def _rounds(prefix: jax.Array, options: argparse.Namespace) -> int:
    return min(60, int(options.cache - prefix.shape[1] - 4) // 2)


def _step_ms(
    model: Model, steps: dict[str, Any], prefix: jax.Array, token: jax.Array, options: argparse.Namespace
) -> dict[str, float]:
    """Median milliseconds of every step behind the same prefix, each on a cache of its own, in turns."""
    caches = {}
    for name, step in steps.items():
        _, caches[name] = step(model.params, prefix, model.init_cache(len(prefix), options.cache))

    def run(name: str, step: Step) -> Any:
        result, caches[name] = step(model.params, token, caches[name])
        return result

    runs = {name: (lambda n=name, s=step: run(n, s)) for name, step in steps.items()}
    return {name: median_ms(taken) for name, taken in interleaved(runs, _rounds(prefix, options)).items()}


def _speed(
    model: Model, prompt: list[int], written: Step, sparse: dict[str, Any], batch: int, options: argparse.Namespace
) -> None:
    dense = {name: step for name, step in dense_steps(model, batch).items() if re.search(options.only, name)}
    steps = {"dense, as written": written, **dense, **sparse}
    prefix, tokens = (jnp.asarray([some] * batch, jnp.int32) for some in (prompt, prompt[-1:]))
    ms = _step_ms(model, steps, prefix, tokens, options)
    best = min(ms[name] for name in ms if name.startswith("dense"))
    rows = [[n, f"{t:.2f}", f"{ms['dense, as written'] / t:.2f}×", f"{best / t:.2f}×"] for n, t in ms.items()]
    if options.rivals and batch == 1:
        rows += _llama(model, prompt, ms["dense, as written"], best)
    print_table(f"Whole step, batch {batch}", ["step", "ms", "over as written", "over best dense"], rows)


def _llama(model: Model, prompt: list[int], written: float, best: float) -> list[list[str]]:
    from benchmarks.rivals import llama_step_ms

    taken = llama_step_ms(model.checkpoint, prompt)
    if taken is None:
        return []
    return [["llama.cpp, its own 4-bit weights", f"{taken:.2f}", f"{written / taken:.2f}×", f"{best / taken:.2f}×"]]


def _recall(model: Model, sparse: dict[str, Any], options: argparse.Namespace) -> None:
    states = heldout_states(model)
    hidden = [states[i : i + 32] for i in range(0, len(states), 32)]
    target = target_for(jax.default_backend())
    token, cache = jnp.zeros((1, 1), jnp.int32), model.init_cache(1, options.cache)
    rows = []
    for name, predictor in PREDICTORS.items():
        (arrays,) = sparse[name].prepare(model.params, token, cache).values()
        survivors = predictor.survivors if isinstance(predictor, hire.Cascade) else 0
        choose = _chooser(options.candidates, survivors, target)
        found = np.zeros(3)
        for x in hidden:
            best = _dense_top(model.params["embed"], x)
            ids_found = np.asarray(choose(x, predictor_arrays(arrays)))
            for row, chosen in zip(np.asarray(best), ids_found, strict=True):
                hit = np.isin(row, chosen)
                found += [hit[:k].mean() for k in (1, 8, 64)]
        count = sum(len(x) for x in hidden)
        rows.append([name, *(f"{value:.4f}" for value in found / count), str(count)])
    print_table(
        f"Recall on held-out text at {options.candidates} candidates",
        ["predictor", "@1", "@8", "@64", "positions"],
        rows,
    )


@jax.jit
def _dense_top(embed: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.top_k(x @ embed.T, 64)[1]


def _chooser(k: int, survivors: int, target: Any) -> Callable[..., jax.Array]:
    return jax.jit(lambda x, arrays: select_candidates(x, arrays, k, target, survivors=survivors)[0])


if __name__ == "__main__":
    main()
