"""Named tensors as the user has them, in files or arrays: read one at a time, for a model need not fit in memory."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler.errors import HireError, WeightError
from hire_compiler.files.path_kind import kind_of
from hire_compiler.graph.weight import itemsize

SAFETENSORS = {
    "float64": "F64",
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
}
DTYPES = {short: name for name, short in SAFETENSORS.items()}


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return int(np.prod(self.shape, dtype=np.int64)) * itemsize(self.dtype)

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        """The type as JAX writes it."""
        return jax.ShapeDtypeStruct(self.shape, jnp.dtype(self.dtype))

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def spec_of(array: Any) -> TensorSpec:
    """Shape and dtype of an array."""
    return TensorSpec(tuple(array.shape), str(array.dtype))


@dataclass(frozen=True, eq=False)
class Tensors:
    """Named tensors that are read when asked for.

    Attributes:
      origin: where they come from, for messages.
      specs: shape and dtype by name.
      readers: by name, a function that reads it.
    """

    origin: str
    specs: dict[str, TensorSpec]
    readers: Mapping[str, Callable[[], np.ndarray]]

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        return np.asarray(self.readers[name]())

    def renamed(self, names: Mapping[str, str]) -> Tensors:
        """Some of the tensors under other names (``{new: old}``)."""
        return Tensors(
            self.origin,
            {new: self.specs[old] for new, old in names.items()},
            {new: self.readers[old] for new, old in names.items()},
        )


def join(parts: Iterable[Tensors]) -> Tensors:
    """Several collections as one.

    Raises:
      WeightError: a name stands in two of them.
    """
    parts = list(parts)
    specs: dict[str, TensorSpec] = {}
    readers: dict[str, Callable[[], np.ndarray]] = {}
    owners: dict[str, str] = {}
    for part in parts:
        for name in part.specs:
            if name in owners:
                raise WeightError(f"the tensor {name!r} stands both in {owners[name]} and in {part.origin}")
            owners[name] = part.origin
        specs |= part.specs
        readers.update(part.readers)
    return Tensors(", ".join(part.origin for part in parts), specs, readers)


# --------------------------------------------------------------------------- reading


def open_tensors(source: Any) -> Tensors:
    """Weights as the user names them.

    Args:
      source: a safetensors or npz file, a directory of safetensors shards, a shard index (``….index.json``), a list
        of any of these, or a tree of arrays.

    Raises:
      WeightError: a file is none of these, is truncated, or holds what JAX has no type for.
    """
    if isinstance(source, Tensors):
        return source
    if isinstance(source, (str, Path)):
        return _open_path(Path(source))
    if isinstance(source, (list, tuple)) and all(isinstance(item, (str, Path)) for item in source):
        return join(_open_path(Path(item)) for item in source)
    return from_tree(source)


def from_tree(tree: Any) -> Tensors:
    """The leaves of a tree of arrays under dotted names."""
    arrays = {
        ".".join(_part(key) for key in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    for name, array in arrays.items():
        if not hasattr(array, "dtype"):
            raise WeightError(f"weights hold a {type(array).__name__} at {name!r}, not an array")
    readers = {name: partial(np.asarray, array) for name, array in arrays.items()}
    return Tensors("the arrays given", {name: spec_of(array) for name, array in arrays.items()}, readers)


def _part(key: Any) -> str:
    return str(next(getattr(key, a) for a in ("key", "idx", "name") if hasattr(key, a)))


def _open_path(path: Path) -> Tensors:
    if path.is_dir():
        shards = sorted(path.glob("*.safetensors"))
        if not shards:
            raise WeightError(f"{path} holds no .safetensors file")
        return join(_open_safetensors(shard) for shard in shards)
    if not path.exists():
        raise WeightError(f"{path}: no such file")
    if not path.is_file():
        raise WeightError(f"{path} is {kind_of(path)}: weights and inputs are read from files")
    if path.name.endswith(".index.json"):
        return _open_index(path)
    with path.open("rb") as file:
        start = file.read(10)
    if start.startswith(b"PK"):
        return _open_npz(path)
    if path.suffix == ".npz":
        raise WeightError(f"{path} is no npz archive (it does not begin like a zip file)")
    if len(start) >= 9 and start[8:9] == b"{":
        return _open_safetensors(path)
    raise WeightError(f"{path} is neither a safetensors file nor an npz archive")


def _open_index(path: Path) -> Tensors:
    try:
        files = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        raise WeightError(f"{path} is no index of safetensors shards (it lacks a weight_map)") from None
    if outside := [file for file in files if Path(str(file)).name != file]:
        raise WeightError(f"{path} lists a file outside of its directory: {outside[0]!r}")
    return join(_open_safetensors(path.parent / str(file)) for file in files)


def _open_safetensors(path: Path) -> Tensors:
    library = _library()
    try:
        handle = library.safe_open(path, "numpy")
        names = list(handle.keys())
        slices = {name: handle.get_slice(name) for name in names}
        types = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except FileNotFoundError:
        raise WeightError(f"{path}: no such file") from None
    except (library.SafetensorError, OSError, ValueError) as error:
        raise WeightError(f"{path} is no whole safetensors file: {error} (truncated or corrupted)") from None
    unknown = {name: short for name, (_, short) in types.items() if short not in DTYPES}
    if unknown:
        name, short = next(iter(unknown.items()))
        raise WeightError(f"{path}: the tensor {name!r} has the type {short}, which is not supported")
    specs = {name: TensorSpec(shape, DTYPES[short]) for name, (shape, short) in types.items()}
    readers = {
        name: partial(_read_bytes, path, name, spec) if _is_float8(spec) else partial(handle.get_tensor, name)
        for name, spec in specs.items()
    }
    return Tensors(str(path), specs, readers)


def _is_float8(spec: TensorSpec) -> bool:
    """Whether NumPy knows a type only from JAX: the library looks for it in NumPy itself."""
    return spec.dtype.startswith("float8")


def _read_bytes(path: Path, name: str, spec: TensorSpec) -> np.ndarray:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start, end = json.loads(file.read(length))[name]["data_offsets"]
        file.seek(8 + length + start)
        return np.frombuffer(file.read(end - start), jnp.dtype(spec.dtype)).reshape(spec.shape)


def _open_npz(path: Path) -> Tensors:
    specs, readers = {}, {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                with archive.open(entry) as file:
                    specs[entry.removesuffix(".npy")] = _npy_spec(file)
        loaded = np.load(path, allow_pickle=False)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise WeightError(f"{path} is no whole npz archive: {error}") from None
    for name, spec in specs.items():
        if spec.dtype not in SAFETENSORS:
            raise WeightError(
                f"{path}: the array {name!r} has the type {spec.dtype}, which is not supported; npz cannot hold "
                "bfloat16: use safetensors"
            )
        readers[name] = partial(_read_npz, loaded, name, path)
    return Tensors(str(path), specs, readers)


def _npy_spec(file: Any) -> TensorSpec:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return TensorSpec(tuple(shape), str(dtype))


def _read_npz(loaded: Any, name: str, path: Path) -> np.ndarray:
    try:
        return np.asarray(loaded[name])
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise WeightError(f"{path}: the array {name!r} cannot be read: {error}") from None


def _library() -> Any:
    try:
        import safetensors
    except ModuleNotFoundError:
        raise HireError("weights and artifacts need safetensors: pip install safetensors") from None
    return safetensors
