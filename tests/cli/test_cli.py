"""The command line from a file to tokens: every verb once, as text and as JSON."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from hire_compiler.cli import main
from hire_compiler.cli.examples import EXAMPLES
from hire_compiler.cli.parser import make_parser, with_verb
from hire_compiler.cli.show import show, table
from tests.support.exports import inputs, parameters, step, write_all


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_from_a_model_and_its_weights_to_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path)
    model, weights, given = (tmp_path / name for name in ("model.jax_export", "weights.safetensors", "inputs.npz"))
    learned, artifact, out = (tmp_path / name for name in ("learned.safetensors", "model.hire", "out.safetensors"))
    assert {s["kind"] for s in json.loads(run(capsys, "inspect", model, "--json"))["sites"]} == {"ffn", "head"}
    run(capsys, "calibrate", model, "--weights", weights, "--inputs", given, given, "-o", learned)
    rules = tmp_path / "low_rank.toml"
    rules.write_text('[[rule]]\nkind = "ffn"\npredictor = { type = "LowRank", rank = 16 }\ndensity = 1.0\n')
    options = (
        "--rules",
        rules,
        "--parameters",
        "^params",
        "--calibration",
        learned,
        "--platform",
        "cpu",
        "-o",
        artifact,
    )
    made = json.loads(run(capsys, "rewrite", model, *options, "--json"))
    assert made["platforms"]["cpu"]["stored"] == ""  # no weights yet
    assert "LowRank(rank=16" in run(capsys, "report", artifact)
    run(capsys, "prepare", artifact, "--weights", weights)
    said = json.loads(run(capsys, "run", artifact, "--inputs", given, "-o", out, "--repeat", "2", "--json"))
    assert said["seconds"] > 0
    wanted, found = step(parameters(), *inputs()), load_file(out)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[f"result['{name}']"], array, rtol=1e-4, atol=1e-4)
    text = run(capsys, "verify", artifact, "--original", model, "--weights", weights, "--inputs", given)
    assert "integers that agree 100.00%" in text
    assert "proof of head/0 held for" in text


@pytest.mark.slow
def test_a_model_is_compared_with_itself_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path)
    model, weights, artifact = (tmp_path / n for n in ("model.jax_export", "weights.safetensors", "a.hire"))
    found = json.loads(run(capsys, "compare", model, "--weights", weights, "--trials", "2", "--json"))
    assert (found["calls"], found["tokens"]["equal"]) == (2, found["tokens"]["total"])
    assert found["ratio"] > 0
    assert [timing["program"] for timing in found["timings"]] == ["as written", "rewritten"]
    assert found["dense_bytes"] > found["read_bytes"] > 0
    run(capsys, "rewrite", model, "--weights", weights, "--platform", "cpu", "-o", artifact)
    options = ("--original", model, "--weights", weights, "--inputs", tmp_path / "inputs.npz", "--time")
    timed = json.loads(run(capsys, "verify", artifact, *options, "--json"))
    assert timed["comparison"]["ratio"] > 0
    assert timed["comparison"]["outputs"][0]["name"] == timed["differences"][0]["name"]
    text = run(capsys, "verify", artifact, *options)
    assert "over as written" in text
    assert "integers that agree 100.00%" in text


def test_a_reader_that_crashes_is_one_line(tmp_path: Path) -> None:
    """In a process of its own: the crash kills it, and what is left says so."""
    program = (
        "import os, sys; from hire_compiler.cli.supervise import supervised\n"
        "def crash():\n    sys.stderr.write('half a mess'); os.abort()\n"
        "sys.exit(supervised(crash))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "hire-compiler: the reader or compiler inside jaxlib crashed (SIGABRT): is the file corrupted?"
    ]


def test_a_file_alone_is_inspected_or_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path)
    model, weights, artifact = (tmp_path / n for n in ("model.jax_export", "weights.safetensors", "a.hire"))
    assert run(capsys, model) == run(capsys, "inspect", model)
    assert json.loads(run(capsys, model, "--json"))["sites"]
    run(capsys, "rewrite", model, "--weights", weights, "--platform", "cpu", "-o", artifact)
    assert run(capsys, artifact) == run(capsys, "report", artifact)
    assert with_verb(["inspekt"]) == ["inspekt"]
    assert with_verb([]) == []


def test_the_version_takes_a_fifth_of_a_second() -> None:
    taken = []
    for _ in range(8):  # other work on the machine may slow any one of them
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import argparse, textwrap"], check=True)
        python = time.perf_counter() - start  # 0.03 s where nothing else runs
        done = subprocess.run([sys.executable, "-m", "hire_compiler", "--version"], capture_output=True, text=True)
        taken.append((time.perf_counter() - start - python) / max(python / 0.03, 1))
        assert done.stdout.startswith("hire-compiler ")
        if taken[-1] < 0.2:
            return
    pytest.fail(f"--version took {min(taken):.2f} s")


def test_tables_fit_eighty_columns_and_lose_nothing() -> None:
    rows = [["['cache'][12]['key']", "float32[1, 128, 4, 256]", "0.000123 (of 12.3) and some words more " * 2]] * 3
    text = table(("result", "type", "equal, or largest error"), rows)
    assert all(len(line) <= 80 for line in text.splitlines()), text
    assert text.count("words") == 6
    assert table(("a", "b"), [["1", "2"]]) == "a  b\n─  ─\n1  2"
    assert table(("a", ""), [["1", ""]]).splitlines()[-1] == "1"


def test_colours_are_for_terminals_and_change_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    text = "hire_compiler: on, 1 of 1 site rewritten\n  fast?    1.50× as fast [not markup]\nFAILED: " + "a word " * 30

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for out, coloured in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stdout", out)
        show(text)
        said = out.getvalue()
        assert ("\x1b[" in said) is coloured
        assert re.sub(r"\x1b\[[0-9;]*m", "", said).rstrip("\n") == text.rstrip("\n")


@pytest.mark.slow
def test_results_are_written_as_npz_where_they_are_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_all(tmp_path)
    model, weights, artifact = (tmp_path / n for n in ("model.jax_export", "weights.safetensors", "a.hire"))
    run(capsys, "rewrite", model, "--weights", weights, "--platform", "cpu", "-o", artifact)
    for name, read in (("out.npz", np.load), ("out.safetensors", load_file)):
        run(capsys, "run", artifact, "--inputs", tmp_path / "inputs.npz", "-o", tmp_path / name)
        np.testing.assert_array_equal(read(tmp_path / name)["result['token']"], step(parameters(), *inputs())["token"])


VERBS = (
    "inspect",
    "calibrate",
    "rewrite",
    "prepare",
    "upgrade",
    "run",
    "verify",
    "adapt",
    "compare",
    "estimate",
    "report",
)


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_of_every_verb_are_commands_that_it_takes(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    text = capsys.readouterr().out
    assert "--json" in text
    assert EXAMPLES[verb]
    for example in EXAMPLES[verb]:
        assert f"hire-compiler {verb} {example}" in text
        assert make_parser().parse_args([verb, *shlex.split(example, comments=True)]).verb == verb
