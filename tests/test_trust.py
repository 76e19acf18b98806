"""Trust: bad files and flags end in one line and exit code 2, and nothing is changed or left half-written."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from exports import CERTIFIED, dotted, inputs, parameters, step, write_all

import hire_compiler as hire
from hire_compiler.cli import main
from hire_compiler.offline.archive import stretches


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in every form, its weights, and an artifact."""
    folder = tmp_path_factory.mktemp("good")
    write_all(folder)
    model, weights = folder / "model.jax_export", folder / "weights.safetensors"
    hire.rewrite(model, CERTIFIED, weights=weights, platforms=("cpu",)).save(folder / "model.folder")
    hire.load(folder / "model.folder").with_weights(weights).save(folder / "model.hire")
    hire.rewrite(model, CERTIFIED, platforms=("cpu",)).save(folder / "bare.folder")
    return folder


def copied(one: Path, other: Path) -> None:
    (shutil.copytree if one.is_dir() else shutil.copy)(one, other)


def snapshot(folder: Path) -> dict[str, str]:
    """A hash of every file below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str], folder: Path) -> str:
    """Run a command that must fail: its one line."""
    before = snapshot(folder)
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code  # type: ignore[assignment]
    out, err = capfd.readouterr()
    shown = f"{arguments}\n{out[-400:]}\n{err[-2000:]}"
    assert code == 2, shown
    assert not out, shown
    assert len(err.strip().splitlines()) == 1, shown
    assert err.startswith("hire-compiler: "), shown
    assert "Traceback" not in err, shown
    assert snapshot(folder) == before, shown
    return err


# --------------------------------------------------------------------------- mutations of good files


def mutations(data: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Truncations, flipped bytes, holes and swaps of a file."""
    rng = random.Random(seed)
    yield "empty", b""
    for share in (0.1, 0.5, 0.9):
        yield f"cut at {share}", data[: int(len(data) * share)]
    yield "last byte gone", data[:-1]
    for _ in range(3):
        at = rng.randrange(len(data))
        yield f"byte {at} flipped", data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
    at = rng.randrange(len(data) - 16)
    yield f"16 zeros at {at}", data[:at] + bytes(16) + data[at + 16 :]
    yield "noise", rng.randbytes(len(data))
    yield "noise behind", data + rng.randbytes(100)
    yield "half twice", data[: len(data) // 2] * 2


ARTIFACT_FILES = (
    "manifest.json",
    "step.cpu.jax_export",
    "check.cpu.jax_export",
    "weights.cpu.safetensors",
    "prepare",
    "plan.json",
    "report.json",
)


@pytest.mark.parametrize("file", ARTIFACT_FILES)
def test_a_damaged_artifact_is_told(file: str, good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(good / "model.folder", tmp_path / "a.folder")
    path = next(p for p in (tmp_path / "a.folder").iterdir() if p.name.startswith(file))
    data = path.read_bytes()
    for what, bad in mutations(data, seed=len(file)):
        path.write_bytes(bad)
        message = refused(["run", str(tmp_path / "a.folder")], capfd, tmp_path)
        assert path.name in message, (what, message)
        assert any(word in message for word in ("truncated", "corrupted", "another artifact")), (what, message)
    path.unlink()
    assert path.name in refused(["run", str(tmp_path / "a.folder")], capfd, tmp_path)


FILE_SEEDS = range(4)


@pytest.mark.parametrize("seed", FILE_SEEDS)
def test_a_damaged_artifact_of_one_file_is_told(
    seed: int, good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, path = (good / "model.hire").read_bytes(), tmp_path / "a.hire"
    for what, bad in mutations(data, seed):
        path.write_bytes(bad)
        if _is_harmless(what, path):
            continue
        message = refused(["run", str(path)], capfd, tmp_path)
        assert "a.hire" in message, (what, message)
        assert any(word in message for word in ("truncated", "corrupted", "another artifact", "no artifact")), message


def _is_harmless(what: str, path: Path) -> bool:
    """Whether a byte was changed that no checksum covers, such as a date in the table of the archive."""
    if "flipped" not in what and "zeros" not in what:
        return False
    try:
        return bool(hire.load(path).weights())
    except hire.HireError:
        return False


def test_every_member_of_an_artifact_of_one_file_is_checked(
    good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.hire"
    data = (good / "model.hire").read_bytes()
    with zipfile.ZipFile(good / "model.hire") as archive:
        names, members = archive.namelist(), {name: archive.read(name) for name in archive.namelist()}
    for name, content in members.items():
        at = stretches(good / "model.hire")[name][0] + len(content) // 2
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        assert f"a.hire/{name}" in refused(["run", str(path)], capfd, tmp_path)

    def packed(contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED, twice: str = "") -> list[str]:
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
            warnings.simplefilter("ignore")  # of names that stand there twice
            for name, content in [*contents.items(), *((twice, contents[n]) for n in [twice] if n)]:
                archive.writestr(name, content)
        return ["run", str(path)]

    assert main(packed(members)) == 0  # packed again by another hand, it is still an artifact
    capfd.readouterr()
    for name in names:
        without = {n: content for n, content in members.items() if n != name}
        expected = "it has no manifest.json" if name == "manifest.json" else f"{name} is missing"
        assert expected in refused(packed(without), capfd, tmp_path)
        assert "stands in it twice" in refused(packed(members, twice=name), capfd, tmp_path)
    assert "is compressed" in refused(packed(members, zipfile.ZIP_DEFLATED), capfd, tmp_path)
    assert "no manifest.json" in refused(["run", str(good / "inputs.npz")], capfd, tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"a comment"
    assert "something follows its end" in refused(["run", str(path)], capfd, tmp_path)


# What a flipped byte leaves may still be a model: then nothing has to fail, but nothing may crash either.
MODELS = ("model.jax_export", "model.vhlo", "model.mlir")


# As the command line reads them, each in a child: jaxlib may crash or come to no end, which depends on where in the
# file the paths of this very checkout lie.
READER = """
import sys
import jax
from hire_compiler.cli import main, supervise
supervise.READING = 3.0
for path in sys.argv[1:]:
    code = supervise.supervised(lambda: main(["inspect", path]))
    for stream in (sys.stdout, sys.stderr):
        print(f"exit {code}", file=stream, flush=True)
"""


def inspected(paths: list[Path]) -> list[tuple[int, str, str]]:
    """The exit code, the output and the message of the command line about every file."""
    done = subprocess.run(
        [sys.executable, "-c", READER, *map(str, paths)], capture_output=True, text=True, check=True, timeout=300
    )
    codes = [int(code) for code in re.findall(r"^exit (\d+)$", done.stdout, re.MULTILINE)]
    out, err = (re.split(r"^exit \d+\n", text, flags=re.MULTILINE)[:-1] for text in (done.stdout, done.stderr))
    return list(zip(codes, out, err, strict=True))


@pytest.mark.parametrize("form", MODELS)
def test_a_damaged_model_is_one_line_or_still_a_model(form: str, good: Path, tmp_path: Path) -> None:
    paths = []
    for number, (_, bad) in enumerate(mutations((good / form).read_bytes(), seed=1)):
        paths.append(tmp_path / f"{number}.{form}")
        paths[-1].write_bytes(bad)
    results = inspected(paths)
    assert len(results) == len(paths)
    for path, (code, out, err) in zip(paths, results):
        assert code in (0, 2), path.name
        named = path.name in err or "is the file corrupted?" in err
        assert (len(err.strip().splitlines()) == 1 and named) if code else out, (path.name, err)
    assert sum(code == 2 for code, _, _ in results) >= 6


def test_a_file_that_leads_the_reader_in_a_circle_is_one_line() -> None:
    """One flipped byte: a source location that refers to itself."""
    ((code, out, err),) = inspected([Path(__file__).parent / "hostile" / "circle.vhlo"])
    assert (code, out) == (2, "")
    assert err == "hire-compiler: the reader inside jaxlib came to no end: is the file corrupted?\n"


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.npz", "inputs.npz", "rules.toml"])
def test_damaged_weights_inputs_and_rules_change_nothing(
    file: str, good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, weights = str(good / "model.jax_export"), str(good / "weights.safetensors")
    # Other numbers in a file without checksums are still a file.
    harmless = ("byte", "16", "half twice", "noise behind" if file.endswith(".npz") else "byte")
    cut = [bad for what, bad in mutations((good / file).read_bytes(), seed=2) if not what.startswith(harmless)]
    for bad in cut:
        path = tmp_path / file
        path.write_bytes(bad)
        output = ["-o", str(tmp_path / "out")]
        command = {
            "inputs.npz": ["run", str(good / "model.folder"), "--inputs", str(path), *output],
            "rules.toml": ["rewrite", model, "--weights", weights, "--rules", str(path), "--platform", "cpu", *output],
        }.get(file, ["rewrite", model, "--weights", str(path), "--platform", "cpu", *output])
        if file == "rules.toml" and _is_toml(bad):
            continue
        assert file in refused(command, capfd, tmp_path)


def _is_toml(data: bytes) -> bool:
    import tomllib

    try:
        return bool(tomllib.loads(data.decode())) or True
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False


# --------------------------------------------------------------------------- what is wrong on purpose


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


# --------------------------------------------------------------------------- nothing lost


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
