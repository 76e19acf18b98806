"""``with_sampler``: fold the choice of the next token into a step that returns logits.

A step that hands its logits out has to make all of them right. One that hands out the token needs only its winners, and
those can be proven: the head becomes certifiable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from hire_compiler import _mlir
from hire_compiler.authors.wrapped import function_of, place_of_logits
from hire_compiler.errors import ConfigError

Sampler = Literal["greedy", "top_k", "gumbel"]


@dataclass(frozen=True)
class Sampling:
    """A sampler and its options, as :func:`with_sampler` takes them; what ``hire.rewrite`` folds into an export.

    Attributes:
      sampler: ``"greedy"``, ``"top_k"`` or ``"gumbel"``.
      logits, k, temperature, position: see :func:`with_sampler`.
    """

    sampler: str
    logits: str | None = None
    k: int | None = None
    temperature: float | None = 1.0
    position: int = -1

    def __post_init__(self) -> None:
        _check(self.sampler, self.k, self.temperature)
        if self.temperature is not None:
            object.__setattr__(self, "temperature", float(self.temperature))

    def fold(self, step: Any) -> Callable[..., Any]:
        """The step with tokens in the place of its logits."""
        options = {"logits": self.logits, "k": self.k, "temperature": self.temperature, "position": self.position}
        return with_sampler(step, self.sampler, **options)  # type: ignore[arg-type]

    def __str__(self) -> str:
        options: dict[str, Any] = {"k": self.k} if self.sampler == "top_k" else {}
        if self.sampler == "gumbel":
            options["temperature"] = "given at run time" if self.temperature is None else self.temperature
        text = ", ".join(f"{name} {value}" for name, value in options.items())
        return f"{self.sampler} of {self.logits or 'the logits'}{f' ({text})' if text else ''}"


def with_sampler(
    step: Any,
    sampler: Sampler,
    *,
    logits: str | None = None,
    k: int | None = None,
    temperature: float | None = 1.0,
    position: int = -1,
) -> Callable[..., Any]:
    """The same step with tokens in the place of its logits.

    Args:
      step: a ``jax.jit`` function, any function that ``jax.jit`` takes, or a ``jax.export.Exported``.
      sampler: ``"greedy"``: the likeliest token, int32 ``[…]``. ``"top_k"``: ``(values, tokens)`` of the ``k``
        likeliest, ``[…, k]`` each. ``"gumbel"``: a draw from softmax(logits / temperature) by the Gumbel-max trick;
        the new function takes a keyword ``key``, and the same key gives the same token.
      logits: which result holds the logits, as JAX prints paths: ``"[0]"``, ``"['logits']"``. Needed only where several
        floating-point results could be meant.
      k: of ``"top_k"``.
      temperature: of ``"gumbel"``, at least 0; None makes it a keyword ``temperature`` of the new function.
      position: where logits are ``[batch, positions, vocabulary]``: whose are sampled; the last by default.

    Returns:
      A jitted function with the arguments of ``step`` (donation and static arguments too), to be called, or handed to
      :func:`hire_compiler.transform`.

    Raises:
      ConfigError: the sampler and its options do not fit together; when called, if no result is the logits.
      CaptureError: ``step`` is of a kind that cannot be wrapped.
    """
    _check(sampler, k, temperature)
    function = function_of(step, "with_sampler")
    options, function = _mlir.jit_options(function), _mlir.without_compiler_options(function)

    def sample(scores: jax.Array, key: Any, heat: Any) -> Any:
        if scores.ndim >= 3:
            scores = scores[..., position, :]
        if sampler == "greedy":
            return jnp.argmax(scores, axis=-1).astype(jnp.int32)
        if sampler == "top_k":
            assert k is not None
            if k > scores.shape[-1]:
                raise ConfigError(f"k is {k}, but there are only {scores.shape[-1]} logits")
            return tuple(jax.lax.top_k(scores, k))
        # argmax(z / T + g) is argmax(z + T·g): the temperature scales the noise, so that it may be known at run time
        # only, and greedy is the limit that is reached at 0.
        noise = jax.random.gumbel(key, scores.shape, jnp.float32)
        return jnp.argmax(scores.astype(jnp.float32) + heat * noise, axis=-1).astype(jnp.int32)

    @functools.wraps(function)
    def sampled(*args: Any, **kwargs: Any) -> Any:
        key = _take(kwargs, "key", sampler == "gumbel")
        heat = _take(kwargs, "temperature", True) if sampler == "gumbel" and temperature is None else temperature
        results = function(*args, **kwargs)
        paths, tree = jax.tree_util.tree_flatten_with_path(results)
        place = place_of_logits(paths, logits, sampled.__name__)
        leaves = [sample(leaf, key, heat) if i == place else leaf for i, (_, leaf) in enumerate(paths)]
        return jax.tree.unflatten(tree, leaves)

    return jax.jit(
        sampled,
        static_argnums=tuple(options.static_argnums),
        static_argnames=tuple(options.static_argnames),
        donate_argnums=tuple(options.donate_argnums),
        donate_argnames=tuple(options.donate_argnames),
        compiler_options=dict(options.compiler_options) or None,
    )


def _check(sampler: str, k: int | None, temperature: float | None) -> None:
    if sampler not in ("greedy", "top_k", "gumbel"):
        raise ConfigError(f"sampler is {sampler!r}: use 'greedy', 'top_k' or 'gumbel'")
    if (sampler == "top_k") != (k is not None):
        raise ConfigError(f"k is {k!r} with sampler {sampler!r}: 'top_k' needs k=…, the others take none")
    if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
        raise ConfigError(f"k is {k!r}, must be a whole number of at least 1")
    if sampler != "gumbel" and temperature != 1.0:
        raise ConfigError(f"temperature is {temperature!r}, but only 'gumbel' has one: leave it out")
    number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if temperature is not None and not (number and temperature >= 0):
        raise ConfigError(f"temperature is {temperature!r}, must be a number of at least 0 (0 is greedy)")


def _take(kwargs: dict[str, Any], name: str, needed: bool) -> Any:
    if needed and name not in kwargs:
        raise ConfigError(f"this sampler needs {name}=… in every call")
    return kwargs.pop(name) if needed else None
