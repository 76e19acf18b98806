"""Outputs that the caller does not read: they come back filled with NaN, and what they needed is dead."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp

from hire_compiler import _mlir
from hire_compiler.capture.program import Program
from hire_compiler.config.rules import Config
from hire_compiler.errors import ConfigError


def output_names(program: Program) -> tuple[str, ...]:
    """How the outputs are called: by path, as ``jax.tree_util.keystr`` prints it; ``result`` if there is one only."""
    if program.out_tree is None:
        return program.out_names
    tree = jax.tree.unflatten(program.out_tree, range(program.out_tree.num_leaves))
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return tuple(jax.tree_util.keystr(path) or "result" for path, _ in paths)


def drop_unused(module: Any, program: Program, config: Config) -> tuple[str, ...]:
    """Let a module return NaN for the outputs that ``config.unused`` names; how they are called.

    Raises:
      ConfigError: a name fits no output, or one of whole numbers.
    """
    names = output_names(program)
    dropped: dict[int, str] = {}
    for pattern in config.unused:
        found = [i for i, name in enumerate(names) if re.search(pattern, name)]
        if not found:
            raise ConfigError(f"Config.unused: {pattern!r} fits no output; there are {', '.join(names) or 'no names'}")
        for i in found:
            dtype = program.out_avals[i].dtype
            if not jnp.issubdtype(dtype, jnp.floating):
                raise ConfigError(
                    f"Config.unused: {pattern!r} fits {names[i]} of type {dtype}, which no NaN can fill: name outputs "
                    "of floating-point numbers only"
                )
            dropped[i] = names[i]
    _mlir.return_nan(module, sorted(dropped))
    return tuple(dropped.values())
