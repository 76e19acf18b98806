"""Bad input is answered by a sentence that names the field or the site and says what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler import LowRank, Quantized, Rule
from tests.support.models import (
    CONFIG,
    FFN,
    HEAD,
    VOCABULARY,
    WIDTH,
    D,
    array,
    decode,
    ffn,
    head,
    logits,
    rewritten,
    said,
    tokens,
    weights,
)

# --------------------------------------------------------------------------- settings that mean nothing


def rule(**fields: Any) -> Rule:
    return Rule(**{"kind": "head", "predictor": Quantized(), "density": 0.5, **fields})


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: rule(kind="embedding"), "kind must be one of 'ffn', 'head'"),
        (lambda: rule(path="layer_(0"), r"path is not a regular expression"),
        (lambda: rule(path=3), "path"),
        (lambda: rule(density=0), r"density is 0, must be in \(0, 1\]"),
        (lambda: rule(density=-0.5), "density is -0.5"),
        (lambda: rule(density=1.01), "density is 1.01"),
        (lambda: rule(density=float("nan")), "density is nan"),
        (lambda: rule(density="half"), "density is 'half'"),
        (lambda: rule(density=None), "exactly one of density"),
        (lambda: rule(candidates=8), "exactly one of density"),
        (lambda: rule(density=None, candidates=0), "candidates is 0, must be at least 1"),
        (lambda: rule(density=None, candidates=-3), "candidates is -3"),
        (lambda: rule(density=None, candidates=2.5), "candidates is 2.5"),
        (lambda: rule(group=0), "group is 0, must be at least 1"),
        (lambda: rule(group=1.5), "group is 1.5"),
        (lambda: rule(tail="cut"), "tail must be 'predicted' or 'dropped'"),
        (lambda: rule(predictor=None), r"predictor is None; give LowRank\(rank=…\).*Quantized\(bits=8\).*dense=True"),
        (lambda: rule(predictor="int8"), "predictor is 'int8'"),
        (lambda: rule(predictor=LowRank), "predictor is"),
        (lambda: LowRank(rank=0), "LowRank.rank is 0"),
        (lambda: LowRank(rank=-4), "LowRank.rank is -4"),
        (lambda: LowRank(rank=2.5), "LowRank.rank is 2.5"),
        (lambda: LowRank(rank=2, dtype="float8"), "LowRank.dtype is 'float8'.*'bfloat16' or 'float32'"),
        (lambda: Quantized(bits=3), "Quantized.bits is 3"),
        (lambda: hire.Config(rules=(rule(), "head")), "Config.rules holds 'head'.*hire.Rule"),
        (lambda: hire.Config(rules=None), "Config.rules holds None"),
        (lambda: hire.transform(head, config=(rule(),)), r"config is a tuple: pass hire\.Config"),
        (lambda: hire.transform(head, calibration={}), r"calibration is a dict: pass what hire\.calibrate returned"),
        (lambda: hire.transform(3), "take a function, not int"),
        (lambda: hire.inspect(3), "take a function, not int"),
    ],
)
def test_a_setting_without_meaning_is_refused_when_it_is_made(make: Any, field: str) -> None:
    with pytest.raises(hire.HireError, match=field):
        make()


def test_a_misspelled_field_is_an_error() -> None:
    with pytest.raises(TypeError, match="densty"):
        rule(densty=0.5)


def test_the_message_of_a_bad_rule_says_which_rule() -> None:
    with pytest.raises(hire.ConfigError, match=re.escape("Rule(kind='ffn', path='layer_3'): density is 2")):
        Rule(kind="ffn", path="layer_3", predictor=Quantized(), density=2)


def test_settings_are_values() -> None:
    assert rule() == rule()
    assert hash(hire.Config(rules=(rule(),))) == hash(hire.Config(rules=[rule()]))
    with pytest.raises(AttributeError):
        rule().density = 1.0  # type: ignore[misc]
    assert Rule(kind="ffn", dense=True).predictor is None


# --------------------------------------------------------------------------- rules that a site cannot follow


def call(config: hire.Config | Rule, rng: np.random.Generator, function: Any = decode) -> hire.HireFunction:
    config = config if isinstance(config, hire.Config) else hire.Config(rules=(config,))
    step = hire.transform(jax.jit(function), config)
    step(weights(rng), tokens(rng))
    return step


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (rule(predictor=LowRank(rank=D + 1)), rf"head/0.*rank {D + 1} is more than the input width d = {D}"),
        (rule(kind="ffn", predictor=LowRank(rank=64)), rf"ffn/0.*rank 64 is more than the input width d = {D}"),
        (rule(kind="ffn", group=7), rf"ffn/0.*group 7 does not divide the width {WIDTH}; use one of \[1, 2, 4"),
        (rule(kind="ffn", group=WIDTH * 2), rf"ffn/0.*group {WIDTH * 2} does not divide"),
        (rule(density=None, candidates=VOCABULARY + 1), rf"head/0.*candidates {VOCABULARY + 1} are more than the 512"),
    ],
)
def test_a_rule_that_its_site_cannot_follow_names_the_rule_the_site_and_the_field(
    bad: Rule, message: str, rng: np.random.Generator
) -> None:
    with pytest.raises(hire.ConfigError, match=f"rule 0 on {message}"):
        call(bad, rng)


def test_fewer_candidates_than_winners_are_refused(rng: np.random.Generator) -> None:
    step = hire.transform(
        lambda x, w: jax.lax.top_k(x @ w.T, 9), hire.Config(rules=(rule(density=None, candidates=8),))
    )
    with pytest.raises(hire.ConfigError, match=r"head/0.*8 candidates cannot hold the top 9"):
        step(array(rng, 2, D), array(rng, VOCABULARY, D))


def test_a_refused_rule_is_refused_again_at_the_next_call(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(decode), hire.Config(rules=(rule(kind="ffn", group=7),)))
    for _ in range(2):
        with pytest.raises(hire.ConfigError, match="group 7"):
            step(weights(rng), tokens(rng))


def test_a_path_that_matches_no_site_is_an_error_that_lists_the_sites(rng: np.random.Generator) -> None:
    with pytest.raises(hire.HireError, match=r"rule 0 .*'layer_99'.*matched nothing.*head/0"):
        call(hire.Config(rules=(rule(path="layer_99"), HEAD)), rng)


def test_a_rule_for_a_kind_that_the_program_lacks_is_reported(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(head), hire.Config(rules=(HEAD, FFN)))
    step(array(rng, 2, D), array(rng, VOCABULARY, D))
    assert rewritten(step) == ["head/0"]
    assert re.search(r"rule 1 \(kind='ffn', path=''\) matched nothing", said(step.report()))


def test_a_rule_whose_sites_an_earlier_rule_took_is_reported(rng: np.random.Generator) -> None:
    step = call(hire.Config(rules=(HEAD, rule(density=1.0), FFN)), rng)
    assert re.search(r"rule 1 .*matched nothing: earlier rules took its sites \(head/0\)", said(step.report()))


def test_the_first_rule_that_matches_decides(rng: np.random.Generator) -> None:
    step = call(hire.Config(rules=(Rule(kind="head", path="head/0", dense=True), HEAD, FFN)), rng)
    by_site = {decision.site: decision for decision in step.report().decisions}
    assert by_site["head/0"].action == "dense"
    assert "rule 0" in by_site["head/0"].reason
    assert by_site["ffn/0"].action == "rewritten"


def test_a_predictor_that_would_lose_is_not_applied(rng: np.random.Generator) -> None:
    step = call(rule(density=0.95), rng)
    (decision,) = [decision for decision in step.report().decisions if decision.site == "head/0"]
    assert decision.action == "dense"
    assert re.search(r"would read \d+ bytes a call, dense reads \d+: it would lose", decision.reason)


def test_an_unknown_activation_is_a_miss_that_names_the_known_ones(rng: np.random.Generator) -> None:
    def softplus(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
        return jax.nn.softplus(jnp.sin(x) @ up) @ down

    step = hire.transform(jax.jit(softplus), hire.Config(rules=(FFN,)))
    x, up, down = array(rng, 2, D), array(rng, D, WIDTH), array(rng, WIDTH, D)
    np.testing.assert_array_equal(step(x, up, down), jax.jit(softplus)(x, up, down))
    assert not step.report().sites
    assert re.search(r"activation is none of .*relu.*silu.*gelu", said(step.report()))


# --------------------------------------------------------------------------- weights that cannot be ranked


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("where", ["embed", "up", "down"])
def test_a_matrix_with_nan_or_inf_is_named_and_the_program_runs_as_written(
    bad: float, dtype: Any, where: str, rng: np.random.Generator
) -> None:
    params = jax.tree.map(lambda a: a.astype(dtype), weights(rng))
    holder = params if where == "embed" else params["mlp"]
    holder[where] = holder[where].at[3, 2].set(bad)
    step = hire.transform(jax.jit(decode), CONFIG)
    message = rf"params.*\['{where}'\] holds NaN or Inf.*(dense=True|check_weights=False)"
    t = tokens(rng)
    with pytest.warns(hire.HireWarning, match=f"as it was written.*{message}"):
        got = step(params, t)
    np.testing.assert_array_equal(got, jax.jit(decode)(params, t))
    assert re.search(message, said(step.report()))
    with pytest.raises(hire.WeightError, match=message):
        step.prepare(params, t)


def test_nan_in_a_weight_that_no_site_reads_is_the_functions_own_business(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(lambda x, w, b: (head(x, w), x + b)), hire.Config(rules=(HEAD,)))
    x, w, b = array(rng, 2, D), array(rng, VOCABULARY, D), jnp.full((D,), jnp.nan)
    best, added = step(x, w, b)
    np.testing.assert_array_equal(best, head(x, w))
    assert np.isnan(added).all()


def test_the_check_of_weights_can_be_switched_off(rng: np.random.Generator) -> None:
    params = weights(rng)
    params["mlp"]["down"] = params["mlp"]["down"].at[0, 0].set(jnp.inf)
    step = hire.transform(jax.jit(decode), hire.Config(rules=CONFIG.rules, check_weights=False))
    assert step(params, tokens(rng)).shape == (2,)
    assert rewritten(step) == ["ffn/0", "head/0"]


def test_a_row_of_zeros_is_no_reason_to_fail(rng: np.random.Generator) -> None:
    params = weights(rng)
    params["embed"] = params["embed"].at[7].set(0)
    params["mlp"]["up"] = params["mlp"]["up"].at[:, 5].set(0)
    t = tokens(rng, 5)
    for predictor in (Quantized(), LowRank(rank=4)):
        rules = (rule(predictor=predictor, density=1.0), rule(kind="ffn", predictor=predictor, density=1.0))
        step = hire.transform(jax.jit(decode), hire.Config(rules=rules))
        np.testing.assert_array_equal(step(params, t), np.argmax(logits(params, t), axis=-1))


def test_weights_that_are_all_zero_are_no_reason_to_fail(rng: np.random.Generator) -> None:
    x, up, down = array(rng, 2, D), jnp.zeros((D, WIDTH)), jnp.zeros((WIDTH, D))
    for predictor in (Quantized(), LowRank(rank=4)):
        step = hire.transform(jax.jit(ffn), hire.Config(rules=(rule(kind="ffn", predictor=predictor, density=0.25),)))
        np.testing.assert_array_equal(step(x, up, down), np.zeros((2, D)))


# --------------------------------------------------------------------------- arguments of a call


def test_wrong_shapes_raise_what_the_function_raises(rng: np.random.Generator) -> None:
    dense = jax.jit(head)
    step = hire.transform(dense, hire.Config(rules=(HEAD,)))
    step(array(rng, 2, D), array(rng, VOCABULARY, D))
    x, w = array(rng, 2, D + 1), array(rng, VOCABULARY, D)
    for function in (dense, step, step.prepare, step.lower):
        with pytest.raises(TypeError, match="dot_general requires contracting dimensions to have the same shape"):
            function(x, w)


def test_wrong_dtypes_raise_what_the_function_raises(rng: np.random.Generator) -> None:
    dense = jax.jit(decode)
    step, params = hire.transform(dense, CONFIG), weights(rng)
    step(params, tokens(rng))
    for function in (dense, step):
        with pytest.raises(TypeError, match=r"[Ii]ndex"):
            function(params, tokens(rng).astype(jnp.float32))


def test_another_tree_raises_what_the_function_raises(rng: np.random.Generator) -> None:
    dense = jax.jit(decode)
    step = hire.transform(dense, CONFIG)
    for function in (dense, step):
        with pytest.raises(KeyError, match="mlp"):
            function({"embed": array(rng, VOCABULARY, D)}, tokens(rng))


def test_an_argument_that_is_no_array_is_an_error_that_says_to_mark_it_static(rng: np.random.Generator) -> None:
    step = hire.transform(jax.jit(lambda x, w, mode: head(x, w)), hire.Config(rules=(HEAD,)))
    with pytest.raises(hire.CaptureError, match="holds a str, which is no array: mark it static"):
        step(array(rng, 2, D), array(rng, VOCABULARY, D), "greedy")


def test_an_error_of_the_function_passes_through_unchanged(rng: np.random.Generator) -> None:
    def broken(x: jax.Array) -> jax.Array:
        raise LookupError("no such layer")

    with pytest.raises(LookupError, match="no such layer"):
        hire.transform(broken, CONFIG)(array(rng, 2))


def test_a_branch_on_a_traced_value_raises_jaxs_own_error(rng: np.random.Generator) -> None:
    def branching(x: jax.Array) -> jax.Array:
        return x if x.sum() > 0 else -x

    with pytest.raises(jax.errors.TracerBoolConversionError):
        hire.transform(branching, CONFIG)(array(rng, 2))


# --------------------------------------------------------------------------- numbers we do not compute with


INTEGER_PROGRAMS = {
    "returned": lambda x, w: x @ w.T,
    "top_k": lambda x, w: jax.lax.top_k(x @ w.T, 3),
    "relu": lambda x, w: jnp.maximum(x @ w.T, 0) @ w,
}


@pytest.mark.parametrize("program", INTEGER_PROGRAMS)
def test_integer_products_keep_their_exact_sums(program: str, rng: np.random.Generator) -> None:
    """They are exact in int32; a rewrite that adds in float32 would not be."""
    x = jnp.asarray(rng.integers(-1000, 1000, (2, D)), jnp.int32)
    w = jnp.asarray(rng.integers(-100_000, 100_000, (2048, D)), jnp.int32)
    step = hire.transform(jax.jit(INTEGER_PROGRAMS[program]), hire.Config(rules=(rule(density=1.0), FFN)))
    for got, wanted in zip(jax.tree.leaves(step(x, w)), jax.tree.leaves(INTEGER_PROGRAMS[program](x, w)), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_float64_keeps_its_accuracy_or_stays_dense(rng: np.random.Generator) -> None:
    with jax.enable_x64(True):
        x, up, down = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, D), (D, WIDTH), (WIDTH, D)))
        assert x.dtype == jnp.float64
        step = hire.transform(jax.jit(ffn), hire.Config(rules=(FFN,)))
        np.testing.assert_allclose(step(x, up, down), ffn(x, up, down), rtol=1e-10, atol=1e-10)


# --------------------------------------------------------------------------- files


@pytest.mark.parametrize("content", [b"", b"\x00\x01garbage", b"def f(x): return x\n", b"ML\xefR but no module"])
def test_a_file_that_is_no_program_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.mlir"
    path.write_bytes(content)
    with pytest.raises(hire.HireError, match=r"model\.mlir.*(is no StableHLO|@main)"):
        hire.inspect(path)


def test_a_module_without_main_is_named(tmp_path: Path) -> None:
    path = tmp_path / "library.mlir"
    path.write_text("func.func @f(%x: tensor<f32>) -> tensor<f32> { return %x : tensor<f32> }")
    with pytest.raises(hire.HireError, match="@main"):
        hire.inspect(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(hire.HireError, match=r"nowhere\.mlir: no such file"):
        hire.inspect(tmp_path / "nowhere.mlir")
