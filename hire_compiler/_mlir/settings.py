"""The settings of JAX under which our own functions are traced, and the part of the caller's that changes a program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax._src import config
from jax._src import mesh as jax_mesh
from jax.sharding import use_abstract_mesh


@contextlib.contextmanager
def own_settings(*, x64: bool = False, keep_mesh: bool = False) -> Iterator[None]:
    """Trace, lower and run functions of ``runtime/`` as they were written and tested, whatever the caller has set.

    A caller's ``jax_enable_x64``, strict promotion, ``rank_promotion="raise"``, ``disable_jit``, ``debug_nans``,
    default precision of products, kind of random numbers or mesh are meant for the caller's code. Where results must
    have 64 bits because the author's had, asking for them by name still gives them.

    Args:
      x64: keep 64-bit numbers as they are, for weights that have as many.
      keep_mesh: inside the trace of an outer function, whose values belong to its mesh.
    """
    with contextlib.ExitStack() as stack:
        for setting in (
            jax.enable_x64(x64),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
            jax.disable_jit(False),
            jax.debug_nans(False),
            jax.debug_infs(False),
            jax.default_matmul_precision(None),
            jax.default_prng_impl("threefry2x32"),
            jax.threefry_partitionable(True),
            jax.check_tracer_leaks(False),
            config.explicit_x64_dtypes(config.ExplicitX64Mode.ALLOW),
        ):
            stack.enter_context(setting)
        if not keep_mesh:
            stack.enter_context(use_abstract_mesh(jax_mesh.empty_abstract_mesh))
        yield


def has_wide(values: Sequence[Any]) -> bool:
    """Whether any of the arrays (or types) has elements of 64 bits."""
    return any(value.dtype.itemsize == 8 and value.dtype.kind in "iuf" for value in values)


def debugging_values() -> bool:
    """Whether JAX looks for NaN or Inf in every result (``jax_debug_nans``, ``jax_debug_infs``)."""
    return bool(config.debug_nans.value or config.debug_infs.value)


def caller_settings() -> Any:
    """Everything the caller has set that changes what JAX traces; equal for calls that may share a program.

    It is JAX's own key of traced functions: flags, mesh, axes of an outer ``vmap`` or ``shard_map``.
    """
    return config.trace_context()
