"""Hostile files: what is wrong is one line and exit code 2."""

from __future__ import annotations

import json
import random
import stat
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hire_compiler.cli import main
from hire_compiler.offline.disk.manifest import _hash
from tests.support.exports import inputs, parameters, step
from tests.support.hostile import refused


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


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


@pytest.mark.slow
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
