"""Hostile files and moments: what is wrong is one line and exit code 2, and nothing is half-written."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exports import CERTIFIED, inputs, parameters, step, write_all

import hire_compiler as hire
from hire_compiler.cli import main
from hire_compiler.offline.atomic import new_directory, new_file
from hire_compiler.offline.manifest import _hash


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_all(folder)
    model, weights = folder / "model.jax_export", folder / "weights.safetensors"
    hire.rewrite(model, CERTIFIED, weights=weights, platforms=("cpu",)).save(folder / "model.hire")
    return folder


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    assert main([str(part) for part in command]) == 2, command
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1, err
    assert err.startswith("hire-compiler: ")
    assert "HIRE_TRACEBACK" not in err, err
    return err


# --------------------------------------------------------------------------- archives


def _packed(path: Path, change: Callable[[zipfile.ZipInfo], None] | None = None, **more: bytes) -> Path:
    members = members_of(path) | more
    target = path.with_name("changed.hire")
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w") as archive:
        warnings.simplefilter("ignore")
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if change is not None and name == "plan.json":
                change(info)
            archive.writestr(info, content)
    return target


def test_names_links_and_compression_inside_an_archive_are_refused(
    good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = good / "model.hire"
    assert main(["run", str(_packed(path))]) == 0
    capsys.readouterr()
    for name in ("../evil", "/etc/evil", "a/b", "..", "C:evil", "a\\b", "é"):
        assert "no plain name of a file" in refused(capsys, "run", _packed(path, **{name: b""})), name

    def link(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    def deflated(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_DEFLATED

    assert "is a link or a device" in refused(capsys, "run", _packed(path, link))
    assert "is compressed" in refused(capsys, "run", _packed(path, deflated))


def test_a_bomb_costs_nothing(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A member of 256 megabytes in a few hundred kilobytes; it is refused by its header, not unpacked."""
    bomb = good / "bomb.hire"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("manifest.json", "w") as file:
        for _ in range(16):
            file.write(bytes(1 << 24))
    start = time.perf_counter()
    assert "is compressed" in refused(capsys, "run", bomb)
    assert time.perf_counter() - start < 5


def _central(data: bytes, name: bytes) -> int:
    """Where the record of a member begins in the table of an archive."""
    at = data.rindex(b"PK\x01\x02")
    while data[at + 46 : at + 46 + len(name)] != name:
        at = data.rindex(b"PK\x01\x02", 0, at)
    return at


def test_sizes_and_places_that_cannot_be_are_refused(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = _packed(good / "model.hire").read_bytes()
    plan, report = _central(data, b"plan.json"), _central(data, b"report.json")

    def changed(at: int, value: bytes) -> Path:
        path = good / "changed.hire"
        path.write_bytes(data[:at] + value + data[at + len(value) :])
        return path

    huge = (0xFFFFFFF0).to_bytes(4, "little")
    assert "truncated or corrupted" in refused(capsys, "run", changed(report + 20, huge * 2))  # both of its sizes
    assert "is compressed" in refused(capsys, "run", changed(report + 24, huge))  # one of them
    assert "is encrypted" in refused(capsys, "run", changed(plan + 8, b"\x01"))
    refused(capsys, "run", changed(report + 42, huge))  # it lies nowhere
    refused(capsys, "run", changed(report + 46, b"Report.json"))  # two names for one member


# --------------------------------------------------------------------------- manifests with the right checksum


@pytest.mark.parametrize("count", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_an_edited_manifest_is_refused_or_harmless(count: int, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every value of it in turn becomes something else, and its checksum is made to fit."""
    members = members_of(good / "model.hire")
    content = json.loads(members["manifest.json"])
    del content["checksum"]
    rng, tried, failed = random.Random(count), 0, 0
    wanted = step(parameters(), *inputs())["token"]
    places = list(_places(content))
    for place in rng.sample(places, min(count, len(places))):
        for value in (None, -1, 1 << 62, "../../etc/passwd", [], {}):
            edited = json.loads(json.dumps(content))
            holder = edited
            for key in place[:-1]:
                holder = holder[key]
            if holder[place[-1]] == value:
                continue
            holder[place[-1]] = value
            manifest = json.dumps(edited | {"checksum": _hash(edited)}).encode()
            path = _packed(good / "model.hire", **{"manifest.json": manifest})
            code = main(["run", str(path), "--inputs", str(good / "inputs.npz")])
            out, err = capsys.readouterr()
            tried += 1
            assert code in (0, 2), (place, value, err)
            if code == 2:
                failed += 1
                assert len(err.splitlines()) == 1, (place, value, err)
                assert "HIRE_TRACEBACK" not in err, (place, value, err)
            else:
                assert all(str(token) in out for token in np.asarray(wanted).tolist()), (place, value)
    assert tried > 5 * count // 2
    assert failed > tried // 3


def _places(content: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    found = [path] if path else []
    for key, value in entries:
        found += _places(value, (*path, key))
    return found


# --------------------------------------------------------------------------- flipped bits


@pytest.mark.parametrize("count", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_is_told_or_harmless(count: int, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, path = (good / "model.hire").read_bytes(), good / "flipped.hire"
    main(["run", str(good / "model.hire"), "--inputs", str(good / "inputs.npz"), "--json"])
    wanted = json.loads(capsys.readouterr().out)["results"]
    rng, told = random.Random(count), 0
    for _ in range(count):
        at = rng.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :])
        code = main(["run", str(path), "--inputs", str(good / "inputs.npz"), "--json"])
        out, err = capsys.readouterr()
        if code == 0:
            assert json.loads(out)["results"] == wanted, at
            continue
        told += 1
        assert code == 2, at
        assert len(err.splitlines()) == 1, (at, err)
        assert "HIRE_TRACEBACK" not in err, (at, err)
    assert told > count * 0.8


# --------------------------------------------------------------------------- outputs


@pytest.fixture(params=["pipe", "socket", "device", "directory"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "out.hire"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    elif request.param == "device":
        path.symlink_to("/dev/null")
    else:
        path.mkdir()
    return path


def test_an_output_that_is_no_file_is_refused_at_once(
    no_file: Path, good: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("hire_compiler.offline.rewrite.rewrite_program", never)
    monkeypatch.setattr("hire_compiler.offline.calibrate.instrument_program", never)
    monkeypatch.setattr("jax.block_until_ready", never)
    kind = stat.S_IFMT(no_file.stat().st_mode)
    model, weights, given = good / "model.jax_export", good / "weights.safetensors", good / "inputs.npz"
    refused(capsys, "rewrite", model, "--weights", weights, "-o", no_file, "--force")
    refused(capsys, "calibrate", model, "--weights", weights, "--inputs", given, "-o", no_file)
    refused(capsys, "run", good / "model.hire", "-o", no_file)
    refused(capsys, "prepare", good / "model.hire", "--weights", weights, "-o", no_file, "--force")
    refused(capsys, "upgrade", good / "model.hire", "-o", no_file, "--force")
    assert stat.S_IFMT(no_file.stat().st_mode) == kind
    assert len(list(no_file.parent.iterdir())) == 1


@pytest.mark.parametrize("verb", ["run", "report", "inspect"])
def test_an_input_that_never_ends_is_refused(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is a device" in refused(capsys, verb, "/dev/zero")


def test_a_pipe_as_artifact_or_weights_does_not_hang(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe" in refused(capsys, "run", tmp_path / "pipe")
    command = ("rewrite", good / "model.jax_export", "-o", tmp_path / "out.hire", "--platform", "cpu")
    assert "is a pipe" in refused(capsys, *command, "--weights", tmp_path / "pipe")
    assert "is a pipe" in refused(capsys, *command, "--calibration", tmp_path / "pipe")


# --------------------------------------------------------------------------- disks, folders, two writers


def command_line(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    whole = [sys.executable, "-m", "hire_compiler", *map(str, command)]
    return subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("form", ["out.hire", "out"])
def test_a_disk_that_takes_no_more_leaves_nothing(form: str, good: Path, tmp_path: Path) -> None:
    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = ("rewrite", good / "model.jax_export", "--weights", good / "weights.safetensors", "--platform", "cpu")
    done = command_line(*command, "-o", tmp_path / form, preexec_fn=little_room)
    assert done.returncode == 2, done
    assert done.stderr == f"hire-compiler: {tmp_path / form}: File too large\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_that_nobody_can_take_is_one_line(good: Path) -> None:
    with open("/dev/full", "w") as full:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "hire_compiler", "report", str(good / "model.hire")]
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_said_at_once(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written" in refused(capsys, "rewrite", good / "model.jax_export", "-o", tmp_path / "out.hire")


def test_a_folder_that_takes_no_files_is_said_at_once(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != tmp_path)
    assert "cannot be written" in refused(capsys, "rewrite", good / "model.jax_export", "-o", tmp_path / "out.hire")


@pytest.mark.parametrize("form", ["file", "directory"])
def test_of_two_writers_the_later_needs_leave_to_replace_the_earlier(form: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    make = new_file if form == "file" else new_directory

    def write(one: Path, text: str) -> None:
        (one if form == "file" else one / "x").write_text(text)

    def read() -> str:
        return (path if form == "file" else path / "x").read_text()

    def both_at_once() -> None:
        with make(path, replaces=lambda _: False) as first:
            write(first, "first")
            with make(path, replaces=lambda _: False) as second:
                write(second, "second")

    with pytest.raises(hire.HireError, match="exists already"):
        both_at_once()
    assert read() == "second"
    with make(path, replaces=lambda _: True) as first:
        write(first, "third")
        with make(path, replaces=lambda _: True) as second:
            write(second, "fourth")
    assert read() == "third"
    assert list(tmp_path.iterdir()) == [path]


def test_many_writers_of_one_path_leave_one_whole_file(tmp_path: Path) -> None:
    path, errors = tmp_path / "out", []

    def write(number: int) -> None:
        try:
            for _ in range(20):
                with new_file(path) as temporary:
                    temporary.write_text(f"{number}" * 10_000)
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    text = path.read_text()
    assert len(text) == 10_000
    assert len(set(text)) == 1
    assert list(tmp_path.iterdir()) == [path]


# --------------------------------------------------------------------------- interrupts

LINE = "hire-compiler: interrupted; no file is half-written\n"


@pytest.mark.parametrize("count", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_an_interrupt_at_any_moment_is_one_line(count: int, good: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hire_compiler", "rewrite", str(good / "model.jax_export"), "--platform", "cpu"]
    command += ["--weights", str(good / "weights.safetensors"), "-o", str(tmp_path / "out.hire"), "--force"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    whole, rng, interrupted = time.perf_counter() - start, random.Random(count), 0
    for trial in range(count):
        running = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        time.sleep(0.15 + rng.uniform(0, whole))  # the first moments are Python's own
        # A terminal interrupts the whole group, a script the process that it started.
        (os.killpg if trial % 2 else os.kill)(running.pid, signal.SIGINT)
        err = running.communicate(timeout=60)[1]
        assert running.returncode in (0, 130), (running.returncode, err)
        if running.returncode == 130:
            interrupted += 1
            assert err == LINE
        hire.load(tmp_path / "out.hire").weights()  # whole, the old one or the new
        assert [path.name for path in tmp_path.iterdir()] == ["out.hire"]
    assert interrupted >= count // 4  # the others were done before: a busy machine measures the first run too long


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "ImportError", "SystemError"])
def test_whatever_an_interrupt_turns_into_is_one_line(raised: str) -> None:
    """Inside imports and C++ it becomes any other error."""
    program = (
        "import os, signal, sys, time; from hire_compiler.cli.supervise import supervised\n"
        "def work():\n"
        "    try:\n        os.kill(os.getppid(), signal.SIGINT); time.sleep(20)\n"
        f"    except KeyboardInterrupt:\n        raise {raised}('half an import')\n"
        "sys.exit(supervised(work))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (130, LINE)


def test_a_command_that_does_not_stop_is_stopped_by_the_second_interrupt() -> None:
    program = (
        "import os, signal, sys, time; from hire_compiler.cli.supervise import supervised\n"
        "def work():\n"
        "    signal.signal(signal.SIGINT, signal.SIG_IGN); print('ready', flush=True)\n    time.sleep(60)\n"
        "sys.exit(supervised(work))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        for _ in range(2):
            running.send_signal(signal.SIGINT)
            time.sleep(0.3)
        _, err = running.communicate(timeout=5)
    assert (running.returncode, err) == (130, LINE)
