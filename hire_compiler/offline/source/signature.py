"""The step's own signature: ``step(weights, *inputs)``, out of the flat arguments of the exported program."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hire_compiler.capture.program import Program
from hire_compiler.errors import ConfigError, WeightError
from hire_compiler.offline.disk.tensors import TensorSpec
from hire_compiler.offline.source.devices import Devices
from hire_compiler.offline.source.source import Source
from hire_compiler.offline.source.trees import Path, nest, pick
from hire_compiler.passes.splice.splice import Spliced


@dataclass(frozen=True, eq=False)
class Signature:
    """Which leaves of the original are weights, and where the others stand in the step's arguments.

    Attributes:
      source: the original.
      weights: leaves that the step takes by name, in its first argument.
      inputs: the other leaves.
      paths: where each of the inputs stands in the step's ``(args, kwargs)``, the weights not counted.
      donate: positions of arguments all of whose leaves the author gave away.
    """

    source: Source
    weights: frozenset[int]
    inputs: tuple[int, ...]
    paths: tuple[Path, ...]
    donate: tuple[int, ...]

    def leaf(self, index: int, program: Program) -> int | None:
        """The leaf that an argument of ``@main`` is; None for a constant of the module."""
        own = index - len(program.constants)
        return None if own < 0 else self.source.kept[own]

    def name(self, index: int, program: Program) -> str | None:
        """The name among the weights of an argument of ``@main``; None for an input."""
        leaf = self.leaf(index, program)
        return program.arguments[index].name if leaf is None or leaf in self.weights else None

    def weight_name(self, index: int, program: Program) -> str:
        """The name among the weights of an argument of ``@main`` that is one."""
        name = self.name(index, program)
        assert name is not None
        return name

    def argument_spec(self, index: int, program: Program) -> TensorSpec:
        """The type of an argument of ``@main``."""
        argument = program.arguments[index]
        return TensorSpec(argument.shape, argument.dtype)

    def spec(self, name: str, program: Program) -> TensorSpec:
        """The type of a weight of the model."""
        return next(TensorSpec(a.shape, a.dtype) for a in program.arguments if a.name == name)

    def value(self, index: int, program: Program, weights: Mapping[str, Any], args: Any, kwargs: Any) -> Any:
        """What the step was given for an argument of ``@main``."""
        name = self.name(index, program)
        if name is not None:
            return weights[name]
        leaf = self.leaf(index, program)
        return pick((args, kwargs), self.paths[self.inputs.index(leaf)])  # type: ignore[arg-type]

    def abstract(self, devices: Devices) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Types of the step's positional and keyword arguments."""
        # Behind the constants, the arguments of @main are the leaves that the export kept.
        first = len(devices.arguments) - len(self.source.kept)
        places = {leaf: first + number for number, leaf in enumerate(self.source.kept)}
        structs = [self._struct(leaf, places.get(leaf), devices) for leaf in self.inputs]
        sides: list[Any] = []
        for side in (0, 1):
            chosen = [n for n, path in enumerate(self.paths) if path[0] == side]
            sides.append(nest([self.paths[n][1:] for n in chosen], [structs[n] for n in chosen]) if chosen else None)
        return sides[0] or (), sides[1] or {}

    def _struct(self, leaf: int, index: int | None, devices: Devices) -> Any:
        spec = TensorSpec(*self.source.types[leaf])
        return spec.struct if index is None else devices.argument(index, spec)

    @staticmethod
    def results(source: Source, values: Sequence[Any]) -> Any:
        """The results in the tree of the original, plain."""
        return tuple(values) if source.out_paths is None else nest(source.out_paths, list(values))


def choose_weights(
    source: Source, built: Sequence[tuple[Program, Spliced]], given: Mapping[int, str], parameters: str
) -> Signature:
    """Decide which leaves are weights.

    They are those that values are given for, those that ``parameters`` names, and those that something is prepared
    from. With values given, whatever is prepared must be among them.

    Raises:
      WeightError: a weight that the rewrite needs was not given.
      ConfigError: ``parameters`` is no regular expression, or names nothing.
    """
    prepared = {
        source.kept[index - len(program.constants)]
        for program, spliced in built
        for preparation in spliced.preparations.values()
        for index in preparation.arguments
        if index >= len(program.constants)
    }
    if given and (missing := sorted(prepared - set(given))):
        names = ", ".join(source.names[leaf] for leaf in missing[:4])
        raise WeightError(
            f"the weights lack {names}{' …' * (len(missing) > 4)}, which the rewrite prepares: add the file that holds "
            "it, or say with a map which tensor it is"
        )
    weights = prepared | set(given) | _named(source, parameters)
    inputs = tuple(i for i in range(len(source.paths)) if i not in weights)
    kept = {(0, path[1]) for i, path in enumerate(source.paths) if i in inputs and path[0] == 0}
    position = {first: number for number, (_, first) in enumerate(sorted(kept, key=lambda pair: int(pair[1])))}
    paths = tuple(
        (0, position[path[1]], *path[2:]) if path[0] == 0 else path for path in (source.paths[i] for i in inputs)
    )
    return Signature(source, frozenset(weights), inputs, paths, _donated(source, inputs, paths))


def _named(source: Source, parameters: str) -> set[int]:
    if not parameters:
        return set()
    try:
        pattern = re.compile(parameters)
    except re.error as error:
        raise ConfigError(f"parameters={parameters!r} is no regular expression: {error}") from None
    found = {i for i, name in enumerate(source.names) if pattern.search(name)}
    if not found:
        raise ConfigError(f"parameters={parameters!r} names no argument; there are {', '.join(source.names[:6])} …")
    return found


def _donated(source: Source, inputs: Sequence[int], paths: Sequence[Path]) -> tuple[int, ...]:
    by_argument: dict[int, list[bool]] = {}
    for leaf, path in zip(inputs, paths, strict=True):
        if path[0] == 0:
            by_argument.setdefault(int(path[1]), []).append(source.donated[leaf])
    return tuple(argument for argument, donated in sorted(by_argument.items()) if all(donated))
