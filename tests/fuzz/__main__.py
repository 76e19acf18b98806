"""Try programs and values until time is up: ``python -m tests.fuzz --seconds 600 --seed 1``.

Prints what was tried as a table, makes what it finds smaller, and writes it down as files that run by themselves.
``--jobs 14`` runs so many processes, each on a core of its own and with a seed of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz import check_blocks, check_heads, check_shards, reproduce
from tests.fuzz.blocks import blocks
from tests.fuzz.heads import heads
from tests.fuzz.meshes import ENVIRONMENT, OnMesh
from tests.fuzz.shards import sharded_blocks, sharded_heads
from tests.fuzz.tally import Tally

KINDS: dict[str, tuple[Any, Any, int]] = {
    "heads": (heads, check_heads.run, 600),
    "blocks": (blocks, check_blocks.run, 200),
    "shards": (sharded_heads, check_shards.run, 400),
    "block-shards": (sharded_blocks, check_shards.run_block, 100),
}
SHARES = {"heads": 0.4, "blocks": 0.2, "shards": 0.2, "block-shards": 0.2}  # of the time, or of the jobs
CHUNK = 12  # programs that hypothesis draws together; it varies what it has drawn


class Fuzzer:
    """Tries programs of one kind, and remembers."""

    def __init__(self, kind: str, folder: Path, *, rows: int, minimise: float) -> None:
        self.strategy, self.run, usual = KINDS[kind]
        self.kind, self.folder, self.rows, self.minimise = kind, folder, rows or usual, minimise
        self.tally, self.notes, self.seen = Tally(), Counter[str](), Counter[str]()
        self.files: list[Path] = []

    def spend(self, first_seed: int, seconds: float, programs: int) -> None:
        end, chunk = time.monotonic() + seconds, 0
        while time.monotonic() < end and self.tally.total()["tried"] < programs:
            self._chunk(first_seed * 100_003 + chunk, end)
            chunk += 1

    def _chunk(self, number: int, end: float) -> None:
        @seed(number)
        @settings(
            max_examples=CHUNK, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(self.strategy())
        def one(program: Any) -> None:
            if time.monotonic() < end:
                self.attempt(program)

        one()

    def attempt(self, program: Any) -> None:
        """Run one program, count it, and write down its fault."""
        outcome = self.run(program, self.rows)
        name = f"{outcome.mode} {program.dtype}"
        if isinstance(program, OnMesh):
            name = f"{program.mesh} devices, {outcome.mode}"
        self.tally.add_outcome(name, outcome)
        if outcome.note:
            self.notes[f"{outcome.status}: {outcome.note[:140]}"] += 1
        if outcome.faults:
            self._found(outcome.faults[0])

    def _found(self, fault: check_heads.Fault) -> None:
        print(f"FAULT {fault.program.describe()}: {fault.what} [{fault.kinds}]", flush=True)
        known = f"{fault.what[:12]} {fault.program.describe()}"
        self.seen[known] += 1
        if self.seen[known] > 1 or len(self.files) >= 40:
            return
        fault = reproduce.minimise(fault, self.run, self.rows, self.minimise)
        on_mesh = isinstance(fault.program, OnMesh)
        shown = {"environment": ENVIRONMENT, "place": fault.program.place_source()} if on_mesh else {}
        number = len(list(self.folder.glob(f"{self.kind}_*.py")))
        self.files.append(reproduce.write(fault, self.folder / f"{self.kind}_{number:03d}.py", **shown))
        print(f"  smallest: {fault.program.describe()}: {fault.what}; written to {self.files[-1]}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Fuzz. The exit code is 1 where a fault was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(KINDS), help="one kind of program; all in turn if left out")
    parser.add_argument("--rows", type=int, default=0, help="rows compared for each program (default 600, blocks 200)")
    parser.add_argument("--programs", type=int, default=10**9, help="end after so many of each kind")
    parser.add_argument("--minimise", type=float, default=60, help="seconds spent on making one fault smaller")
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="folder for reproducers and totals.json")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, each on one core")
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})  # before XLA counts the cores for its threads
    if options.jobs > 1:
        return _at_once(options)
    if options.only is None:
        return _all_in_turn(options)
    if options.only in ("shards", "block-shards") and not os.environ.get("HIRE_FUZZ_DEVICES"):
        environment = {**os.environ, "HIRE_FUZZ_DEVICES": "8", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
        command = [sys.executable, "-m", "tests.fuzz", *(arguments if arguments is not None else sys.argv[1:])]
        return subprocess.run(command, env=environment, check=False).returncode
    fuzzer = Fuzzer(options.only, options.out, rows=options.rows, minimise=options.minimise)
    try:
        fuzzer.spend(options.seed, options.seconds, options.programs)
    except KeyboardInterrupt:
        print("interrupted; so far:")
    print(f"\n{options.only}, seed {options.seed}\n\n{fuzzer.tally.table()}\n")
    for note, count in fuzzer.notes.most_common(12):
        print(f"  {count} × {note}")
    _save_totals(options.out, options.only, fuzzer.tally)
    return 1 if fuzzer.tally.total()["faults"] else 0


def _command(options: argparse.Namespace, kind: str, **other: object) -> list[str]:
    """The command line that tries one kind of program."""
    passed = {name: getattr(options, name) for name in ("seconds", "seed", "rows", "programs", "minimise", "out")}
    return [sys.executable, "-m", "tests.fuzz", "--only", kind] + [
        word for name, value in {**passed, **other}.items() for word in (f"--{name}", str(value))
    ]


def _all_in_turn(options: argparse.Namespace) -> int:
    """Heads get half of the time. Every kind has a process of its own."""
    failed = 0
    for kind, share in SHARES.items():
        failed |= subprocess.run(_command(options, kind, seconds=options.seconds * share), check=False).returncode
    return failed


def _at_once(options: argparse.Namespace) -> int:
    """Run ``jobs`` processes for all the time, each with a folder for its log and totals; the sum lies above them."""
    kinds = [options.only] if options.only else [k for k, share in SHARES.items() for _ in range(round(share * 5))]
    cores = sorted(os.sched_getaffinity(0))
    running = []
    for job in range(options.jobs):
        folder = options.out / f"job_{job:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        other = {"seed": options.seed * 1000 + job, "out": folder, "core": cores[job % len(cores)]}
        log = (folder / "log").open("w")
        command = _command(options, kinds[job % len(kinds)], **other)
        running.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
    failed = max(process.wait() for process in running)
    _print_sum(options.out)
    return failed


def _print_sum(folder: Path) -> None:
    """Merge the totals of all jobs, and print them with every fault."""
    totals: dict[str, Tally] = {}
    for path in sorted(folder.glob("job_*/totals.json")):
        for kind, counts in json.loads(path.read_text()).items():
            totals.setdefault(kind, Tally()).merge(counts)
    for log in sorted(folder.glob("job_*/log")):
        for line in log.read_text().splitlines():
            if line.startswith("FAULT"):
                print(f"{log.parent.name}: {line}")
    for kind, tally in totals.items():
        print(f"\n{kind}\n\n{tally.table()}")
    (folder / "totals.json").write_text(json.dumps({k: t.to_dict() for k, t in totals.items()}, indent=2) + "\n")


def _save_totals(folder: Path, kind: str, tally: Tally) -> None:
    """Add to what earlier runs into the same folder counted."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "totals.json"
    totals = json.loads(path.read_text()) if path.exists() else {}
    everything = Tally()
    everything.merge(totals.get(kind, {}))
    everything.merge(tally.to_dict())
    path.write_text(json.dumps({**totals, kind: everything.to_dict()}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
