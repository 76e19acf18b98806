"""What rewriting does on a TPU, as the TPU compiler estimates it: no TPU is needed, and nothing is measured.

python -m benchmarks.tpu [ffn] [head] [model] [steps] [--json FILE] [--docs docs/tpu.md]     (needs the extra "tpu")

Every row stands against two dense programs: as written, and the best dense form the same compiler finds (a batch of
one padded to eight rows, layers scanned or unrolled). Times follow the cost function of
hire_compiler/measuring/hlo/cost.py; the HBM bytes in front of them are the safer thing to compare. ``--docs`` writes
the tables between the marks of a page.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # with libtpu installed JAX looks for a TPU first, and for long

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import hire_compiler as hire
from benchmarks.timing import print_table
from benchmarks.tpu_steps import GEMMA_3N, SHAPES, SQUARED, bf16
from hire_compiler.measuring.estimate import Estimate

TPU = "v5e:2x2"
HEADER = [
    "program",
    "batch",
    "HBM MB",
    "bytes, best dense over it",
    "µs",
    "over best dense",
    "over as written",
    "copies",
]


def padded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with its last argument's rows filled up to eight, which keeps XLA:TPU off its vector unit."""

    def wide(*args: Any) -> Any:
        *weights, x = args
        rows = x.shape[0]
        return jax.tree.map(lambda y: y[:rows], function(*weights, jnp.pad(x, ((0, max(8 - rows, 0)), (0, 0)))))

    return wide


# --------------------------------------------------------------------------- feed-forward

LAYERS, D, M = 4, 2048, 16384


def relu_layer(x: jax.Array, w: dict[str, jax.Array]) -> jax.Array:
    return jax.nn.relu(x @ w["up"].T) @ w["down"]


def gated_layer(x: jax.Array, w: dict[str, jax.Array]) -> jax.Array:
    return (jax.nn.relu(x @ w["gate"].T) * (x @ w["up"].T)) @ w["down"]


def scanned(layer: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def stack(layers: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (layer(x, w), None), x, layers)[0]

    return stack


def unrolled(layer: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def stack(layers: Sequence[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
        for w in layers:
            x = layer(x, w)
        return x

    return stack


def ffn() -> list[tuple[str, int, Estimate]]:
    """Scanned stacks, dense and rewritten; figures of one layer."""
    rows = []
    for name, layer, matrices in (
        ("relu", relu_layer, ("up", "down")),
        ("gated relu", gated_layer, ("gate", "up", "down")),
    ):
        stacked = {matrix: bf16(LAYERS, M, D) for matrix in matrices}
        apart = [{matrix: bf16(M, D) for matrix in matrices}] * LAYERS
        for batch in (1, 8):
            x = bf16(batch, D)
            forms = {
                "dense, scanned": (jax.jit(scanned(layer)), stacked),
                "dense, unrolled": (jax.jit(unrolled(layer)), apart),
                "dense, scanned, padded": (jax.jit(padded(scanned(layer))), stacked),
                "dense, unrolled, padded": (jax.jit(padded(unrolled(layer))), apart),
            }
            for rule_name, rule in (
                ("LowRank(256), 10 %", dict(predictor=hire.LowRank(rank=256, dtype="bfloat16"), density=0.1)),
                ("Exact(), 10 % fit", dict(predictor=hire.Exact(), density=0.1)),
            ):
                rules = (hire.Rule(kind="ffn", **rule),)
                step = hire.transform(jax.jit(scanned(layer)), hire.Config(rules=rules), platform="tpu")
                forms[f"hire {rule_name}"] = (step, stacked)
            for form, (function, weights) in forms.items():
                if batch > 1 and "padded" in form:
                    continue
                rows.append((f"{name} {D}→{M}: {form}", batch, hire.estimate(function, weights, x, tpu=TPU)))
    return rows


# --------------------------------------------------------------------------- head

V = 262144


def greedy(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.argmax(x @ w.T, axis=-1)


def precise_greedy(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.argmax(jnp.dot(x, w.T, precision="highest"), axis=-1)


def head() -> list[tuple[str, int, Estimate]]:
    """Greedy heads, dense and rewritten."""
    rows = []
    predictors: dict[str, dict[str, Any]] = {
        "int8": dict(predictor=hire.Quantized(bits=8), candidates=256),
        "int4, a scale per 64 columns": dict(predictor=hire.Quantized(bits=4, columns=64), candidates=256),
        "low rank d/8": dict(candidates=256),
    }
    for d in (640, 2048):
        predictors["int4, a scale per row"] = dict(predictor=hire.Quantized(bits=4, columns=d), candidates=256)
        for batch in (1, 8):
            x = bf16(batch, d)
            forms: dict[str, Any] = {"dense": jax.jit(greedy), "dense, padded": jax.jit(padded(greedy))}
            for name, options in predictors.items():
                options = {"predictor": hire.LowRank(rank=d // 8, dtype="bfloat16"), **options}
                rule = hire.Rule(kind="head", **options)
                forms[f"hire {name}"] = hire.transform(jax.jit(greedy), hire.Config(rules=(rule,)), platform="tpu")
            for form, function in forms.items():
                if batch > 1 and "padded" in form:
                    continue
                rows.append((f"argmax {d}→{V} bf16: {form}", batch, hire.estimate(function, bf16(V, d), x, tpu=TPU)))
        for batch in (1, 8):
            f32 = jax.ShapeDtypeStruct((V, d), jnp.float32), jax.ShapeDtypeStruct((batch, d), jnp.float32)
            certified = hire.transform(jax.jit(precise_greedy), platform="tpu")
            forms = {"dense": jax.jit(precise_greedy), "dense, padded": jax.jit(padded(precise_greedy))}
            for form, function in {**forms, "hire certified": certified}.items():
                if batch > 1 and "padded" in form:
                    continue
                rows.append((f"argmax {d}→{V} f32 highest: {form}", batch, hire.estimate(function, *f32, tpu=TPU)))
    return rows


# --------------------------------------------------------------------------- a whole step


def gemma(batch: int) -> tuple[Any, tuple[Any, Any, Any]]:
    """The greedy step of Gemma 3 270M in bfloat16, and the types of its weights, tokens and cache (1024 positions)."""
    from examples.models import gemma3

    c = gemma3.Config(
        vocabulary=V, width=640, layers=18, heads=4, kv_heads=1, head_dim=256, ffn_width=2048,
        norm_epsilon=1e-6, window=512,
    )  # fmt: skip
    query, key = c.heads * c.head_dim, c.kv_heads * c.head_dim
    layer = {
        **{name: bf16(c.width) for name in ("attention_norm", "post_attention_norm", "ffn_norm", "post_ffn_norm")},
        "q": bf16(query, c.width), "k": bf16(key, c.width), "v": bf16(key, c.width), "o": bf16(c.width, query),
        "q_norm": bf16(c.head_dim), "k_norm": bf16(c.head_dim),
        "gate": bf16(c.ffn_width, c.width), "up": bf16(c.ffn_width, c.width), "down": bf16(c.width, c.ffn_width),
    }  # fmt: skip
    params = {"embed": bf16(V, c.width), "layers": [layer] * c.layers, "final_norm": bf16(c.width)}
    cache = jax.eval_shape(lambda: gemma3.init_cache(c, batch, 1024, jnp.bfloat16))
    step = jax.jit(partial(gemma3.greedy_step, c), donate_argnums=2)
    return step, (params, jax.ShapeDtypeStruct((batch, 1), jnp.int32), cache)


def model() -> list[tuple[str, int, Estimate]]:
    """The decode step of Gemma 3 270M, greedy."""
    rows = []
    for batch in (1, 8):
        step, arguments = gemma(batch)
        forms: dict[str, Any] = {"dense": step}
        for name, predictor in (
            ("int8", hire.Quantized(bits=8)),
            ("low rank 256", hire.LowRank(256, dtype="bfloat16")),
        ):
            rule = hire.Rule(kind="head", predictor=predictor, candidates=256)
            forms[f"hire, head {name}"] = hire.transform(step, hire.Config(rules=(rule,)), platform="tpu")
        for form, function in forms.items():
            rows.append((f"Gemma 3 270M bf16: {form}", batch, hire.estimate(function, *arguments, tpu=TPU)))
    return rows


CHIPS = ("v5e:2x2", "v6e:2x2")


def steps() -> list[tuple[str, int, Estimate]]:
    """Whole steps of models whose blocks are sparse: by default, which loses nothing, and predicted."""
    head = hire.Rule(kind="head", predictor=hire.LowRank(256, dtype="bfloat16"), candidates=256)
    block = hire.Rule(kind="ffn", predictor=hire.LowRank(256, dtype="bfloat16"), density=0.1)
    rows = []
    for shape in SHAPES:
        rules = (head,) if shape is GEMMA_3N else (head, block)  # most of its blocks have nothing to leave out
        step = jax.jit(shape.step, donate_argnums=1)
        forms: dict[str, Any] = {
            "dense": step,
            "hire, the default (lossless)": hire.transform(step, platform="tpu"),
            "hire, predicted": hire.transform(step, hire.Config(rules=rules), platform="tpu"),
        }
        for tpu in CHIPS if shape is SQUARED else CHIPS[:1]:
            for batch in (1, 8):
                arguments = shape.arguments(batch)
                for form, function in forms.items():
                    name = f"{shape.name}, {tpu.partition(':')[0]}: {form}"
                    try:
                        rows.append((name, batch, hire.estimate(function, *arguments, tpu=tpu)))
                    except hire.HireError as error:  # some programs the compiler refuses for one chip only
                        print(f"{name}, batch {batch}, is left out: {error}", flush=True)
    return rows


# --------------------------------------------------------------------------- printing


def table(title: str, rows: list[tuple[str, int, Estimate]]) -> tuple[list[dict[str, Any]], str]:
    """Print one table; its figures as plain data, and the table as markdown."""
    printed, data = [], []
    for name, batch, estimate in rows:
        group = name.partition(":")[0]
        dense = [e for other, b, e in rows if b == batch and other.partition(":")[0] == group and "dense" in other]
        best = min(dense, key=lambda e: e.seconds)
        worst = f" ({estimate.worst_seconds * 1e6:.0f})" if estimate.worst_seconds > estimate.seconds else ""
        printed.append(
            [
                name,
                str(batch),
                f"{estimate.hbm_bytes / 1e6:.1f}",
                f"{min(e.hbm_bytes for e in dense) / estimate.hbm_bytes:.2f}×",
                f"{estimate.seconds * 1e6:.0f}{worst}",
                f"{best.seconds / estimate.seconds:.2f}×",
                f"{dense[0].seconds / estimate.seconds:.2f}×",
                f"{sum(op.hbm_bytes for op in estimate.copies) / 1e6:.0f} MB" if estimate.copies else "none",
            ]
        )
        data.append(
            {"program": name, "batch": batch, **{k: v for k, v in estimate.to_dict().items() if k != "operations"}}
        )
    compiler = rows[0][2].compiler
    print_table(f"{title}; an estimate by the TPU compiler ({compiler}, {TPU}), not a measurement", HEADER, printed)
    lines = [HEADER, ["---"] * len(HEADER), *printed]
    return data, "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_between_marks(page: Path, name: str, markdown: str) -> None:
    """Put a table where the last one stood on a page: from its first line to the mark of the end."""
    text = page.read_text()
    start = text.index("| program |", text.index(f"<!-- {name} -->"))
    page.write_text(text[:start] + markdown + text[text.index("<!-- end -->", start) :])


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "tables", nargs="*", default=[], choices=["ffn", "head", "model", "steps", []], help="all by default"
    )
    parser.add_argument("--docs", type=Path, help="write the tables into this page, between its marks")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    makers = {
        "ffn": (f"{LAYERS} feed-forward layers, bfloat16, scanned", ffn),
        "head": ("LM head (in brackets: the dense branch runs)", head),
        "model": ("A whole decode step", model),
        "steps": ("Whole decode steps of sparse models", steps),
    }
    wanted = options.tables or list(makers)
    figures = {}
    for name in wanted:
        figures[name], markdown = table(makers[name][0], makers[name][1]())
        if options.docs:
            write_between_marks(options.docs, name, markdown)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
