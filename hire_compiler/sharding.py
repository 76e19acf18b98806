"""How arrays lie on a mesh of devices, and how many candidates a shard must keep: plain data and closed forms.

DaT-Top-k takes the top candidates of every shard by itself. Under random placement the number of true top rows in a
shard is hypergeometric, so the expected recall of "every shard keeps K'" is a closed form (method.md), and the slack
c = s·K'/K over an even split follows from a recall target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, lgamma, prod

import numpy as np

from hire_compiler.weights import Step, Weight

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


# --------------------------------------------------------------------------- which shard gets which row


@dataclass(frozen=True, eq=False)
class Dealing:
    """Which rows each shard gives to which, so that hot ones are spread.

    Every shard gives each shard the same number of rows: one all-to-all moves them, and no device holds more than it
    did.

    Attributes:
      sends: int32 ``[layers, shards, rows of a shard]``: the rows of a shard, counted within it, by receiver and then
        ascending. One entry for all layers, or one each.
    """

    sends: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """The rows that each shard gets, counted among all, ascending: int32 ``[shards, rows of a shard]``."""
        sends = self.sends[0]
        shards, part = sends.shape
        by_receiver = (sends + part * np.arange(shards)[:, None]).reshape(shards, shards, part // shards)
        return by_receiver.transpose(1, 0, 2).reshape(shards, part).astype(np.int32)

    def __repr__(self) -> str:  # part of what names a prepared array, here and in another process
        return f"dealt {hashlib.sha256(np.ascontiguousarray(self.sends).tobytes()).hexdigest()[:12]}"


def deal(hotness: np.ndarray, shards: int, group: int = 1) -> Dealing:
    """Deal rows to shards so that the hot ones are spread evenly.

    Every shard deals its own rows, the hottest first, to all in turn; who is first moves on with every round and from
    shard to shard.

    Args:
      hotness: ``[n]`` or ``[layers, n]``: how often each row (or group) wins; where equal, the first is first.
      shards: how many; n is divisible by its square.
      group: rows that stay together.
    """
    own = hotness.reshape(-1, shards, hotness.shape[-1] // shards)
    rank = np.argsort(np.argsort(-own, axis=-1, kind="stable"), axis=-1)
    receiver = (rank + rank // shards + np.arange(shards)[:, None]) % shards
    sends = np.argsort(receiver, axis=-1, kind="stable")[..., None] * group + np.arange(group)
    return Dealing(sends.reshape(*own.shape[:-1], -1).astype(np.int32))


# --------------------------------------------------------------------------- how many a shard keeps


def expected_recall(n: int, k: int, shards: int, kept: int) -> float:
    """Expected share of the true top ``k`` of ``n`` that is kept when each of ``shards`` equal parts keeps its best.

    Under random placement a part holds a hypergeometric number r of the true top k and loses r − kept of them:
    ``1 − (s/k) Σ_{r > kept} (r − kept) C(k, r) C(n − k, n/s − r) / C(n, n/s)``.

    Args:
      n: rows, or groups of rows where groups are chosen; divisible by ``shards``.
      kept: how many each part keeps.
    """
    part = n // shards
    whole = _log_choose(n, part)
    lost = sum(
        (r - kept) * exp(_log_choose(k, r) + _log_choose(n - k, part - r) - whole)
        for r in range(kept + 1, min(k, part) + 1)
        if part - r <= n - k
    )
    return 1 - shards * lost / k


def kept_per_shard(n: int, k: int, shards: int, recall: float) -> int:
    """The fewest rows (or groups) that every shard must keep for an expected recall of the global top ``k``.

    At least an even split, ⌈k/s⌉; at most all that there are.
    """
    part = n // shards
    kept = min(max(1, ceil(k / shards)), part)
    while kept < min(k, part) and expected_recall(n, k, shards, kept) < recall:
        kept += 1
    return kept


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
