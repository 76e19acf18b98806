"""The exact default behind samplers, on a real model: same keys, same tokens, and how fast.

    python -m benchmarks.samplers [--model gemma3-270m] [--positions 2048] [--turns 40] [--only masks]

Held-out text, position by position: what the rewritten head and its sampler choose is compared with what dense
chooses from the same key. Then the whole decode step, both in turns. Three tails: of the 64 best the most likely
95 %, as MaxText writes it; the same as masks over the whole vocabulary by two sorts, as HF and vLLM write it; and
greedy with a penalty for every token that came before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.hidden import heldout_states, heldout_tokens
from benchmarks.timing import interleaved, median_ms, print_table
from examples.models import Model, load_model
from examples.models.text import prompts

TEMPERATURE, K, P, PENALTY = 0.8, 64, 0.95, 1.2
Tail = Callable[[jax.Array, Any], jax.Array]


def nucleus_of_best(z: jax.Array, key: jax.Array) -> jax.Array:
    """The k best, of these the most likely, then one of them. Logits ``[batch, vocabulary]`` to tokens ``[batch]``."""
    values, ids = jax.lax.top_k(z / TEMPERATURE, K)
    summed = jnp.cumsum(jax.nn.softmax(values, axis=-1), axis=-1)
    cut = jnp.take_along_axis(values, jnp.sum(summed < P, axis=-1, keepdims=True), axis=-1)
    at = jax.random.categorical(key, jnp.where(values < cut, -jnp.inf, values), axis=-1)
    return jnp.take_along_axis(ids, at[:, None], axis=-1)[:, 0]


def masks_by_sorting(z: jax.Array, key: jax.Array) -> jax.Array:
    """What is less than the k-th best is removed, then what lies beyond the mass; one of what is left."""
    z = z / TEMPERATURE
    z = jnp.where(z < jnp.sort(z, axis=-1)[:, -K, None], -jnp.inf, z)
    ordered = jnp.sort(z, axis=-1, descending=True)
    summed = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
    cut = jnp.take_along_axis(ordered, jnp.sum(summed < P, axis=-1, keepdims=True), axis=-1)
    return jax.random.categorical(key, jnp.where(z < cut, -jnp.inf, z), axis=-1)


def penalised(z: jax.Array, seen: jax.Array) -> jax.Array:
    """The best, where every token ``seen`` (``[batch, vocabulary]``) counts for less."""
    return jnp.argmax(jnp.where(seen, jnp.where(z > 0, z / PENALTY, z * PENALTY), z), axis=-1)


TAILS: dict[str, tuple[Tail, bool]] = {  # and whether it reads what was seen, else a key
    "temperature, top-k, top-p: one of the best": (nucleus_of_best, False),
    "temperature, top-k, top-p: masks": (masks_by_sorting, False),
    "greedy with a repetition penalty": (penalised, True),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--only", default="", help="part of the name of a tail")
    options = parser.parse_args()
    model = load_model(options.model)
    states = heldout_states(model)[: options.positions]
    before = heldout_tokens(model).reshape(-1)[: len(states)]
    rows = []
    for name, (tail, reads_seen) in ((name, tail) for name, tail in TAILS.items() if options.only in name):
        equal, proof = agreement(model, tail, states, before if reads_seen else None)
        written, rewritten = step_ms(model, tail, reads_seen, options.turns)
        ms = [f"{written:.1f}", f"{rewritten:.1f}", f"{written / rewritten:.2f}×"]
        rows.append([name, f"{equal} of {len(states)}", proof, *ms])
        print("  ".join(rows[-1]), flush=True)
    header = ["tail", "tokens equal", "proven", "step as written, ms", "default, ms", "ratio"]
    print_table(f"{model.name}, float32, batch 1, {jax.devices()[0].platform}", header, rows)


def agreement(model: Model, tail: Tail, states: jax.Array, before: np.ndarray | None) -> tuple[int, str]:
    """Positions at which the default's token is that of dense, and how many of its proofs held."""
    head = jax.jit(lambda params, x, given: tail(model.logits(params, x), given))
    fast = hire.transform(head)
    seen = np.zeros((1, model.config.vocabulary), bool)
    equal = 0
    for at, x in enumerate(states):
        if before is None:
            given: Any = jax.random.key(at)
        else:
            seen[0, before[at]] = True
            given = jnp.asarray(seen.copy())
        equal += int(head(model.params, x[None], given)[0] == fast(model.params, x[None], given)[0])
    proofs = fast.report().certificates
    return equal, f"{proofs[0].proven / proofs[0].rows:.1%}" if proofs else "left dense"


def step_ms(model: Model, tail: Tail, reads_seen: bool, turns: int) -> tuple[float, float]:
    """Milliseconds of a whole step, as written and by default, in turns."""

    def step(params: Any, tokens: jax.Array, cache: Any, given: Any) -> tuple[jax.Array, Any]:
        x, cache = model.hidden_states(params, tokens, cache)
        return tail(model.logits(params, x[:, -1]), given), cache

    written = jax.jit(step, donate_argnums=2)
    steps = {"written": written, "default": hire.transform(written)}
    prefix = jnp.asarray([model.tokenizer.encode(prompts()[0], add_bos=True)], jnp.int32)
    seen = np.zeros((1, model.config.vocabulary), bool)
    seen[0, np.asarray(prefix)] = True
    given: Any = jnp.asarray(seen) if reads_seen else jax.random.key(0)
    length = prefix.shape[1] + 2 * turns + 4
    caches = {name: model.hidden_states(model.params, prefix, model.init_cache(1, length))[1] for name in steps}
    token = prefix[:, -1:]

    def run(name: str) -> jax.Array:
        found, caches[name] = steps[name](model.params, token, caches[name], given)
        return found

    taken = interleaved({name: (lambda name=name: run(name)) for name in steps}, turns)
    return median_ms(taken["written"]), median_ms(taken["default"])


if __name__ == "__main__":
    main()
