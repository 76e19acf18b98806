"""Generate from an artifact, in a process that has jax and safetensors and nothing else.

    python examples/offline/run.py model 64 1 2 3      # an artifact's directory; 64 new ids after 1 2 3, as JSON

The step of the artifact is a greedy decoder: (weights, tokens [1, 1], cache) -> (next token [1], cache).
"""

import json
import sys
import time

import jax
import jax.export
import jax.numpy as jnp
from safetensors.flax import load_file


def main() -> None:
    folder, count, *prompt = sys.argv[1:]
    with open(f"{folder}/step.cpu.jax_export", "rb") as file:
        exported = jax.export.deserialize(bytearray(file.read()))
    weights = load_file(f"{folder}/weights.cpu.safetensors")
    step = jax.jit(exported.call, donate_argnums=2)

    # The types of everything it takes come with it: an empty cache is zeros of those.
    zeros = [jnp.zeros(aval.shape, aval.dtype) for aval in exported.in_avals[len(weights) :]]
    _, _, cache = jax.tree.unflatten(exported.in_tree, [*weights.values(), *zeros])[0]

    tokens, seconds = [], []
    ids = [int(word) for word in prompt]
    for position in range(len(ids) + int(count) - 1):
        token = ids[position] if position < len(ids) else tokens[-1]
        start = time.perf_counter()
        chosen, cache = step(weights, jnp.array([[token]], jnp.int32), cache)
        chosen = int(chosen[0])
        seconds.append(time.perf_counter() - start)
        if position >= len(ids) - 1:
            tokens.append(chosen)
    print(json.dumps({"tokens": tokens, "milliseconds": 1e3 * sorted(seconds)[len(seconds) // 2]}))


if __name__ == "__main__":
    main()
