"""A step that returns logits, and is wrapped before it is transformed: which function it is, which result they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hire_compiler.errors import CaptureError, ConfigError


def function_of(step: Any, verb: str) -> Callable[..., Any]:
    """What to call in the place of ``step``.

    Args:
      verb: which function of ours wraps it, for the message.

    Raises:
      CaptureError: ``step`` is of a kind that cannot be wrapped.
    """
    if hasattr(step, "mlir_module_serialized"):
        call, name = step.call, str(step.fun_name)

        def exported(*args: Any, **kwargs: Any) -> Any:
            return call(*args, **kwargs)

        exported.__name__ = name
        return exported
    if not callable(step):
        raise CaptureError(f"{verb} takes a function or a jax.export.Exported, not {type(step).__name__}")
    if hasattr(step, "report") and hasattr(step, "prepare"):
        raise CaptureError(f"{verb} comes first: hire.transform(hire.{verb}(step, …)), not the other way")
    home = type(step).__module__.partition(".")[0]
    if home in ("equinox", "flax"):
        raise CaptureError(
            f"{verb} cannot wrap a {home} transform: give it the function inside, or sample in that function"
        )
    return step  # type: ignore[no-any-return]


def place_of_logits(paths: list[tuple[Any, Any]], wanted: str | None, name: str) -> int:
    """Which leaf of the results of the function ``name`` holds the logits.

    Args:
      paths: the leaves with their paths.
      wanted: the path that the caller named.

    Raises:
      ConfigError: no leaf can be meant, or several.
    """
    described = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
    listing = ", ".join(f"{path or 'the result itself'} {shown(leaf)}" for path, leaf in described.items())
    if wanted is not None:
        if wanted not in described:
            raise ConfigError(f"{name} has no result {wanted!r}; it returns {listing}")
        found = list(described).index(wanted)
        if not _could_be_logits(paths[found][1]):
            raise ConfigError(f"the result {wanted!r} of {name} is no floating-point array of logits: {listing}")
        return found
    widest = max((leaf.shape[-1] for _, leaf in paths if _could_be_logits(leaf)), default=0)
    able = [i for i, (_, leaf) in enumerate(paths) if _could_be_logits(leaf) and leaf.shape[-1] == widest]
    if len(able) != 1:
        raise ConfigError(
            f"which result of {name} holds the logits? {len(able) or 'None'} of them could; it returns {listing}. "
            'Say logits="…" with one of these paths'
        )
    return able[0]


def shown(leaf: Any) -> str:
    """An array's type and shape."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def _could_be_logits(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating)) and leaf.ndim >= 1
