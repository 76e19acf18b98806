"""The header of a safetensors file, checked as strictly as the ``safetensors`` library checks it, and more.

The library wants a file of its own or all of its bytes in memory, while an artifact keeps its tensors as a stretch of
one file. So the header is read here; ``tests/offline/test_tensor_header.py`` compares the two on thousands of bad ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import Any

from hire_compiler.errors import WeightError
from hire_compiler.offline.disk.stored import Member
from hire_compiler.offline.disk.tensors import DTYPES, TensorSpec

LONGEST = 100_000_000  # bytes of a header, as in the library
_MOST = 1 << 63  # elements of a tensor, and bytes of a file


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of its contents.

    Attributes:
      metadata: strings that its writer put there.
      specs: shape and dtype by name, in the order of the file.
      starts: where each tensor begins, in bytes from the beginning of the file.
    """

    metadata: dict[str, str]
    specs: dict[str, TensorSpec]
    starts: dict[str, int]


def read_header(member: Member) -> Header:
    """Read and check the header of a safetensors file; its tensors fill what follows without a gap.

    Raises:
      WeightError: it is damaged, or says what cannot be; names the file.
    """
    if member.size < 8:
        raise WeightError(f"{member.name} is truncated or corrupted: it is no safetensors file")
    length = int.from_bytes(member.read(0, 8), "little")
    if length > min(LONGEST, member.size - 8):
        raise WeightError(
            f"{member.name} is truncated or corrupted: it is no safetensors file, or its header of {length} bytes is "
            f"longer than the file or the {LONGEST} bytes allowed"
        )
    try:
        text = member.read(8, length).decode("utf-8")
        if not text.startswith("{"):
            raise ValueError("its header begins with something else than a brace")
        content = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        metadata = _strings(content.pop("__metadata__", {}))
        entries = {name: _entry(name, entry) for name, entry in content.items()}
        ends = _packed(entries, member.size - 8 - length)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightError(f"{member.name} is truncated or corrupted: {_said(error)}") from None
    return Header(
        metadata,
        {name: spec for name, (spec, _) in entries.items()},
        {name: 8 + length + start for name, (start, _) in ends.items()},
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in its header")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"its header holds {name}, which is no JSON")


def _strings(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("the metadata in its header are no strings")
    return metadata


def _entry(name: str, entry: Any) -> tuple[TensorSpec, tuple[int, int]]:
    if not isinstance(entry, dict):
        raise ValueError(f"its header says nothing of {name!r}")
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"the tensor {name!r} has the type {entry['dtype']!r}, which is not supported")
    shape, offsets = _numbers(name, entry["shape"]), _numbers(name, entry["data_offsets"])
    if len(offsets) != 2 or prod(shape) >= _MOST:
        raise ValueError(f"the size of the tensor {name!r} cannot be")
    spec = TensorSpec(shape, DTYPES[entry["dtype"]])
    if offsets[1] - offsets[0] != spec.nbytes:
        raise ValueError(f"the tensor {name!r} is {spec} of {spec.nbytes} bytes, but lies at {list(offsets)}")
    return spec, (offsets[0], offsets[1])


def _numbers(name: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < _MOST for value in values):
        raise ValueError(f"the shape or the offsets of the tensor {name!r} are no lists of whole numbers")
    return tuple(values)


def _packed(entries: dict[str, tuple[TensorSpec, tuple[int, int]]], size: int) -> dict[str, tuple[int, int]]:
    """Where each tensor lies; they have to fill the file from end to end, none over another."""
    end = 0
    for name, (_, (start, stop)) in sorted(entries.items(), key=lambda item: item[1][1]):
        if start != end:
            raise ValueError(f"the tensor {name!r} begins at {start}, where {end} was due (a gap, or two overlap)")
        end = stop
    if end != size:
        raise ValueError(f"its tensors have {end} bytes, and the file {size} for them")
    return {name: place for name, (_, place) in entries.items()}


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"its header lacks {error.args[0]!r}"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return "it is no safetensors file"
    return str(error)
