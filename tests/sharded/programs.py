"""Small sharded programs: meshes, and parameters placed on them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hire_compiler.measuring.hlo.communication import Collective, collectives
from hire_compiler.measuring.hlo.text import read_hlo

P = PartitionSpec

MESHES = {
    "4": ((4,), ("model",)),
    "8": ((8,), ("model",)),
    "2x2": ((2, 2), ("data", "model")),
    "2x4": ((2, 4), ("data", "model")),
}


def mesh_of(name: str) -> Mesh:
    sizes, names = MESHES.get(name, ((1,), ("model",)))
    return Mesh(np.array(jax.devices()[: int(np.prod(sizes))]).reshape(sizes), names)


def place(mesh: Mesh, array: Any, *spec: Any) -> jax.Array:
    return jax.device_put(array, NamedSharding(mesh, P(*spec)))


def batch_axis(mesh: Mesh) -> str | None:
    return "data" if "data" in mesh.shape else None


def random(rng: np.random.Generator, *shape: int, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-1]), dtype)


def talk(step: Any, *args: Any) -> tuple[Collective, ...]:
    """The collectives of a transformed (or jitted) function."""
    compiled = step.lower(*args).compile()
    return collectives(read_hlo(compiled.as_text()), jax.device_count())
