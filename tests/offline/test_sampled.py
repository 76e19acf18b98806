"""A sampler folded into an export: the tokens are those of the original's logits, and the head is certified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import hire_compiler as hire
from hire_compiler.cli import main
from hire_compiler.offline.source.source import read_source
from hire_compiler.offline.verify import verify
from tests.support.exports import BATCH, dotted, exported, inputs, parameters, structs


def with_logits(params: Any, tokens: jax.Array, cache: jax.Array) -> dict[str, jax.Array]:
    """A step that hands out its logits."""
    x = params["embed"][tokens] + cache[0]
    h = x + jax.nn.relu(x @ params["mlp"]["up"] + params["mlp"]["bias"]) @ params["mlp"]["down"]
    return {"logits": h @ params["embed"].T, "cache": cache + 1}


WEIGHTS = dotted(parameters())
TOP_K = hire.Sampling("top_k", k=8)


def rewrite(sampler: Any, target: Any = None, **options: Any) -> hire.Artifact:
    model = exported(with_logits) if target is None else target
    return hire.rewrite(model, sampler=sampler, weights=WEIGHTS, platforms=("cpu",), **options)


@pytest.mark.slow
def test_greedy_tokens_are_those_of_the_original_and_certified() -> None:
    assert not rewritten(hire.rewrite(exported(with_logits), weights=WEIGHTS, platforms=("cpu",)))  # logits escape
    artifact = rewrite("greedy")
    assert rewritten(artifact) == ["head/0"]
    tokens, cache = inputs()
    found, wanted = artifact(tokens, cache), with_logits(parameters(), tokens, cache)
    np.testing.assert_array_equal(found["logits"], np.argmax(wanted["logits"], axis=-1))
    np.testing.assert_allclose(found["cache"], wanted["cache"])
    compared = verify(artifact, exported(with_logits), weights=WEIGHTS, trials=8)
    assert compared.token_agreement == 1.0
    ((rows, proven),) = compared.certificates.values()
    assert rows == 8 * BATCH
    assert proven > 0


def rewritten(artifact: hire.Artifact) -> list[str]:
    return [d["site"] for d in artifact.report()["cpu"]["decisions"] if d["action"] == "rewritten"]


def test_the_artifact_says_what_was_folded_in_and_keeps_it(tmp_path: Path) -> None:
    loaded = hire.load(rewrite(TOP_K).save(tmp_path / "top"))
    assert loaded.manifest.sampling == TOP_K
    assert "sampler folded in: top_k of the logits (k 8)" in loaded.report()["cpu"]["notes"]
    tokens, cache = inputs()
    values, best = loaded(tokens, cache)["logits"]
    wanted = jax.lax.top_k(with_logits(parameters(), tokens, cache)["logits"], 8)
    np.testing.assert_array_equal(best, wanted[1])
    np.testing.assert_allclose(values, wanted[0], rtol=2e-5, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.7, None])
def test_gumbel_takes_a_key_and_draws_what_dense_draws(temperature: float | None) -> None:
    artifact = rewrite(hire.Sampling("gumbel", temperature=temperature))
    added = [entry.name for entry in artifact.manifest.inputs][2:]
    assert added == (["key"] if temperature else ["key", "temperature"])
    tokens, cache = inputs()
    logits = with_logits(parameters(), tokens, cache)["logits"]
    for seed in range(4):
        key = jax.random.PRNGKey(seed)
        heat = {} if temperature else {"temperature": jnp.float32(0.7)}
        found = artifact(tokens, jnp.array(cache), key=key, **heat)["logits"]
        noise = jax.random.gumbel(key, logits.shape, jnp.float32)
        np.testing.assert_array_equal(found, np.argmax(logits + 0.7 * noise, axis=-1))
    assert verify(artifact, exported(with_logits), weights=WEIGHTS, trials=4).token_agreement == 1.0


def test_a_bare_module_takes_a_sampler_too(tmp_path: Path) -> None:
    path = tmp_path / "model.mlir"
    path.write_text(jax.jit(with_logits).lower(*structs()).as_text())
    leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(parameters()))}
    artifact = hire.rewrite(path, sampler="greedy", weights=leaves, platforms=("cpu", "tpu"))
    tokens, cache = inputs()
    found = dict(enumerate(artifact(tokens, cache)))
    place = next(i for i, result in found.items() if result.dtype == jnp.int32)
    np.testing.assert_array_equal(found[place], np.argmax(with_logits(parameters(), tokens, cache)["logits"], axis=-1))
    assert artifact.step_program("tpu").platforms == ("tpu",)


def test_symbolic_and_multi_platform_exports_take_one() -> None:
    (b,) = jax.export.symbolic_shape("b")
    one = exported(with_logits, platforms=("cpu", "tpu"), batch=b)
    artifact = hire.rewrite(one, sampler="greedy", dims={"b": BATCH}, weights=WEIGHTS)
    assert list(artifact.manifest.platforms) == ["cpu", "tpu"]
    tokens, cache = inputs()
    wanted = with_logits(parameters(), tokens, cache)["logits"]
    np.testing.assert_array_equal(artifact(tokens, cache)["logits"], np.argmax(wanted, axis=-1))


def test_rules_still_find_weights_and_scopes_by_name() -> None:
    def scoped(params: Any, tokens: jax.Array, cache: jax.Array) -> Any:
        with jax.named_scope("decoder/lm_head"):
            return (params["embed"][tokens] + cache[0]) @ params["embed"].T

    (missed,) = hire.inspect(exported(scoped)).misses
    rule = hire.Rule(kind="head", path="^decoder/lm_head$", predictor=hire.Quantized(), candidates=64)
    config = hire.Config(rules=(rule,))
    artifact = hire.rewrite(exported(scoped), config, sampler="greedy", platforms=("cpu",))
    assert list(artifact.manifest.sources) == ["params['embed']"]
    assert artifact.report()["cpu"]["sites"][0]["path"] == missed.path


def test_what_cannot_be_sampled_is_refused() -> None:
    def no_logits(params: Any, tokens: jax.Array, cache: jax.Array) -> Any:
        return jnp.argmax(params["embed"][tokens] @ params["embed"].T, axis=-1)

    with pytest.raises(hire.ConfigError, match=r"which result of .* holds the logits"):
        hire.rewrite(exported(no_logits), sampler="greedy")
    with pytest.raises(hire.ConfigError, match=r"has no result .*'scores'.*; it returns"):
        hire.rewrite(exported(with_logits), sampler=hire.Sampling("greedy", logits="['scores']"))
    with pytest.raises(hire.ConfigError, match="use 'greedy', 'top_k' or 'gumbel'"):
        hire.rewrite(exported(with_logits), sampler="nucleus")
    with pytest.raises(hire.CaptureError, match="rewritten already"):
        hire.rewrite(rewrite("greedy").step_program(), sampler="greedy")


def test_a_keyword_that_the_model_takes_already_is_told() -> None:
    def keyed(params: Any, tokens: jax.Array, *, key: jax.Array) -> Any:
        return params["embed"][tokens + key.sum().astype(jnp.int32)] @ params["embed"].T

    params, tokens, _ = structs()
    one = jax.export.export(jax.jit(keyed))(params, tokens, key=jax.ShapeDtypeStruct((2,), jnp.uint32))
    with pytest.raises(hire.ConfigError, match="keyword argument 'key' of its own"):
        hire.rewrite(one, sampler=hire.Sampling("gumbel"))
    assert read_source(one).names[-1] == "key"


def test_the_command_line_folds_samplers_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.jax_export").write_bytes(exported(with_logits).serialize())
    save_file(WEIGHTS, tmp_path / "weights.safetensors")
    model, weights = str(tmp_path / "model.jax_export"), str(tmp_path / "weights.safetensors")
    command = ["rewrite", model, "--weights", weights, "--platform", "cpu", "-o", str(tmp_path / "a")]
    assert main([*command, "--sampler", "top_k", "-k", "4"]) == 0
    assert "sampler folded in: top_k of the logits (k 4)" in capsys.readouterr().out
    verb = ["verify", str(tmp_path / "a"), "--original", model, "--weights", weights, "--agreement", "1"]
    assert main([*verb, "--tolerance", "1e-4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["certificates"]["head/0"]["proven"] > 0
    for options, message in (
        (["--sampler", "top_k"], "'top_k' needs k="),
        (["-k", "4"], "are options of --sampler"),
        (["--sampler", "gumbel", "--temperature", "hot"], "give a number, or 'input'"),
        (["--sampler", "gumbel", "--temperature", "-1"], "at least 0"),
    ):
        assert main([*command, "--force", *options]) == 2
        assert message in capsys.readouterr().err
