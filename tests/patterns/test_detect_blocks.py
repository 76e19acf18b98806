"""What is a feed-forward block and what is not, with the reason that the user reads."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from tests.support.detecting import DOWN, HEAD, UP, Function, X, block, shape, sites, why
from tests.support.models import WIDTH, D, array


def pointwise(x: jax.Array, kernel: jax.Array, layout: str = "NHC HIO NHC") -> jax.Array:
    """A linear layer as a convolution with a window of one."""
    return jax.lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=tuple(layout.split()))


FOUND_FFN: dict[str, tuple[Function, tuple[Any, ...]]] = {
    "rows and columns": (block, (X, UP, DOWN)),
    "both weights the other way round": (lambda x, u, v: jax.nn.relu(jnp.sin(x) @ u.T) @ v.T, (X, DOWN, UP)),
    "one token without batch": (lambda x, u, v: jax.nn.relu(jnp.sin(x) @ u) @ v, (shape(D), UP, DOWN)),
    "columns of activations": (lambda x, u, v: v.T @ jax.nn.relu(u.T @ jnp.sin(x).T), (X, UP, DOWN)),
    "neurons in heads": (
        lambda x, u, v: jnp.einsum("bhk,hkd->bd", jax.nn.relu(jnp.einsum("bd,dhk->bhk", jnp.sin(x), u)), v),
        (X, shape(D, 8, 8), shape(8, 8, D)),
    ),
    "output in heads": (
        lambda x, u, v: jnp.einsum("bf,fhk->bhk", jax.nn.relu(jnp.sin(x) @ u), v),
        (X, UP, shape(WIDTH, 4, 4)),
    ),
    "gate and up in blocks for the devices that share them": (
        lambda x, u, v: (lambda z: jnp.einsum("bkf,kfd->bd", jax.nn.relu(z[:, :, 0]) * z[:, :, 1], v))(
            jnp.einsum("bd,dkcf->bkcf", jnp.sin(x), u)
        ),
        (X, shape(D, 4, 2, 16), shape(4, 16, D)),
    ),
    "gate and up read one input in two shapes": (
        lambda x, u, v: (jax.nn.relu(jnp.sin(x) @ u) * (jnp.sin(x)[:, None] @ u)[:, 0]) @ v,
        (X, UP, DOWN),
    ),
    "batched over one matrix": (
        lambda x, u, v: jnp.einsum(
            "ebf,efd->ebd", jax.nn.relu(jnp.einsum("ebd,edf->ebf", jnp.sin(x)[None], u[None])), v[None]
        ),
        (X, UP, DOWN),
    ),
    "convolutions with a window of one": (
        lambda x, u, v: pointwise(jax.nn.relu(pointwise(jnp.sin(x)[None], u[None])), v[None]),
        (X, UP, DOWN),
    ),
    "convolutions with features first": (
        lambda x, u, v: pointwise(
            jax.nn.relu(pointwise(jnp.sin(x).T[None], u.T[..., None], "NCH OIH NCH")), v.T[..., None], "NCH OIH NCH"
        ),
        (X, UP, DOWN),
    ),
    "scaled weights": (lambda x, u, v: jax.nn.relu(jnp.sin(x) @ (u * 0.5)) @ (v / 8), (X, UP, DOWN)),
    "a slice of the neurons": (lambda x, u, v: jax.nn.relu((jnp.sin(x) @ u)[:, :32]) @ v, (X, UP, shape(32, D))),
    "every other neuron": (lambda x, u, v: jax.nn.relu((jnp.sin(x) @ u)[:, ::2]) @ v, (X, UP, shape(32, D))),
    "converted between the products": (
        lambda x, u, v: jax.nn.relu(jnp.sin(x) @ u).astype(jnp.bfloat16) @ v,
        (X, UP, shape(WIDTH, D, dtype=jnp.bfloat16)),
    ),
    "bf16 weights computed in float32": (
        lambda x, u, v: jax.nn.relu(jnp.sin(x) @ u.astype(jnp.float32)) @ v.astype(jnp.float32),
        (X, shape(D, WIDTH, dtype=jnp.bfloat16), shape(WIDTH, D, dtype=jnp.bfloat16)),
    ),
    "inside a branch": (
        lambda x, u, v: jax.lax.cond(x[0, 0] > 0, lambda x: block(x, u, v), lambda x: x, x),
        (X, UP, DOWN),
    ),
    "with an optimization barrier": (
        lambda x, u, v: jax.lax.optimization_barrier(jax.nn.relu(jnp.sin(x) @ u)) @ v,
        (X, UP, DOWN),
    ),
}


@pytest.mark.diagonal(keep=6)
@pytest.mark.parametrize("name", FOUND_FFN)
def test_a_feed_forward_block_is_found_however_it_is_laid_out(name: str, rng: np.random.Generator) -> None:
    function, types = FOUND_FFN[name]
    assert sites(function, *types) == [("ffn", "relu")]
    assert not hire.inspect(function, *types).misses
    # What is found can be rewritten, and at full width nothing changes.
    arguments = [array(rng, *t.shape, dtype=t.dtype) for t in types]
    step = hire.transform(
        function, hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Quantized(), density=1.0),))
    )
    wanted = np.asarray(jax.jit(function)(*arguments), np.float64)
    got = np.asarray(step(*arguments), np.float64)
    assert step.report().rewritten
    tolerance = 2e-2 if "bfloat16" in str([t.dtype for t in types]) else 1e-5
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


def test_two_blocks_that_share_their_weights_are_two_sites() -> None:
    assert sites(lambda x, u, v: block(block(x, u, v), u, v), X, UP, DOWN) == [("ffn", "relu")] * 2


def test_a_block_whose_hidden_activations_are_returned_too_is_a_site() -> None:
    def program(x: jax.Array, u: jax.Array, v: jax.Array) -> Any:
        h = jax.nn.relu(jnp.sin(x) @ u)
        return h @ v, h

    assert sites(program, X, UP, DOWN) == [("ffn", "relu")]


def test_not_a_site_when_the_up_projection_is_computed() -> None:
    reason = why(lambda x, u, w, v: block(x, u + w, v), "v", X, UP, UP, DOWN)
    assert re.search(r"computed \(add\), not a parameter", reason), reason


def test_a_product_with_a_weight_that_is_computed_from_weights_is_not_passed_over() -> None:
    report = hire.inspect(lambda x, u, w: jnp.tanh(jnp.sin(x) @ (u * w)), X, UP, UP)
    assert any("computed (multiply), not a parameter" in miss.reason for miss in report.misses)


COMPUTED: dict[str, Function] = {
    "merged with an adapter": lambda u, extra: u + extra[:, :4] @ extra[:4],
    "changed in one place": lambda u, extra: u.at[0].set(0),
    "in another order": lambda u, extra: u[:, extra[0].astype(int)],
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_product_with_a_weight_that_is_computed_is_not_passed_over(name: str) -> None:
    def program(ids: jax.Array, embed: jax.Array, u: jax.Array, extra: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.relu(embed[ids] @ COMPUTED[name](u, extra)) @ v

    report = hire.inspect(program, shape(2, dtype=jnp.int32), HEAD, UP, UP, DOWN)
    assert not report.sites
    reasons = [miss.reason for miss in report.misses if miss.weight in ("u", "extra")]
    assert any("is no parameter as it stands: it is computed" in reason for reason in reasons), report.misses


def test_a_product_with_one_of_several_experts_is_not_passed_over() -> None:
    report = hire.inspect(
        lambda x, experts, i: jnp.tanh(jnp.sin(x) @ jnp.take(experts, i, axis=0)),
        X,
        shape(4, D, WIDTH),
        shape(dtype=int),
    )
    assert len(report.misses) == 1


def test_not_a_site_when_a_router_picks_the_expert() -> None:
    def program(x: jax.Array, router: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        best = jnp.argmax((jnp.sin(x) @ router)[0])
        return block(x, u[best], v[best])

    report = hire.inspect(program, shape(1, D), shape(D, 4), shape(4, D, WIDTH), shape(4, WIDTH, D))
    assert not report.sites
    assert any("one of 4 parameters, picked by what was computed" in miss.reason for miss in report.misses)


def test_a_block_whose_layer_is_an_argument_runs_once() -> None:
    stacks = (shape(4, D, WIDTH), shape(4, WIDTH, D))
    report = hire.inspect(lambda x, u, v, i: block(x, u[i], v[i]), X, *stacks, shape(dtype=jnp.int32))
    assert [site.repeat for site in report.sites] == [1]


def test_an_adapter_on_the_down_projection_is_no_block_of_its_own_but_read_with_the_one_beside_it() -> None:
    def program(x: jax.Array, u: jax.Array, v: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        h = jax.nn.relu(jnp.sin(x) @ u)
        return h @ v + h @ a @ b

    report = hire.inspect(program, X, UP, DOWN, shape(WIDTH, 2), shape(2, D))
    assert [site.weights for site in report.sites] == [("u", "v", "a")]
    assert any("an adapter on the block" in miss.reason for miss in report.misses if miss.weight == "a")


def test_layers_of_an_unevenly_unrolled_loop_are_not_passed_over() -> None:
    """Four layers, unrolled by three: JAX takes one out of the loop. Each block is a site or a miss."""

    def program(x: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h, p: (h + block(h, *p), None), x, (u, v), unroll=3)[0]

    report = hire.inspect(program, X, shape(4, D, WIDTH), shape(4, WIDTH, D))
    assert sum(site.repeat for site in report.sites) + len(report.misses) / 2 >= 4


def test_not_a_site_when_nothing_nonlinear_stands_between() -> None:
    assert "nothing nonlinear" in why(lambda x, u, v: (jnp.sin(x) @ u) @ v, "v", X, UP, DOWN)


def test_not_a_site_when_an_adapter_is_scaled() -> None:
    assert "nothing nonlinear" in why(lambda x, a, b: (jnp.sin(x) @ a) * 2 @ b, "b", X, shape(D, 4), shape(4, D))


def test_not_a_site_when_there_are_fewer_neurons_than_inputs() -> None:
    reason = why(lambda x, u, v: block(x, u, v), "v", X, shape(D, 4), shape(4, D))
    assert "its 4 neurons are fewer than its 16 inputs" in reason


def test_not_a_site_when_gate_and_up_read_different_inputs() -> None:
    def program(x: jax.Array, g: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        return (jax.nn.silu(jnp.sin(x) @ g) * (jnp.cos(x) @ u)) @ v

    assert "different inputs" in why(program, "v", X, UP, UP, DOWN)


def test_not_a_site_when_three_products_are_combined() -> None:
    def program(x: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, v: jax.Array) -> jax.Array:
        h = jnp.sin(x)
        return (jax.nn.relu(h @ a) * (h @ b) * (h @ c)) @ v

    assert "3 matrix products are combined" in why(program, "v", X, UP, UP, UP, DOWN)


def test_not_a_site_when_the_batch_is_reordered_on_the_way() -> None:
    assert not sites(lambda x, u, v: jax.nn.relu((jnp.sin(x) @ u)[::-1]) @ v, X, UP, DOWN)


def test_not_a_site_when_only_a_part_of_the_batch_goes_on() -> None:
    reason = why(lambda x, u, v: jax.nn.relu((jnp.sin(x) @ u)[1:]) @ v, "v", X, UP, DOWN)
    assert "reordering or a part" in reason


def test_not_a_site_when_batch_and_sequence_are_exchanged_on_the_way() -> None:
    def program(x: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.relu((jnp.sin(x) @ u).transpose(1, 0, 2)) @ v

    assert "reordering" in why(program, "v", shape(2, 3, D), UP, DOWN)
    assert sites(program, shape(2, 1, D), UP, DOWN) == [("ffn", "relu")]  # nothing is exchanged here


def test_not_a_site_when_neurons_are_reversed_on_the_way() -> None:
    assert not sites(lambda x, u, v: jax.nn.relu((jnp.sin(x) @ u)[:, ::-1]) @ v, X, UP, DOWN)


def test_a_factor_of_each_batch_row_is_no_reason_to_give_up() -> None:
    def masked(x: jax.Array, u: jax.Array, v: jax.Array, s: jax.Array) -> jax.Array:
        return (jax.nn.relu(jnp.sin(x) @ u) * (1 - s)[:, None]) @ v

    def chosen(x: jax.Array, u: jax.Array, v: jax.Array, s: jax.Array) -> jax.Array:
        return jnp.where((s > 0)[:, None], jax.nn.relu(jnp.sin(x) @ u), 0) @ v

    def gated(x: jax.Array, u: jax.Array, v: jax.Array, s: jax.Array) -> jax.Array:
        x = jnp.sin(x)
        return (jax.nn.relu(x @ u) * jax.nn.sigmoid(x[:, :8] @ s[None].repeat(4, 0).reshape(8, 1))) @ v

    for program in (masked, chosen, gated):
        assert sites(program, X, UP, DOWN, shape(2)) == [("ffn", "relu")]


def test_not_a_site_when_a_factor_of_each_batch_row_follows_from_its_neurons() -> None:
    def program(x: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        h = jax.nn.relu(jnp.sin(x) @ u)
        return (h / jnp.linalg.norm(jnp.sort(h, axis=1), axis=1, keepdims=True)) @ v

    assert not sites(program, X, UP, DOWN)


@pytest.mark.parametrize("name", ["concatenate", "pad"])
def test_not_a_site_when_the_neurons_are_joined_with_others(name: str) -> None:
    def program(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
        h = jax.nn.relu(jnp.sin(x) @ up)
        return (jnp.concatenate([jnp.cos(x), h], -1) if name == "concatenate" else jnp.pad(h, ((0, 0), (0, D)))) @ down

    assert why(program, "down", X, UP, shape(WIDTH + D, D)) == f"{name} stands between the matrix products"


def test_not_a_site_when_a_dropout_is_left_on() -> None:
    def program(x: jax.Array, up: jax.Array, down: jax.Array, key: jax.Array) -> jax.Array:
        h = jax.nn.relu(jnp.sin(x) @ up)
        return jnp.where(jax.random.bernoulli(jax.random.wrap_key_data(key), 0.9, h.shape), h / 0.9, 0) @ down

    arguments = (X, UP, DOWN, shape(2, dtype=jnp.uint32))
    for weight in ("up", "down"):
        assert "(select" in why(program, weight, *arguments), why(program, weight, *arguments)


def test_not_a_site_when_the_products_are_batched_over_experts() -> None:
    def program(x: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.einsum("ebf,efd->ebd", jax.nn.relu(jnp.einsum("ebd,edf->ebf", jnp.sin(x), u)), v)

    reason = why(program, "v", shape(4, 2, D), shape(4, D, WIDTH), shape(4, WIDTH, D))
    assert "batched over 4 matrices" in reason


def test_not_a_site_when_the_weight_is_donated() -> None:
    donating = jax.jit(block, donate_argnums=1)
    assert not sites(donating, X, UP, DOWN)


def test_not_a_site_when_up_and_down_come_from_different_layers() -> None:
    def program(x: jax.Array, us: jax.Array, vs: jax.Array) -> jax.Array:
        def body(state: Any, _: None) -> Any:
            i, h = state
            u = jax.lax.dynamic_index_in_dim(us, i, keepdims=False)
            v = jax.lax.dynamic_index_in_dim(vs, 2 - i, keepdims=False)
            return (i + 1, h + block(h, u, v)), None

        return jax.lax.scan(body, (0, x), length=3)[0][1]

    report = hire.inspect(program, X, shape(3, D, WIDTH), shape(3, WIDTH, D))
    assert not report.sites
    assert any("different loop counters" in miss.reason for miss in report.misses)
