"""Elementwise code between the dots, as a small straight-line program.

The region between two matrix products (an activation, a bias, a softcap) is read out of the graph once, and
used twice: *evaluated with NumPy* on sample points, to recognise an activation by its meaning rather than by
one of its many spellings; and *evaluated with JAX* on gathered candidates, to repeat exactly what the author
wrote on fewer numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Instruction:
    """One operation on earlier values.

    Attributes:
      op: StableHLO name; ``chlo.`` prefixes kept.
      args: indices of earlier values, the inputs counted first.
      dtype: of the result.
      value: of a ``constant``; direction of a ``compare``; "exponent/mantissa" bits of a ``reduce_precision``.
    """

    op: str
    args: tuple[int, ...]
    dtype: str
    value: float | bool | str | None = None


@dataclass(frozen=True)
class Expression:
    """``inputs`` values go in, each instruction adds one, the value numbered ``output`` comes out."""

    inputs: int
    instructions: tuple[Instruction, ...]
    output: int

    def evaluate(self, inputs: Sequence[Any], *, exact: bool = False) -> Any:
        """Evaluate on arrays.

        Args:
          inputs: one array per input; NumPy arrays are computed in float64, JAX values in the types that
            the instructions name.
          exact: JAX evaluation, honouring every conversion; otherwise NumPy in float64.
        """
        values = list(inputs)
        for instruction in self.instructions:
            operands = [values[i] for i in instruction.args]
            values.append(_jax(instruction, operands) if exact else _numpy(instruction, operands))
        return values[self.output]

    def stages(self, early: frozenset[int]) -> Stages:
        """The code cut in two: what follows from the inputs ``early`` alone, and the rest."""
        known = [i in early for i in range(self.inputs)]
        for instruction in self.instructions:
            known.append(all(known[i] for i in instruction.args))
        return Stages(self, tuple(known))

    def on_part(self, width: int, part: int) -> Expression:
        """The same code for ``part`` columns of ``width``, the largest among them: ranks count from the top."""

        def moved(i: Instruction) -> Instruction:
            return replace(i, value=float(i.value or 0) * width / part) if i.op == "row_rank" else i

        return replace(self, instructions=tuple(moved(i) for i in self.instructions))

    def kept(self, width: int) -> int:
        """How many columns of ``width`` an explicit choice by rank keeps (ties aside); 0 where there is none."""
        ranks = [round(float(i.value or 0) * width) + 1 for i in self.instructions if i.op == "row_rank"]
        counts = [int(str(i.value).split("/")[0]) for i in self.instructions if i.op == "group_topk"]
        return max([*ranks, *counts], default=0)

    @property
    def kept_group(self) -> int:
        """How many adjacent columns a choice by :func:`hire_compiler.group_topk` keeps together; else 1."""
        return max((int(str(i.value).split("/")[2]) for i in self.instructions if i.op == "group_topk"), default=1)

    @property
    def sums_rows(self) -> bool:
        """Whether a number enters that only the whole row can give: a mean, an extreme."""
        return any(i.op in ("row_sum", "row_max", "row_min") for i in self.instructions)

    @property
    def widened(self) -> Expression:
        """The same code with every narrow float kept in float32: for ranking, where rounding would only make ties."""
        return replace(
            self,
            instructions=tuple(replace(i, dtype="float32") if i.dtype in NARROW else i for i in self.instructions),
        )

    def plus_input(self, dtype: str) -> Expression:
        """The same code with one more input at the end, which is added to the result."""

        def moved(number: int) -> int:
            return number if number < self.inputs else number + 1

        code = tuple(replace(i, args=tuple(map(moved, i.args))) for i in self.instructions)
        last = Instruction("add", (moved(self.output), self.inputs), dtype)
        return Expression(self.inputs + 1, (*code, last), self.inputs + 1 + len(code))

    @property
    def unrounded(self) -> Expression:
        """The same code without the roundings that the author asks for: for naming what it computes."""

        def plain(i: Instruction) -> Instruction:
            return replace(i, op="convert", value=None) if i.op == "reduce_precision" else i

        return replace(self, instructions=tuple(map(plain, self.instructions)))

    @property
    def rowwise(self) -> bool:
        """Whether a number drawn from all neurons of a row enters: then no neuron can be computed alone."""
        return any(i.op in ROW_OPERATIONS for i in self.instructions)

    @property
    def jumps(self) -> bool:
        """Whether a number may decide: where it changes by a rounding, the result may change by more."""
        return self.cuts or any(i.op in _JUMPS for i in self.instructions)

    @property
    def cuts(self) -> bool:
        """Whether a number that follows from the inputs may decide; not where constants alone are compared."""
        follows = [True] * self.inputs
        for instruction in self.instructions:
            read = [follows[i] for i in instruction.args]
            if any(read) and (instruction.op in _JUMPS or _cuts_off(instruction)):
                return True
            if instruction.op == "divide" and read[1] and instruction.args[1] >= self.inputs:
                return True  # by what may be next to zero
            follows.append(any(read))
        return False

    def widens(self, narrow: Collection[int]) -> bool:
        """Whether a narrow number, of its inputs or its own, is read as a wider one."""
        kinds = ["bfloat16" if i in narrow else "" for i in range(self.inputs)]
        kinds += [i.dtype for i in self.instructions]
        return any(i.op == "convert" and kinds[i.args[0]] in NARROW and i.dtype in WIDE for i in self.instructions)


@dataclass(frozen=True)
class Stages:
    """An expression cut in two by what is known early; values have the numbers of the expression.

    Attributes:
      known: for every value, inputs first, whether it is computed in the first stage.
    """

    expression: Expression
    known: tuple[bool, ...]

    @property
    def rowwise_late(self) -> bool:
        """Whether the second stage draws numbers from whole rows, and so cannot run on some columns."""
        late = self.known[self.expression.inputs :]
        return any(
            i.op in ROW_OPERATIONS and not early for i, early in zip(self.expression.instructions, late, strict=True)
        )

    def first(self, inputs: dict[int, Any], *, exact: bool = True) -> dict[int, Any]:
        """The known values that the second stage reads, from the early inputs; computed as :meth:`evaluate` does."""
        values, compute = dict(inputs), _jax if exact else _numpy
        code = list(enumerate(self.expression.instructions, start=self.expression.inputs))
        for at, instruction in code:
            if self.known[at]:
                values[at] = compute(instruction, [values[i] for i in instruction.args])
        read = {i for at, instruction in code if not self.known[at] for i in instruction.args if self.known[i]}
        read |= {self.expression.output} if self.known[self.expression.output] else set()
        return {i: values[i] for i in read}

    def second(self, known: dict[int, Any], inputs: dict[int, Any]) -> Any:
        """The result, from what :meth:`first` gave (or some columns of it) and the late inputs."""
        values = dict(known) | dict(inputs)
        for at, instruction in enumerate(self.expression.instructions, start=self.expression.inputs):
            if not self.known[at]:
                values[at] = _jax(instruction, [values[i] for i in instruction.args])
        return values[self.expression.output]


def evaluate_instruction(instruction: Instruction, operands: Sequence[Any]) -> Any:
    """One operation on JAX values, in the type that it names."""
    return _jax(instruction, operands)


def special(name: str) -> Callable[..., Any]:
    """A function of ``scipy.special``, which is imported when it is first called: it takes as long as half of JAX."""

    def function(*args: Any) -> Any:
        import scipy.special

        return getattr(scipy.special, name)(*args)

    return function


COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
}

# op: (NumPy function, name of the jax.lax function)
_TABLE: dict[str, tuple[Callable[..., Any], str]] = {
    "add": (np.add, "add"),
    "subtract": (np.subtract, "sub"),
    "multiply": (np.multiply, "mul"),
    "divide": (np.divide, "div"),
    "maximum": (np.maximum, "max"),
    "minimum": (np.minimum, "min"),
    "power": (np.power, "pow"),
    "negate": (np.negative, "neg"),
    "abs": (np.abs, "abs"),
    "sign": (np.sign, "sign"),
    "exponential": (np.exp, "exp"),
    "exponential_minus_one": (np.expm1, "expm1"),
    "log": (np.log, "log"),
    "log_plus_one": (np.log1p, "log1p"),
    "logistic": (special("expit"), "logistic"),
    "tanh": (np.tanh, "tanh"),
    "sqrt": (np.sqrt, "sqrt"),
    "rsqrt": (lambda x: 1 / np.sqrt(x), "rsqrt"),
    "and": (np.logical_and, "bitwise_and"),
    "or": (np.logical_or, "bitwise_or"),
    "not": (np.logical_not, "bitwise_not"),
    "clamp": (lambda low, x, high: np.clip(x, low, high), "clamp"),
    "select": (lambda p, a, b: np.where(p, a, b), "select"),
    "chlo.square": (np.square, "square"),
    "chlo.erf": (special("erf"), "erf"),
    "chlo.erfc": (special("erfc"), "erfc"),
    "is_finite": (np.isfinite, "is_finite"),
    "cbrt": (np.cbrt, "cbrt"),
    "sine": (np.sin, "sin"),
    "cosine": (np.cos, "cos"),
    "floor": (np.floor, "floor"),
    "round_nearest_even": (np.round, ""),  # its function of jax.lax takes more than operands
    "round_nearest_afz": (lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5), ""),
    "ceil": (np.ceil, "ceil"),
    "remainder": (np.fmod, "rem"),
    "atan2": (np.arctan2, "atan2"),
    "chlo.tan": (np.tan, "tan"),
    "chlo.sinh": (np.sinh, "sinh"),
    "chlo.cosh": (np.cosh, "cosh"),
    "chlo.asinh": (np.arcsinh, "asinh"),
}

_ROUNDING = {"round_nearest_even": "TO_NEAREST_EVEN", "round_nearest_afz": "AWAY_FROM_ZERO"}

# Of whole numbers alone, by which packed weights are taken apart: never evaluated with NumPy.
_BITWISE = {
    "shift_left": "shift_left",
    "shift_right_logical": "shift_right_logical",
    "shift_right_arithmetic": "shift_right_arithmetic",
    "xor": "bitwise_xor",
}
BITWISE = frozenset(_BITWISE)

_INTEGERS = re.compile(r"u?int")

OPERATIONS = frozenset(_TABLE) | {"compare", "convert", "constant", "reduce_precision"}

# Numbers drawn from all neurons of a row, as a column: of ``row_sum`` the value is how many neurons the author
# summed, of ``row_rank`` which share of them is larger.
# ``group_topk`` is as wide as its operand; its value is "k/m/group".
ROW_OPERATIONS = frozenset({"row_sum", "row_max", "row_min", "row_rank", "group_topk"})
NARROW = ("bfloat16", "float16")
WIDE = ("float32", "float64")
_JUMPS = frozenset({
    "compare", "row_rank", "group_topk", "sign", "floor", "ceil", "remainder", "round_nearest_even",
    "round_nearest_afz", "is_finite",
})  # fmt: skip


def _cuts_off(instruction: Instruction) -> bool:
    """Whether what stands behind the point of a number is lost."""
    return instruction.op == "convert" and instruction.dtype not in (*NARROW, *WIDE)


def _numpy_row(instruction: Instruction, x: np.ndarray) -> Any:
    match instruction.op:
        case "row_sum":
            # The samples stand for the author's neurons, of which there may be more or fewer.
            return np.mean(x, axis=-1, keepdims=True) * float(instruction.value or 0)
        case "row_max":
            return np.max(x, axis=-1, keepdims=True)
        case "row_min":
            return np.min(x, axis=-1, keepdims=True)
        case "group_topk":
            return _numpy_group_topk(np.asarray(x, np.float64), *map(int, str(instruction.value).split("/")))
    rank = min(round(float(instruction.value or 0) * x.shape[-1]), x.shape[-1] - 1)
    return np.sort(x, axis=-1)[..., ::-1][..., rank : rank + 1]


def _numpy_group_topk(x: np.ndarray, k: int, m: int, group: int) -> np.ndarray:
    count = x.shape[-1] // group  # of groups among the samples, of which the same share is kept
    strength = np.abs(x[..., : count * group]).reshape(*x.shape[:-1], count, group).max(axis=-1)
    last = np.sort(strength, axis=-1)[..., ::-1][..., max(round(count * k / m), 1) - 1, None]
    kept = np.repeat(strength >= last, group, axis=-1)
    return np.where(np.pad(kept, [(0, 0)] * (x.ndim - 1) + [(0, x.shape[-1] - count * group)]), x, 0.0)


def _jax_row(instruction: Instruction, x: Any) -> Any:
    import jax.numpy as jnp
    from jax import lax

    match instruction.op:
        case "row_sum":
            return jnp.sum(x, axis=-1, keepdims=True)
        case "row_max":
            return jnp.max(x, axis=-1, keepdims=True)
        case "row_min":
            return jnp.min(x, axis=-1, keepdims=True)
        case "group_topk":
            from hire_compiler.authors.group_topk import masked

            k, _, group = map(int, str(instruction.value).split("/"))
            return masked(x, min(k, x.shape[-1]), group)
    rank = round(float(instruction.value or 0) * x.shape[-1])
    return lax.top_k(x, rank + 1)[0][..., rank:]


def _numpy(instruction: Instruction, operands: Sequence[Any]) -> Any:
    if instruction.op == "constant":
        return np.asarray(instruction.value)
    if instruction.op == "convert":
        whole = _INTEGERS.match(instruction.dtype) and np.issubdtype(np.asarray(operands[0]).dtype, np.floating)
        return np.trunc(operands[0]) if whole else operands[0]
    if instruction.op in ROW_OPERATIONS:
        return _numpy_row(instruction, operands[0])
    if instruction.op == "compare":
        return COMPARE[str(instruction.value)](*operands)
    if instruction.op == "reduce_precision":
        fraction, exponent = np.frexp(operands[0])
        bits = int(str(instruction.value).split("/")[1]) + 1
        return np.ldexp(np.round(np.ldexp(fraction, bits)), exponent - bits)
    with np.errstate(all="ignore"):
        return _TABLE[instruction.op][0](*operands)


def _jax(instruction: Instruction, operands: Sequence[Any]) -> Any:
    import jax.numpy as jnp
    from jax import lax

    if instruction.op == "constant":
        return jnp.asarray(instruction.value, instruction.dtype)
    if instruction.op == "convert":
        return lax.convert_element_type(operands[0], jnp.dtype(instruction.dtype))
    if instruction.op in ROW_OPERATIONS:
        return _jax_row(instruction, operands[0])
    shape = np.broadcast_shapes(*(jnp.shape(operand) for operand in operands))
    operands = [jnp.broadcast_to(operand, shape) for operand in operands]
    if instruction.op == "compare":
        return COMPARE[str(instruction.value)](*operands)
    if instruction.op == "reduce_precision":
        return lax.reduce_precision(operands[0], *map(int, str(instruction.value).split("/")))
    if instruction.op in _ROUNDING:
        return lax.round(operands[0], getattr(lax.RoundingMethod, _ROUNDING[instruction.op]))
    name = _BITWISE.get(instruction.op) or _TABLE[instruction.op][1]
    return getattr(lax, name)(*operands)
