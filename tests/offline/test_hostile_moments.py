"""Hostile moments: full disks, several writers, interrupts; nothing is half-written."""

from __future__ import annotations

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
from pathlib import Path

import pytest

import hire_compiler as hire
from hire_compiler.files.atomic import new_directory, new_file
from tests.support.hostile import refused


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


@pytest.mark.slow
def test_an_output_that_is_no_file_is_refused_at_once(
    no_file: Path, good: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("hire_compiler.offline.rewrite.rewrite_program", never)
    monkeypatch.setattr("hire_compiler.offline.calibrate_export.instrument_program", never)
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


def command_line(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    whole = [sys.executable, "-m", "hire_compiler", *map(str, command)]
    return subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]


@pytest.mark.diagonal(keep=1)
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


LINE = "hire-compiler: interrupted; no file is half-written\n"


@pytest.mark.slow
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
