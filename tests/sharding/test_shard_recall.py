"""How many candidates a shard keeps: the closed form against simulation, and how weights lie on a mesh."""

from __future__ import annotations

import numpy as np
import pytest

from hire_compiler.graph.weight import Step, Weight
from hire_compiler.sharding.layout import MeshShape, NotLocal, localize, reshaped
from hire_compiler.sharding.recall import expected_recall, kept_per_shard


def simulated(rng: np.random.Generator, n: int, k: int, shards: int, kept: int, trials: int = 4000) -> float:
    """The share of the top k that shards keep, over random placements."""
    homes = np.stack([rng.permutation(n)[:k] % shards for _ in range(trials)])  # where the top k stand
    counts = np.stack([(homes == shard).sum(axis=1) for shard in range(shards)])
    return float(np.minimum(counts, kept).sum(axis=0).mean() / k)


@pytest.mark.parametrize(
    ("n", "k", "shards", "kept"), [(1024, 51, 4, 13), (1024, 51, 8, 8), (512, 64, 8, 8), (64, 16, 2, 9)]
)
def test_the_closed_form_is_what_random_placement_gives(
    rng: np.random.Generator, n: int, k: int, shards: int, kept: int
) -> None:
    assert expected_recall(n, k, shards, kept) == pytest.approx(simulated(rng, n, k, shards, kept), abs=0.004)


@pytest.mark.parametrize(
    ("n", "k", "shards", "slack", "recall"),
    [
        (8192, 410, 4, 1.0, 0.969), (8192, 410, 4, 1.25, 0.99997), (262144, 128, 8, 1.0, 0.907),
        (262144, 128, 8, 1.5, 0.998), (1024, 51, 4, 1.25, 0.982), (1024, 51, 8, 1.5, 0.989),
    ],
)  # fmt: skip
def test_published_values(n: int, k: int, shards: int, slack: float, recall: float) -> None:
    kept = int(np.ceil(slack * k / shards))
    assert expected_recall(n, k, shards, kept) == pytest.approx(recall, abs=6e-4)


def test_a_shard_keeps_the_fewest_that_reach_the_target() -> None:
    kept = kept_per_shard(262144, 128, 8, 0.99)
    assert expected_recall(262144, 128, 8, kept) >= 0.99 > expected_recall(262144, 128, 8, kept - 1)
    assert kept_per_shard(1024, 1024, 8, 0.99) == 128  # all of it
    assert kept_per_shard(1024, 1, 8, 0.5) == 1
    assert expected_recall(1024, 51, 4, 51) == pytest.approx(1)


MESH = MeshShape((("data", 2), ("model", 4)))


def test_a_weight_is_followed_to_what_one_device_reads() -> None:
    stack = Weight(0, "w", (3, 64, 32), "float32")
    weight = (
        stack.then(Step("layer", (0, 3)), (1, 64, 32))
        .then(Step("reshape", (64, 32)), (64, 32))
        .then(Step("transpose", (1, 0)), (32, 64))
        .then(Step("convert", ("float32",)), (32, 64))
    )
    local, spec = localize(weight, (3, 64, 32), ((), (), ("model",)), MESH)
    assert spec == (("model",), ())
    assert (local.shape, local.layers) == ((8, 64), 3)
    assert local.steps[1] == Step("reshape", (64, 8))


def test_reshapes_keep_the_outermost_split_dimension() -> None:
    model = ("model",)
    assert reshaped((64, 32), (model, ()), (64, 4, 8), MESH) == (model, (), ())
    assert reshaped((8, 8, 32), (model, (), ()), (64, 32), MESH) == (model, ())
    assert reshaped((1, 64), ((), model), (64,), MESH) == (model,)
    assert reshaped((4, 8), (model, ()), (32, 1), MESH) == (model, ())
    with pytest.raises(NotLocal, match="merged or cut"):
        reshaped((8, 8), ((), model), (64,), MESH)
    with pytest.raises(NotLocal, match="merged or cut"):
        reshaped((64,), (model,), (2, 32), MESH)


def test_what_mixes_devices_is_said() -> None:
    fused = Weight(0, "gate_up", (64, 32), "float32").then(Step("slice", ((0, 0), (32, 32), (1, 1))), (32, 32))
    with pytest.raises(NotLocal, match="cut out of a matrix"):
        localize(fused, (64, 32), (("model",), ()), MESH)
    localize(fused, (64, 32), ((), ("model",)), MESH)
    with pytest.raises(NotLocal, match="does not divide"):
        localize(Weight(0, "w", (6, 4), "float32"), (6, 4), (("model",), ()), MESH)
    stacked = Weight(0, "w", (4, 8, 8), "float32").then(Step("layer", (0, 4)), (1, 8, 8))
    with pytest.raises(NotLocal, match="layers are split"):
        localize(stacked, (4, 8, 8), (("model",), (), ()), MESH)
