"""What is a site and what is not, with the reason that the user reads. Negative tests are sentences."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from models import VOCABULARY, WIDTH, D, array, said

import hire_compiler as hire

Function = Callable[..., Any]


def shape(*dims: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, dtype)


X, UP, DOWN, HEAD = shape(2, D), shape(D, WIDTH), shape(WIDTH, D), shape(VOCABULARY, D)


def sites(function: Function, *args: Any) -> list[tuple[str, Any]]:
    """Kind and activation (or consumers) of every site."""
    return [(site.kind, site.activation or site.consumers) for site in hire.inspect(function, *args).sites]


def why(function: Function, weight: str, *args: Any) -> str:
    """The reason of the only miss of a weight, in a program where that weight is no site."""
    report = hire.inspect(function, *args)
    assert not [site for site in report.sites if weight in site.weights]
    (miss,) = [miss for miss in report.misses if miss.weight == weight]
    assert miss.reason in said(report)
    return miss.reason


def block(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    return jax.nn.relu(jnp.sin(x) @ up) @ down


def pointwise(x: jax.Array, kernel: jax.Array, layout: str = "NHC HIO NHC") -> jax.Array:
    """A linear layer as a convolution with a window of one."""
    return jax.lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=tuple(layout.split()))


# --------------------------------------------------------------------------- feed-forward blocks

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


def test_an_adapter_on_the_down_projection_is_none_and_the_block_beside_it_is_one() -> None:
    def program(x: jax.Array, u: jax.Array, v: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        h = jax.nn.relu(jnp.sin(x) @ u)
        return h @ v + h @ a @ b

    report = hire.inspect(program, X, UP, DOWN, shape(WIDTH, 2), shape(2, D))
    assert [site.weights for site in report.sites] == [("u", "v")]
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


def test_not_a_site_when_a_factor_differs_by_batch_row() -> None:
    def program(x: jax.Array, u: jax.Array, v: jax.Array, s: jax.Array) -> jax.Array:
        return (jax.nn.relu(jnp.sin(x) @ u) * s[:, None]) @ v

    assert not sites(program, X, UP, DOWN, shape(2))


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


# --------------------------------------------------------------------------- heads

LOGITS: Function = lambda x, w: jnp.sin(x) @ w.T  # noqa: E731


def reading(read: Function) -> Function:
    return lambda x, w: read(LOGITS(x, w))


FOUND_HEADS: dict[str, tuple[Function, set[str]]] = {
    "argmax": (lambda z: jnp.argmax(z, -1), {"argmax"}),
    "argmax over positive axis": (lambda z: jnp.argmax(z, 1), {"argmax"}),
    "lax.argmax": (lambda z: jax.lax.argmax(z, 1, jnp.int32), {"argmax"}),
    "top_k": (lambda z: jax.lax.top_k(z, 3), {"top_k"}),
    "softmax": (jax.nn.softmax, {"softmax"}),
    "softmax without max": (lambda z: jnp.exp(z) / jnp.exp(z).sum(-1, keepdims=True), set()),
    "log_softmax": (jax.nn.log_softmax, {"log_softmax"}),
    "sampling": (lambda z: jax.random.categorical(jax.random.key(0), z), {"sampling"}),
    "sort": (lambda z: jnp.sort(z, -1), {"sort"}),
    "argsort": (lambda z: jnp.argsort(z, -1), {"sort"}),
    "argmax and top_k": (lambda z: (jnp.argmax(z, -1), jax.lax.top_k(z, 3)), {"argmax", "top_k"}),
    "argmax and softmax": (lambda z: (jnp.argmax(z, -1), jax.nn.softmax(z)), {"argmax", "softmax"}),
    "argmax and logits": (lambda z: (jnp.argmax(z, -1), z), {"argmax", "returned"}),
    "argmax of a softmax": (lambda z: jnp.argmax(jax.nn.softmax(z), -1), {"argmax", "softmax"}),
    "argmax and the chosen token's logarithm": (
        lambda z: (jnp.argmax(z, -1), z.max(-1) - jax.nn.logsumexp(z, -1)),
        {"argmax", "logsumexp"},
    ),
    "argmax and max": (lambda z: (jnp.argmax(z, -1), 2 * z.max(-1)), {"argmax", "max"}),
    "argmax and the normaliser": (lambda z: (jnp.argmax(z, -1), jax.nn.logsumexp(z, -1)), {"argmax", "logsumexp"}),
    "argmax and one of the logits": (lambda z: (jnp.argmax(z, -1), z[:, 0]), {"argmax", "part"}),
    "argmax and a mean embedding": (
        lambda z: (jnp.argmax(z, -1), z @ jnp.ones((VOCABULARY, 3))),
        {"argmax", "product"},
    ),
    "argmax behind a softcap": (lambda z: jnp.argmax(30 * jnp.tanh(z / 30), -1), {"argmax"}),
    "argmax of a padded vocabulary": (lambda z: jnp.argmax(z[:, : VOCABULARY - 12], -1), {"argmax"}),
    "argmax of float32 logits": (lambda z: jnp.argmax(z.astype(jnp.float32), -1), {"argmax"}),
}


@pytest.mark.parametrize("name", FOUND_HEADS)
def test_a_head_is_found_by_what_reads_it(name: str) -> None:
    read, consumers = FOUND_HEADS[name]
    (site,) = hire.inspect(reading(read), X, HEAD).sites
    assert (site.kind, site.width, site.d) == ("head", VOCABULARY, D)
    assert consumers <= set(site.consumers)


def test_a_head_is_found_in_a_program_on_an_explicit_mesh() -> None:
    """With explicit axes a sharding constraint follows every operation, inside the reducer of argmax too."""
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Explicit,))
    with jax.sharding.set_mesh(mesh):
        split = NamedSharding(mesh, PartitionSpec(None, "x"))
        head = jax.ShapeDtypeStruct((D, VOCABULARY), jnp.float32, sharding=split)
        report = hire.inspect(lambda x, w: jnp.argmax(jnp.sin(x) @ w, -1), X, head)
    assert [(site.kind, site.consumers) for site in report.sites] == [("head", ("argmax",))], report


def test_returned_logits_of_a_vocabulary_are_a_head_and_returned_features_are_none() -> None:
    assert sites(LOGITS, X, shape(2048, D)) == [("head", ("returned",))]
    assert "no vocabulary" in why(LOGITS, "w", X, shape(100, D))


@pytest.mark.parametrize(
    "layout",
    ["bd,vd->bv", "bd,dv->bv", "vd,bd->bv", "bd,vd->vb", "bsd,vd->bsv", "bhk,vhk->bv"],
)
def test_a_head_is_found_in_every_layout(layout: str) -> None:
    left, right = layout.split("->")[0].split(",")
    sizes = {"b": 2, "s": 1, "d": D, "v": 2048, "h": 4, "k": 4}
    arguments = [shape(*(sizes[letter] for letter in operand)) for operand in (left, right)]

    def program(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = (jnp.sin(a), b) if "v" not in left else (a, jnp.sin(b))
        return jax.nn.softmax(jnp.einsum(layout, a, b), axis=layout.split("->")[1].index("v"))

    (site,) = hire.inspect(program, *arguments).sites
    assert (site.kind, site.width, site.d, site.batch) == ("head", 2048, D, 2)


@pytest.mark.parametrize("name", [name for name in FOUND_HEADS if name.startswith("argmax and")])
def test_a_head_of_which_more_than_the_winners_is_read_is_not_certified(name: str) -> None:
    """The winners would be proven while the dense product runs on for the others: nothing gained."""
    read, _ = FOUND_HEADS[name]
    report = hire.transform(reading(read)).report(X, HEAD)
    (decision,) = report.decisions
    assert decision.action == ("rewritten" if name in ("argmax and top_k", "argmax and max") else "dense"), decision


NO_HEADS: dict[str, Function] = {
    "argmin": lambda z: jnp.argmin(z, -1),
    "argmax over the batch": lambda z: jnp.argmax(z, 0),
    "sum": lambda z: z.sum(-1),
    "one logit": lambda z: jnp.take_along_axis(z, jnp.zeros((2, 1), int), 1),
    "cumulative sum": lambda z: jnp.cumsum(z, -1),
}


@pytest.mark.parametrize("name", NO_HEADS)
def test_no_head_when_nothing_reads_it_as_logits(name: str) -> None:
    assert why(reading(NO_HEADS[name]), "w", X, HEAD)


def test_no_head_when_the_product_is_cut_into_parts() -> None:
    reason = why(lambda x, w: jax.nn.softmax((jnp.sin(x) @ w.T)[:, : VOCABULARY // 4]), "w", X, HEAD)
    assert "cut into parts" in reason


def test_a_head_is_found_behind_collectives_among_one_device() -> None:
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,))

    def shard(x: jax.Array, w: jax.Array) -> jax.Array:
        logits = jax.lax.all_gather(jnp.sin(x) @ w, "x", axis=1, tiled=True)
        return jax.lax.psum(jnp.argmax(logits, -1), "x")

    split = PartitionSpec(None, "x")
    function = jax.shard_map(shard, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=PartitionSpec())
    assert sites(function, X, shape(D, VOCABULARY)) == [("head", ("argmax",))]


def test_no_head_when_its_result_goes_into_another_product() -> None:
    report = hire.inspect(lambda x, w, v: jax.nn.softmax(jnp.sin(x) @ w.T) @ v, X, HEAD, shape(VOCABULARY, D))
    assert not report.sites
    assert {miss.weight for miss in report.misses} == {"w", "v"}
    assert all("of the whole row enter between the two products" in miss.reason for miss in report.misses)


def test_no_head_when_it_has_no_more_rows_than_inputs() -> None:
    assert "its 8 rows are no more than its 16 inputs" in why(reading(jax.nn.softmax), "w", X, shape(8, D))


def test_no_head_when_it_stands_in_a_loop_over_layers() -> None:
    def program(x: jax.Array, stack: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h, w: (jnp.tanh(h), jnp.argmax(h @ w.T, -1)), x, stack)[1]

    assert "loop over layers" in why(program, "stack", X, shape(3, VOCABULARY, D))


def test_a_head_in_a_loop_over_tokens_is_one() -> None:
    def program(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h, _: (jnp.tanh(h), jnp.argmax(h @ w.T, -1)), x, length=3)[1]

    (site,) = hire.inspect(program, X, HEAD).sites
    assert site.repeat == 1


# --------------------------------------------------------------------------- what is said about a site


def test_sites_are_numbered_in_program_order_and_carry_the_models_own_path() -> None:
    def program(x: jax.Array, layers: list[tuple[jax.Array, jax.Array]], w: jax.Array) -> jax.Array:
        with jax.named_scope("decoder"):
            for i, (u, v) in enumerate(layers):
                with jax.named_scope(f"layer_{i}"), jax.named_scope("mlp"):
                    x = x + block(x, u, v)
            with jax.named_scope("logits"):
                return jnp.argmax(x @ w.T, -1)

    report = hire.inspect(jax.jit(program), X, [(UP, DOWN)] * 2, HEAD)
    assert [(site.id, site.path) for site in report.sites] == [
        ("ffn/0", "decoder/layer_0/mlp"),
        ("ffn/1", "decoder/layer_1/mlp"),
        ("head/0", "decoder/logits"),
    ]


def test_projections_of_attention_are_no_adapters_where_embeddings_are_products() -> None:
    """With one-hot embeddings the whole residual stream is made of products and elementwise code."""

    def norm(x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)

    def program(ids: jax.Array, embed: jax.Array, layers: list[tuple[jax.Array, ...]]) -> jax.Array:
        x = jax.nn.one_hot(ids, VOCABULARY) @ embed
        for q, o, up, down in layers:
            h = norm(x) @ q
            x = x + (jax.nn.softmax(h @ h.T) @ h) @ o
            x = x + block(norm(x), up, down)
        return jnp.argmax(norm(x) @ embed.T, -1)

    layer = (shape(D, D), shape(D, D), UP, DOWN)
    report = hire.inspect(program, shape(4, dtype=jnp.int32), HEAD, [layer] * 4)
    assert [site.kind for site in report.sites] == ["ffn"] * 4 + ["head"]
    reasons = {miss.reason.split(" (")[0] for miss in report.misses}
    assert reasons <= {
        "its result goes into another product",  # of the one-hot rows
        "a projection of attention",
        "the output projection of attention: expected, nothing is skipped there",
    }, reasons


def test_a_lowered_function_and_its_text_are_inspected_like_the_function(tmp_path: Path) -> None:
    lowered = jax.jit(block).lower(X, UP, DOWN)
    for target in (lowered, lowered.as_text()):
        assert [site.activation for site in hire.inspect(target).sites] == ["relu"]
    for wrong, word in ((lowered.compile(), "before .compile()"), (tmp_path / "none.mlir", "no such file")):
        with pytest.raises(hire.HireError, match=re.escape(word)):
            hire.inspect(wrong)


def test_a_miss_says_where_it_stands() -> None:
    def program(x: jax.Array, w: jax.Array) -> jax.Array:
        with jax.named_scope("attention"), jax.named_scope("q_proj"):
            return jnp.tanh(jnp.sin(x) @ w)

    report = hire.inspect(program, X, shape(D, D))
    assert report.misses[0].path == "attention/q_proj"
    assert "attention/q_proj" in said(report)


def test_the_repeat_of_a_site_is_the_number_of_its_layers() -> None:
    def program(x: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        def token(h: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jax.lax.scan(lambda h, p: (jnp.tanh(h + block(h, *p)), None), h, (u, v))[0], None

        return jax.lax.scan(token, x, length=7)[0]

    (site,) = hire.inspect(program, X, shape(3, D, WIDTH), shape(3, WIDTH, D)).sites
    assert site.repeat == 3  # the seven tokens do not count


def test_a_block_at_a_fixed_layer_of_a_stack_counts_once() -> None:
    def program(x: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        for i in range(3):
            pick = lambda s, i=i: jax.lax.dynamic_index_in_dim(s, i, keepdims=False)  # noqa: E731
            x = x + block(x, pick(u), pick(v))
        return x

    report = hire.inspect(program, X, shape(3, D, WIDTH), shape(3, WIDTH, D))
    assert [site.repeat for site in report.sites] == [1, 1, 1]
