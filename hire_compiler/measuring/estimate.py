"""What a step would cost on a TPU, as its compiler sees it: compiled ahead of time, with no TPU present.

Everything here is **an estimate by the TPU compiler**, never a measurement; :mod:`hire_compiler.measuring.hlo.cost`
says how an estimate is made, and what it leaves out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hire_compiler.api import transform
from hire_compiler.calling.transformed import HireFunction
from hire_compiler.config.rules import Config
from hire_compiler.errors import EstimateError
from hire_compiler.measuring.hlo.communication import bytes_by_kind, collectives
from hire_compiler.measuring.hlo.cost import CHIPS, SMALLEST, Chip, OpCost, price, worst_seconds
from hire_compiler.measuring.hlo.text import HloProgram, read_hlo

LARGE = 4 << 20  # copies of less are no copies of a weight


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the TPU compiler expects of one program; an estimate, not a measurement.

    Attributes:
      name: of the program.
      tpu: topology it was compiled for (``v5e:2x2``).
      devices: chips it runs on.
      compiler: name and version.
      seconds: of one run, operations added up, conditionals by their cheapest branch.
      worst_seconds: conditionals by their dearest branch.
      bound_seconds: its HBM bytes over the bandwidth: nothing that moves them can be faster.
      cycles: sum of the compiler's own figures.
      hbm_bytes: read and written in HBM by each chip in one run.
      wire_bytes: moved over the links by each chip in one run.
      collectives: the same by kind, branches that need not run included.
      argument_bytes, temporary_bytes: memory of each chip.
      operations: every operation that takes time.
    """

    name: str
    tpu: str
    devices: int
    compiler: str
    seconds: float
    worst_seconds: float
    bound_seconds: float
    cycles: int
    hbm_bytes: int
    wire_bytes: int
    collectives: dict[str, int]
    argument_bytes: int
    temporary_bytes: int
    operations: tuple[OpCost, ...]

    @property
    def copies(self) -> tuple[OpCost, ...]:
        """Copies of at least four megabytes a run, the dearest first: a whole weight must not be among them."""
        large = [op for op in self.operations if op.kind == "copy" and op.hbm_bytes // op.repeat >= LARGE]
        return tuple(sorted(large, key=lambda op: -op.hbm_bytes))

    def by_kind(self) -> dict[str, tuple[float, int]]:
        """Seconds and HBM bytes of the usual case by kind of operation, the dearest first."""
        total: dict[str, tuple[float, int]] = {}
        for op in self.operations:
            if not op.rare:
                seconds, moved = total.get(op.kind, (0.0, 0))
                total[op.kind] = (seconds + op.seconds, moved + op.hbm_bytes)
        return dict(sorted(total.items(), key=lambda item: -item[1][0]))

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return asdict(self)

    def to_json(self, *, indent: int | None = 2) -> str:
        """The estimate as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        worst = f" (dense branch: {_microseconds(self.worst_seconds)})" if self.worst_seconds > self.seconds else ""
        wire = f", {_bytes(self.wire_bytes)} over the links" if self.devices > 1 else ""
        lines = [
            f"{self.name} on {self.tpu}, {_chips(self.devices)}: {_microseconds(self.seconds)}{worst}, "
            f"{_bytes(self.hbm_bytes)} of HBM traffic{wire} (an estimate by the TPU compiler, {self.compiler})"
        ]
        for kind, (seconds, moved) in self.by_kind().items():
            lines.append(f"  {kind:<24} {_microseconds(seconds):>10}  {_bytes(moved):>9}")
        lines += [f"  large copy: {op.name} {_bytes(op.hbm_bytes)} × {op.repeat}  [{op.path}]" for op in self.copies]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Two programs for the same step, as the TPU compiler estimates them."""

    dense: Estimate
    rewritten: Estimate

    @property
    def speedup(self) -> float:
        """Estimated time of dense over that of the rewritten program."""
        return self.dense.seconds / self.rewritten.seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return {"dense": self.dense.to_dict(), "rewritten": self.rewritten.to_dict(), "speedup": self.speedup}

    def to_json(self, *, indent: int | None = 2) -> str:
        """Both as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        one, two = self.dense, self.rewritten
        rows = [
            ("", "dense", "rewritten", "ratio"),
            ("estimated time", _microseconds(one.seconds), _microseconds(two.seconds), f"{self.speedup:.2f}×"),
            ("  of which cycles", f"{one.cycles}", f"{two.cycles}", _ratio(one.cycles, two.cycles)),
            ("HBM bytes", _bytes(one.hbm_bytes), _bytes(two.hbm_bytes), _ratio(one.hbm_bytes, two.hbm_bytes)),
            ("HBM bound", _microseconds(one.bound_seconds), _microseconds(two.bound_seconds), ""),
        ]
        if max(one.devices, two.devices) > 1:
            rows.append(
                ("link bytes", _bytes(one.wire_bytes), _bytes(two.wire_bytes), _ratio(one.wire_bytes, two.wire_bytes))
            )
        if two.worst_seconds > two.seconds:
            rows.append(("dense branch taken", "", _microseconds(two.worst_seconds), ""))
        rows.append(("arguments", _bytes(one.argument_bytes), _bytes(two.argument_bytes), ""))
        lines = [f"{two.name} on {two.tpu}, {_chips(two.devices)}: an estimate by the TPU compiler ({two.compiler})"]
        lines += [f"  {name:<20}{a:>12}{b:>12}{ratio:>9}".rstrip() for name, a, b, ratio in rows]
        for label, side in (("dense", one), ("rewritten", two)):
            lines += [f"  large copy in {label}: {op.name}, {_bytes(op.hbm_bytes)}" for op in side.copies[:4]]
        return "\n".join(lines)


# --------------------------------------------------------------------------- the calls


def estimate(program: Any, *args: Any, tpu: str = "v5e:2x2", timeout: float = 900, **kwargs: Any) -> Estimate:
    """Compile one program for a TPU and add up what its compiler expects.

    Args:
      program: a function (rewritten with ``transform(…, platform="tpu")`` or not) with the arguments of one call,
        arrays or ``jax.ShapeDtypeStruct``; or a ``jax.export.Exported``, its serialized bytes, or the path of a
        file that holds them, without arguments. An export for another platform is compiled as if it were for TPU.
      tpu: topology: ``v5e:2x2``, ``v5p:2x2x1``, ``v6e:2x2`` or a larger one; a program for one device uses one of
        its chips.
      timeout: seconds that the compiler may take.

    Raises:
      EstimateError: the compiler is not installed, does not know the topology, or refuses the program.
    """
    chip = _chip(tpu)
    name, data = _serialized(program, args, kwargs)
    found = _compile(data, tpu, timeout)
    return summarize(
        read_hlo(found["text"]),
        chip,
        name=name,
        tpu=tpu,
        devices=found["devices"],
        compiler=found["compiler"],
        argument_bytes=found["argument_bytes"],
        temporary_bytes=found["temporary_bytes"],
    )


def estimate_both(
    function: HireFunction, *args: Any, tpu: str = "v5e:2x2", timeout: float = 900, **kwargs: Any
) -> Estimates:
    """Estimate a transformed step and the function it was made from.

    Args:
      function: from ``transform(…, platform="tpu")``.
      *args, **kwargs: of one call, arrays or ``jax.ShapeDtypeStruct``.
      tpu: topology.
      timeout: seconds that each compilation may take.
    """
    if not isinstance(function, HireFunction):
        raise EstimateError(f"compare takes what hire.transform returned, not a {type(function).__name__}")
    dense = estimate(function.__wrapped__, *args, tpu=tpu, timeout=timeout, **kwargs)
    return Estimates(dense=dense, rewritten=estimate(function, *args, tpu=tpu, timeout=timeout, **kwargs))


def summarize(
    program: HloProgram,
    chip: Chip,
    *,
    name: str,
    tpu: str,
    devices: int = 1,
    compiler: str = "",
    argument_bytes: int = 0,
    temporary_bytes: int = 0,
) -> Estimate:
    """Add up the costs of a compiled program."""
    operations = price(program, chip, devices)
    usual = [op for op in operations if not op.rare]
    moved = sum(op.hbm_bytes for op in usual)
    return Estimate(
        name=name,
        tpu=tpu,
        devices=devices,
        compiler=compiler,
        seconds=sum(op.seconds for op in usual),
        worst_seconds=worst_seconds(program, chip, devices),
        bound_seconds=moved / chip.hbm,
        cycles=sum(op.cycles or 0 for op in usual),
        hbm_bytes=moved,
        wire_bytes=sum(op.wire_bytes for op in usual),
        collectives=bytes_by_kind(collectives(program, devices)),
        argument_bytes=argument_bytes,
        temporary_bytes=temporary_bytes,
        operations=operations,
    )


# --------------------------------------------------------------------------- programs in, compiled text out


def _serialized(program: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[str, bytes]:
    if isinstance(program, (str, os.PathLike)):
        return Path(program).name, Path(program).read_bytes()
    if isinstance(program, (bytes, bytearray)):
        return "program", bytes(program)
    if not hasattr(program, "mlir_module_serialized"):
        function = program if isinstance(program, HireFunction) else transform(program, _AS_IT_IS, platform="tpu")
        program = function.export(*args, **kwargs)
    try:
        return program.fun_name, bytes(program.serialize())
    except ModuleNotFoundError as error:
        raise EstimateError(f"{error.name} is missing: pip install 'hire-compiler[tpu]'") from None


_AS_IT_IS = Config(exact=False)


def _chip(tpu: str) -> Chip:
    named = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", tpu)
    if not named or named.group(1) not in CHIPS:
        raise EstimateError(f"tpu {tpu!r} is not known: use one of {', '.join(SMALLEST)}, or larger")
    return CHIPS[named.group(1)]


def _compile(data: bytes, tpu: str, timeout: float) -> dict[str, Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise EstimateError("the TPU compiler is not installed: pip install 'hire-compiler[tpu]'")
    chips = 1
    for side in tpu.partition(":")[2].split("x"):
        chips *= int(side)
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": f"v5litepod-{chips}",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_LOG_DIR": "disabled",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it locks a chip that nobody has; two estimates may run at once
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    child = Path(__file__).with_name("compile_for_tpu.py")
    with tempfile.TemporaryDirectory(prefix="hire-estimate-") as folder:
        source, result = Path(folder, "program"), Path(folder, "result.json")
        source.write_bytes(data)
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(child), str(source), tpu, str(result)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EstimateError(f"the TPU compiler did not finish within {timeout:g} s: raise timeout=") from None
        if done.returncode or not result.exists():
            raise EstimateError(f"the TPU compiler refused the program: {_reason(done)}")
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode < 0:
        return f"it ended with signal {-done.returncode}; {lines[-1] if lines else 'it said nothing'}"
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|EXHAUSTED)\b", line)]
    return (errors or lines or [f"exit code {done.returncode}"])[-1][:600]


# --------------------------------------------------------------------------- printing


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-2 else f"{seconds * 1e6:.1f} µs"


def _bytes(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"


def _ratio(one: float, two: float) -> str:
    return f"{one / two:.2f}×" if two else ""


def _chips(n: int) -> str:
    return "1 chip" if n == 1 else f"{n} chips"
