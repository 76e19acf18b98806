"""One GGUF checkpoint as plain data: metadata, and tensors as float32 NumPy arrays.

The `gguf` library parses a file's header one element at a time, which takes nine seconds for a
vocabulary of 262144 tokens. So the parsed header is kept as JSON in the cache directory, under the
SHA-256 of the checkpoint it describes; later loads read only that and the tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# Part of the name of a cached header; raise it when what `_parse_header` returns changes.
HEADER_FORMAT = 1

# Rows dequantised at a time. A whole embedding would go through temporaries of several hundred
# megabytes, seven times slower.
ROWS_PER_BLOCK = 8192


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in the file.

    Attributes:
        kind: the name of its quantisation, such as `"Q8_0"` or `"F32"`.
        shape: the logical shape, rows first: `[out, in]` for a matrix.
        offset: the byte in the file where the data starts.
        size: the number of bytes.
    """

    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class Checkpoint:
    """A GGUF file: its path, its metadata by key and its tensors by name."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]

    def architecture(self, key: str) -> Any:
        """The value of `<architecture>.<key>`, e.g. `architecture("embedding_length")`."""
        return self.metadata[f"{self.metadata['general.architecture']}.{key}"]

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantised.

        Args:
            name: the tensor's name in the file, such as `"blk.0.ffn_up.weight"`.

        Returns:
            float32 `[out, in]`, or `[d]` for a vector.

        Raises:
            KeyError: the file holds no such tensor.
        """
        if name not in self.tensors:
            raise KeyError(f"{self.path} holds no tensor named {name!r}.")
        stored = self.tensors[name]
        from gguf import GGMLQuantizationType  # here, so that the models' code runs without the library
        from gguf.quants import dequantize

        data = np.memmap(self.path, np.uint8, "r", stored.offset, (stored.size,))
        kind = GGMLQuantizationType[stored.kind]
        if stored.kind == "F32":
            return np.array(data.view(np.float32).reshape(stored.shape))
        if len(stored.shape) != 2:
            raise ValueError(
                f"Tensor {name!r} is {stored.kind} of shape {stored.shape}; "
                "only float32 vectors and quantised matrices can be read."
            )
        rows = data.reshape(stored.shape[0], -1)
        result = np.empty(stored.shape, np.float32)
        for start in range(0, len(rows), ROWS_PER_BLOCK):
            block = slice(start, start + ROWS_PER_BLOCK)
            result[block] = dequantize(rows[block], kind)
        return result


def cache_directory() -> Path:
    """Where the examples keep what is slow to make again.

    It is `hire_compiler_examples` under `$XDG_CACHE_HOME`, by default `~/.cache`.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    directory = (Path(base) if base else Path.home() / ".cache") / "hire_compiler_examples"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Create or replace `path` with what `write` puts into a stream; nobody sees half a file."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in lower-case hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_checkpoint(path: Path, sha256: str) -> Checkpoint:
    """Verify a GGUF file and read its header.

    Args:
        path: the file.
        sha256: what its SHA-256 must be, in lower-case hexadecimal.

    Raises:
        ValueError: the file differs from what the checksum promises.
    """
    found = sha256_of(path)
    if found != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, but its wheel promises {sha256}. Reinstall the wheel.")
    cached = cache_directory() / f"header-{HEADER_FORMAT}-{sha256[:16]}.json"
    header = _read_json(cached) or _parse_header(path)
    if not cached.exists():
        text = json.dumps(header).encode()
        write_atomically(cached, lambda stream: stream.write(text))
    tensors = {
        name: StoredTensor(kind, tuple(shape), offset, size)
        for name, (kind, shape, offset, size) in header["tensors"].items()
    }
    return Checkpoint(path, header["metadata"], tensors)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        header: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError:  # A damaged cache is only a slow start.
        path.unlink(missing_ok=True)
        return None
    return header


def _parse_header(path: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    tensors = {
        # GGUF lists the fastest dimension first.
        tensor.name: (
            tensor.tensor_type.name,
            [int(n) for n in reversed(tensor.shape)],
            int(tensor.data_offset),
            int(tensor.n_bytes),
        )
        for tensor in reader.tensors
    }
    return {"metadata": metadata, "tensors": tensors}
