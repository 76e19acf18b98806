"""What a stored matrix is computed from: parameters, and a few numbers of the program itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hire_compiler.graph.weight import Step, Weight


@dataclass(frozen=True)
class Constant:
    """A few numbers of the program itself, such as the shifts that unpack a byte."""

    values: tuple[float, ...]
    shape: tuple[int, ...]
    dtype: str

    def array(self) -> np.ndarray:
        """The numbers, in their shape."""
        return np.asarray(self.values).reshape(self.shape)

    def laid_out(self, array: np.ndarray) -> Constant:
        """The same numbers in another layout."""
        return replace(self, values=tuple(array.ravel().tolist()), shape=array.shape)


Part = Weight | Constant


def reshape_part(part: Part, shape: tuple[int, ...]) -> Part:
    """The same numbers in another shape."""
    if part.shape == shape:
        return part
    if isinstance(part, Constant):
        return part.laid_out(part.array().reshape(shape))
    if part.steps and part.steps[-1].op == "reshape":
        part = replace(part, steps=part.steps[:-1])
    return part.then(Step("reshape", shape), shape)


def transpose_part(part: Part, order: tuple[int, ...]) -> Part:
    """The dimensions in another order."""
    if isinstance(part, Constant):
        return part.laid_out(part.array().transpose(order))
    shape = tuple(part.shape[i] for i in order)
    moved = [i for i in order if part.shape[i] > 1]
    if moved == sorted(moved):
        return reshape_part(part, shape)  # only dimensions of length 1 change places
    return part.then(Step("transpose", order), shape).simplified()


def slice_part(part: Part, bounds: Sequence[tuple[int, int, int]]) -> Part:
    """Some entries of every dimension: first, behind the last, and step."""
    if isinstance(part, Constant):
        return part.laid_out(part.array()[tuple(slice(*bound) for bound in bounds)])
    starts, stops, strides = zip(*bounds, strict=True)
    shape = tuple(-(-(stop - start) // stride) for start, stop, stride in bounds)
    return part.then(Step("slice", (starts, stops, strides)), shape)
