"""Requests of several kinds in one batch: greedy rows, rows cut to their 50 best, rows sampled from all.

    python -m benchmarks.mixed --rows 65536 --columns 512 --batches 1,4,8,16

A head behind a sort, a threshold for each row and noise, as engines write it; as written and by default, in turns.
Every token is compared with dense.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import hire_compiler as hire
from benchmarks.timing import interleaved, median_ms, print_table

_INPUTS = 8
Request = dict[str, jax.Array]


def step(w: jax.Array, x: jax.Array, q: Request) -> jax.Array:
    """One token for each row: the best where its temperature is zero, else one of its k best (0: of all)."""
    z = x @ w.T
    width, k = z.shape[-1], q["k"]
    cut = jnp.where(k > 0, width - k, 0)[:, None]
    least = jnp.take_along_axis(jnp.sort(z, axis=-1), cut, axis=-1)
    kept = jnp.where(z < least, -jnp.inf, z)
    greedy = q["heat"] < 1e-5
    drawn = jax.random.categorical(q["key"], kept / jnp.where(greedy, 1.0, q["heat"])[:, None], axis=-1)
    return jnp.where(greedy, jnp.argmax(z, axis=-1), drawn)


def requests(batch: int, seed: int) -> Request:
    """Greedy, k = 50, k = 0, in turns; a batch of one is greedy, cut or neither by turns of the seed."""
    kind = (np.arange(batch) + (seed if batch == 1 else 0)) % 3
    return {
        "heat": jnp.asarray(np.array([0.0, 0.8, 1.0])[kind], jnp.float32),
        "k": jnp.asarray(np.array([0, 50, 0])[kind], jnp.int32),
        "key": jax.random.key(seed),
    }


def measure(rows: int, columns: int, batch: int, rounds: int) -> list[str]:
    """One line of the table."""
    rng = np.random.default_rng(batch)
    w = jnp.asarray(rng.standard_normal((rows, columns), np.float32) / np.sqrt(columns))
    inputs = [
        (jnp.asarray(3 * rng.standard_normal((batch, columns)), jnp.float32), requests(batch, seed))
        for seed in range(_INPUTS)
    ]
    dense, default = jax.jit(step), hire.transform(step)
    equal = sum(int((dense(w, *given) == default(w, *given)).sum()) for given in inputs)

    def in_turns(run: Callable[..., jax.Array]) -> Callable[[], jax.Array]:
        turn = iter(range(1 << 30))
        return lambda: run(w, *inputs[next(turn) % _INPUTS])

    taken = interleaved({"dense": in_turns(dense), "default": in_turns(default)}, rounds)
    ms = {name: median_ms(times) for name, times in taken.items()}
    report = default.report()
    proof = f"{report.certificates[0].proven} of {report.certificates[0].rows}" if report.certificates else "left dense"
    return [
        str(batch),
        f"{ms['dense']:.1f}",
        f"{ms['default']:.1f}",
        f"{ms['dense'] / ms['default']:.2f}×",
        f"{equal} of {_INPUTS * batch}",
        proof,
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=65536)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--batches", default="1,4,8,16")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    lines = []
    for batch in map(int, options.batches.split(",")):
        lines.append(measure(options.rows, options.columns, batch, options.rounds))
        print(" ".join(lines[-1]), flush=True)
    header = ["batch", "dense ms", "default ms", "ratio", "equal", "rows proven"]
    print_table(f"mixed requests, {options.rows} × {options.columns} float32", header, lines)


if __name__ == "__main__":
    main()
