"""The verifier: a collective in a branch needs a decision that is the same on every device of its group."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.export
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from hire_compiler import _mlir
from hire_compiler.errors import TransformError
from hire_compiler.passes.verify.verify import verify

P = PartitionSpec
MESH = AbstractMesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def lowered(body: Callable[[jax.Array], jax.Array]) -> bytes:
    """The module of one device's program on a 2×2 mesh; its argument differs along ``data`` and ``model``."""
    mapped = jax.shard_map(body, mesh=MESH, in_specs=P("data", "model"), out_specs=P("data", "model"), check_vma=False)
    exported = jax.export.export(jax.jit(mapped), platforms=["cpu"])(jax.ShapeDtypeStruct((4, 4), jnp.float32))
    with _mlir.fresh_context():
        return _mlir.to_bytecode(_mlir.parse_portable(exported.mlir_module_serialized))


def summed(x: jax.Array, axis: str) -> jax.Array:
    return lax.psum(x, axis)


@pytest.mark.parametrize("axis", ["model", ("data", "model")])
def test_a_branch_on_a_local_value_is_refused(axis: str) -> None:
    module = lowered(lambda x: lax.cond(x.max() > 0, lambda: summed(x, axis), lambda: x))
    with pytest.raises(TransformError, match=r"all_reduce stands in a branch .* devices \[0, 1"):
        verify(module)


def test_a_predicate_reduced_over_the_mesh_passes() -> None:
    def body(x: jax.Array) -> jax.Array:
        worst = lax.pmin(x.max(), ("data", "model"))
        return lax.cond(worst > 0, lambda: summed(x, "model"), lambda: x)

    assert verify(lowered(body)) == 1


def test_a_predicate_reduced_over_the_group_is_enough_for_that_group_only() -> None:
    def body(axis: str) -> Callable[[jax.Array], jax.Array]:
        return lambda x: lax.cond(lax.pmin(x.max(), "model") > 0, lambda: summed(x, axis), lambda: x)

    assert verify(lowered(body("model"))) == 1
    with pytest.raises(TransformError, match="decide differently"):
        verify(lowered(body("data")))


def test_a_loop_whose_length_differs_is_refused() -> None:
    def body(stop: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
        def loop(x: jax.Array) -> jax.Array:
            return lax.while_loop(lambda c: stop(c) < 10, lambda c: c + 1 + summed(c, "model"), x)

        return loop

    with pytest.raises(TransformError, match="while"):
        verify(lowered(body(lambda c: c.max())))
    assert verify(lowered(body(lambda c: lax.pmax(c.max(), "model")))) >= 1


def test_the_number_of_a_device_decides_nothing() -> None:
    module = lowered(lambda x: lax.cond(lax.axis_index("model") > 0, lambda: summed(x, "model"), lambda: x))
    with pytest.raises(TransformError):
        verify(module)


def test_local_branches_without_collectives_are_free() -> None:
    assert verify(lowered(lambda x: summed(lax.cond(x.max() > 0, lambda: x * 2, lambda: x), "model"))) == 0


def test_gathered_values_agree() -> None:
    def body(x: jax.Array) -> jax.Array:
        everyone = lax.all_gather(x.max(), ("data", "model"))
        return lax.cond((everyone > 0).all(), lambda: summed(x, "data"), lambda: x)

    assert verify(lowered(body)) == 1
