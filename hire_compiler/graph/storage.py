"""How a matrix is computed from what is stored: narrow numbers, scales, zero points.

Elementwise code over *parts*. Every dimension of the matrix is a run of *factors*; a part holds a factor whole, or has
length 1 there and is repeated along it::

    q      int8    [4096, 11008]     dimensions ((32, 128), (11008,))      part [32, 128, 11008]
    scale  float32 [32, 11008]       one for 128 inputs                    part [32,   1, 11008]

So a change of layout moves factors, in every part alike, and the matrix need never be made: some of its rows are some
rows of every part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import gcd, prod

import numpy as np

from hire_compiler.graph.expression import Expression, Instruction
from hire_compiler.graph.parts import Constant, Part, reshape_part, slice_part, transpose_part
from hire_compiler.graph.weight import Step, Weight

Factors = tuple[int, ...]


class Entangled(Exception):
    """A change of layout that no part can follow by itself."""


@dataclass(frozen=True)
class Form:
    """A tensor as elementwise code over parts.

    Attributes:
      parts: each as long as there are factors: a factor's size, or 1.
      code: from the parts to the numbers.
      dims: the factors of every dimension; none of them is 1.
      dtype: of the numbers.
    """

    parts: tuple[Part, ...]
    code: Expression
    dims: tuple[Factors, ...]
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(prod(factors) for factors in self.dims)

    @property
    def factors(self) -> Factors:
        """Of all dimensions, one after the other."""
        return tuple(factor for own in self.dims for factor in own)

    def step(self, step: Step, shape: tuple[int, ...], dtype: str) -> Form:
        """The form after one step of :class:`~hire_compiler.graph.weight.Weight`.

        Raises:
          Entangled: a part cannot follow.
        """
        values: tuple[int, ...] = step.values  # type: ignore[assignment]
        match step.op:
            case "transpose":
                return self.transposed(values)
            case "reshape":
                return self.reshaped(values)
            case "slice":
                return self.sliced(*step.values)  # type: ignore[arg-type]
            case "layer":
                return self._layered(values[0])
            case "convert":
                return self.then("convert", dtype)
            case "scale":
                factor = Instruction("constant", (), dtype, step.values[1])  # type: ignore[arg-type]
                return apply(str(step.values[0]), [self, scalar(factor, self.shape)], dtype)
        raise Entangled(f"a {step.op}")

    def then(self, op: str, dtype: str, value: str | None = None) -> Form:
        """One more elementwise operation on the numbers."""
        return apply(op, [self], dtype, value)

    def transposed(self, order: Sequence[int]) -> Form:
        """The dimensions in another order."""
        first = [0, *accumulate(len(factors) for factors in self.dims)]
        moved = tuple(at for i in order for at in range(first[i], first[i + 1]))
        dims = tuple(self.dims[i] for i in order)
        return replace(self, parts=tuple(transpose_part(part, moved) for part in self.parts), dims=dims)

    def reshaped(self, shape: tuple[int, ...]) -> Form:
        """The same numbers in another shape."""
        todo, dims = list(self.factors), []
        for n in shape:
            own: list[int] = []
            while prod(own) < n:
                missing, factor = n // prod(own), todo.pop(0) if todo else 0
                if n % prod(own):
                    raise Entangled("a reshape")
                if factor and missing % factor == 0:
                    own.append(factor)
                elif factor and factor % missing == 0:
                    own.append(missing)
                    todo.insert(0, factor // missing)
                else:
                    raise Entangled("a reshape")
            if prod(own) != n:
                raise Entangled("a reshape")
            dims.append(tuple(own))
        return replace(self._refined([f for own in dims for f in own]), dims=tuple(dims)).merged()

    def broadcast(self, dims: Sequence[int], shape: tuple[int, ...]) -> Form:
        """Repeated along new dimensions, and along those of length 1."""
        order = sorted(range(len(dims)), key=lambda i: dims[i])
        turned = self if order == list(range(len(dims))) else self.transposed(order)
        own = dict(zip(sorted(dims), turned.dims, strict=True))
        made = [own[i] if own.get(i) else ((n,) if n > 1 else ()) for i, n in enumerate(shape)]
        if tuple(prod(factors) for factors in made) != shape:
            raise Entangled("a broadcast")
        parts = []
        for part in turned.parts:
            lengths, sizes = iter(part.shape), []
            for i, factors in enumerate(made):
                sizes += [next(lengths) for _ in factors] if own.get(i) else [1] * len(factors)
            parts.append(reshape_part(part, tuple(sizes)))
        return replace(turned, parts=tuple(parts), dims=tuple(made))

    def sliced(self, starts: Sequence[int], stops: Sequence[int], strides: Sequence[int]) -> Form:
        """A part of every dimension."""
        form, at = self, 0
        cut: list[Factors] = []
        for factors, start, stop, stride in zip(self.dims, starts, stops, strides, strict=True):
            form, left = form._cut(at, factors, start, stop, stride)
            at += len(left)
            cut.append(left)
        return replace(form, dims=tuple(cut))

    def _cut(self, at: int, factors: Factors, start: int, stop: int, stride: int) -> tuple[Form, Factors]:
        """Entries of one dimension, whose first factor is number ``at``; and the factors that are left."""
        if (start, stop, stride) == (0, prod(factors), 1):
            return self, factors
        inner = prod(factors[1:])
        if inner == 1:
            form, count = self._cut_factor(at, factors[0], start, stop, stride)
            return form, (count,) if count > 1 else ()
        if stride == 1 and start % inner == 0 and stop % inner == 0:
            form, count = self._cut_factor(at, factors[0], start // inner, stop // inner, 1)
            return form, (*((count,) if count > 1 else ()), *factors[1:])
        if start // inner != (stop - 1) // inner:
            raise Entangled("a slice")
        outer = start // inner
        form, _ = self._cut_factor(at, factors[0], outer, outer + 1, 1)
        return form._cut(at, factors[1:], start - outer * inner, stop - outer * inner, stride)

    def _cut_factor(self, at: int, size: int, start: int, stop: int, stride: int) -> tuple[Form, int]:
        count = -(-(stop - start) // stride)
        parts = []
        for part in self.parts:
            bounds = [(0, n, 1) for n in part.shape]
            if part.shape[at] == size:
                bounds[at] = (start, stop, stride)
                part = slice_part(part, bounds)
            parts.append(part if count > 1 else reshape_part(part, (*part.shape[:at], *part.shape[at + 1 :])))
        return replace(self, parts=tuple(parts)), count

    def _layered(self, axis: int) -> Form:
        """One entry of a dimension, which a loop's counter picks; the dimension stays, of length 1."""
        if len(self.dims[axis]) != 1:
            raise Entangled("a loop over blocks of it")
        (size,), at = self.dims[axis], sum(len(factors) for factors in self.dims[:axis])
        parts = []
        for part in self.parts:
            one = (*part.shape[:at], 1, *part.shape[at + 1 :])
            if part.shape[at] == size:
                if not isinstance(part, Weight) or part.layers is not None:
                    raise Entangled("a loop over it")
                part = part.then(Step("layer", (at, size)), one)
            parts.append(reshape_part(part, (*one[:at], *one[at + 1 :])))
        dims = tuple(() if i == axis else factors for i, factors in enumerate(self.dims))
        return replace(self, parts=tuple(parts), dims=dims)

    def _refined(self, factors: Sequence[int]) -> Form:
        """The same numbers with factors split further; the dimensions are the caller's to say."""
        runs, todo = [], list(factors)
        for factor in self.factors:
            run: list[int] = []
            while prod(run) < factor:
                run.append(todo.pop(0))
            runs.append(run)
        parts = tuple(
            reshape_part(part, tuple(f if n > 1 else 1 for n, run in zip(part.shape, runs, strict=True) for f in run))
            for part in self.parts
        )
        return replace(self, parts=parts)

    def refined(self, dims: Sequence[Factors]) -> Form:
        """The same numbers, each dimension split into these factors."""
        return replace(self._refined([f for own in dims for f in own]), dims=tuple(dims))

    def merged(self) -> Form:
        """Neighbouring factors of a dimension as one, where every part holds both or neither."""
        dims, groups, at = [], [], 0
        for factors in self.dims:
            own: list[list[int]] = []
            for i in range(at, at + len(factors)):
                before = own[-1][-1] if own else None
                if before is not None and all((p.shape[i] > 1) == (p.shape[before] > 1) for p in self.parts):
                    own[-1].append(i)
                else:
                    own.append([i])
            at += len(factors)
            flat = self.factors
            dims.append(tuple(prod(flat[i] for i in group) for group in own))
            groups += own
        parts = tuple(reshape_part(p, tuple(prod(p.shape[i] for i in group) for group in groups)) for p in self.parts)
        return replace(self, parts=parts, dims=tuple(dims))


def leaf(weight: Weight) -> Form:
    """What is stored, as it is."""
    dims = tuple((n,) if n > 1 else () for n in weight.shape)
    bare = reshape_part(weight, tuple(n for n in weight.shape if n > 1))
    return Form((bare,), Expression(1, (), 0), dims, weight.dtype)


def constants(array: np.ndarray, dtype: str) -> Form:
    """A few numbers of the program."""
    kept = tuple(n for n in array.shape if n > 1)
    constant = Constant(tuple(array.ravel().tolist()), kept, dtype)
    return Form((constant,), Expression(1, (), 0), tuple((n,) if n > 1 else () for n in array.shape), dtype)


def scalar(constant: Instruction, shape: tuple[int, ...]) -> Form:
    """One number everywhere."""
    return Form((), Expression(0, (constant,), 0), tuple((n,) if n > 1 else () for n in shape), constant.dtype)


def apply(op: str, forms: Sequence[Form], dtype: str, value: str | None = None) -> Form:
    """An elementwise operation on forms of one shape.

    Raises:
      Entangled: their factors do not go together.
    """
    alike, dims = _alike(forms)
    merger = _Merger()
    made = merger.emit(Instruction(op, tuple(merger.take(form) for form in alike), dtype, value))
    return merger.form(made, dims, dtype).merged()


def concatenate(forms: Sequence[Form], axis: int) -> Form:
    """Forms side by side that are unpacked from the same numbers: a new factor says which of them.

    Raises:
      Entangled: they differ in shape, or hold different numbers.
    """
    if len({form.shape for form in forms}) > 1 or len({frozenset(_weights(form)) for form in forms}) > 1:
        raise Entangled("a concatenate")
    alike, dims = _alike(forms)
    at = sum(len(factors) for factors in dims[:axis])
    which = Constant(
        tuple(range(len(forms))), (*(1 for _ in range(at)), len(forms), *(1 for f in dims[axis:] for _ in f)), "int32"
    )
    merger = _Merger()
    numbers = [merger.take(_with_factor(form, at)) for form in alike]
    chosen = merger.part(which)
    last = numbers[-1]
    for i in range(len(forms) - 2, -1, -1):
        own = merger.emit(Instruction("constant", (), "int32", float(i)))
        is_own = merger.emit(Instruction("compare", (chosen, own), "bool", "EQ"))
        last = merger.emit(Instruction("select", (is_own, numbers[i], last), forms[0].dtype))
    wider = tuple((len(forms), *own) if i == axis else own for i, own in enumerate(dims))
    return merger.form(last, wider, forms[0].dtype).merged()


def _with_factor(form: Form, at: int) -> Form:
    return replace(form, parts=tuple(reshape_part(p, (*p.shape[:at], 1, *p.shape[at:])) for p in form.parts))


def _weights(form: Form) -> list[Weight]:
    return [part for part in form.parts if isinstance(part, Weight)]


def _alike(forms: Sequence[Form]) -> tuple[list[Form], tuple[Factors, ...]]:
    """The forms with the same factors."""
    dims: list[Factors] = []
    for own in zip(*(form.dims for form in forms), strict=True):
        finest = own[0]
        for other in own[1:]:
            finest = _common(finest, other)
        dims.append(finest)
    return [form.refined(dims) for form in forms], tuple(dims)


def _common(one: Factors, other: Factors) -> Factors:
    left, right, found = list(one), list(other), []
    while left and right:
        a, b = left.pop(0), right.pop(0)
        shared = gcd(a, b)
        # The inner parts of two factors must end together: one of them divides the other.
        if shared != min(a, b):
            raise Entangled("blocks that do not divide each other")
        found.append(shared)
        left = [a // shared, *left] if a > shared else left
        right = [b // shared, *right] if b > shared else right
    if left or right:
        raise Entangled("different sizes")
    return tuple(found)


class _Merger:
    """Puts the code of several forms together; what they share is there once."""

    def __init__(self) -> None:
        self._parts: dict[Part, int] = {}
        self._code: dict[Instruction, int] = {}  # arguments: a part's number, or below 0 an instruction's

    def part(self, part: Part) -> int:
        return self._parts.setdefault(part, len(self._parts))

    def emit(self, instruction: Instruction) -> int:
        return -1 - self._code.setdefault(instruction, len(self._code))

    def take(self, form: Form) -> int:
        numbers = [self.part(part) for part in form.parts]
        for instruction in form.code.instructions:
            numbers.append(self.emit(replace(instruction, args=tuple(numbers[i] for i in instruction.args))))
        return numbers[form.code.output]

    def form(self, output: int, dims: tuple[Factors, ...], dtype: str) -> Form:
        count = len(self._parts)

        def final(number: int) -> int:
            return number if number >= 0 else count - 1 - number

        code = tuple(replace(i, args=tuple(map(final, i.args))) for i in self._code)
        return Form(tuple(self._parts), Expression(count, code, final(output)), dims, dtype)
