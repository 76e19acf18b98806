"""Contexts and modules: parse, print, serialize, run passes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.export
from jax.interpreters import mlir as jax_mlir
from jaxlib.mlir import ir, passmanager
from jaxlib.mlir.dialects import stablehlo as hlo

from hire_compiler.errors import HireError, UnreadableTypesError


@contextmanager
def fresh_context() -> Iterator[Any]:
    """An MLIR context of our own with every dialect JAX knows, left again on exit (never leaked)."""
    ctx = jax_mlir.make_ir_context()
    with ctx, ir.Location.unknown(ctx):
        yield ctx


def parse(module: bytes | str) -> Any:
    """Parse bytecode or text in the current context."""
    try:
        return ir.Module.parse(module)
    except ir.MLIRError as error:
        first_line = str(error).strip().splitlines()[0]
        raise HireError(f"not a StableHLO module this jaxlib can read: {first_line}") from None


def parse_portable(artifact: bytes) -> Any:
    """Parse a VHLO portable artifact (what ``jax.export`` serializes) in the current context."""
    try:
        return hlo.deserialize_portable_artifact(ir.Context.current, artifact)
    except (ir.MLIRError, ValueError) as error:
        raise HireError(f"not a portable StableHLO artifact: {str(error).splitlines()[0]}") from None


def check_version(artifact: bytes) -> None:
    """Refuse a VHLO portable artifact of a version of StableHLO that this jaxlib does not know.

    The reader takes what it happens to understand of a newer one, and what an operation means may have changed.

    Raises:
      HireError: it is newer, or older than the oldest that can still be read; says both versions.
    """
    written = re.match(rb"ML\xefR.StableHLO_v(\d+)\.(\d+)\.(\d+)\0", artifact, re.DOTALL)
    if written is None:
        return
    newest, oldest = hlo.get_current_version(), hlo.get_minimum_version()
    version = tuple(int(part) for part in written.groups())
    said = f"it was written in StableHLO {'.'.join(map(str, version))}, and this jaxlib reads"
    if version > _numbers(newest):
        raise HireError(
            f"{said} up to {newest}: install a newer jax, or write it for an older StableHLO (its target_version)"
        )
    if version < _numbers(oldest):
        raise HireError(f"{said} from {oldest} on: export it again")


def stablehlo_version() -> str:
    """The version of StableHLO that this jaxlib writes."""
    return str(hlo.get_current_version())


def custom_call_targets(module: bytes) -> set[str]:
    """The targets of all custom calls (kernels, library routines) in a module."""
    return set(re.findall(r"stablehlo\.custom_call @([\w.$]+|\"[^\"]+\")\(", to_text(module)))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def parse_any(data: bytes, name: str) -> Any:
    """Parse StableHLO text or bytecode, a VHLO portable artifact, or a serialized ``jax.export``."""
    # Each reader would print its own complaint about the others' formats.
    with silence():
        return _parse_any(data, name)


def check_strings(module: Any) -> None:
    """Refuse a module with names that are no UTF-8: reading one of them would abort the whole process.

    Raises:
      HireError: there is one; only a corrupted file has them.
    """
    printed = module.operation.get_asm(enable_debug_info=True, large_elements_limit=16, binary=True)
    # What a kernel is told may be any bytes, and nothing here reads it.
    printed = re.sub(rb'backend_config = "(?:[^"\\]|\\.)*"', b"", printed)
    for run in re.findall(rb"(?:\\[0-9A-F]{2})+", printed):  # the printer escapes whatever is not plain ASCII
        try:
            bytes.fromhex(run.replace(b"\\", b"").decode()).decode()
        except UnicodeDecodeError:
            raise HireError("it holds a name that is no text") from None


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def silence() -> Iterator[None]:
    """Keep MLIR from printing what it finds wrong; the caller says it in a sentence."""
    handler = ir.Context.current.attach_diagnostic_handler(lambda _diagnostic: True)
    try:
        yield
    finally:
        handler.detach()


def _parse_any(data: bytes, name: str) -> Any:
    try:
        check_version(data)
    except HireError as error:
        raise HireError(f"{name}: {error}") from None
    readers = (parse, parse_portable, lambda d: parse_portable(_exported_module(d)))
    for read in readers if data.startswith(BYTECODE) or _is_text(data) else readers[1:]:
        try:
            module = read(data)
        except Exception:  # each reader fails in its own way on the others' formats
            continue
        # Bytes that begin with a zero read as an empty text, and VHLO as a module of another dialect.
        if any(op.operation.name == "func.func" for op in module.body.operations):
            return module
    if any(word in data for word in (b"quant.uniform", b"uniform_quantize", b"uniform_dequantize")):
        raise UnreadableTypesError(
            f"{name} has quantised types (!quant.uniform, uniform_dequantize), which this jaxlib cannot read: write "
            "them as integers with their scales (the pass stablehlo-legalize-quant-to-math does)"
        )
    raise HireError(
        f"{name} is no StableHLO this jaxlib can read: expected MLIR text or bytecode, a VHLO portable artifact, "
        "or a serialized jax.export"
    )


BYTECODE = b"ML\xefR"  # how MLIR bytecode begins, of StableHLO and of VHLO


def deserialize_export(data: bytes) -> Any | None:
    """The ``jax.export.Exported`` that some bytes serialize, or None if they are something else.

    Raises:
      HireError: it is an export of a version that this JAX does not read, or ``flatbuffers`` is missing.
    """
    if data.startswith(BYTECODE):
        return None
    try:
        return jax.export.deserialize(bytearray(data))
    except ModuleNotFoundError:
        raise HireError("reading a serialized jax.export needs flatbuffers: pip install flatbuffers") from None
    except NotImplementedError as error:
        raise HireError(f"a serialized jax.export of a version this jax does not read: {error}") from None
    except Exception:  # flatbuffers fail in many ways on what is none
        return None


def _exported_module(data: bytes) -> bytes:
    return bytes(jax.export.deserialize(bytearray(data)).mlir_module_serialized)


def to_bytecode(module: Any) -> bytes:
    """The module as MLIR bytecode: an independent copy, locations included."""
    buffer = io.BytesIO()
    module.operation.write_bytecode(buffer)
    return buffer.getvalue()


def to_text(module: bytes | str | Any, *, locations: bool = False) -> str:
    """The module as readable text."""
    if isinstance(module, (bytes, str)):
        with fresh_context():
            return to_text(parse(module), locations=locations)
    return str(module.operation.get_asm(enable_debug_info=locations, large_elements_limit=16))


def resources(module: Any) -> dict[str, bytes]:
    """What a module keeps beside its operations (``dense_resource<name>``), by name: the bindings can only print it."""
    printed = module.operation.get_asm(large_elements_limit=16)
    listed = printed.rpartition("{-#")[2] if "{-#" in printed else ""
    entries = re.finditer(r'([\w.$-]+|"[^"]*"): "0x([0-9A-Fa-f]+)"', listed)
    return {entry[1].strip('"'): bytes.fromhex(entry[2])[4:] for entry in entries}  # the first four say its alignment


def run_passes(module: Any, pipeline: str) -> None:
    """Run an MLIR pass pipeline in place, such as ``"symbol-dce,cse"``."""
    passmanager.PassManager.parse(f"builtin.module({pipeline})").run(module.operation)
