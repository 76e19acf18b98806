"""keras-hub models on the JAX backend: one decode step with its cache, logits returned."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax.numpy as jnp
from lowered import LAYERS, VOCABULARY, D, Expected, Model

PACKAGE = "keras_hub"
BASE = {"vocabulary_size": VOCABULARY, "num_layers": LAYERS, "hidden_dim": D, "intermediate_dim": 4 * D}
GROUPED = {**BASE, "num_query_heads": 4, "num_key_value_heads": 2}


def build(name: str, **options: Any) -> Any:
    """A causal language model as a function of its variables."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras
    import keras_hub

    backbone = getattr(keras_hub.models, f"{name}Backbone")(**options)
    model = getattr(keras_hub.models, f"{name}CausalLM")(backbone=backbone, preprocessor=None)
    cache = model._build_cache(jnp.ones((1, 8), jnp.int32))
    cache = cache[1] if isinstance(cache, tuple) else cache
    own = (*model.trainable_variables, *model.non_trainable_variables)

    def step(values: Any, token: Any, cache: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(own, values, strict=True))):
            logits, *_, cache = model.call_with_cache(token, cache, 3)
        return logits, cache

    return step, ([v.value for v in own], jnp.ones((1, 1), jnp.int32), cache)


def _entry(name: str, expected: Expected, note: str = "", **options: Any) -> Model:
    return Model("keras-hub", name, functools.partial(build, name, **options), expected, note)


SWIGLU = Expected(LAYERS, "silu", True)
EXPERTS = {"num_experts": 4, "top_k": 2}
GEMMA = {**BASE, "num_query_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "intermediate_dim": 8 * D}
MODELS = (
    _entry("GPT2", Expected(LAYERS, "gelu_tanh"), num_heads=4, **BASE),
    _entry("OPT", Expected(LAYERS, "relu"), num_heads=4, **BASE),
    _entry("Bloom", Expected(LAYERS, "gelu_tanh"), num_heads=4, **BASE),
    _entry("GPTNeoX", Expected(LAYERS, "gelu_tanh"), num_heads=4, **BASE),
    _entry("Falcon", Expected(LAYERS, "gelu"), num_attention_heads=4, **BASE),
    _entry("Gemma", Expected(LAYERS, "gelu_tanh", True), **GEMMA),
    *(_entry(name, SWIGLU, **GROUPED) for name in ("Llama", "Llama3", "Mistral", "Qwen")),
    _entry("Phi3", SWIGLU, **GROUPED),
    _entry("Qwen3", SWIGLU, "normalised queries and keys", head_dim=16, **GROUPED),
    _entry("Mixtral", Expected(0), "the layers of experts are sites", **GROUPED, **EXPERTS),
    _entry("QwenMoe", Expected(LAYERS, "silu", True, width=128), "the shared MLP is a site, the experts are misses",
           moe_intermediate_dim=32, shared_expert_intermediate_dim=128, **GROUPED, **EXPERTS),
    _entry("GptOss", Expected(0), "experts are misses", **GROUPED, **EXPERTS),
)  # fmt: skip
