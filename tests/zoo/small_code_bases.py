"""Models of small code bases and of libraries that bring layers: one module or two of each, as its authors call it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from lowered import LAYERS, VOCABULARY, D, Expected, Model, random_like

PACKAGE = "flax"
IDS = jnp.ones((1, 4), jnp.int32)
Built = tuple[Callable[..., Any], tuple[Any, ...]]


def of_nnx(module: Any, call: Callable[[Any, Any], Any]) -> Built:
    """A module of flax.nnx as a function of its state."""
    from flax import nnx

    definition, state = nnx.split(module)
    return lambda state, ids: call(nnx.merge(definition, state), ids), (random_like(state), IDS)


def nano_moe() -> Built:
    """nano-moe-jax: every expert is a module of its own, all are computed, the chosen are gathered."""
    from nano_moe.config import NanoMoEConfig
    from nano_moe.model import NanoMoE

    model = NanoMoE(NanoMoEConfig(VOCABULARY, LAYERS, 4, D, 4 * D, 4, 2, 8, 0.0))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IDS))
    return lambda params, ids: model.apply(params, ids)[0], (random_like(shapes), IDS)


@functools.cache  # two models are never equal: each holds an array among its static fields
def palm(lite: bool) -> Built:
    """PaLM-jax: one product for queries, keys, values, gate and up, on equinox."""
    import equinox as eqx

    eqx.static_field = functools.partial(eqx.field, static=True)  # the name that this code knows
    from palm_jax import palm, palm_lite

    options = {"num_tokens": VOCABULARY, "dim": D, "dim_head": 16, "depth": LAYERS, "heads": 4}
    model = (palm_lite if lite else palm).PaLM(key=jax.random.key(0), **options)
    arrays, rest = eqx.partition(model, eqx.is_array)
    return lambda arrays, ids: eqx.combine(arrays, rest)(ids), (random_like(arrays), IDS[0])


def e1() -> Built:
    """e1jax: a language model of proteins, on equinox; its vocabulary has 34 entries."""
    import equinox as eqx
    from e1jax import E1

    model = E1(D, 4, 4 * D, LAYERS, key=jax.random.key(0))
    arrays, rest = eqx.partition(model, eqx.is_array)

    def step(arrays: Any, ids: Any) -> Any:
        places = jnp.arange(4)
        return eqx.combine(arrays, rest)(ids, places, places, jnp.zeros(4, jnp.int32), jnp.ones(4, bool))[0]

    return step, (random_like(arrays), IDS[0])


def mamba2() -> Built:
    """mamba2-jax: a state-space model."""
    from flax import nnx
    from mamba2_jax.modeling import Mamba2Config, Mamba2ForCausalLM

    sizes = {"state_size": 16, "head_dim": 16, "chunk_size": 4, "num_hidden_layers": LAYERS}
    model = Mamba2ForCausalLM(Mamba2Config(VOCABULARY, hidden_size=D, **sizes), rngs=nnx.Rngs(0))
    return of_nnx(model, lambda model, ids: model(ids)["logits"])


def dantinox(**options: Any) -> Built:
    """dantinox: one backbone, its parts chosen by its configuration."""
    from dantinox.core.config import ModelConfig
    from dantinox.core.model import Transformer
    from flax import nnx

    config = ModelConfig(dim=D, n_heads=4, num_blocks=LAYERS, vocab_size=VOCABULARY, max_context=8, **options)
    return of_nnx(Transformer(config, rngs=nnx.Rngs(0)), lambda model, ids: model(ids, deterministic=True).logits)


def recurrent_gemma() -> Built:
    """recurrentgemma: Google DeepMind's own code, on flax.linen."""
    from recurrentgemma import common
    from recurrentgemma import jax as code

    blocks = (common.TemporalBlockType.RECURRENT, common.TemporalBlockType.ATTENTION)
    config = common.GriffinConfig(VOCABULARY, D, 8 * D, 4, blocks, True, 8, 30.0, D)
    model = code.Griffin(config)
    places = jnp.arange(4)[None]
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IDS, places))
    return lambda params, ids: model.apply(params, ids, places)[0], (random_like(shapes), IDS)


def haiku_mlp() -> Built:
    """dm-haiku: its own MLP, and a head."""
    import haiku as hk

    def forward(x: Any) -> Any:
        return hk.Linear(VOCABULARY)(hk.nets.MLP((4 * D, D), activation=jax.nn.relu)(x) + x)

    model, x = hk.without_apply_rng(hk.transform(forward)), jnp.ones((1, D))
    return model.apply, (random_like(jax.eval_shape(lambda: model.init(jax.random.key(0), x))), x)


def gmlp() -> Built:
    """mlp-gpt-jax: positions are mixed by a matrix between the two products of a block, on haiku."""
    from mlp_gpt_jax import TransformedMLPGpt

    model = TransformedMLPGpt(num_tokens=VOCABULARY, dim=D, depth=LAYERS, seq_len=4, attn_dim=16)
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: model.init(key, IDS[0]))
    return lambda params, ids: model.apply(params, key, ids), (random_like(shapes), IDS[0])


def equinox_mlp() -> Built:
    """equinox: its own MLP, on one row each."""
    import equinox as eqx

    mlp, head = eqx.nn.MLP(D, D, 4 * D, 1, key=jax.random.key(0)), eqx.nn.Linear(D, VOCABULARY, key=jax.random.key(1))
    arrays, rest = eqx.partition((mlp, head), eqx.is_array)

    def step(arrays: Any, x: Any) -> Any:
        mlp, head = eqx.combine(arrays, rest)
        return jax.vmap(lambda row: head(mlp(row) + row))(x)

    return step, (random_like(arrays), jnp.ones((2, D)))


def qwix(weight: Any, activations: Any = None) -> Built:
    """qwix: a block of flax.nnx and its head, quantised after training."""
    import qwix
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.gate, self.up = (nnx.Linear(D, 4 * D, use_bias=False, rngs=rngs) for _ in range(2))
            self.down = nnx.Linear(4 * D, D, use_bias=False, rngs=rngs)
            self.head = nnx.Linear(D, VOCABULARY, use_bias=False, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(x + self.down(jax.nn.relu(self.gate(x)) * self.up(x)))

    rules = [qwix.QuantizationRule(module_path="gate|up|down", weight_qtype=weight, act_qtype=activations)]
    x = jnp.asarray(jax.random.normal(jax.random.key(1), (1, D)))
    model = qwix.quantize_model(Block(), qwix.PtqProvider(rules), x)
    definition, state = nnx.split(model)
    return lambda state, x: nnx.merge(definition, state)(x), (state, x)


def _entry(family: str, name: str, package: str, build: Any, expected: Expected, note: str = "") -> Model:
    return Model(family, name, build, expected, note, package)


SWIGLU, GRIFFIN = Expected(LAYERS, "silu", True), Expected(LAYERS, "gelu_tanh", True, width=8 * D)
RELU, NONE = Expected(1, "relu"), Expected(0)
QUANTISED = Expected(1, "relu", True)
MODELS = (
    _entry("nano-moe-jax", "NanoMoE", "nano_moe", nano_moe, Expected(4 * LAYERS, "gelu_tanh"), "an expert each"),
    _entry("PaLM-jax", "PaLM", "palm_jax", functools.partial(palm, False), SWIGLU, "five matrices in one product"),
    _entry("PaLM-jax", "PaLM lite", "palm_jax", functools.partial(palm, True), SWIGLU, "the same, ALiBi"),
    _entry("e1jax", "E1", "e1jax", e1, Expected(LAYERS, "silu", True, heads=0), "a vocabulary of 34"),
    _entry("mamba2-jax", "Mamba2", "mamba2_jax", mamba2, NONE, "no feed-forward blocks at all"),
    _entry("dantinox", "Transformer", "dantinox", dantinox, SWIGLU),
    _entry("dantinox", "Transformer, plain", "dantinox", functools.partial(dantinox, use_swiglu=False),
           Expected(LAYERS, "gelu_tanh")),
    _entry("dantinox", "Transformer, experts", "dantinox", functools.partial(dantinox, ffn="moe"),
           Expected(4 * LAYERS, "silu", True), "an expert each"),
    _entry("recurrentgemma", "Griffin", "recurrentgemma", recurrent_gemma, GRIFFIN, "recurrent blocks are misses"),
    _entry("dm-haiku", "MLP", "haiku", haiku_mlp, RELU),
    _entry("mlp-gpt-jax", "gMLP", "mlp_gpt_jax", gmlp, NONE, "positions are mixed between the products"),
    _entry("equinox", "MLP", "equinox", equinox_mlp, RELU),
    _entry("qwix", "int8", "qwix", functools.partial(qwix, "int8"), QUANTISED, "int8 weights"),
    _entry("qwix", "int4", "qwix", functools.partial(qwix, "int4"), QUANTISED, "int4 weights"),
    _entry("qwix", "int8 × int8", "qwix", functools.partial(qwix, "int8", "int8"), QUANTISED, "inputs quantised too"),
)  # fmt: skip
