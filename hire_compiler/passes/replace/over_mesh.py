"""Functions of one shard made functions of the whole mesh: what runs, and what is prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from hire_compiler.passes.replace.replacement import Preparation, Spread
from hire_compiler.runtime.collectives import NUMBERS
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.sharding.dealing import Dealing
from hire_compiler.sharding.layout import MeshShape, SiteLayout, Spec


def sharded_preparation(shard: Preparation, layout: SiteLayout, numbered: Dealing | None) -> Preparation:
    """Every shard's arrays, one after the other along their first dimension; and the numbers of its rows, if dealt."""

    def build(*arrays: jax.Array) -> Arrays:
        def one(*parts: jax.Array) -> Arrays:
            built = dict(shard.build(*parts))
            if numbered is not None:
                built[NUMBERS] = jnp.asarray(numbered.numbers)[jax.lax.axis_index(layout.rows)]
            assert all(array.ndim for array in built.values()), "a prepared number cannot differ between shards"
            return built

        specs = [layout.argument(position) for position in shard.arguments]
        return over_mesh(one, layout.mesh, specs, (layout.rows,))(*arrays)

    bits = tuple((name, layout.argument(position)) for name, position in shard.bits)
    key = replace(shard.key, mesh=str(layout.mesh), split=str(layout))
    return replace(shard, build=build, key=key, spread=Spread(layout.mesh, layout.rows, bits))


def over_mesh(function: Any, mesh: MeshShape, inputs: Sequence[Spec], outputs: Any) -> Any:
    """``jax.shard_map`` over every axis of a mesh that is known by its shape alone."""
    names, sizes = zip(*mesh.axes, strict=True)
    abstract = AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))
    out_specs = [_partition(spec) for spec in outputs] if isinstance(outputs, list) else _partition(outputs)
    # Replicated results are so by construction; JAX's own check knows nothing of branches chosen by a local proof.
    mapped = jax.shard_map(
        function, mesh=abstract, in_specs=tuple(map(_partition, inputs)), out_specs=out_specs, check_vma=False
    )

    def call(*values: jax.Array) -> Any:
        with jax.sharding.use_abstract_mesh(abstract):  # the caller may have set a mesh with axes of another type
            return mapped(*values)

    return call


def _partition(spec: Spec) -> PartitionSpec:
    return PartitionSpec(*(axes or None for axes in spec))
