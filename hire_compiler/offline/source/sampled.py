"""Fold the choice of the next token into an export that returns logits, as ``with_sampler`` does for a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import numpy as np

from hire_compiler import _mlir
from hire_compiler.authors.sampler import Sampling
from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.program import Argument, Program, capture, identifier
from hire_compiler.errors import CaptureError, ConfigError
from hire_compiler.offline.source.source import Source
from hire_compiler.offline.source.trees import leaf_paths, nest


@dataclass(frozen=True, eq=False)
class Sampled(Source):
    """A source with tokens in the place of its logits.

    It takes what the original takes, and behind that, by keyword, what the sampler needs (``key``, ``temperature``).

    Attributes:
      original: the source that returns logits.
    """

    original: Source | None = None

    def program(self, platform: str | None = None) -> Program:
        """The program for one platform; see :meth:`Source.program`."""
        assert self.original is not None
        assert self.sampling is not None
        program = self.original.program(platform)
        step = _sampled_step(self.original, program, self.sampling)
        own = [jax.ShapeDtypeStruct(a.shape, jax.numpy.dtype(a.dtype)) for a in program.arguments]
        leaves, tree = jax.tree.flatten((tuple(own), _needs(self.sampling)))
        sampled = capture(UserFunction(step), leaves, tree, platform=platform)
        added = range(len(self.original.names), len(self.names))
        arguments = (*program.arguments, *(Argument(self.names[i], *self.types[i]) for i in added))
        return replace(sampled, name=program.name, arguments=arguments, constants=program.constants)


def fold_sampler(source: Source, sampling: Sampling) -> Sampled:
    """The same source, choosing tokens.

    Raises:
      ConfigError: no result can be its logits, or several could.
      CaptureError: the source has no program (a dimension has no size), or is partitioned over devices.
    """
    if source.devices > 1:
        raise CaptureError(
            f"{source.name} is partitioned over {source.devices} devices: fold the sampler in before the export, with "
            "hire.with_sampler(step, …)"
        )
    needs = _needs(sampling)
    if taken := [name for name in needs if (1, name) in source.paths]:
        raise ConfigError(f"{source.name} has a keyword argument {taken[0]!r} of its own, which the sampler needs too")
    first = source.platforms[0] if source.platforms else None
    program = source.program(first)
    own = [jax.ShapeDtypeStruct(a.shape, jax.numpy.dtype(a.dtype)) for a in program.arguments]
    results = jax.eval_shape(_sampled_step(source, program, sampling), *own, **needs)
    count = len(source.paths)
    return Sampled(
        **{field.name: getattr(source, field.name) for field in fields(Source)}
        | {
            "paths": (*source.paths, *((1, name) for name in needs)),
            "names": (*source.names, *needs),
            "types": (*source.types, *((tuple(n.shape), str(n.dtype)) for n in needs.values())),
            "donated": (*source.donated, *(False for _ in needs)),
            "kept": (*source.kept, *range(count, count + len(needs))),
            "sampling": sampling,
            "out_paths": tuple(leaf_paths(jax.tree.structure(results))),
        },
        original=source,
    )


def _needs(sampling: Sampling) -> dict[str, Any]:
    """What the sampler takes beside the step's own arguments, in the order in which JAX flattens keywords."""
    if sampling.sampler != "gumbel":
        return {}
    key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
    heat = {"temperature": jax.ShapeDtypeStruct((), np.float32)} if sampling.temperature is None else {}
    return {"key": jax.ShapeDtypeStruct(key.shape, key.dtype), **heat}


def _sampled_step(source: Source, program: Program, sampling: Sampling) -> Callable[..., Any]:
    """The program as a function of flat arguments and the sampler's keywords."""

    def step(*values: Any) -> Any:
        results = _mlir.run_module(program.module, program.out_avals, values)
        return tuple(results) if source.out_paths is None else nest(source.out_paths, results)

    step.__name__ = identifier(source.name)
    return sampling.fold(step)
