"""Programs whose author wrote the shards himself: the body of a shard_map is rewritten as one device's program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.sharded.programs import P, batch_axis, mesh_of, place, talk
from tests.sharded.test_local_choice import close, ffn, ffn_arguments, head_arguments, rules


def split_ffn(mesh: Any) -> Any:
    specs = {"up": P(None, "model"), "bias": P("model"), "down": P("model", None)}

    def whole(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        x = jnp.tanh(x)
        block = jax.shard_map(
            lambda p, x: jax.lax.psum(ffn(p, x), "model"),
            mesh=mesh,
            in_specs=(specs, P(batch_axis(mesh))),
            out_specs=P(batch_axis(mesh)),
        )
        return x + block(params, x)

    return jax.jit(whole)


def split_head(mesh: Any) -> Any:
    def local(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        logits = x @ params["embed"].T
        best, at = jnp.max(logits, -1), jnp.argmax(logits, -1) + jax.lax.axis_index("model") * logits.shape[1]
        everyone = jax.lax.all_gather(best, "model"), jax.lax.all_gather(at, "model")
        return jnp.take_along_axis(everyone[1], jnp.argmax(everyone[0], 0)[None], 0)[0]

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=({"embed": P("model", None), "bias": P()}, P(batch_axis(mesh))),
        out_specs=P(batch_axis(mesh)),
        check_vma=False,
    )
    return jax.jit(mapped)


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("mesh", ["4", "2x4"])
def test_a_block_inside_shard_map(rng: np.random.Generator, mesh: str) -> None:
    devices = mesh_of(mesh)
    params, x = ffn_arguments(rng, devices)
    function = split_ffn(devices)
    step = hire.transform(function, rules("ffn", density=1.0))
    close(step(params, x), function(params, x), "float32")
    (site,) = step.report().sites
    assert site.width == params["bias"].shape[0] // 4
    assert len(step.report().rewritten) == 1
    sparse = hire.transform(function, rules("ffn", density=0.1))
    assert [(c.kind, c.result_bytes) for c in talk(sparse, params, x)] == [
        (c.kind, c.result_bytes) for c in talk(function, params, x)
    ]
    assert not np.allclose(sparse(params, x), function(params, x))


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("mesh", ["4", "2x4"])
def test_the_exact_default_inside_shard_map(rng: np.random.Generator, mesh: str) -> None:
    devices = mesh_of(mesh)
    params, x = head_arguments(rng, devices)
    function = split_head(devices)
    step = hire.transform(function)
    for _ in range(3):
        assert np.array_equal(step(params, x), function(params, x))
        x = place(devices, jnp.roll(x, 1, axis=1) * 1.5, batch_axis(devices))
    (decision,) = step.report().rewritten
    assert "certified" in decision.exactness
    assert not step.report().misses
    assert not step.report().certificates
    assert any("each device has its own and they are not counted" in note for note in step.report().notes)


def test_a_shard_map_in_a_loop_is_left_with_a_note(rng: np.random.Generator) -> None:
    mesh = mesh_of("4")
    params, x = ffn_arguments(rng, mesh)
    block = split_ffn(mesh)
    step = hire.transform(
        jax.jit(lambda p, x: jax.lax.fori_loop(0, 3, lambda _, x: block(p, x), x)), rules("ffn", density=0.1)
    )
    step(params, x)
    report = step.report()
    assert not report.rewritten
    assert any("shard_map in a loop" in note for note in report.notes)
    assert [(site.kind, site.devices) for site in report.sites] == [("ffn", 4)]
    assert "shard_map in a loop" in report.decisions[0].reason
