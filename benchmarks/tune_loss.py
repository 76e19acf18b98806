"""What ``hire.tune(loss=…)`` makes of two models, and what the chosen step loses on text that it has not seen.

    python -m benchmarks.tune_loss [--model sparse] [--loss 0.005] [--steps 300] [--keep FILE]
    python -m benchmarks.tune_loss --model gemma3-270m

``sparse`` is the model of ``examples/train_sparse.py``, trained with 1/12 of its neurons; ``dense`` the same, trained
with all of them. They are trained first, or read from ``--keep`` where an earlier run has put them. The chosen step
then decodes passages token by token beside the author's.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.hidden import heldout_tokens
from examples import train_sparse
from examples.calibration import all_logits, passages
from examples.models import MODEL_NAMES, Model, load_model
from examples.train_sparse import CONTEXT, KEPT, WIDTH

PASSAGES = 16  # of each of four batches
JUDGED = 8  # passages that are decoded at the end


def main() -> None:
    """Tune, and decode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sparse", choices=["sparse", "dense", *MODEL_NAMES])
    parser.add_argument("--loss", type=float, default=0.005)
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="an npz file of trained weights")
    options = parser.parse_args()
    if options.model in MODEL_NAMES:
        model = load_model(options.model)
        token, cache = jnp.array([[2]], jnp.int32), model.init_cache(1, 128)
        step = jax.jit(model.greedy_step, donate_argnums=2)
        tuned = tune(step, (model.params, token, cache), all_logits(model), passages(model, begun=True), options.loss)
        print(f"\n{on_unseen_text(model, tuned.config, tuned.calibration)}")
        return
    kept = KEPT if options.model == "sparse" else WIDTH
    data = train_sparse.text()
    text, held_out = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]
    params = trained(text, kept, options)
    half = len(held_out) // 2
    batches = [(params, some) for part in (text, held_out[:half]) for some in jnp.split(cut(part, 2 * PASSAGES), 2)]
    forward = functools.partial(whole_passages, kept=kept)
    step = jax.jit(functools.partial(train_sparse.decode, kept=kept))
    args = (params, jnp.int32(0), jnp.int32(0), train_sparse.empty_cache())
    tuned = tune(step, args, forward, [(p, passage[:, :-1]) for p, passage in batches], options.loss)
    judged = np.asarray(cut(held_out[half:], JUDGED))
    fast = hire.transform(step, tuned.config, calibration=tuned.calibration)
    dense, sparse = (train_sparse.evaluate(run, params, judged) for run in (step, fast))
    more = f"{dense:.4f} → {sparse:.4f} nats, {sparse / dense - 1:+.2%}"
    print(f"\ndecoded, {judged[:, 1:].size} tokens of another text: {more}", flush=True)
    print(hire.compare(fast, *args))


def on_unseen_text(model: Model, config: hire.Config, calibration: hire.Calibration, length: int = 512) -> str:
    """The loss of two windows of ``heldout.txt``, decoded token by token, with the blocks as a tuning has set them."""

    def step(params: Any, token: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        x, cache = model.hidden_states(params, token, cache)
        return jax.nn.log_softmax(model.logits(params, x[0, -1]).astype(jnp.float32)), cache

    written = jax.jit(step, donate_argnums=2)
    blocks = hire.Config(rules=tuple(rule for rule in config.rules if rule.kind == "ffn"), exact=False)
    steps = {"written": written, "tuned": hire.transform(written, blocks, calibration=calibration)}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for window in heldout_tokens(model, length, begun=True)[:2]:
        caches = {name: model.init_cache(1, length) for name in steps}
        for token, following in pairwise(window):
            for name, run in steps.items():
                scores, caches[name] = run(model.params, jnp.asarray([[token]]), caches[name])
                losses[name].append(-float(scores[following]))
    dense, sparse = (np.asarray(losses[name]) for name in ("written", "tuned"))
    error = float((sparse - dense).std() / len(dense) ** 0.5 / dense.mean())
    more = f"{dense.mean():.4f} → {sparse.mean():.4f} nats, {sparse.mean() / dense.mean() - 1:+.2%} ± {error:.2%}"
    return f"decoded, {len(dense)} tokens of heldout.txt: {more}"


def whole_passages(params: Any, tokens: jax.Array, kept: int) -> jax.Array:
    """Logits ``[B, T, V]``."""
    return jax.vmap(lambda one: train_sparse.forward(params, one, kept)[0])(tokens)


def cut(data: np.ndarray, count: int) -> jax.Array:
    """So many passages of ``CONTEXT`` tokens and the one that follows: int32 ``[count, CONTEXT + 1]``."""
    starts = np.linspace(0, len(data) - CONTEXT - 2, count).astype(int)
    return jnp.asarray(np.stack([data[s : s + CONTEXT + 1] for s in starts]))


def trained(text: np.ndarray, kept: int, options: argparse.Namespace) -> Any:
    """Weights: trained now, or by an earlier run."""
    like = train_sparse.initial(jax.random.key(0))
    if options.keep and options.keep.exists():
        return jax.tree.unflatten(jax.tree.structure(like), map(jnp.asarray, np.load(options.keep).values()))
    params = train_sparse.train(text, kept, options.steps, batch=8)
    if options.keep:
        np.savez(options.keep, *map(np.asarray, jax.tree.leaves(params)))
    return params


def tune(step: Any, args: tuple[Any, ...], forward: Any, batches: Sequence[Any], loss: float) -> hire.Tuned:
    """``hire.tune``, timed."""
    began, busy = time.perf_counter(), time.process_time()
    tuned = hire.tune(step, *args, forward=forward, batches=batches, loss=loss)
    print(tuned)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    print(f"\ntuned in {seconds:.0f} s ({busy:.0f} s of CPU time)", flush=True)
    return tuned


if __name__ == "__main__":
    main()
