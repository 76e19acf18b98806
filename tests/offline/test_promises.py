"""``verify`` holds an artifact to what it calls itself: defaults that fail, flags that loosen them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.cli import main
from hire_compiler.comparison.difference import Difference, add_differences
from hire_compiler.offline.disk.promise import SLACK, promised
from hire_compiler.offline.disk.tensors import TensorSpec
from hire_compiler.offline.verify import verify
from tests.support.exports import CERTIFIED, FULL, dotted, exported, parameters, write_all

ROUGH = '[[rule]]\nkind = "ffn"\npredictor = "Quantized"\ndensity = 0.125\n'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("promises")
    write_all(folder)
    (folder / "rough.toml").write_text(ROUGH)
    model, weights = folder / "model.jax_export", folder / "weights.safetensors"
    for name, rules in (("exact", "rules.toml"), ("rough", "rough.toml")):
        command = ["rewrite", model, "--weights", weights, "--rules", folder / rules, "--platform", "cpu"]
        assert main([str(c) for c in [*command, "-o", folder / f"{name}.hire"]]) == 0
    return folder


def verified(files: Path, artifact: str, *options: str, weights: Path | None = None) -> int:
    command = ["verify", str(files / artifact), "--original", str(files / "model.jax_export")]
    return main([*command, "--weights", str(weights or files / "weights.safetensors"), *options])


@pytest.mark.slow
def test_an_exact_artifact_agrees_by_default(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(files, "exact.hire") == 0
    assert "integers that agree 100.00%" in capsys.readouterr().out


def test_an_approximate_artifact_fails_by_default_and_flags_loosen(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verified(files, "rough.hire") == 1
    out = capsys.readouterr().out
    assert "FAILED: ['token']: " in out
    assert "90.00% must (the artifact is approximate)" in out
    assert "FAILED: ['best']: off by" in out
    assert "give some (--inputs)" in out
    assert verified(files, "rough.hire", "--agreement", "0") == 1  # the error is still too large
    assert verified(files, "rough.hire", "--tolerance", "1e6") == 1  # and the tokens still differ
    capsys.readouterr()
    assert verified(files, "rough.hire", "--agreement", "0", "--tolerance", "1e6", "--json") == 0
    assert json.loads(capsys.readouterr().out)["failed"] is False


@pytest.mark.slow
def test_one_that_calls_itself_exact_and_is_not_fails() -> None:
    """The same artifact as above, with the promise of an exact one."""
    rough = hire.Config(rules=(hire.Rule(kind="ffn", predictor=hire.Quantized(), density=0.125),))
    artifact = hire.rewrite(exported(), rough, weights=dotted(parameters()), platforms=("cpu",))
    exact = hire.rewrite(exported(), FULL, weights=dotted(parameters()), platforms=("cpu",))
    promise = exact.platform().promise
    assert promise.exact
    assert promise.agreement == 1.0
    artifact.manifest.platforms["cpu"] = replace(artifact.platform(), promise=promise)
    found = verify(artifact, exported(), weights=dotted(parameters()))
    assert [failure.partition(":")[0] for failure in found.failures] == ["['best']", "['token']"]
    assert not verify(exact, exported(), weights=dotted(parameters())).failures


def test_weights_of_another_model_are_refused(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "other.npz", **dotted(parameters(7)))
    capsys.readouterr()
    assert verified(files, "exact.hire", weights=tmp_path / "other.npz") == 2
    out, err = capsys.readouterr()
    assert not out
    assert "is not the weight that" in err
    assert len(err.splitlines()) == 1
    # One that was never saved knows its weights as well.
    artifact = hire.rewrite(exported(), CERTIFIED, weights=dotted(parameters()), platforms=("cpu",))
    one_off = dotted(parameters())
    one_off["mlp.bias"] = one_off["mlp.bias"] + np.eye(1, one_off["mlp.bias"].size, 3, dtype=np.float32)[0] * 1e-3
    with pytest.raises(hire.WeightError, match="is not the weight that"):
        verify(artifact, exported(), weights=one_off)


def test_of_results_without_integers_none_agree(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def floats(params: Any, tokens: Any, cache: Any) -> Any:
        return (params["embed"][tokens] + cache[0]) @ params["embed"].T

    one = exported(floats)
    (tmp_path / "m.jax_export").write_bytes(one.serialize())
    np.savez(tmp_path / "w.npz", embed=parameters()["embed"])
    hire.rewrite(one, weights=tmp_path / "w.npz", platforms=("cpu",)).save(tmp_path / "a.hire")
    command = ["verify", "a.hire", "--original", "m.jax_export", "--weights", "w.npz"]
    assert main([c if c.startswith("-") or c == "verify" else str(tmp_path / c) for c in command]) == 0
    out = capsys.readouterr().out
    assert "largest relative error" in out
    assert "integers" not in out
    artifact = hire.load(tmp_path / "a.hire")
    assert verify(artifact, one, weights=tmp_path / "w.npz").token_agreement is None


def test_a_planned_error_is_what_a_calibrated_block_has_to_meet(tmp_path: Path) -> None:
    site = hire.Site(id="ffn/0", kind="ffn", path="", activation="relu", batch=1, d=16, width=64, dtype="float32")
    decision = hire.Decision(
        site="ffn/0", action="rewritten", reason="", exactness="approximate: …", recall=0.97, error=0.04
    )
    report = hire.Report(sites=(replace(site, repeat=4),), decisions=(decision,))
    promise = promised(report, [TensorSpec((1, 16), "float32")])
    assert promise.error == pytest.approx(SLACK * 0.04 * 2)  # of four layers
    assert not promise.exact
    off = Difference("y", "float32[1, 16]")
    add_differences([off], [np.ones((1, 16), np.float32)], [np.full((1, 16), 1.1, np.float32)], set())
    assert off.rms == pytest.approx(0.1, rel=1e-5)
    assert not promise.broken_by([off], None, None)
    add_differences([off], [np.ones((1, 16), np.float32)], [np.full((1, 16), 1.3, np.float32)], set())
    assert promise.broken_by([off], None, None)
    assert not promise.broken_by([off], 0.5, None)


def test_predicted_logits_are_held_to_their_recall(tmp_path: Path) -> None:
    def logits(embed: Any, x: Any) -> Any:
        return x @ embed.T

    # Rows of very different sizes: a predictor of rank one finds the wrong ones.
    rng = np.random.default_rng(0)
    embed, x = rng.standard_normal((4096, 64), np.float32), jax.ShapeDtypeStruct((1, 64), jnp.float32)
    one = jax.export.export(jax.jit(logits))(jax.ShapeDtypeStruct(embed.shape, embed.dtype), x)
    found = {}
    for rank in (1, 64):
        rule = hire.Rule(kind="head", predictor=hire.LowRank(rank=rank), candidates=64)
        weights = {"embed": embed}
        artifact = hire.rewrite(one, hire.Config(rules=(rule,)), weights=weights, platforms=("cpu",))
        if not any(d["action"] == "rewritten" for d in artifact.report()["cpu"]["decisions"]):
            continue
        assert artifact.platform().promise.logits == (4096,)
        found[rank] = verify(artifact, one, weights=weights, trials=4).failures
    assert "recall@" in found[1][0]


@pytest.mark.parametrize(("wanted", "got"), [(np.nan, 0.0), (np.inf, 0.0), (0.0, np.nan), (np.inf, -np.inf)])
def test_a_number_that_is_none_on_one_side_fails(wanted: float, got: float) -> None:
    promise = promised(hire.Report(), [TensorSpec((2,), "float32")])
    off = Difference("y", "float32[2]")
    add_differences([off], [np.array([1.0, wanted], np.float32)], [np.array([1.0, got], np.float32)], set())
    assert promise.broken_by([off], None, None)
    same = Difference("y", "float32[2]")
    add_differences([same], [np.array([1.0, wanted], np.float32)], [np.array([1.0, wanted], np.float32)], set())
    assert not promise.broken_by([same], None, None)


def test_rounding_allows_what_dtype_and_width_explain() -> None:
    site = hire.Site(id="head/0", kind="head", path="", batch=1, d=2048, width=32768, dtype="float32")
    wide = promised(hire.Report(sites=(site,)), [TensorSpec((1,), "float32")]).tolerance
    narrow = promised(hire.Report(sites=(replace(site, d=16, width=64),)), [TensorSpec((1,), "float32")]).tolerance
    coarse = promised(hire.Report(sites=(replace(site, dtype="bfloat16"),)), [TensorSpec((1,), "float32")]).tolerance
    assert 1e-6 < narrow < wide < 1e-4 < coarse < 0.05
