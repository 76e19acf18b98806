"""Our reader of safetensors takes what the library takes, and refuses whatever the library refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save

from hire_compiler.errors import WeightError
from hire_compiler.offline.disk.stored import Member
from hire_compiler.offline.disk.tensor_files import read_tensors

DATA = np.arange(8, dtype=np.float32).tobytes()
A = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
B = {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]}


def file_of(header: Any, data: bytes = DATA, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


BAD: dict[str, bytes] = {
    "negative offsets": file_of({"a": A | {"data_offsets": [-8, 8]}, "b": B}),
    "offsets past the end": file_of({"a": A | {"data_offsets": [0, 1 << 60]}, "b": B}),
    "both offsets past the end": file_of({"a": A | {"data_offsets": [1 << 40, (1 << 40) + 16]}, "b": B}),
    "two tensors overlap": file_of({"a": A, "b": B | {"data_offsets": [8, 24]}}, DATA[:24]),
    "the same bytes twice": file_of({"a": A, "b": A}, DATA[:16]),
    "a gap": file_of({"a": A, "b": B | {"data_offsets": [20, 36]}}, DATA + bytes(4)),
    "a gap at the beginning": file_of({"b": B}),
    "offsets backwards": file_of({"a": A | {"data_offsets": [16, 0]}, "b": B}),
    "offsets of another size than the shape": file_of({"a": A | {"shape": [3]}, "b": B}),
    "a type of another size": file_of({"a": A | {"dtype": "F64"}, "b": B}),
    "an unknown type": file_of({"a": A | {"dtype": "F33"}, "b": B}),
    "a type that is no name": file_of({"a": A | {"dtype": 3}, "b": B}),
    "a negative shape": file_of({"a": A | {"shape": [-2, -2]}, "b": B}),
    "a shape of fractions": file_of({"a": A | {"shape": [4.0]}, "b": B}),
    "a shape of booleans": file_of({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, DATA[:4]),
    "a shape that overflows": file_of({"a": A | {"shape": [1 << 33, 1 << 33]}, "b": B}),
    "no shape": file_of({"a": {"dtype": "F32", "data_offsets": [0, 16]}, "b": B}),
    "three offsets": file_of({"a": A | {"data_offsets": [0, 16, 32]}, "b": B}),
    "a tensor that is a list": file_of({"a": [], "b": B}),
    "bytes behind the tensors": file_of({"a": A, "b": B}, DATA + b"more"),
    "too few bytes": file_of({"a": A, "b": B}, DATA[:-1]),
    "a header longer than the file": file_of({"a": A, "b": B}, length=10_000),
    "a header longer than is allowed": file_of({"a": A, "b": B}, length=100_000_001),
    "a header of 2⁶⁴ − 1 bytes": file_of({"a": A, "b": B}, length=(1 << 64) - 1),
    "a name twice": file_of(b'{"a":%s,"a":%s}' % (json.dumps(A).encode(), json.dumps(B).encode())),
    "a field twice": file_of(b'{"a":{"dtype":"F32","shape":[4],"shape":[4],"data_offsets":[0,16]}}', DATA[:16]),
    "names that are no UTF-8": file_of(b'{"\xff":%s}' % json.dumps(A).encode(), DATA[:16]),
    "a header that is a list": file_of([A, B]),
    "a header that is no JSON": file_of(b"{" * 20),
    "a very deep header": file_of(b'{"a":' + b"[" * 100_000),
    "a header with NaN": file_of(b'{"a":NaN}'),
    "a header behind a space": file_of(b" " + json.dumps({"a": A, "b": B}).encode()),
    "metadata that are numbers": file_of({"__metadata__": {"x": 1}, "a": A, "b": B}),
    "metadata that are a list": file_of({"__metadata__": [], "a": A, "b": B}),
    "seven bytes": b"\0" * 7,
    "nothing": b"",
}
MORE_THAN_THE_LIBRARY = ("a name twice", "the same bytes twice", "a header behind a space")


def member(data: bytes, folder: Path) -> Member:
    """The file as a stretch of another one, as in an artifact."""
    path = folder / "archive"
    path.write_bytes(b"before" + data + b"behind, to be read by mistake" * 4)
    return Member(path, "t.safetensors", 6, len(data))


def library_takes(data: bytes) -> bool:
    try:
        safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return False
    return True


@pytest.mark.parametrize("what", BAD)
def test_what_the_library_refuses_is_refused(what: str, tmp_path: Path) -> None:
    assert what in MORE_THAN_THE_LIBRARY or not library_takes(BAD[what])
    with pytest.raises(WeightError, match=r"t\.safetensors is truncated or corrupted: "):
        read_tensors(member(BAD[what], tmp_path))


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for count in range(6):
        shapes = [(), (0, 3), (5,), (2, 3), (1, 1, 7)][:count]
        kinds = [np.float32, np.int8, np.float16, np.bool_, np.uint64]
        arrays = {f"t{i}": rng.integers(0, 2, s).astype(k) for i, (s, k) in enumerate(zip(shapes, kinds, strict=False))}
        read = read_tensors(member(save(arrays, {"some": "thing"}), tmp_path))
        assert set(read.specs) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(read.read(name), array)


@pytest.mark.slow
def test_random_changes_are_never_taken_where_the_library_refuses(tmp_path: Path) -> None:
    rng, taken, refused = random.Random(0), 0, 0
    good = save({"a": np.arange(4, dtype=np.float32), "b": np.arange(6, dtype=np.int16), "c": np.zeros((0, 2))})
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 3))):
            at = rng.randrange(int.from_bytes(good[:8], "little") + 8)
            data[at] = rng.choice((data[at] ^ (1 << rng.randrange(8)), rng.choice(b'0123456789-,:"{}[]aeF')))
        try:
            tensors = read_tensors(member(bytes(data), tmp_path))
        except WeightError:
            refused += 1
            continue
        taken += 1
        assert library_takes(bytes(data)), bytes(data)
        theirs = dict(safetensors.deserialize(bytes(data)))
        assert {name: list(spec.shape) for name, spec in tensors.specs.items()} == {
            name: entry["shape"] for name, entry in theirs.items()
        }
    assert taken > 20
    assert refused > 1000
