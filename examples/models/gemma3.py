"""Gemma 3 (text): norms before and after each block, normalised queries and keys, tied head.

Five of six layers see a sliding window; the sixth sees everything, with a longer rotary base.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from examples.models.gguf_file import Checkpoint
from examples.models.transformer import (
    Cache,
    Params,
    append,
    attend,
    causal_mask,
    rms_norm,
    rotate,
)
from examples.models.transformer import init_cache as empty_cache


@dataclass(frozen=True)
class Config:
    """The shape of one Gemma 3 model.

    Attributes:
        vocabulary: V, tokens.
        width: d, the model's width.
        layers: L.
        heads: H, query heads.
        kv_heads: K, key-value heads.
        head_dim: D, the width of a head.
        ffn_width: the hidden width of the feed-forward.
        norm_epsilon: added to the mean square in every norm.
        window: positions a local layer can see, its own included.
        global_every: every so many layers one sees all positions.
        local_base: rotary base of local layers.
        global_base: rotary base of global layers.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    norm_epsilon: float
    window: int
    global_every: int = 6
    local_base: float = 10_000.0
    global_base: float = 1_000_000.0

    def is_global(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) sees all positions."""
        return (layer + 1) % self.global_every == 0


def init_cache(config: Config, batch: int, length: int = 1024, dtype: DTypeLike = jnp.float32) -> Cache:
    """An empty cache for `batch` sequences of at most `length` tokens."""
    return empty_cache(config.layers, batch, length, config.kv_heads, config.head_dim, dtype)


def hidden_states(config: Config, params: Params, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
    """Run the model on the next tokens: a prompt (T > 1) or one decoding step (T = 1).

    Args:
        config: the model's shape.
        params: what `params_from` returns.
        tokens: int32 `[B, T]`, standing at positions `cache["position"]` and following.
        cache: the keys and values of the tokens before.

    Returns:
        `[B, T, d]` after the final norm, and the cache with these tokens in it.
    """
    start, length = cache["position"], cache["k"][0].shape[1]
    positions = start + jnp.arange(tokens.shape[1], dtype=jnp.int32)
    everything = causal_mask(positions, length)
    nearby = causal_mask(positions, length, config.window)

    x = params["embed"][tokens]
    # As published: the factor is rounded to the dtype of the activations.
    x = x * jnp.asarray(config.width**0.5, x.dtype)
    new_keys, new_values = [], []
    for i, layer in enumerate(params["layers"]):
        base = config.global_base if config.is_global(i) else config.local_base
        mask = everything if config.is_global(i) else nearby
        h = rms_norm(x, layer["attention_norm"], config.norm_epsilon)
        q, k, v = _query_key_value(config, layer, h)
        keys = append(cache["k"][i], rotate(k, positions, base), start)
        values = append(cache["v"][i], v, start)
        h = attend(rotate(q, positions, base), keys, values, mask, config.head_dim**-0.5)
        h = rms_norm(h @ layer["o"].T, layer["post_attention_norm"], config.norm_epsilon)
        x = x + h
        h = feed_forward(layer, rms_norm(x, layer["ffn_norm"], config.norm_epsilon))
        x = x + rms_norm(h, layer["post_ffn_norm"], config.norm_epsilon)
        new_keys.append(keys)
        new_values.append(values)

    x = rms_norm(x, params["final_norm"], config.norm_epsilon)
    return x, {"k": new_keys, "v": new_values, "position": start + tokens.shape[1]}


def _query_key_value(config: Config, layer: Params, h: Array) -> tuple[Array, Array, Array]:
    """`[B, T, H, D]` queries, `[B, T, K, D]` keys and values; the first two normalised."""
    batch, tokens, _ = h.shape
    q = (h @ layer["q"].T).reshape(batch, tokens, config.heads, config.head_dim)
    k = (h @ layer["k"].T).reshape(batch, tokens, config.kv_heads, config.head_dim)
    v = (h @ layer["v"].T).reshape(batch, tokens, config.kv_heads, config.head_dim)
    q = rms_norm(q, layer["q_norm"], config.norm_epsilon)
    k = rms_norm(k, layer["k_norm"], config.norm_epsilon)
    return q, k, v


def feed_forward(layer: Params, h: Array) -> Array:
    """The gated feed-forward: `down(gelu(gate(h)) * up(h))`, `[B, T, d]` to `[B, T, d]`."""
    gate = jax.nn.gelu(h @ layer["gate"].T, approximate=True)
    out: Array = (gate * (h @ layer["up"].T)) @ layer["down"].T
    return out


def logits(config: Config, params: Params, x: Array) -> Array:
    """Scores of every token, `[..., V]`, of final hidden states `[..., d]`, in their dtype."""
    del config  # Part of the interface the models share; Gemma 3 does not cap its logits.
    embed: Array = params["embed"]
    return x @ embed.T


def greedy_step(config: Config, params: Params, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
    """Feed `tokens` `[B, T]` and choose each sequence's likeliest next token, int32 `[B]`."""
    x, cache = hidden_states(config, params, tokens, cache)
    scores = logits(config, params, x[:, -1])
    return jnp.argmax(scores, axis=-1).astype(jnp.int32), cache


def config_from(checkpoint: Checkpoint) -> Config:
    """The configuration a GGUF file describes."""
    read = checkpoint.architecture
    vocabulary, width = checkpoint.tensors["token_embd.weight"].shape
    return Config(
        vocabulary=vocabulary,
        width=width,
        layers=read("block_count"),
        heads=read("attention.head_count"),
        kv_heads=read("attention.head_count_kv"),
        head_dim=read("attention.key_length"),
        ffn_width=read("feed_forward_length"),
        norm_epsilon=read("attention.layer_norm_rms_epsilon"),
        window=read("attention.sliding_window"),
        global_base=read("rope.freq_base"),
    )


# Our names and the file's. The file's norm weights already hold the 1 that Gemma adds to them.
LAYER_TENSORS = {
    "attention_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "post_attention_norm": "post_attention_norm",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "post_ffn_norm": "post_ffw_norm",
}


def params_from(checkpoint: Checkpoint, config: Config, dtype: DTypeLike = jnp.float32) -> Params:
    """The weights: `embed` `[V, d]`, `final_norm` `[d]`, and `layers`, a list of dicts.

    Matrices are `[out, in]`, as in the checkpoint.
    """

    def read(name: str) -> Array:
        return jnp.asarray(checkpoint.read(f"{name}.weight"), dtype)

    layers = [{ours: read(f"blk.{i}.{theirs}") for ours, theirs in LAYER_TENSORS.items()} for i in range(config.layers)]
    return {"embed": read("token_embd"), "layers": layers, "final_norm": read("output_norm")}
