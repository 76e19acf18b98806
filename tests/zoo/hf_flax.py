"""Hugging Face's Flax models (transformers 4.53): one decode step with its cache, and whole generate functions."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
from lowered import LAYERS, VOCABULARY, D, Expected, Model, random_like

PACKAGE = "transformers"
HEADS = 4
DECODER = {"vocab_size": VOCABULARY, "max_position_embeddings": 32}
BART = {
    "d_model": D,
    "encoder_ffn_dim": 4 * D,
    "decoder_ffn_dim": 4 * D,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
}
BERT = {"hidden_size": D, "intermediate_size": 4 * D, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
GPT = {"n_embd": D, "n_head": HEADS, "n_layer": LAYERS}
LLAMA = {**BERT, "num_key_value_heads": HEADS}


def _transformers() -> Any:
    os.environ.setdefault("USE_TF", "0")
    import transformers

    return transformers


def _model(name: str, config: str, **options: Any) -> tuple[Any, Any]:
    package = _transformers()
    model = getattr(package, name)(getattr(package, config)(**{**DECODER, **options}), _do_init=False)
    return model, random_like(jax.eval_shape(lambda: model.init_weights(jax.random.key(0), (1, 4))))


def decode(name: str, config: str, **options: Any) -> Any:
    """One token with its key-value cache, to the argmax."""
    model, params = _model(name, config, **options)
    cache = jax.tree.map(jnp.zeros_like, random_like(jax.eval_shape(lambda: model.init_cache(1, 8))))
    positions = {} if "Bloom" in name else {"position_ids": jnp.zeros((1, 1), jnp.int32)}

    def step(params: Any, ids: Any, cache: Any) -> Any:
        mask = jnp.ones((1, 8), jnp.int32)
        out = model(ids, params=params, past_key_values=cache, attention_mask=mask, **positions)
        return out.logits, jnp.argmax(out.logits[:, -1], -1), out.past_key_values

    return step, (params, jnp.ones((1, 1), jnp.int32), cache)


def forward(name: str, config: str, **options: Any) -> Any:
    """All positions at once, logits returned."""
    model, params = _model(name, config, **options)
    return lambda params, ids: model(ids, params=params).logits, (params, jnp.ones((1, 4), jnp.int32))


def encoder_decoder(name: str, config: str, **options: Any) -> Any:
    """Encoder and decoder in one program, on sequences of different lengths."""
    model, params = _model(name, config, **options)

    def run(params: Any, ids: Any, decoder: Any) -> Any:
        return model(ids, decoder_input_ids=decoder, params=params).logits

    return run, (params, jnp.ones((1, 4), jnp.int32), jnp.ones((1, 3), jnp.int32))


def generate(**options: Any) -> Any:
    """GPT-2's whole ``generate``: prefill, then a loop over tokens around the layers."""
    special = {"eos_token_id": 3, "bos_token_id": 1, "pad_token_id": 0}
    model, params = _model("FlaxGPT2LMHeadModel", "GPT2Config", **GPT, **special)

    def run(params: Any, ids: Any) -> Any:
        key = jax.random.PRNGKey(0)
        return model.generate(ids, params=params, max_new_tokens=4, prng_key=key, **options).sequences

    return run, (params, jnp.ones((1, 4), jnp.int32))


def _entry(name: str, build: Any, *args: Any, expected: Expected, note: str = "", **options: Any) -> Model:
    return Model("HF Flax", name, functools.partial(build, *args, **options), expected, note)


GELU, EXACT = Expected(LAYERS, "gelu_tanh"), Expected(LAYERS, "gelu")
MODELS = (
    _entry("GPT-2", decode, "FlaxGPT2LMHeadModel", "GPT2Config", expected=GELU, note="kernel stored [ff,d]", **GPT),
    _entry("GPT-J", decode, "FlaxGPTJForCausalLM", "GPTJConfig", expected=GELU, note="parallel attention + MLP",
           rotary_dim=8, n_positions=32, **GPT),
    _entry("GPT-Neo", decode, "FlaxGPTNeoForCausalLM", "GPTNeoConfig", expected=GELU, hidden_size=D, num_heads=HEADS,
           num_layers=2, attention_types=[[["global", "local"], 1]]),
    _entry("OPT", decode, "FlaxOPTForCausalLM", "OPTConfig", expected=Expected(LAYERS, "relu"), ffn_dim=4 * D,
           word_embed_proj_dim=D, **BERT),
    _entry("OPT post-norm", decode, "FlaxOPTForCausalLM", "OPTConfig", expected=Expected(LAYERS, "relu"),
           note="embeddings projected; norm after", ffn_dim=4 * D, word_embed_proj_dim=32,
           do_layer_norm_before=False, **BERT),
    _entry("BLOOM", decode, "FlaxBloomForCausalLM", "BloomConfig", expected=GELU, hidden_size=D, n_head=HEADS,
           n_layer=LAYERS),
    _entry("XGLM", decode, "FlaxXGLMForCausalLM", "XGLMConfig", expected=EXACT, d_model=D, ffn_dim=4 * D,
           attention_heads=HEADS, num_layers=LAYERS),
    _entry("Llama", decode, "FlaxLlamaForCausalLM", "LlamaConfig", expected=Expected(LAYERS, "silu", True), **LLAMA),
    _entry("Mistral", decode, "FlaxMistralForCausalLM", "MistralConfig", expected=Expected(LAYERS, "silu", True),
           **LLAMA),
    _entry("Gemma", decode, "FlaxGemmaForCausalLM", "GemmaConfig", expected=Expected(LAYERS, "gelu_tanh", True),
           head_dim=16, **LLAMA),
    _entry("BERT", forward, "FlaxBertForMaskedLM", "BertConfig", expected=EXACT, note="erf-GELU", **BERT),
    _entry("RoBERTa", forward, "FlaxRobertaForCausalLM", "RobertaConfig", expected=EXACT, is_decoder=True, **BERT),
    _entry("ALBERT", forward, "FlaxAlbertForMaskedLM", "AlbertConfig", expected=GELU, embedding_size=32,
           note="layers share one weight", **BERT),
    _entry("ELECTRA", forward, "FlaxElectraForMaskedLM", "ElectraConfig", expected=EXACT, embedding_size=D, **BERT),
    _entry("DistilBERT", forward, "FlaxDistilBertForMaskedLM", "DistilBertConfig", expected=EXACT, dim=D,
           hidden_dim=4 * D, n_heads=HEADS, n_layers=LAYERS),
    _entry("BART", encoder_decoder, "FlaxBartForConditionalGeneration", "BartConfig", expected=Expected(4, "gelu"),
           note="encoder and decoder of different lengths", **BART),
    _entry("mBART", encoder_decoder, "FlaxMBartForConditionalGeneration", "MBartConfig",
           expected=Expected(4, "gelu"), **BART),
    _entry("Pegasus", encoder_decoder, "FlaxPegasusForConditionalGeneration", "PegasusConfig",
           expected=Expected(4, "gelu"), **BART),
    _entry("Marian", encoder_decoder, "FlaxMarianMTModel", "MarianConfig", expected=Expected(4, "gelu"),
           pad_token_id=0, decoder_vocab_size=VOCABULARY, **BART),
    _entry("GPT-2 generate, greedy", generate, expected=Expected(4, "gelu_tanh", heads=2),
           note="prefill and decode in one module, layers inside a loop over tokens"),
    _entry("GPT-2 generate, top-k", generate, expected=Expected(4, "gelu_tanh", heads=2), do_sample=True, top_k=10,
           note="sampler: temperature, top-k, top-p"),
    _entry("GPT-2 generate, beams", generate, expected=Expected(4, "gelu_tanh", heads=2), num_beams=3,
           note="beam search"),
)  # fmt: skip
