"""PyTorch models of Hugging Face, lowered through torchax: one forward pass, logits returned."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax.numpy as jnp
from lowered import LAYERS, VOCABULARY, D, Expected, Model

from examples.offline.torch_opt import import_torchax

PACKAGE = "torchax"
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": D,
    "intermediate_size": 4 * D,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


WINDOWED = ("Gemma2", "Gemma3", "Cohere2")


def build(name: str, config: str, dtype: str = "float32", **options: Any) -> Any:
    """A module as a function of its parameters."""
    os.environ.setdefault("USE_TF", "0")
    torchax = import_torchax()
    import torch
    import transformers

    settings = getattr(transformers, config)(**{**LLAMA, **options})
    settings.use_cache, settings._attn_implementation = False, "eager"
    torch.manual_seed(0)
    module = getattr(transformers, name)(settings).to(getattr(torch, dtype)).eval()
    environment = torchax.default_env()
    torchax.enable_globally()
    try:
        module = module.to("jax")
        params = {k: v.jax() for k, v in (*module.named_parameters(), *module.named_buffers())}
    finally:
        torchax.disable_globally()

    def step(params: Any, ids: Any) -> Any:
        inputs = {"input_ids": ids, "attention_mask": jnp.ones((1, 1), jnp.int32)}
        if name.startswith(WINDOWED):  # torchax cannot build the masks of sliding windows, so they are handed in
            mask = jnp.zeros((1, 1, 1, 1))
            inputs["attention_mask"] = {"full_attention": mask, "sliding_attention": mask}
        with environment:
            out = torch.func.functional_call(
                module, torchax.interop.torch_view(params), (), torchax.interop.torch_view(inputs)
            )
            return torchax.interop.jax_view(out.logits)

    return step, (params, jnp.ones((1, 1), jnp.int32))


def _entry(name: str, expected: Expected, note: str = "", model: str = "", config: str = "", **options: Any) -> Model:
    model = model or name
    cls = model if model.endswith("LMHeadModel") else f"{model}ForCausalLM"
    make = functools.partial(build, cls, config or f"{model.removesuffix('LMHeadModel')}Config", **options)
    return Model("PyTorch (torchax)", name, make, expected, note)


GPT = {"n_embd": D, "n_head": 4, "n_layer": LAYERS}
BART = {"d_model": D, "decoder_layers": LAYERS, "decoder_attention_heads": 4, "decoder_ffn_dim": 4 * D,
        "ffn_dim": 4 * D, "attention_heads": 4, "num_layers": LAYERS}  # fmt: skip
TANH, ERF = Expected(LAYERS, "gelu_tanh"), Expected(LAYERS, "gelu")
SWIGLU, GEGLU = Expected(LAYERS, "silu", True), Expected(LAYERS, "gelu_tanh", True)
MODELS = (
    *(_entry(name, SWIGLU) for name in ("Llama", "Qwen2", "Olmo", "Olmo2", "StableLm", "SmolLM3")),
    _entry("Llama, bf16", SWIGLU, "logits from bfloat16", "Llama", dtype="bfloat16"),
    _entry("Llama, biases", SWIGLU, "biases on all products", "Llama", mlp_bias=True, attention_bias=True),
    _entry("Llama, relu²", Expected(LAYERS, "relu2", True), "", "Llama", hidden_act="relu2"),
    _entry("Qwen3", SWIGLU, "normalised queries and keys", head_dim=16),
    _entry("Phi3", SWIGLU, "gate and up in one [2ff,d] weight"),
    _entry("Glm", SWIGLU, "gate and up in one weight", head_dim=16),
    _entry("Helium", SWIGLU, head_dim=16),
    _entry("Granite", SWIGLU, "logits and residuals scaled"),
    _entry("Cohere", SWIGLU, "parallel attention + MLP; logits scaled"),
    _entry("Gemma", GEGLU, head_dim=16),
    _entry("Gemma2", GEGLU, "softcaps, sliding windows", head_dim=16, sliding_window=8),
    _entry("Gemma3", GEGLU, "sliding windows", "Gemma3", "Gemma3TextConfig", head_dim=16, sliding_window=8,
           query_pre_attn_scalar=16, layer_types=["full_attention"] * LAYERS),
    _entry("Mistral", SWIGLU, sliding_window=None),
    _entry("Cohere2", SWIGLU, "parallel attention + MLP; sliding windows", sliding_window=8),
    _entry("Glm4", SWIGLU, "gate and up in one weight", head_dim=16),
    _entry("DiffLlama", SWIGLU, "differential attention"),
    _entry("Arcee", Expected(LAYERS, "relu2"), "ReLU²"),
    _entry("Starcoder2", Expected(LAYERS, "gelu_tanh"), "biases"),
    _entry("Phi", Expected(LAYERS, "gelu_tanh"), "parallel attention + MLP; head with bias"),
    _entry("Persimmon", Expected(LAYERS, "relu2"), "ReLU²"),
    _entry("Nemotron", Expected(LAYERS, "relu2"), "ReLU²"),
    _entry("GPTNeoX", Expected(LAYERS, "gelu"), "erf-GELU; parallel attention + MLP"),
    _entry("Falcon", Expected(LAYERS, "gelu"), "erf-GELU; parallel attention + MLP"),
    _entry("Mpt", Expected(LAYERS, "gelu"), d_model=D, n_heads=4, n_layers=LAYERS),
    _entry("OPT", Expected(LAYERS, "relu"), ffn_dim=4 * D, word_embed_proj_dim=D),
    _entry("Bloom", Expected(LAYERS, "gelu_tanh"), n_head=4, n_layer=LAYERS),
    _entry("GPT2", TANH, "kernel stored [d,ff]", "GPT2LMHeadModel", **GPT),
    _entry("GPT", TANH, "norm after", "OpenAIGPTLMHeadModel", **GPT),
    _entry("GPTBigCode", TANH, "one key and value head", **GPT),
    _entry("GPTJ", TANH, "parallel attention + MLP; head with bias", rotary_dim=8, **GPT),
    _entry("GPTNeo", TANH, num_layers=LAYERS, attention_types=[[["global"], LAYERS]], num_heads=4),
    _entry("GPTNeoXJapanese", ERF, intermediate_multiple_size=4),
    _entry("CTRL", Expected(LAYERS, "relu"), "ReLU", "CTRLLMHeadModel", n_embd=D, dff=4 * D, n_layer=LAYERS, n_head=4),
    _entry("BioGpt", ERF),
    _entry("XGLM", ERF, **BART),
    _entry("Bart", ERF, "decoder alone", **BART),
    _entry("TrOCR", ERF, "decoder alone", **BART),
    _entry("Bert", ERF, "decoder; a transform before the head is a miss", "BertLMHeadModel", is_decoder=True),
    _entry("Roberta", ERF, "decoder; a transform before the head is a miss", is_decoder=True),
    _entry("Electra", ERF, "decoder; embeddings projected", is_decoder=True),
    _entry("RWKV", Expected(0), "the feed-forward is gated by another product of another input", "Rwkv"),
    _entry("CodeGen", Expected(LAYERS, "gelu_tanh"), n_embd=D, n_head=4, n_layer=LAYERS, rotary_dim=8),
    _entry("RecurrentGemma", Expected(LAYERS, "gelu_tanh", True, width=128), "recurrent blocks are misses"),
    _entry("Mamba", Expected(0), "no feed-forward blocks at all", intermediate_size=2 * D),
    _entry("BitNet", Expected(0), "a norm between the products is a miss", "BitNet"),
)  # fmt: skip
