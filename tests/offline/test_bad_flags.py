"""Bad flags and rules end in one line and exit code 2; what is interrupted or killed loses nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.cli import main
from tests.support.exports import CERTIFIED, dotted, inputs, parameters, step, write_all
from tests.support.trust import ARTIFACT_FILES, FILE_SEEDS, MODELS, refused, snapshot


def copied(one: Path, other: Path) -> None:
    (shutil.copytree if one.is_dir() else shutil.copy)(one, other)


def test_other_versions_and_other_weights_are_told_apart(
    good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(good / "model.folder", tmp_path / "a.folder")
    manifest = tmp_path / "a.folder" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format_version": 99}))
    assert "written in format version 99" in refused(["run", str(tmp_path / "a.folder")], capfd, tmp_path)
    manifest.write_text(json.dumps({**content, "name": "another"}))
    assert "checksum is wrong" in refused(["run", str(tmp_path / "a.folder")], capfd, tmp_path)
    manifest.write_text(json.dumps({"format": "something else"}))
    assert "not the manifest of an artifact" in refused(["run", str(tmp_path / "a.folder")], capfd, tmp_path)


@pytest.mark.slow
def test_weights_of_another_model_are_refused_and_new_ones_only_when_asked(
    good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(good / "model.folder", tmp_path / "a.folder")
    write_all(tmp_path, seed=5)
    command = ["prepare", str(tmp_path / "a.folder"), "--weights", str(tmp_path / "weights.safetensors")]
    message = refused(command, capfd, tmp_path)
    assert "is not the weight that" in message
    assert main([*command, "--new-weights"]) == 0
    found = hire.load(tmp_path / "a.folder")(*inputs())
    wanted = step(parameters(5), *inputs())
    np.testing.assert_allclose(found["best"], wanted["best"], rtol=1e-4)
    # A weights file of another artifact in the right place, under the right name.
    other = hire.rewrite(
        good / "model.jax_export",
        hire.Config(rules=(hire.Rule(kind="head", predictor=hire.LowRank(rank=4), density=1.0),)),
        weights=dotted(parameters()),
        platforms=("cpu",),
    )
    other.save(tmp_path / "b.folder")
    shutil.copy(tmp_path / "b.folder" / "weights.cpu.safetensors", tmp_path / "a.folder" / "weights.cpu.safetensors")
    capfd.readouterr()
    assert "the weights of another artifact" in refused(["run", str(tmp_path / "a.folder")], capfd, tmp_path)


def test_what_is_rewritten_already_says_so(good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = ["-o", str(tmp_path / "out")]
    for target in (good / "model.hire", good / "model.folder", good / "model.folder" / "step.cpu.jax_export"):
        assert "rewritten already" in refused(["rewrite", str(target), *output], capfd, tmp_path)


FLAGS: dict[str, tuple[list[str], str]] = {
    "no verb": ([], "required: VERB"),
    "unknown verb": (["compile", "MODEL"], "invalid choice"),
    "inspect without file": (["inspect"], "required: file"),
    "unknown flag": (["inspect", "MODEL", "--frob"], "unrecognized arguments"),
    "abbreviated flag": (["inspect", "MODEL", "--js"], "unrecognized arguments"),
    "extra argument": (["inspect", "MODEL", "MODEL"], "unrecognized arguments"),
    "no such file": (["inspect", "nowhere.mlir"], "no such file"),
    "a directory": (["inspect", "."], "is a directory"),
    "bad dim": (["inspect", "MODEL", "--dim", "b"], "not NAME=SIZE"),
    "dim zero": (["inspect", "MODEL", "--dim", "b=0"], "not NAME=SIZE"),
    "dim negative": (["inspect", "MODEL", "--dim", "b=-1"], "not NAME=SIZE"),
    "dim unknown": (["inspect", "MODEL", "--dim", "b=1"], "no symbolic dimension 'b'"),
    "rewrite without output": (["rewrite", "MODEL"], "required: -o"),
    "output in nowhere": (["rewrite", "MODEL", "-o", "no/where/out"], "is no directory"),
    "output exists": (["rewrite", "MODEL", "-o", "ARTIFACT"], "exists already"),
    "output is a file": (["rewrite", "MODEL", "-o", "MODEL", "--force"], "exists already"),
    "force on a directory": (["rewrite", "MODEL", "-o", "FOLDER", "--force"], "exists already"),
    "platform unknown": (["rewrite", "MODEL", "-o", "OUT", "--platform", "npu"], "platform 'npu' is unknown"),
    "rules missing": (["rewrite", "MODEL", "-o", "OUT", "--rules", "nowhere.toml"], "No such file"),
    "calibration missing": (["rewrite", "MODEL", "-o", "OUT", "--calibration", "nowhere"], "no such file"),
    "calibration is weights": (["rewrite", "MODEL", "-o", "OUT", "--calibration", "WEIGHTS"], "no calibration"),
    "weights missing": (["rewrite", "MODEL", "-o", "OUT", "--weights", "nowhere"], "no such file"),
    "weights are a model": (["rewrite", "MODEL", "-o", "OUT", "--weights", "MODEL"], "neither a safetensors"),
    "weights are inputs": (["rewrite", "MODEL", "-o", "OUT", "--weights", "INPUTS"], "the weights lack"),
    "weights twice": (["rewrite", "MODEL", "-o", "OUT", "--weights", "WEIGHTS", "WEIGHTS"], "stands both in"),
    "map without weights": (["rewrite", "MODEL", "-o", "OUT", "--map", "a=b"], "but no weights"),
    "map without equals": (["rewrite", "MODEL", "-o", "OUT", "--map", "a"], "not ARGUMENT=TENSOR"),
    "map to nothing": (["rewrite", "MODEL", "-o", "OUT", "--weights", "WEIGHTS", "--map", "x=embed"], "no argument of"),
    "map from nothing": (["rewrite", "MODEL", "-o", "OUT", "--weights", "WEIGHTS", "--map", "embed=x"], "is not in"),
    "map to another shape": (
        ["rewrite", "MODEL", "-o", "OUT", "--weights", "WEIGHTS", "--map", "embed=mlp.up"],
        "is float32[512, 16], but",
    ),
    "parameters no regex": (["rewrite", "MODEL", "-o", "OUT", "--parameters", "("], "no regular expression"),
    "parameters name nothing": (["rewrite", "MODEL", "-o", "OUT", "--parameters", "xyz"], "names no argument"),
    "prepare without weights": (["prepare", "ARTIFACT"], "required: --weights"),
    "prepare no artifact": (["prepare", "MODEL", "--weights", "WEIGHTS"], "is a file"),
    "prepare with inputs": (["prepare", "BARE", "--weights", "INPUTS"], "no tensor of"),
    "run no artifact": (["run", "FOLDER"], "is no artifact"),
    "run nothing": (["run", "nowhere"], "no such artifact"),
    "run unprepared": (["run", "BARE"], "holds no weights"),
    "run other inputs": (["run", "ARTIFACT", "--inputs", "WEIGHTS"], "lacks the input 'tokens'"),
    "run repeat zero": (["run", "ARTIFACT", "--repeat", "0"], "no whole number"),
    "run seed x": (["run", "ARTIFACT", "--seed", "x"], "no whole number"),
    "run output directory": (["run", "ARTIFACT", "-o", "FOLDER"], "is a directory"),
    "run output nowhere": (["run", "ARTIFACT", "-o", "no/where"], "is no directory"),
    "verify without original": (["verify", "ARTIFACT"], "required: --original"),
    "verify without weights": (["verify", "ARTIFACT", "--original", "MODEL"], "neither among the weights"),
    "verify another model": (["verify", "ARTIFACT", "--original", "TEXT", "--weights", "WEIGHTS"], "another model"),
    "verify tolerance": (["verify", "ARTIFACT", "--original", "MODEL", "--tolerance", "-1"], "no number of at least"),
    "verify trials": (["verify", "ARTIFACT", "--original", "MODEL", "--trials", "0"], "no whole number"),
    "calibrate without inputs": (["calibrate", "MODEL", "-o", "OUT"], "required: --inputs"),
    "calibrate kind": (["calibrate", "MODEL", "-o", "OUT", "--inputs", "INPUTS", "--kind", "x"], "invalid choice"),
    "calibrate without weights": (["calibrate", "MODEL", "-o", "OUT", "--inputs", "INPUTS"], "lacks the input"),
    "report no artifact": (["report", "MODEL"], "is a file"),
    "report nothing": (["report", "nowhere"], "no such artifact"),
}


@pytest.mark.diagonal(keep=1)
@pytest.mark.parametrize("case", FLAGS)
def test_a_bad_flag_is_one_line(case: str, good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments, expected = FLAGS[case]
    shutil.copytree(good, tmp_path / "files")
    names = {
        "MODEL": "model.jax_export", "TEXT": "model.mlir", "ARTIFACT": "model.folder", "BARE": "bare.folder",
        "WEIGHTS": "weights.safetensors", "INPUTS": "inputs.npz", "FOLDER": "", "OUT": "out",
    }  # fmt: skip
    given = [str(tmp_path / "files" / names[a]) if a in names else a for a in arguments]
    assert expected in refused(given, capfd, tmp_path)


RULES: dict[str, tuple[str, str]] = {
    "no TOML": ("[[rule", "is no TOML"),
    "unknown table": ("[rules]", "no field 'rules'"),
    "rule is no list": ("[rule]\nkind='head'", "tables [[rule]]"),
    "no kind": ("[[rule]]\ndensity=1.0", "rule 0 lacks kind"),
    "bad kind": ("[[rule]]\nkind='tail'\ndense=true", "kind must be"),
    "unknown field": ("[[rule]]\nkind='head'\ndepth=3", "no field 'depth'"),
    "unknown predictor": ("[[rule]]\nkind='head'\npredictor='Oracle'\ndensity=1.0", "predictor is 'Oracle'"),
    "predictor is a number": ("[[rule]]\nkind='head'\npredictor=8\ndensity=1.0", "predictor is 8"),
    "predictor without rank": ("[[rule]]\nkind='head'\npredictor='LowRank'\ndensity=1.0", "LowRank"),
    "predictor with more": ("[[rule]]\nkind='head'\npredictor={type='Quantized',rank=3}\ndensity=1.0", "field 'rank'"),
    "rank negative": ("[[rule]]\nkind='head'\npredictor={type='LowRank',rank=-3}\ndensity=1.0", "at least 1"),
    "rank a string": ("[[rule]]\nkind='head'\npredictor={type='LowRank',rank='x'}\ndensity=1.0", "whole number"),
    "density zero": ("[[rule]]\nkind='head'\npredictor='Quantized'\ndensity=0.0", "must be in (0, 1]"),
    "density two": ("[[rule]]\nkind='head'\npredictor='Quantized'\ndensity=2.0", "must be in (0, 1]"),
    "density a string": ("[[rule]]\nkind='head'\npredictor='Quantized'\ndensity='x'", "must be a number"),
    "density and more": (
        "[[rule]]\nkind='head'\npredictor='Quantized'\ndensity=1.0\ncandidates=3",
        "exactly one",
    ),
    "path no regex": ("[[rule]]\nkind='head'\npath='('\ndense=true", "regular expression"),
    "path a number": ("[[rule]]\nkind='head'\npath=3\ndense=true", "regular expression"),
    "path matches nothing": ("[[rule]]\nkind='head'\npath='layer_99'\ndense=true", "matched nothing"),
    "group no divisor": ("[[rule]]\nkind='ffn'\npredictor='Quantized'\ndensity=1.0\ngroup=7", "does not divide"),
    "rank above d": ("[[rule]]\nkind='head'\npredictor={type='LowRank',rank=99}\ndensity=1.0", "rank 99"),
    "more candidates than rows": ("[[rule]]\nkind='head'\npredictor='Quantized'\ncandidates=9999", "9999"),
    "exact is a string": ("exact='no'\n[[rule]]\nkind='ffn'\npredictor='Quantized'\ndensity=1.0", "exact"),
    "map is a list": ("map=[1]", "[map]"),
    "map of numbers": ("[map]\na=1", "[map]"),
    "unknown top field": ("speed='high'", "no field 'speed'"),
    "not utf-8": ("\udcff", "no TOML"),
}


@pytest.mark.parametrize("case", RULES)
def test_bad_rules_are_one_line(case: str, good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, expected = RULES[case]
    path = tmp_path / "rules.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    command = ["rewrite", str(good / "model.jax_export"), "--rules", str(path), "--platform", "cpu"]
    message = refused([*command, "-o", str(tmp_path / "out")], capfd, tmp_path)
    assert expected in message


@pytest.mark.parametrize("form", ["model.folder", "model.hire"])
def test_an_error_in_the_middle_of_saving_leaves_the_old_artifact(form: str, good: Path, tmp_path: Path) -> None:
    copied(good / form, tmp_path / form)
    before = snapshot(tmp_path)
    artifact = hire.rewrite(good / "model.jax_export", CERTIFIED, weights=good / "weights.npz", platforms=("cpu",))

    def stop(_what: str, done: int, _total: int) -> None:
        if done == 3:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        artifact.save(tmp_path / form, overwrite=True, progress=stop)
    assert snapshot(tmp_path) == before
    artifact.save(tmp_path / form, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [form]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "kills"), [("model.folder", 50), ("model.hire", 50)])
def test_kill_at_any_moment_of_rewrite_loses_nothing(form: str, kills: int, good: Path, tmp_path: Path) -> None:
    old = tmp_path / form
    copied(good / form, old)
    before = snapshot(tmp_path)
    command = [
        sys.executable, "-m", "hire_compiler", "rewrite", str(good / "model.jax_export"),
        "--weights", str(good / "weights.safetensors"), "--rules", str(good / "rules.toml"),
        "--platform", "cpu", "-o", str(old), "--force",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    whole = time.perf_counter() - start
    assert snapshot(tmp_path).keys() == before.keys()
    rng, outcomes = random.Random(0), {"old": 0, "new": 0}
    for trial in range(kills):
        # The first third is importing: most kills go where files are written.
        moment = whole * (rng.uniform(0.3, 1.05) if trial % 5 else rng.uniform(0, 0.3))
        running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        running.send_signal(signal.SIGKILL)
        running.wait()
        hire.load(old).weights()  # whole: every checksum is right
        outcomes["old" if running.returncode else "new"] += 1
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert [p.name for p in tmp_path.iterdir()] == [form]  # what the killed ones had begun is gone
    assert outcomes["old"] >= kills // 2


def count_cases() -> int:
    """How many bad files and flags there are, for the curious."""
    return len(FLAGS) + len(RULES) + (len(ARTIFACT_FILES) + len(FILE_SEEDS) + len(MODELS) + 4) * 12


def test_there_are_at_least_two_hundred_bad_cases() -> None:
    assert count_cases() >= 200
