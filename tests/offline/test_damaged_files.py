"""Damaged files end in one line and exit code 2, and nothing is changed or left half-written."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import hire_compiler as hire
from hire_compiler.cli import main
from hire_compiler.offline.disk.archive import stretches
from tests.support.trust import ARTIFACT_FILES, FILE_SEEDS, MODELS, refused


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_file_that_leads_the_reader_in_a_circle_is_one_line() -> None:
    """One flipped byte: a source location that refers to itself."""
    ((code, out, err),) = inspected([Path(__file__).parents[1] / "hostile" / "circle.vhlo"])
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
