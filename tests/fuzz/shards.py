"""Heads whose rows are split over several devices."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from tests.fuzz.heads import Head, heads

MESHES = {"4": (1, 4), "8": (1, 8), "2x4": (2, 4), "2x2": (2, 2)}
ENVIRONMENT = 'os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"\n'


@dataclass(frozen=True)
class ShardedHead(Head):
    """A head on a mesh of ``data × model`` virtual devices; the vocabulary is split over ``model``."""

    mesh: str = "4"

    def spec(self, name: str) -> PartitionSpec:
        """How an argument is split."""
        if name == "w":
            return PartitionSpec("model", None) if self.layout == "vd" else PartitionSpec(None, "model")
        if name in ("bias", "wide_bias", "mask_bias", "keep"):
            return PartitionSpec("model")
        if name == "x" and MESHES[self.mesh][0] > 1 and not self.loop:
            return PartitionSpec("data", None)
        return PartitionSpec()

    def put(self, name: str, array: np.ndarray) -> jax.Array:
        data, model = MESHES[self.mesh]
        auto = (jax.sharding.AxisType.Auto,) * 2
        mesh = jax.make_mesh((data, model), ("data", "model"), auto, devices=jax.devices()[: data * model])
        return jax.device_put(jnp.asarray(array), NamedSharding(mesh, self.spec(name)))

    def place_source(self) -> str:
        """Text of ``place(name, array)`` for a reproducer."""
        data, model = MESHES[self.mesh]
        names = {name: tuple(self.spec(name)) for name in ("w", "bias", "wide_bias", "mask_bias", "keep", "x")}
        return (
            "auto = (jax.sharding.AxisType.Auto,) * 2\n"
            f"devices = jax.devices()[:{data * model}]\n"
            f'mesh = jax.make_mesh(({data}, {model}), ("data", "model"), auto, devices=devices)\n'
            f"specs = {names!r}\n"
            "place = lambda name, array: jax.device_put(\n"
            "    jnp.asarray(array), jax.NamedSharding(mesh, jax.P(*specs.get(name, ())))\n)\n"
        )

    def describe(self) -> str:
        return f"{super().describe()} on {self.mesh} devices"


@st.composite
def sharded_heads(draw: Any) -> ShardedHead:
    """A head with a rule (by default, sharded heads stay dense)."""
    head = draw(heads(rules=("strict", "strict", "true")))
    own = {field.name: getattr(head, field.name) for field in fields(head)}
    mesh = draw(st.sampled_from(tuple(MESHES)))
    own["rows"] = draw(st.sampled_from((1024, 4096)))
    if MESHES[mesh][0] > 1:
        own["batch"] = draw(st.sampled_from((2, 4, 8)))
    own["k"] = min(own["k"], own["candidates"] // MESHES[mesh][1])
    return ShardedHead(**own, mesh=mesh)
