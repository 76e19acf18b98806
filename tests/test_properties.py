"""The three invariants, on generated programs.

1. Full width is identity: with every candidate kept, the rewritten program is the dense one up to rounding.
2. Same selection, same answer: at small width it equals a float64 oracle that is given the same selected rows.
3. Nothing silent: every product with a weight is part of a site or a miss, and every site has a decision.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from programs import ACTIVATIONS_JAX, TOP, WINNERS, Ffn, Head, ffns, heads, random_array, rank_of, rounding, wide

import hire_compiler as hire
from hire_compiler.runtime.ffn import select_groups
from hire_compiler.runtime.predictors import PREDICTOR_ARRAYS, predict
from hire_compiler.runtime.target import target_for
from hire_compiler.runtime.topk import top_candidates

Array = np.ndarray

CPU = target_for("cpu")
COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
FAST = settings(max_examples=5, derandomize=True, **COMMON)  # the same programs in every run of the suite
INSPECTED = settings(max_examples=15, derandomize=True, **COMMON)  # nothing is compiled
SLOW = settings(max_examples=400, **COMMON)  # new ones in every run

predictors = st.sampled_from(
    (
        hire.Quantized(bits=8),
        hire.Quantized(bits=4, columns=4),
        hire.LowRank(rank=3, dtype="float32"),
        hire.LowRank(rank=2, dtype="bfloat16"),
        hire.LowRank(rank=3, dtype="int8"),
    )
)


def compiled(function: object, kind: str, **rule: object) -> hire.HireFunction:
    return hire.transform(jax.jit(function), hire.Config(rules=(hire.Rule(kind=kind, max_batch=64, **rule),)))


def the_rewrite(step: hire.HireFunction) -> hire.Decision:
    """The decision of the only site, which has to be rewritten."""
    (decision,) = step.report().decisions
    assert decision.action == "rewritten", decision.reason
    return decision


def predictor_arrays(prepared: dict[str, dict[str, jax.Array]]) -> dict[str, jax.Array]:
    (arrays,) = prepared.values()
    return {name: array for name, array in arrays.items() if name in PREDICTOR_ARRAYS}


def assert_close(got: object, wanted: Array, slack: Array, what: str) -> None:
    got = wide(got)
    assert got.shape == wanted.shape
    assert not np.isnan(got).any(), what
    off = np.abs(got - wanted) - slack
    assert (off <= 0).all(), f"{what}: {np.max(off / slack):.3g} times the slack beyond it"


# --------------------------------------------------------------------------- feed-forward blocks


def layer_steps(program: Ffn, result: object, x: jax.Array) -> list[tuple[int | None, Array, Array, Array]]:
    """For every layer ``(layer, its input, its output, extra slack)``; a layer's residual is taken off its output."""
    if program.layers is None:
        return [(None, wide(x), wide(result).reshape(-1, program.d), np.zeros(()))]
    final, inputs = result
    states = [wide(state).reshape(-1, program.d) for state in (*inputs, final)]
    assert np.array_equal(states[0], wide(x))
    pairs = list(itertools.pairwise(states))
    return [(i, h, after - h, rounding(program.dtype) * np.abs(after)) for i, (h, after) in enumerate(pairs)]


def check_full_width_ffn(program: Ffn, predictor: object, group: int) -> None:
    params, x = program.arguments()
    dense = jax.jit(program.function)(params, x)
    step = compiled(program.function, "ffn", predictor=predictor, density=1.0, group=group)
    sparse = step(params, x)
    decision = the_rewrite(step)
    assert decision.candidates == program.width
    assert decision.exactness.startswith("exact")
    assert jax.tree.map(lambda a: (a.shape, a.dtype), dense) == jax.tree.map(lambda a: (a.shape, a.dtype), sparse)
    rows = (params["embed"][x] if program.lookup else x).reshape(-1, program.d)
    for who, result in (("dense", dense), ("rewritten", sparse)):
        for layer, h, y, extra in layer_steps(program, result, rows):
            wanted, slack = program.oracle(params, h, layer=layer)
            assert_close(y, wanted, slack + extra, f"{who} program, layer {layer}")


def check_small_width_ffn(program: Ffn, predictor: object, group: int) -> None:
    params, x = program.arguments()
    step = compiled(program.function, "ffn", predictor=predictor, density=0.25, group=group)
    result = step(params, x)
    decision = the_rewrite(step)
    assert decision.candidates < program.width
    prepared = predictor_arrays(step.prepare(params, x))
    rows = (params["embed"][x] if program.lookup else x).reshape(-1, program.d)
    for layer, h, y, extra in layer_steps(program, result, rows):
        groups = select_groups(
            jnp.asarray(h, rows.dtype),
            prepared,
            params.get("bias"),
            rank_of(program.activation),
            group,
            decision.candidates // group,
            CPU,
            None if layer is None else jnp.int32(layer),
        )
        neurons = (np.asarray(groups)[:, None] * group + np.arange(group)).ravel()
        assert len(np.unique(neurons)) == decision.candidates
        wanted, slack = program.oracle(params, h, neurons, layer)
        everything, _ = program.oracle(params, h, layer=layer)
        assert_close(y, wanted, slack + extra, f"layer {layer}")
        assert np.abs(wanted - everything).max() > 1e-6  # the selection leaves something out


groups = st.sampled_from((1, 2, 8))


@FAST
@given(ffns(), predictors, groups)
def test_full_width_is_identity_for_feed_forward_blocks(program: Ffn, predictor: object, group: int) -> None:
    check_full_width_ffn(program, predictor, group)


@FAST
@given(ffns(), predictors, groups)
def test_same_selection_same_answer_for_feed_forward_blocks(program: Ffn, predictor: object, group: int) -> None:
    check_small_width_ffn(program, predictor, group)


@pytest.mark.slow
@SLOW
@given(ffns(), predictors, groups, st.booleans())
def test_feed_forward_blocks_at_length(program: Ffn, predictor: object, group: int, full: bool) -> None:
    (check_full_width_ffn if full else check_small_width_ffn)(program, predictor, group)


@pytest.mark.diagonal
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS_JAX))
@pytest.mark.parametrize("layers", [None, 2])
def test_every_activation_survives_both_widths(activation: str, layers: int | None) -> None:
    program = Ffn(
        activation=activation, gated=layers is None, layout="out_in", down="in_out", bias=layers is not None,
        dtype="float32", batch=3, sequence=False, lookup=False, d=12, width=40, layers=layers, seed=11,
    )  # fmt: skip
    check_full_width_ffn(program, hire.Quantized(), 2)
    check_small_width_ffn(program, hire.LowRank(rank=3), 8)


# --------------------------------------------------------------------------- heads


def check_winners(kind: str, got: object, logits: Array, slack: Array) -> None:
    """``got`` is a valid argmax or top_k of ``logits``, of which each may be off by its slack."""
    if kind == "argmax":
        ids = np.asarray(got)[..., None]
        values = None
    else:
        values, ids = (np.asarray(part) if part.dtype != jnp.bfloat16 else wide(part) for part in got)
    ids = ids.reshape(logits.shape[0], -1)
    k = ids.shape[1]
    assert k == (1 if kind == "argmax" else TOP)
    assert all(len(set(row)) == k for row in ids)
    wanted = -np.sort(-logits, axis=1)[:, :k]
    taken = np.take_along_axis(logits, ids, axis=1)
    room = 2 * slack.max(axis=1, keepdims=True)
    assert (taken >= wanted - room).all(), f"{kind} took rows that are not the best"
    if values is not None:
        assert_close(wide(values).reshape(logits.shape[0], -1), taken, np.broadcast_to(room, taken.shape), kind)


def check_consumers(program: Head, got: dict[str, object], logits: Array, slack: Array) -> None:
    assert set(got) == set(program.consumers)
    worst = slack.max(axis=1, keepdims=True)
    for kind, result in got.items():
        if kind in WINNERS:
            check_winners(kind, result, logits, slack)
            continue
        result = wide(result).reshape(logits.shape)
        if kind == "returned":
            finite = np.isfinite(logits)
            assert np.array_equal(finite, np.isfinite(result))
            assert_close(np.where(finite, result, 0), np.where(finite, logits, 0), slack, kind)
            continue
        wanted = scipy.special.log_softmax(logits, axis=1)
        storage = rounding("float32" if program.upcast else program.dtype)
        if kind == "log_softmax":
            finite = np.isfinite(wanted)
            assert np.array_equal(finite, np.isfinite(result))
            room = 2 * worst + storage * np.abs(np.where(finite, wanted, 0)) + storage
            assert_close(np.where(finite, result, 0), np.where(finite, wanted, 0), room, kind)
        else:
            assert_close(result, np.exp(wanted), np.exp(wanted) * np.expm1(2 * worst + 8 * storage) + 1e-7, kind)


def check_full_width_head(program: Head, predictor: object, tail: str) -> None:
    params, x = program.arguments()
    step = compiled(program.function, "head", predictor=predictor, density=1.0, tail=tail)
    dense, sparse = jax.jit(program.function)(params, x), step(params, x)
    assert the_rewrite(step).exactness.startswith("exact")
    assert jax.tree.map(lambda a: (a.shape, a.dtype), dense) == jax.tree.map(lambda a: (a.shape, a.dtype), sparse)
    raw, size = program.products(params, x)
    logits = program.finish(raw, params)[program.read_rows()]
    slack = program.slack(size, params)[program.read_rows()]
    for result in (dense, sparse):
        check_consumers(program, result, logits, slack)


def check_small_width_head(program: Head, predictor: object, tail: str) -> None:
    winners_only = set(program.consumers) <= set(WINNERS)
    assume(winners_only or not (tail == "dropped" and program.softcap))  # refused: tests/test_heads.py
    params, x = program.arguments()
    step = compiled(program.function, "head", predictor=predictor, candidates=64, tail=tail)
    result = step(params, x)
    assume("unpacked again" not in step.report().decisions[0].reason)  # left dense: tests/test_predictors.py
    the_rewrite(step)
    arrays = predictor_arrays(step.prepare(params, x))
    scores = predict(program.inputs(params, x), arrays, CPU)
    # Candidates are those with the best predicted values of what the program compares.
    ranking = jnp.asarray(program.finish(wide(scores), params), jnp.float32)
    kept = np.zeros(scores.shape, bool)
    np.put_along_axis(kept, np.asarray(top_candidates(ranking, 64)), True, axis=1)
    raw, size = program.products(params, x)
    seen = program.read_rows()
    if winners_only:
        logits = program.finish(raw, params)
        ids = {kind: np.asarray(r if kind == "argmax" else r[1]).reshape(len(seen), -1) for kind, r in result.items()}
        if program.bias:
            # What the bias does to the choice of candidates is tests/test_heads.py's business. Here: whatever was
            # chosen is a winner among what was chosen, and its value is the exact one.
            kept[:] = False
            for chosen in ids.values():
                kept[seen[:, None], chosen] = True
        for chosen in ids.values():
            assert np.take_along_axis(kept[seen], chosen, axis=1).all()
        logits = np.where(kept, logits, -np.inf)
    else:
        outside = wide(scores) if tail == "predicted" else np.full(raw.shape, -np.inf)
        with np.errstate(invalid="ignore"):
            logits = program.finish(np.where(kept, raw, outside), params)
    check_consumers(program, result, logits[seen], program.slack(size, params)[seen])


tails = st.sampled_from(("predicted", "dropped"))


@FAST
@given(heads(), predictors, tails)
def test_full_width_is_identity_for_heads(program: Head, predictor: object, tail: str) -> None:
    check_full_width_head(program, predictor, tail)


@FAST
@given(heads(winners_only=True), predictors)
def test_same_selection_same_winners(program: Head, predictor: object) -> None:
    check_small_width_head(program, predictor, "predicted")


@FAST
@given(heads(), predictors, tails)
def test_same_selection_same_answer_for_heads(program: Head, predictor: object, tail: str) -> None:
    check_small_width_head(program, predictor, tail)


@pytest.mark.slow
@SLOW
@given(heads(), predictors, tails, st.booleans())
def test_heads_at_length(program: Head, predictor: object, tail: str, full: bool) -> None:
    (check_full_width_head if full else check_small_width_head)(program, predictor, tail)


# --------------------------------------------------------------------------- nothing silent

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
