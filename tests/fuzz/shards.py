"""Heads and blocks whose rows are split over several devices."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from tests.fuzz.blocks import Block, blocks
from tests.fuzz.heads import Head, heads
from tests.fuzz.meshes import MESHES, OnMesh


@dataclass(frozen=True)
class ShardedHead(OnMesh, Head):
    """A head whose vocabulary is split over ``model``."""

    mesh: str = "4"
    split: ClassVar[tuple[str, ...]] = ("w", "bias", "wide_bias", "mask_bias", "keep", "x")

    def spec(self, name: str) -> PartitionSpec:
        if name == "w":
            return PartitionSpec("model", None) if self.layout == "vd" else PartitionSpec(None, "model")
        if name in ("bias", "wide_bias", "mask_bias", "keep"):
            return PartitionSpec("model")
        if name == "x" and MESHES[self.mesh][0] > 1 and not self.loop:
            return PartitionSpec("data", None)
        return PartitionSpec()

    def describe(self) -> str:
        return f"{super().describe()} on {self.mesh} devices"


@dataclass(frozen=True)
class ShardedBlock(OnMesh, Block):
    """A block whose neurons are split over ``model``: the last product is summed over devices."""

    mesh: str = "4"
    split: ClassVar[tuple[str, ...]] = ("gate", "up", "down", "b", "db", "x")

    def spec(self, name: str) -> PartitionSpec:
        by_rows = self.layout == "out_in"
        own: dict[str, tuple[str | None, ...]] = {
            "gate": ("model", None) if by_rows else (None, "model"),
            "up": ("model", None) if by_rows else (None, "model"),
            "down": (None, "model") if by_rows else ("model", None),
            "b": ("model",),
        }
        if name == "x":
            return PartitionSpec("data" if MESHES[self.mesh][0] > 1 else None, None)
        return PartitionSpec(*(None,) * bool(self.layers and name in own), *own.get(name, ()))

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


@st.composite
def sharded_blocks(draw: Any) -> ShardedBlock:
    """A block of any kind, eight times as wide where the default would leave a device's part dense."""
    block = draw(blocks())
    own = {field.name: getattr(block, field.name) for field in fields(block)}
    mesh = draw(st.sampled_from(tuple(MESHES)))
    if MESHES[mesh][0] > 1:
        own["batch"] = draw(st.sampled_from((2, 4, 8)))
    if own["rule"] == "default":
        own["width"] *= MESHES[mesh][1]
    return ShardedBlock(**own, mesh=mesh)
