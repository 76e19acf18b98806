"""How arrays and sites lie on a mesh of devices: plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from hire_compiler.graph.weight import Step, Weight

Axes = tuple[str, ...]
Spec = tuple[Axes, ...]  # for every dimension, the mesh axes that split it


@dataclass(frozen=True)
class MeshShape:
    """Named axes of a mesh, in order: ``(("data", 2), ("model", 4))``."""

    axes: tuple[tuple[str, int], ...]

    @property
    def devices(self) -> int:
        """How many devices it has."""
        return prod(size for _, size in self.axes)

    def size(self, names: Axes) -> int:
        """Into how many parts these axes split a dimension."""
        sizes = dict(self.axes)
        return prod(sizes[name] for name in names)

    def __str__(self) -> str:
        return "×".join(f"{name}={size}" for name, size in self.axes)


class NotLocal(Exception):
    """A shard of an argument holds no shard of the tensor made from it; the message says why."""


def local_shape(shape: Sequence[int], spec: Spec, mesh: MeshShape) -> tuple[int, ...]:
    """Shape of one device's part.

    Raises:
      NotLocal: a dimension does not divide.
    """
    parts = [mesh.size(axes) for axes in spec]
    if any(n % p for n, p in zip(shape, parts, strict=True)):
        raise NotLocal(f"its shape {list(shape)} does not divide evenly over the mesh {mesh}")
    return tuple(n // p for n, p in zip(shape, parts, strict=True))


def localize(weight: Weight, source: tuple[int, ...], spec: Spec, mesh: MeshShape) -> tuple[Weight, Spec]:
    """The same weight as one device sees it: its steps in local sizes, and how the result is split.

    Args:
      weight: computed from an argument of shape ``source`` that is split by ``spec``.

    Raises:
      NotLocal: some step mixes what different devices hold.
    """
    local_shape(source, spec, mesh)
    steps: list[Step] = []
    for step in weight.steps:
        step, source, spec = _local_step(step, source, spec, mesh)
        steps.append(step)
    return replace(weight, steps=tuple(steps), shape=local_shape(weight.shape, spec, mesh)), spec


def _local_step(step: Step, shape: tuple[int, ...], spec: Spec, mesh: MeshShape) -> tuple[Step, tuple[int, ...], Spec]:
    values: tuple[int, ...] = step.values  # type: ignore[assignment]
    match step.op:
        case "convert" | "scale":
            return step, shape, spec
        case "transpose":
            return step, tuple(shape[i] for i in values), tuple(spec[i] for i in values)
        case "layer":
            axis = values[0]
            if spec[axis]:
                raise NotLocal("its layers are split over the devices")
            return step, (*shape[:axis], 1, *shape[axis + 1 :]), spec
        case "reshape":
            after = reshaped(shape, spec, values, mesh)
            return Step("reshape", local_shape(values, after, mesh)), tuple(values), after
        case "slice":
            return _local_slice(step, shape, spec, mesh)
    raise NotLocal(f"a {step.op} stands between the parameter and the product")


def _local_slice(step: Step, shape: tuple[int, ...], spec: Spec, mesh: MeshShape) -> tuple[Step, tuple[int, ...], Spec]:
    starts, stops, strides = step.values
    local = local_shape(shape, spec, mesh)
    ends = []
    for axes, n, part, start, stop, stride in zip(spec, shape, local, starts, stops, strides, strict=True):  # type: ignore[call-overload]
        if axes and (start, stop, stride) != (0, n, 1):
            raise NotLocal("it is cut out of a matrix along the dimension that is split over the devices")
        ends.append(part if axes else stop)
    cut = tuple(
        -(-(stop - start) // stride)
        for start, stop, stride in zip(starts, stops, strides, strict=True)  # type: ignore[call-overload]
    )
    return Step("slice", (starts, tuple(ends), strides)), cut, spec


def reshaped(before: Sequence[int], spec: Spec, after: Sequence[int], mesh: MeshShape) -> Spec:
    """How the result of a reshape is split: dimensions are matched in the smallest groups of equal size.

    Raises:
      NotLocal: a split dimension is not the outermost of its group, before or after.
    """
    result: list[Axes] = [()] * len(after)
    i = j = 0
    while i < len(before) or j < len(after):
        first, second = i, j
        left = before[i] if i < len(before) else 1
        right = after[j] if j < len(after) else 1
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        group = [k for k in range(first, min(i, len(before))) if spec[k]]
        if not group:
            continue
        outer = next((k for k in range(first, i) if before[k] > 1), first)
        target = next((k for k in range(second, min(j, len(after))) if after[k] > 1), None)
        if group != [outer] or target is None or after[target] % mesh.size(spec[outer]):
            raise NotLocal("its dimensions are merged or cut across the devices")
        result[target] = spec[outer]
    return tuple(result)


@dataclass(frozen=True)
class SiteLayout:
    """How a site lies on its mesh.

    Attributes:
      mesh: all its axes.
      rows: axes that split the rows (neurons, vocabulary); () if every device holds them all.
      batch: axes that split the rows of the input.
      turned: the head's weight is split over its columns: ``prepare`` exchanges them for rows.
      arguments: how each weight argument of the site is split, by position.
    """

    mesh: MeshShape
    rows: Axes
    batch: Axes
    turned: bool
    arguments: tuple[tuple[int, Spec], ...]

    @property
    def shards(self) -> int:
        """Into how many parts the rows are split."""
        return self.mesh.size(self.rows)

    def __str__(self) -> str:
        split = ", ".join(f"{position}: {spec}" for position, spec in self.arguments)
        return f"rows over {self.rows}{', turned' if self.turned else ''}; {split}"

    def argument(self, position: int) -> Spec:
        """How an argument is split."""
        return dict(self.arguments)[position]

    def local(self, weight: Weight, source: tuple[int, ...]) -> tuple[Weight, Spec]:
        """A weight of the site as one device reads it, and how the whole is split.

        Raises:
          NotLocal: its shards cannot work by themselves.
        """
        return localize(weight, source, self.argument(weight.argument), self.mesh)
