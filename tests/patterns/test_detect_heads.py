"""What is a head and what is not, and what is said about a site of any kind."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import hire_compiler as hire
from tests.support.detecting import DOWN, HEAD, UP, Function, X, block, shape, sites, why
from tests.support.models import VOCABULARY, WIDTH, D, said

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
    assert all("between the two products (a normalisation?)" in miss.reason for miss in report.misses)


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


def test_a_head_behind_a_small_layer_is_no_block() -> None:
    def read(x: jax.Array, mix: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.argmax(jnp.tanh(x @ mix) @ w.T, -1)

    (site,) = hire.inspect(read, X, shape(D, D), shape(8 * D, D)).sites
    assert (site.kind, site.width) == ("head", 8 * D)


def test_several_heads_in_one_product_and_one_in_several_are_found() -> None:
    def codebooks(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.argmax(LOGITS(x, w).reshape(len(x), 4, -1), -1)

    def added_tokens(x: jax.Array, w: jax.Array, more: jax.Array) -> jax.Array:
        return jnp.argmax(jnp.concatenate([LOGITS(x, w), LOGITS(x, more)], -1), -1)

    def stacked(x: jax.Array, w: jax.Array, more: jax.Array) -> jax.Array:
        return jnp.argmax(jnp.stack([LOGITS(x, w), LOGITS(x, more)], 1), -1)

    found = ("head", ("argmax",))
    assert sites(codebooks, X, HEAD) == [found]
    for program in (added_tokens, stacked):
        assert sites(program, X, HEAD, HEAD) == [found, found]


@pytest.mark.parametrize("stored", ["hvd", "dhv", "hdv"])
def test_heads_and_a_vocabulary_in_one_array_of_three_dimensions_are_one_site(stored: str) -> None:
    shape = [{"h": 4, "v": 1024, "d": X.shape[1]}[axis] for axis in stored]

    def each(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.argmax(jnp.einsum(f"bd,{stored}->bhv", x, w), -1)

    def flat(x: jax.Array, w: jax.Array) -> jax.Array:
        z = jnp.einsum(f"bd,{stored}->bhv", x, w) / 3
        return jnp.argmax(jnp.tanh(z.reshape(len(x), -1)), -1)

    def returned(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = jnp.einsum(f"bd,{stored}->bhv", x, w)
        return jnp.argmax(z, -1), jax.nn.logsumexp(z, -1)

    w = jax.ShapeDtypeStruct(shape, "float32")
    for program in (each, flat):
        assert sites(program, X, w) == [("head", ("argmax",))]
    assert "(4×1024), and what is made of their logits cannot be proven: a number that" in why(returned, "w", X, w)


@pytest.mark.parametrize(("stored", "read"), [("hvd", "bhv"), ("vhd", "bvh")])
def test_small_heads_in_one_array_have_too_few_rows(stored: str, read: str) -> None:
    w = jax.ShapeDtypeStruct([{"h": 4, "v": 512, "d": X.shape[1]}[axis] for axis in stored], "float32")

    def each(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.argmax(jnp.einsum(f"bd,{stored}->{read}", x, w), read.index("v"))

    assert "512 in each are too few rows to choose some of" in why(each, "w", X, w)


def test_padding_behind_logits_and_an_argmax_over_the_batch() -> None:
    def padded(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.argmax(jnp.pad(LOGITS(x, w), ((0, 0), (2, 3)), constant_values=-jnp.inf), -1)

    def joined(x: jax.Array, w: jax.Array) -> jax.Array:
        z = LOGITS(x, w)
        return jnp.argmax(jnp.concatenate([z[:, :-5], jnp.full((len(x), 5), -jnp.inf)], -1), -1)

    def over_the_batch(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.argmax(LOGITS(x, w), 0)

    for program in (padded, joined):
        assert sites(program, X, HEAD) == [("head", ("argmax",))]
    assert "read by an argmax over another dimension" in why(over_the_batch, "w", X, HEAD)


def test_parts_of_heads_that_are_read_otherwise_say_so() -> None:
    def codebooks(x: jax.Array, w: jax.Array) -> list[jax.Array]:
        return jax.lax.top_k(LOGITS(x, w).reshape(len(x), 4, -1), 2)

    def added_tokens(x: jax.Array, w: jax.Array, more: jax.Array) -> list[jax.Array]:
        return jax.lax.top_k(jnp.concatenate([LOGITS(x, w), LOGITS(x, more)], -1), 2)

    def padded(x: jax.Array, w: jax.Array) -> list[jax.Array]:
        return jax.lax.top_k(jnp.pad(LOGITS(x, w), ((0, 0), (0, 3)), constant_values=-jnp.inf), 2)

    assert "several heads in one product" in why(codebooks, "w", X, HEAD)
    assert "joined with numbers of no product" in why(padded, "w", X, HEAD)
    for weight in ("w", "more"):
        assert "joined with those of other products (one head in parts)" in why(added_tokens, weight, X, HEAD, HEAD)
