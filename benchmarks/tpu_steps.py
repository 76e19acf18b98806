"""Whole decode steps for the TPU compiler: layers under a scan, a cache of keys and values, a tied greedy head.

Shapes only: an estimate needs no numbers. Rotary embeddings and scales of norms are left out, as are the side streams
of Gemma 3n (per-layer embeddings, AltUp): all that is small beside the matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp

Arrays = dict[str, jax.Array]
Block = Callable[[jax.Array, Arrays], jax.Array]
_STRICT = NormalDist().inv_cdf(0.95)


def bf16(*shape: int) -> jax.ShapeDtypeStruct:
    """The type of a bfloat16 array."""
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def squared_relu(x: jax.Array, w: Arrays) -> jax.Array:
    """Without a gate; most neurons of a trained model are zero."""
    return jnp.square(jax.nn.relu(x @ w["up"].T)) @ w["down"]


def top_k_gate(x: jax.Array, w: Arrays) -> jax.Array:
    """Gated; the model itself keeps the largest tenth of its gate."""
    gate = x @ w["gate"].T
    cut = jax.lax.top_k(gate, gate.shape[-1] // 10)[0][:, -1:]
    return (jnp.where(gate >= cut, jax.nn.gelu(gate), 0) * (x @ w["up"].T)).astype(x.dtype) @ w["down"]


def gelu_gate(x: jax.Array, w: Arrays) -> jax.Array:
    """Gated; no neuron is zero."""
    return (jax.nn.gelu(x @ w["gate"].T) * (x @ w["up"].T)) @ w["down"]


def statistical_gate(x: jax.Array, w: Arrays) -> jax.Array:
    """Gemma 3n's: what lies 1.64 deviations above the mean of the gate passes, one neuron in twenty."""
    gate = x @ w["gate"].T
    mean, deviation = jnp.mean(gate, -1, keepdims=True), jnp.std(gate, -1, keepdims=True)
    return (jax.nn.gelu(jax.nn.relu(gate - (mean + deviation * _STRICT))) * (x @ w["up"].T)) @ w["down"]


@dataclass(frozen=True)
class Shape:
    """A model.

    Attributes:
      stacks: how many layers with which block, in order.
      d, width, rows: of a layer's input, of its neurons, of the vocabulary.
      heads, kept, each: query heads, heads of keys and values, and the width of one.
      context: positions of the cache.
    """

    name: str
    stacks: tuple[tuple[int, Block], ...]
    d: int
    width: int
    rows: int
    heads: int
    kept: int
    each: int
    context: int = 1024

    def step(self, w: dict[str, Any], cache: list[Any], position: jax.Array, token: jax.Array) -> tuple[Any, Any]:
        """One token of every sequence: the next token, and the cache."""
        x = w["embed"][token]
        grown = []
        for (count, block), layers, kept in zip(self.stacks, w["stacks"], cache, strict=True):

            def layer(carried: Any, own: Any, block: Block = block) -> tuple[Any, None]:
                (x, kept), (weights, number) = carried, own
                y, kept = self._attend(_normalized(x), weights, kept, number, position)
                x = x + y
                return (x + block(_normalized(x), weights), kept), None

            (x, kept), _ = jax.lax.scan(layer, (x, kept), (layers, jnp.arange(count)))
            grown.append(kept)
        return jnp.argmax(_normalized(x) @ w["embed"].T, axis=-1), grown

    def _attend(self, x: jax.Array, w: Arrays, kept: Any, layer: jax.Array, position: jax.Array) -> Any:
        batch = x.shape[0]
        query = (x @ w["q"].T).reshape(batch, self.kept, self.heads // self.kept, self.each)
        new = ((x @ w[name].T).reshape(1, batch, self.kept, 1, self.each) for name in ("k", "v"))
        kept = tuple(  # in place: the caches of all layers are carried through the loop
            jax.lax.dynamic_update_slice(old, own, (layer, 0, 0, position, 0))
            for old, own in zip(kept, new, strict=True)
        )
        keys, values = (jax.lax.dynamic_index_in_dim(whole, layer, keepdims=False) for whole in kept)
        scores = jnp.einsum("bkgd,bktd->bkgt", query, keys).astype(jnp.float32)
        seen = jnp.arange(self.context) <= position
        weights = jax.nn.softmax(jnp.where(seen, scores, -1e30)).astype(x.dtype)
        mixed = jnp.einsum("bkgt,bktd->bkgd", weights, values)
        return mixed.reshape(batch, -1) @ w["o"].T, kept

    def arguments(self, batch: int) -> tuple[Any, ...]:
        """The types of one call's arguments, weights first."""
        query, key = self.heads * self.each, self.kept * self.each
        stacks, cache = [], []
        for layers, block in self.stacks:
            matrices = ("up", "down") if block is squared_relu else ("gate", "up", "down")
            own = {"q": (query, self.d), "k": (key, self.d), "v": (key, self.d), "o": (self.d, query)}
            own |= dict.fromkeys(matrices, (self.width, self.d))
            stacks.append({name: bf16(layers, *shape) for name, shape in own.items()})
            kept = bf16(layers, batch, self.kept, self.context, self.each)
            cache.append((kept, kept))
        number = jax.ShapeDtypeStruct((), jnp.int32)
        tokens = jax.ShapeDtypeStruct((batch,), jnp.int32)
        return {"embed": bf16(self.rows, self.d), "stacks": stacks}, cache, number, tokens


def _normalized(x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-6)).astype(x.dtype)


SQUARED = Shape("1.4B, squared ReLU", ((12, squared_relu),), 2048, 16384, 262144, heads=16, kept=4, each=128)
TOP_K = Shape("1.2B, top-k gate", ((12, top_k_gate),), 2048, 8192, 262144, heads=16, kept=4, each=128)
GEMMA_3N = Shape(
    "Gemma 3n E2B shape", ((10, statistical_gate), (20, gelu_gate)), 2048, 8192, 262144, heads=8, kept=2, each=256
)
SHAPES = (SQUARED, TOP_K, GEMMA_3N)
