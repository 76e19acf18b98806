"""Programs with a feed-forward block: description, source text, arguments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.fuzz import values

Array = np.ndarray

# From the product(s) to the hidden vector. z: the gate, or the only product; u: the other product of a gated block.
PLAIN = {
    "relu": "jax.nn.relu(z)",
    "relu2": "jnp.square(jax.nn.relu(z))",
    "shifted": "jax.nn.relu(z - {c})",
    "threshold": "jnp.where(z > {c}, z, 0)",
    "maximum": "jnp.maximum(z, 0)",
    "statistical": "jax.nn.relu(z - (jnp.mean(z, -1, keepdims=True) + 1.5 * jnp.std(z, -1, keepdims=True)))",
    "group_topk": "hire.group_topk(jax.nn.relu(z), k={k}, group=8)",
    "topk": "jnp.where(z >= jax.lax.top_k(z, {k})[0][..., -1:], jax.nn.relu(z), 0)",
    "clamped": "jnp.clip(z, 0, 6)",
    "by_size": "jnp.where(jnp.abs(z) > {c}, z, 0)",
}
GATED = {
    **{name: f"({text}) * u" for name, text in PLAIN.items()},
    "doubly": "jax.nn.relu(z) * jax.nn.relu(u - {c})",
    "other_cut": "jax.nn.relu(z) * jnp.where(jnp.abs(u) > {c}, u, 0)",
    "other_large": "jnp.where(u > 2.0, jax.nn.relu(z), 0)",
    "other_shifted": "jax.nn.relu(z) * (u + 1.0)",
    "other_squared": "jax.nn.relu(z) * jnp.square(u)",
    "other_silu": "jax.nn.relu(z) * jax.nn.silu(u)",
    "selected": "jnp.where(z > {c}, u, 0)",
    "divided": "jax.nn.relu(z) / (1 + jnp.abs(u))",
    "group_topk_of_both": "hire.group_topk(jax.nn.relu(z) * u, k={k}, group=8)",
}
RULES = {
    "default": "hire.Config(adapt=False)",
    "exact": 'hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Exact()),))',
    "exact_budget": 'hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Exact(), density=0.25, group={group}),))',
    "certified": (
        'hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Quantized(bits=8), certify=True, density=0.4, '
        "group={group}),))"
    ),
}


@dataclass(frozen=True)
class Block:
    """One program, and how it is rewritten.

    Attributes:
      layout: ``in_out`` (``x @ w``) or ``out_in`` (``x @ w.T``) of the first product(s); the second is the other way.
      bias: added to the first product(s); its mean decides how many neurons are active.
      layers: stacked and scanned; 0 for one block.
    """

    rule: str
    gated: bool
    activation: str
    c: float
    dtype: str
    layout: str
    bias: float | None
    down_bias: bool
    batch: int
    d: int
    width: int
    layers: int
    group: int
    weight_kinds: tuple[str, ...]
    plain_share: float
    seed: int

    @property
    def rows_a_call(self) -> int:
        return self.batch

    @property
    def k(self) -> int:
        return max(self.width // 16 // 8 * 8, 8)

    def source(self) -> str:
        first = "x @ {w}" if self.layout == "in_out" else "x @ {w}.T"
        gate, up = first.format(w='p["gate"]'), first.format(w='p["up"]')
        lines = ["def block(p, x):", f"    z = {gate}" + (' + p["b"]' if self.bias is not None else "")]
        lines += [f"    u = {up}"] if self.gated else []
        h = (GATED if self.gated else PLAIN)[self.activation].format(c=self.c, k=self.k)
        second = 'h @ p["down"]' if self.layout == "in_out" else 'h @ p["down"].T'
        lines += [f"    h = {h}", f"    return {second}" + (' + p["db"]' if self.down_bias else "")]
        call = "    return (block(p, x),)"
        if self.layers:
            # Every layer sees the input itself, turned by one entry: rounding of one layer is no input of the next.
            call = "    return (jax.lax.scan(lambda x, p: (jnp.roll(x, 1, -1), block(p, x)), x, p)[1],)"
        return "\n".join([*lines, "", "", "def step(p, x, q):", call]) + "\n"

    def config_source(self) -> str:
        return RULES[self.rule].format(group=self.group)

    def weights(self, kind: str, rng: np.random.Generator) -> dict[str, Array]:
        """The weights ``p``."""
        layers = [self._layer(kind, rng) for _ in range(self.layers or 1)]
        if not self.layers:
            return layers[0]
        return {name: np.stack([layer[name] for layer in layers]) for name in layers[0]}

    def _layer(self, kind: str, rng: np.random.Generator) -> dict[str, Array]:
        rows = {"gate": kind, **({"up": kind if rng.random() < 0.5 else "gaussian"} if self.gated else {})}
        p = {name: values.weights(k, rng, self.width, self.d, self.dtype) for name, k in rows.items()}
        p["down"] = values.weights("gaussian" if rng.random() < 0.7 else kind, rng, self.width, self.d, self.dtype)
        firsts = ("gate", "up") if self.layout == "in_out" else ("down",)
        p = {name: np.ascontiguousarray(w.T) if name in firsts else w for name, w in p.items()}
        if self.bias is not None:
            p["b"] = values.cast(rng.standard_normal(self.width) * 0.3 + self.bias, self.dtype)
        if self.down_bias:
            p["db"] = values.cast(rng.standard_normal(self.d), self.dtype)
        return p

    def call(self, rng: np.random.Generator, p: dict[str, Array]) -> tuple[Array, dict[str, Array], list[str]]:
        kinds = values.input_kinds(rng, self.batch, self.plain_share)
        gate = p["gate"][0] if self.layers else p["gate"]
        return values.inputs(kinds, rng, gate.T if self.layout == "in_out" else gate, self.dtype), {}, kinds

    def simpler(self) -> list[Block]:
        out = []
        if self.layers:
            out.append(replace(self, layers=0))
        if self.bias is not None:
            out.append(replace(self, bias=None))
        if self.down_bias:
            out.append(replace(self, down_bias=False))
        if self.batch > 1:
            out.append(replace(self, batch=1))
        if self.gated and self.activation in PLAIN:
            out.append(replace(self, gated=False))
        for name, simplest in (("dtype", "float32"), ("layout", "in_out"), ("plain_share", 1.0), ("group", 1)):
            if getattr(self, name) != simplest:
                out.append(replace(self, **{name: simplest}))
        if self.weight_kinds != ("gaussian",):
            out.append(replace(self, weight_kinds=("gaussian",)))
        return out

    def describe(self) -> str:
        parts = [self.rule, self.dtype, self.layout, "gated" if self.gated else "plain", self.activation]
        parts += [f"bias {self.bias}"] if self.bias is not None else []
        parts += [f"scan of {self.layers}"] if self.layers else []
        return " ".join(parts) + f" batch {self.batch} {self.d}→{self.width}"


@st.composite
def blocks(draw: Any) -> Block:
    """A block of any kind. Widths are such that the default (1 MiB to skip) does not leave it dense."""
    rule = draw(st.sampled_from(tuple(RULES)))
    gated = draw(st.booleans())
    dtype = draw(st.sampled_from(("float32", "bfloat16", "float16")))
    d, width = (
        (256, 2048) if rule in ("default", "exact") else draw(st.sampled_from(((16, 256), (33, 512), (64, 1024))))
    )
    if rule in ("default", "exact") and dtype != "float32":
        width = 4096 if not gated else 2048
    kinds = draw(st.lists(st.sampled_from(sorted(values.WEIGHTS)), min_size=2, max_size=3))
    if draw(st.booleans()):
        kinds[0] = "gaussian"
    return Block(
        rule=rule, gated=gated, activation=draw(st.sampled_from(sorted(GATED if gated else PLAIN))),
        c=draw(st.sampled_from((0.5, 1.5, 0.0))), dtype=dtype, layout=draw(st.sampled_from(("in_out", "out_in"))),
        bias=draw(st.sampled_from((None, None, -2.5, 0.0))), down_bias=draw(st.booleans()),
        batch=draw(st.sampled_from((1, 1, 2, 4, 8, 16))), d=d, width=width, layers=draw(st.sampled_from((0, 0, 0, 3))),
        group=draw(st.sampled_from((1, 1, 8))), weight_kinds=tuple(kinds),
        plain_share=draw(st.sampled_from((0.9, 0.5, 0.2))), seed=draw(st.integers(0, 2**32 - 1)),
    )  # fmt: skip
