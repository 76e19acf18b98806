"""Google's penzai: named axes, every linear layer an einsum; one forward pass over four positions."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from lowered import LAYERS, VOCABULARY, D, Expected, Model

PACKAGE = "penzai"


def build(variant: str, tied: bool) -> Any:
    """A Llama-like transformer as a function of its variables."""
    from penzai import pz
    from penzai.models.transformer.variants import llamalike_common as llamalike

    config = llamalike.LlamalikeTransformerConfig(
        num_kv_heads=2,
        query_head_multiplier=2,
        embedding_dim=D,
        projection_dim=16,
        mlp_hidden_dim=4 * D,
        num_decoder_blocks=LAYERS,
        vocab_size=VOCABULARY,
        mlp_variant=variant,
        rope_wavelength=10000,
        tie_embedder_and_logits=tied,
        parameter_dtype=jnp.float32,
        attention_type=llamalike.AttentionTypeGlobalCausal(),
    )
    model = llamalike.build_llamalike_transformer(config, init_base_rng=jax.random.key(0))
    unbound, variables = pz.unbind_params(model)

    def step(frozen: Any, tokens: Any) -> Any:
        bound = pz.bind_variables(unbound, frozen)
        positions = pz.nx.wrap(jnp.arange(4)).tag("seq")
        logits = bound(pz.nx.wrap(tokens).tag("batch", "seq"), token_positions=positions)
        return logits.untag("batch", "seq", "vocabulary").unwrap()

    return step, ([v.freeze() for v in variables], jnp.ones((1, 4), jnp.int32))


MODELS = (
    Model("penzai", "Llama", functools.partial(build, "swiglu", False), Expected(LAYERS, "silu", True),
          "named axes, vmapped products"),
    Model("penzai", "Gemma", functools.partial(build, "geglu_approx", True), Expected(LAYERS, "gelu_tanh", True),
          "head tied to the embedding"),
)  # fmt: skip
