"""A rule that one platform cannot keep costs that platform's program, and no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.cli import main
from tests.support.exports import dotted, exported, inputs, parameters, step, write_all

STRICT = hire.Config(
    rules=(hire.Rule(kind="head", predictor=hire.Quantized(bits=8), candidates=128, certify="strict"),)
)
README = """
[[rule]]
kind = "head"
predictor = { type = "Quantized", bits = 8 }
candidates = 256
certify = "strict"
"""


@pytest.mark.slow
def test_the_rules_of_the_readme_make_an_artifact_with_default_platforms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_all(tmp_path)
    (tmp_path / "rules.toml").write_text(README)
    model, weights, rules, out = (
        str(tmp_path / n) for n in ("model.jax_export", "weights.safetensors", "rules.toml", "m.hire")
    )
    (tmp_path / "model.jax_export").write_bytes(exported(platforms=("cpu", "tpu")).serialize())
    assert main(["rewrite", model, "--weights", weights, "--rules", rules, "-o", out]) == 0
    said = capsys.readouterr().out
    said = " ".join(said.split())  # lines are broken to fit a terminal
    assert "note there is no program for tpu: rule 0 on head/0" in said
    assert "not computed in full float32 on tpu" in said
    artifact = hire.load(out)
    assert list(artifact.manifest.platforms) == ["cpu"]
    np.testing.assert_array_equal(artifact(*inputs())["token"], step(parameters(), *inputs())["token"])
    with pytest.raises(hire.ArtifactError, match=r"none for tpu: rule 0 on head/0 .* float32 on tpu"):
        artifact.platform("tpu")


@pytest.mark.parametrize("platforms", [("tpu",), ("tpu", "cuda")])
def test_a_rule_that_no_platform_keeps_is_an_error(platforms: tuple[str, ...]) -> None:
    with pytest.raises(hire.ConfigError, match="not computed in full float32 on tpu"):
        hire.rewrite(exported(platforms=platforms), STRICT, weights=dotted(parameters()), platforms=platforms)


def test_a_mistake_in_a_rule_is_an_error_on_every_platform() -> None:
    wrong = hire.Config(rules=(hire.Rule(kind="head", path="layer_99", dense=True),))
    with pytest.raises(hire.ConfigError, match="matched nothing"):
        hire.rewrite(exported(platforms=("cpu", "tpu")), wrong, weights=dotted(parameters()))
