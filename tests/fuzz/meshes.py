"""Programs whose arguments are split over several virtual devices."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

MESHES = {"4": (1, 4), "8": (1, 8), "2x4": (2, 4), "2x2": (2, 2)}
ENVIRONMENT = 'os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"\n'


class OnMesh:
    """A program on a mesh of ``data × model`` devices."""

    mesh: str
    split: ClassVar[tuple[str, ...]]  # arguments that may be split

    def spec(self, name: str) -> PartitionSpec:
        """How an argument is split."""
        raise NotImplementedError

    def put(self, name: str, array: np.ndarray) -> jax.Array:
        data, model = MESHES[self.mesh]
        auto = (jax.sharding.AxisType.Auto,) * 2
        mesh = jax.make_mesh((data, model), ("data", "model"), auto, devices=jax.devices()[: data * model])
        return jax.device_put(jnp.asarray(array), NamedSharding(mesh, self.spec(name)))

    def place_source(self) -> str:
        """Text of ``place(name, array)`` for a reproducer."""
        data, model = MESHES[self.mesh]
        names = {name: tuple(self.spec(name)) for name in self.split}
        return (
            "auto = (jax.sharding.AxisType.Auto,) * 2\n"
            f"devices = jax.devices()[:{data * model}]\n"
            f'mesh = jax.make_mesh(({data}, {model}), ("data", "model"), auto, devices=devices)\n'
            f"specs = {names!r}\n"
            "place = lambda name, array: jax.device_put(\n"
            "    jnp.asarray(array), jax.NamedSharding(mesh, jax.P(*specs.get(name, ())))\n)\n"
        )
