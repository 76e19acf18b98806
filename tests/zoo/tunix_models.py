"""Google's tunix: Flax NNX models, one forward pass over four positions."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import jax.numpy as jnp
from lowered import LAYERS, VOCABULARY, D, Expected, Model

PACKAGE = "tunix"
SHAPE = {"num_layers": LAYERS, "embed_dim": D, "hidden_dim": 4 * D, "num_heads": 4, "head_dim": 16, "num_kv_heads": 2}
LLAMA = {**SHAPE, "vocab_size": VOCABULARY, "rope_theta": 10000, "norm_eps": 1e-6}


def build(module: str, name: str, **options: Any) -> Any:
    """A module as a function of its state."""
    from flax import nnx

    code = importlib.import_module(f"tunix.models.{module}.model")
    if "attention" in options:
        options["attention_types"] = (getattr(code.AttentionType, options.pop("attention")),) * LAYERS
    definition, state = nnx.split(getattr(code, name)(code.ModelConfig(**options), rngs=nnx.Rngs(0)))
    mask = jnp.tril(jnp.ones((1, 4, 4), bool))

    def step(state: Any, tokens: Any) -> Any:
        return nnx.merge(definition, state)(tokens, jnp.arange(4)[None], None, mask)[0]

    return step, (state, jnp.ones((1, 4), jnp.int32))


def _entry(module: str, name: str, expected: Expected, note: str = "", **options: Any) -> Model:
    return Model("tunix", name + " tied" * ("tied" in note), functools.partial(build, module, name, **options),
                 expected, note)  # fmt: skip


SWIGLU, GEGLU = Expected(LAYERS, "silu", True), Expected(LAYERS, "gelu_tanh", True)
MODELS = (
    _entry("llama3", "Llama3", SWIGLU, **LLAMA),
    _entry("llama3", "Llama3", SWIGLU, "head tied to the embedding", weight_tying=True, **LLAMA),
    _entry("qwen2", "Qwen2", SWIGLU, **LLAMA),
    _entry("qwen3", "Qwen3", SWIGLU, **LLAMA),
    _entry("gemma", "Gemma", GEGLU, "softcap", num_embed=VOCABULARY, final_logit_softcap=30.0, attention="GLOBAL",
           use_post_attn_norm=True, use_post_ffw_norm=True, attn_logits_soft_cap=50.0, **SHAPE),
    _entry("gemma3", "Gemma3", GEGLU, "bfloat16", num_embed=VOCABULARY, sliding_window_size=4, **SHAPE),
)  # fmt: skip
