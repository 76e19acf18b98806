"""On generated programs: every product with a weight is a site or a miss."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hire_compiler as hire
from tests.support.programs import (
    Ffn,
    Head,
    ffns,
    heads,
    random_array,
)
from tests.support.properties import COMMON, FAST, compiled

INSPECTED = settings(max_examples=8, derandomize=True, **COMMON)  # nothing is compiled

WIDTH = 16


def _relu_ffn(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p["up"]) @ p["down"]


def _gated(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return (jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]


def _projection(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p["proj"])


def _adapter(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return (x @ p["a"]) @ p["b"]


def _small_gate(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(jax.nn.relu(x @ p["squeeze"]) @ p["excite"]) * x


def _experts(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    h = jax.nn.relu(jnp.einsum("ebd,edf->ebf", jnp.stack([x, 2 * x]), p["expert_up"]))
    return jnp.einsum("ebf,efd->bd", h, p["expert_down"])


def _softplus(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.softplus(x @ p["up"]) @ p["down"]


def _attention(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    keys = x @ p["key"]
    return jax.nn.softmax((x @ p["query"]) @ keys.T) @ keys


# name: (function, shapes of its weights, feed-forward sites in it)
BLOCKS = {
    "relu_ffn": (_relu_ffn, {"up": (WIDTH, 64), "down": (64, WIDTH)}, 1),
    "gated": (_gated, {"gate": (WIDTH, 48), "up": (WIDTH, 48), "down": (48, WIDTH)}, 1),
    "projection": (_projection, {"proj": (WIDTH, WIDTH)}, 0),
    "adapter": (_adapter, {"a": (WIDTH, 4), "b": (4, WIDTH)}, 0),
    "small_gate": (_small_gate, {"squeeze": (WIDTH, 4), "excite": (4, WIDTH)}, 0),
    "experts": (_experts, {"expert_up": (2, WIDTH, 32), "expert_down": (2, 32, WIDTH)}, 0),
    "softplus": (_softplus, {"up": (WIDTH, 40), "down": (40, WIDTH)}, 0),
    "attention": (_attention, {"query": (WIDTH, WIDTH), "key": (WIDTH, WIDTH)}, 0),
}

HEADS = {
    "none": lambda logits: logits[:, :0],
    "argmax": lambda logits: jnp.argmax(logits, axis=-1),
    "softmax": lambda logits: jax.nn.softmax(logits, axis=-1),
}


@FAST
@given(
    st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=4),
    st.sampled_from(sorted(HEADS)),
    st.integers(1, 4),
    st.sampled_from((1.0, 0.25)),
    st.integers(0, 2**32 - 1),
)
def test_nothing_silent(blocks: list[str], head: str, batch: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    params = [
        {name: random_array(rng, shape, "float32", 0.3) for name, shape in BLOCKS[block][1].items()} for block in blocks
    ]
    vocabulary = random_array(rng, (WIDTH, 1100), "float32", 0.3)
    x = random_array(rng, (batch, WIDTH), "float32")

    def program(params: list[dict[str, jax.Array]], vocabulary: jax.Array, x: jax.Array) -> tuple[object, jax.Array]:
        h = jnp.sin(x)
        for block, p in zip(blocks, params, strict=True):
            h = h + BLOCKS[block][0](p, h)
        return (HEADS[head](h @ vocabulary) if head != "none" else None), h

    rules = tuple(hire.Rule(kind=kind, predictor=hire.Quantized(), density=density) for kind in ("ffn", "head"))
    step = hire.transform(jax.jit(program), hire.Config(rules=rules))
    step(params, vocabulary, x)
    report = step.report()

    weights_of = {f"params[{i}]['{name}']" for i, p in enumerate(params) for name in p}
    if head != "none":
        weights_of.add("vocabulary")
    named = [name for site in report.sites for name in site.weights] + [miss.weight for miss in report.misses]
    assert sorted(named) == sorted(weights_of)
    assert all(miss.reason for miss in report.misses)
    assert sum(site.kind == "ffn" for site in report.sites) == sum(BLOCKS[block][2] for block in blocks)
    assert sum(site.kind == "head" for site in report.sites) == (head != "none")
    assert [decision.site for decision in report.decisions] == [site.id for site in report.sites]
    assert len({site.id for site in report.sites}) == len(report.sites)
    assert all(decision.reason and decision.action in ("rewritten", "dense") for decision in report.decisions)
    for text in (report.text(full=True), report.to_json()):
        assert all(miss.reason in " ".join(text.split()) for miss in report.misses)
    assert hire.inspect(jax.jit(program), params, vocabulary, x).sites == report.sites


@pytest.mark.slow
@INSPECTED
@given(ffns(), heads())
def test_every_generated_program_is_one_site_and_no_miss(ffn: Ffn, head: Head) -> None:
    for program, kind in ((ffn, "ffn"), (head, "head")):
        params, x = program.arguments()
        report = hire.inspect(program.function, params, x)
        assert not report.misses
        (site,) = report.sites
        assert (site.kind, site.d, site.dtype) == (kind, program.d, program.dtype)
        assert site.width == (program.width if kind == "ffn" else program.vocabulary)
        if kind == "ffn":
            assert (site.activation, site.gated, site.batch) == (program.activation, program.gated, program.batch)
            assert site.repeat == (program.layers or 1)
        else:
            # The probabilities of a softmax may be returned too, so "returned" may be said of it as well.
            assert set(program.consumers) <= set(site.consumers) <= {*program.consumers, "returned"}


def test_a_full_width_program_is_the_dense_one_whatever_the_predictor_thinks() -> None:
    """A predictor that knows nothing must not matter at full width: the check above could not pass by luck."""
    program = replace(next_ffn(), dtype="float32")
    params, x = program.arguments()
    wrong = {name: value[..., ::-1, :] if name == "up" else value for name, value in params.items()}
    step = compiled(program.function, "ffn", predictor=hire.LowRank(rank=1), density=1.0, group=1)
    prepared = step.prepare(wrong, x)
    borrowed = step.prepare(params, x)
    (key,) = borrowed
    mixed = {key: {**borrowed[key], "a_rows": prepared[key]["a_rows"] * 0, "b": prepared[key]["b"]}}
    np.testing.assert_allclose(step(params, x, prepared=mixed), program.function(params, x), rtol=1e-5, atol=1e-5)


def next_ffn() -> Ffn:
    return Ffn(
        activation="relu", gated=False, layout="in_out", down="in_out", bias=False, dtype="float32", batch=2,
        sequence=False, lookup=False, d=8, width=32, layers=None, seed=5,
    )  # fmt: skip
