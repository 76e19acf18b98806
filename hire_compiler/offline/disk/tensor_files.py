"""Tensors of our own on the disk: safetensors written and read one tensor at a time.

The ``safetensors`` library writes all tensors at once, while here each is prepared, written and forgotten; and it reads
whole files, while an artifact may keep them as a stretch of one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from hire_compiler.errors import WeightError
from hire_compiler.offline.disk.stored import Member
from hire_compiler.offline.disk.tensor_header import read_header
from hire_compiler.offline.disk.tensors import SAFETENSORS, Tensors, TensorSpec, spec_of


class TensorWriter:
    """A safetensors file written tensor by tensor, in the order of ``specs``; only one is in memory at a time.

    Attributes:
      sha256: of what was written so far, header included.
      nbytes: bytes written so far.
    """

    def __init__(self, file: BinaryIO, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> None:
        self._file = file
        self._waiting = list(specs.items())
        self.sha256 = hashlib.sha256()
        self.nbytes = 0
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        end = 0
        for name, spec in specs.items():
            if spec.dtype not in SAFETENSORS:
                raise WeightError(
                    f"{name} is stored as {spec.dtype}, which safetensors files cannot hold: pack it into bytes, or "
                    "call the step without writing an artifact"
                )
            start, end = end, end + spec.nbytes
            header[name] = {"dtype": SAFETENSORS[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._put(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, array: Any) -> None:
        """Write the next tensor, which must have the announced name and type."""
        expected, spec = self._waiting.pop(0)
        value = np.ascontiguousarray(array)
        if (name, spec_of(value).dtype, value.size) != (expected, spec.dtype, int(np.prod(spec.shape, dtype=np.int64))):
            raise AssertionError(f"{name} {spec_of(value)} was written where {expected} {spec} was announced")
        self._put(value.reshape(-1).view(np.uint8).data if value.size else b"")

    def _put(self, data: Any) -> None:
        self.sha256.update(data)
        self.nbytes += len(data)
        self._file.write(data)


def read_tensors(member: Member) -> Tensors:
    """The tensors of a safetensors file, or of a stretch of a file that is one; each is read when asked for.

    Raises:
      WeightError: it is damaged.
    """
    header = read_header(member)
    specs, starts = header.specs, header.starts
    return Tensors(member.name, specs, {name: partial(_read, member, starts[name], specs[name]) for name in specs})


def _read(member: Member, start: int, spec: TensorSpec) -> np.ndarray:
    flat = np.frombuffer(member.read(start, spec.nbytes), jnp.dtype(spec.dtype))
    return flat.reshape(spec.shape)


def digest(array: np.ndarray) -> str:
    """A hash of an array's bytes."""
    value = np.ascontiguousarray(array)
    return hashlib.sha256(value.reshape(-1).view(np.uint8).data if value.size else b"").hexdigest()
