"""Sharded decode steps: what the devices say to each other, dense, vanilla (left to XLA) and shard by shard (DaT).

python -m benchmarks.sharded          # bytes of collectives, from the HLO that XLA:CPU compiles for 4 devices
python -m benchmarks.sharded --tpu    # the same and an estimated time, compiled ahead of time for TPU v5e:2x2

Nothing runs: programs are lowered at their shapes and compiled. Times are estimates by the TPU compiler, by the cost
function of ``hire_compiler/measuring/hlo/cost.py``.
"""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 " + os.environ.get("XLA_FLAGS", "")

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import hire_compiler as hire
from benchmarks.timing import print_table
from hire_compiler.measuring.estimate import Estimate, estimate
from hire_compiler.measuring.hlo.communication import bytes_by_kind, collectives
from hire_compiler.measuring.hlo.text import read_hlo

D, WIDTH, VOCABULARY, LAYERS = 2048, 16384, 262144, 18  # feed-forward blocks and head in the shape of a 2B model
CHIPS = 4
Params = dict[str, Any]


def head(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The best 64 tokens."""
    return jax.lax.top_k((x @ params["embed"].T).astype(jnp.float32), 64)


def blocks(params: Params, x: jax.Array) -> jax.Array:
    """Feed-forward blocks with a residual stream; unrolled, as under a scan the vanilla form gathers whole stacks."""
    for gate, up, down in zip(params["gate"], params["up"], params["down"], strict=True):
        x = x + (jax.nn.relu(x @ gate) * (x @ up)) @ down
    return x


def whole(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both."""
    return head(params, blocks(params, x))


def arguments(batch: int) -> tuple[Params, Any]:
    """Types of everything, placed on a mesh of four devices."""
    mesh = Mesh(np.array(jax.devices()[:CHIPS]), ("model",))

    def on_mesh(shape: tuple[int, ...], *spec: str | None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    params = {
        "embed": on_mesh((VOCABULARY, D), "model", None),
        "gate": [on_mesh((D, WIDTH), None, "model") for _ in range(LAYERS)],
        "up": [on_mesh((D, WIDTH), None, "model") for _ in range(LAYERS)],
        "down": [on_mesh((WIDTH, D), "model", None) for _ in range(LAYERS)],
    }
    return params, on_mesh((batch, D))


PREDICTORS = {"int8": hire.Quantized(bits=8), "low-rank": hire.LowRank(rank=256)}  # of the head


def config(sharded: str, predictor: str, candidates: int) -> hire.Config:
    """Candidates of the head, 10 % of the neurons in groups of 8 by factors of rank 256."""
    return hire.Config(
        rules=(
            hire.Rule(kind="head", predictor=PREDICTORS[predictor], candidates=candidates),
            hire.Rule(kind="ffn", predictor=hire.LowRank(rank=256), density=0.1, group=8),
        ),
        exact=False,
        sharded=sharded,  # type: ignore[arg-type]
    )


def on_cpu(step: Any, params: Params, x: Any) -> dict[str, int]:
    """Bytes on the wire of one call, by kind, as XLA:CPU compiles it."""
    text = step.lower(params, x).compile().as_text()
    return bytes_by_kind(collectives(read_hlo(text), CHIPS))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tpu", action="store_true", help="compile for TPU v5e:2x2 and estimate")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", default="", help="head, blocks or whole")
    parser.add_argument("--candidates", type=int, default=128, help="of the head")
    parser.add_argument("--predictor", default="int8", choices=PREDICTORS, help="of the head")
    chosen = parser.parse_args()
    params, x = arguments(chosen.batch)
    rows = []
    programs: dict[str, Callable[..., Any]] = {"head": head, "blocks": blocks, "whole": whole}
    for name, function in programs.items():
        if chosen.only not in ("", name):
            continue
        own = {key: params[key] for key in params if (key == "embed") == (name == "head") or name == "whole"}
        found: dict[str, tuple[dict[str, int], Estimate | None]] = {}
        for form in ("dense", "vanilla", "local"):
            platform = "tpu" if chosen.tpu else None
            plan = hire.Config(exact=False) if form == "dense" else config(form, chosen.predictor, chosen.candidates)
            step = hire.transform(jax.jit(function), plan, platform=platform)
            if chosen.tpu:
                expected = estimate(step, own, x, tpu="v5e:2x2")
                found[form] = expected.collectives, expected
            else:
                found[form] = on_cpu(step, own, x), None
        vanilla = sum(found["vanilla"][0].values())
        for form, (kinds, expected) in found.items():
            total = sum(kinds.values())
            cells = [name, form, f"{total / 1e3:.1f} kB", f"{vanilla / total:.0f}×" if total else "", _by_kind(kinds)]
            if expected:
                base = found["vanilla"][1]
                assert base is not None
                cells += [f"{expected.seconds * 1e6:.0f} µs", f"{base.seconds / expected.seconds:.2f}×"]
            rows.append(cells)
    columns = ["program", "form", "wire bytes", "vanilla over it", "by kind"]
    if chosen.tpu:
        columns += ["estimated step", "vanilla over it"]
    where = "TPU v5e:2x2, an estimate by the TPU compiler" if chosen.tpu else "compiled by XLA:CPU"
    head_by = f"head: {chosen.candidates} candidates by {chosen.predictor}"
    print_table(f"4 devices, batch {chosen.batch}, bfloat16; {head_by}; {where}", columns, rows)


def _by_kind(kinds: dict[str, int]) -> str:
    return ", ".join(f"{kind} {n / 1e3:.1f}" for kind, n in kinds.items()) or "none"


if __name__ == "__main__":
    main()
