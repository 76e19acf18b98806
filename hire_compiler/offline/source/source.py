"""What comes in: a ``jax.export``, StableHLO text or bytecode, or a portable artifact, as one kind of thing.

A ``Source`` knows the program's arguments by name and tree, and gives a :class:`Program` for one platform.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import jax
import jax.export
import numpy as np

from hire_compiler import _mlir
from hire_compiler.authors.sampler import Sampling
from hire_compiler.capture.program import Argument, Program
from hire_compiler.errors import CaptureError, HireError
from hire_compiler.files.path_kind import kind_of
from hire_compiler.offline.disk.archive import BEGINNING as ARCHIVE
from hire_compiler.offline.disk.tensor_files import digest
from hire_compiler.offline.disk.versions import check_export_version
from hire_compiler.offline.source.patience import reading
from hire_compiler.offline.source.trees import Path, leaf_paths
from hire_compiler.passes.normalize.specialize_export import specialize

# The names of functions that a rewrite leaves in a module: none of them is a name that JAX makes.
OUR_MARKS = ("hire_program", "hire_site")


@dataclass(frozen=True, eq=False)
class Source:
    """A program that came without its Python code.

    Attributes:
      name: of the file or of the exported function.
      module: its bytecode, as it came.
      paths: where every leaf stands in ``(args, kwargs)``.
      names: of every leaf, for messages and for finding its weight: ``params['embed']``.
      types: shape and dtype of every leaf.
      donated: leaves whose buffer the author gives away.
      kept: the leaves that ``@main`` takes, in its order.
      out_paths: where every result stands; None if they come as a flat tuple.
      platforms: that it was exported for; empty if it does not say.
      hidden_platform: ``@main`` takes the index of the platform first.
      devices: that it was partitioned for.
      unknown: dimension variables that nobody gave a size.
      sampling: the sampler that was folded in, if any.
    """

    name: str
    module: bytes
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    types: tuple[tuple[tuple[int, ...], str], ...]
    donated: tuple[bool, ...]
    kept: tuple[int, ...]
    out_paths: tuple[Path, ...] | None = None
    platforms: tuple[str, ...] = ()
    hidden_platform: bool = False
    devices: int = 1
    unknown: tuple[str, ...] = ()
    sampling: Sampling | None = None

    @property
    def digest(self) -> str:
        """Identity of the original: a hash of its module."""
        return hashlib.sha256(self.module).hexdigest()

    def program(self, platform: str | None = None) -> Program:
        """The program for one platform; ``constants`` are the weights that the module held itself.

        Args:
          platform: JAX's name; None for the first it was exported for.

        Raises:
          CaptureError: it was exported for other platforms, or with dimensions nobody gave a size.
        """
        refusal = self.refusal(platform)
        if refusal:
            raise CaptureError(f"{self.name}: {refusal}")
        index = self.platforms.index(platform) if platform and self.hidden_platform else 0
        taken = [self.types[i] for i in self.kept]
        try:
            settled = specialize(self.module, taken, index if self.hidden_platform else None)
        except ValueError as error:
            why = str(error.__cause__ or error).strip().splitlines()[0]
            raise CaptureError(f"{self.name}: a dynamic shape does not follow from the arguments: {why}") from None
        except _mlir.ir.MLIRError as error:
            raise CaptureError(f"{self.name} is no valid program: {str(error).strip().splitlines()[0]}") from None
        constants = [Argument(_content_name(c), c.shape, str(c.dtype)) for c in settled.constants]
        own = [Argument(self.names[i], *self.types[i], self.donated[i]) for i in self.kept]
        return Program(
            name=self.name,
            module=settled.module,
            arguments=(*constants, *own),
            constants=settled.constants,
            out_avals=tuple(jax.core.ShapedArray(shape, np.dtype(jax.numpy.dtype(d))) for shape, d in settled.results),
            out_names=self._out_names(len(settled.results)),
        )

    def _out_names(self, count: int) -> tuple[str, ...]:
        """How results are called in the tree that an artifact returns."""
        paths = [(i,) for i in range(count)] if self.out_paths is None else self.out_paths
        return tuple("".join(f"[{key!r}]" for key in path) or "result" for path in paths)

    def refusal(self, platform: str | None = None) -> str:
        """Why there is no program to rewrite for a platform, or ''."""
        if self.unknown:
            sizes = " ".join(f"--dim {name}=1" for name in self.unknown)
            return (
                f"symbolic dimensions ({', '.join(self.unknown)}) have no size, and a rewrite is planned for one: give "
                f"dims={{…}} (on the command line {sizes})"
            )
        if platform and self.platforms and platform not in self.platforms:
            exported = ", ".join(self.platforms)
            if self.hidden_platform or _platform_calls(self.module):
                return f"it was exported for {exported}, not for {platform}: export it with platforms=[…, {platform!r}]"
        return ""


def _platform_calls(module: bytes) -> bool:
    """Whether a module calls into something that one platform has (a LAPACK routine, a kernel)."""
    text = _mlir.to_text(module)
    return any("stablehlo.custom_call" in line and "@Sharding" not in line for line in text.splitlines())


def read_source(target: Any, *, dims: Mapping[str, int] | None = None) -> Source:
    """Read a ``jax.export.Exported``, what ``.lower()`` returned, StableHLO text, or a file that holds a program.

    Args:
      target: an ``Exported``, a ``jax.stages.Lowered``, the text of a module, or a path to StableHLO text, MLIR
        bytecode, a portable artifact, or a serialized export.
      dims: sizes of symbolic dimensions.

    Raises:
      HireError: it is none of these, or is a rewritten program already; the message says what was tried.
    """
    if hasattr(target, "mlir_module_serialized"):
        return _from_exported(target, str(target.fun_name), dims or {})
    if isinstance(target, jax.stages.Lowered):
        return source_from_bytes(target.as_text(debug_info=True).encode(), "the lowered function", dims or {})
    if isinstance(target, str) and "\n" in target:
        return source_from_bytes(target.encode(), "the given text", dims or {})
    if not isinstance(target, (str, os.PathLike)):
        raise CaptureError(
            "what is read here is a jax.export.Exported, a jax.stages.Lowered (before .compile()), StableHLO text or a "
            f"path, not {type(target).__name__}"
        )
    path = FilePath(target)
    if not path.exists():
        raise CaptureError(f"{path}: no such file")
    if path.is_dir():
        rewritten = (path / "manifest.json").exists()
        what = "an artifact that is rewritten already" if rewritten else "a directory"
        raise CaptureError(f"{path} is {what}: give the exported model itself (a file)")
    if kind_of(path) in ("a device", "a socket"):  # a pipe may hold a model
        raise CaptureError(f"{path} is {kind_of(path)}: give the exported model (a file)")
    data = path.read_bytes()
    if data.startswith(ARCHIVE):
        raise CaptureError(f"{path} is an archive (an artifact, rewritten already?): give the exported model itself")
    return source_from_bytes(data, str(path), dims or {})


def source_from_bytes(data: bytes, name: str, dims: Mapping[str, int]) -> Source:
    """The source in the contents of a file."""
    with reading(data):
        exported = _mlir.deserialize_export(data)
        return _from_module(data, name, dims) if exported is None else _from_exported(exported, name, dims)


def _check_versions(exported: Any, name: str) -> None:
    try:
        check_export_version(exported)
    except HireError as error:
        raise HireError(f"{name} {error}" if str(error).startswith("was ") else f"{name}: {error}") from None


def _from_exported(exported: Any, name: str, dims: Mapping[str, int]) -> Source:
    _check_versions(exported, name)
    with _mlir.fresh_context(), _mlir.silence():
        try:
            module = _mlir.parse_portable(exported.mlir_module_serialized)
            _mlir.check_strings(module)
        except HireError as error:
            raise HireError(f"{name} is a truncated or corrupted export: {error}") from None
        _refuse_rewritten(module, name)
        hidden, main = _hidden_platform(module), _mlir.main_function(module)
        donated = [_is_donated(main, i + int(hidden)) for i in range(len(exported.module_kept_var_idx))]
        # With symbolic dimensions the program proper is a private function that takes their sizes first.
        given = _mlir.argument_names(_mlir.find_function(module, "_wrapped_jax_export_main") or main)
        given = given[len(given) - len(donated) :]
        bytecode = _mlir.to_bytecode(module)
    kept = tuple(exported.module_kept_var_idx)
    paths = leaf_paths(exported.in_tree)
    needed = sorted({v for aval in exported.in_avals for n in aval.shape for v in _mlir.dimension_variables(n)})
    _check_dims(name, needed, dims)
    unknown = tuple(v for v in needed if v not in dims)
    sizes = {v: dims.get(v, 1) for v in needed}
    names = [_path_name(path) for path in paths]
    if all(given) and len(set(given)) == len(given):
        for index, own in zip(kept, given, strict=True):
            names[index] = own
    gone = {index for index, donates in zip(kept, donated, strict=True) if donates}
    return Source(
        name=name,
        module=bytecode,
        paths=tuple(paths),
        names=tuple(names),
        types=tuple((_static(a.shape, sizes, name), str(a.dtype)) for a in exported.in_avals),
        donated=tuple(i in gone for i in range(len(paths))),
        kept=kept,
        out_paths=tuple(leaf_paths(exported.out_tree)),
        platforms=tuple(exported.platforms),
        hidden_platform=hidden,
        devices=exported.nr_devices,
        unknown=unknown,
    )


def _static(shape: Any, sizes: Mapping[str, int], name: str) -> tuple[int, ...]:
    result = tuple(_mlir.evaluate_dimension(n, dict(sizes)) for n in shape)
    if any(n < 0 for n in result):
        raise HireError(
            f"{name}: with {dict(sizes)} a shape {tuple(map(str, shape))} becomes {result}: give larger sizes"
        )
    return result


def _check_dims(name: str, needed: list[str], dims: Mapping[str, int]) -> None:
    for variable, size in dims.items():
        if variable not in needed:
            there = f"it has {', '.join(needed)}" if needed else "all its dimensions have sizes"
            raise HireError(f"{name} has no symbolic dimension {variable!r}: {there}")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise HireError(f"dimension {variable} is {size!r}: give a whole number of at least 1")


def _from_module(data: bytes, name: str, dims: Mapping[str, int]) -> Source:
    with _mlir.fresh_context():
        module = _mlir.parse_any(data, name)
        try:
            _mlir.check_strings(module)
            main = _mlir.main_function(module)
        except HireError as error:
            raise HireError(f"{name}: {error}") from None
        _refuse_rewritten(module, name)
        if _hidden_platform(module):
            raise CaptureError(
                f"{name} is the bare module of an export for several platforms, and does not say which: give the "
                "serialized export itself (exported.serialize())"
            )
        types = [_mlir.tensor_type(type_) for type_ in main.type.inputs]
        text = [str(type_) for type_ in main.type.inputs]
        given = _mlir.argument_names(main)
        donated = tuple(_is_donated(main, i) for i in range(len(types)))
        devices = _mlir.module_attribute(module, "mhlo.num_partitions", 1)
        bytecode = _mlir.to_bytecode(module)
    dynamic = tuple(f"?(arg{i})" for i, type_ in enumerate(text) if "?" in type_)
    if dynamic:
        raise CaptureError(
            f"{name} has dynamic shapes ({', '.join(t for t in text if '?' in t)}) without names: export it with "
            "static shapes, or as a serialized jax.export, whose symbolic dimensions can be given sizes"
        )
    _check_dims(name, [], dims)
    named = all(given) and len(set(given)) == len(given)
    return Source(
        name=name,
        module=bytecode,
        paths=tuple((0, i) for i in range(len(types))),
        names=tuple(given) if named else tuple(f"arg{i}" for i in range(len(types))),
        types=tuple(types),
        donated=donated,
        kept=tuple(range(len(types))),
        devices=devices,
    )


def _hidden_platform(module: Any) -> bool:
    main = _mlir.main_function(module)
    return bool(main.type.inputs) and _mlir.argument_attribute(main, 0, "jax.global_constant") == "_platform_index"


def _is_donated(main: Any, index: int) -> bool:
    return any(_mlir.argument_attribute(main, index, name) for name in ("tf.aliasing_output", "jax.buffer_donor"))


def _refuse_rewritten(module: Any, name: str) -> None:
    if any(function.startswith(OUR_MARKS) for function in _mlir.function_names(module)):
        raise CaptureError(f"{name} is rewritten already: give the original export")


def _content_name(constant: np.ndarray) -> str:
    """A name that is the same for every platform and every export of the same weights."""
    return f"constant[{digest(constant)[:12]}]"


def _path_name(path: Path) -> str:
    """``args[0]['embed']`` for a leaf without a name of its own."""
    in_kwargs, first, *rest = path
    head = str(first) if in_kwargs else f"args[{first}]"
    return head + "".join(f"[{key!r}]" for key in rest)
