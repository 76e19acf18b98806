"""Read the text of a compiled program: XLA's scheduled HLO, of any platform, as plain data.

``compiled.as_text()`` is the one account of what will run: which copies, gathers and collectives the compiler made,
in which memory each array lives, and (on TPU) how many cycles the compiler expects an operation to take.
This reader knows the grammar and nothing about costs: computations, instructions, shapes with layout and memory
space, operands, called computations, attributes. :mod:`hire_compiler.measuring.hlo.cost` puts prices on what it reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from hire_compiler.errors import HireError

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "bf16": 16, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")


@dataclass(frozen=True)
class Array:
    """The type of one array.

    Attributes:
      dtype: HLO's name: ``bf16``, ``f32``, ``s8`` …
      shape: dimensions.
      layout: minor-to-major order of the dimensions, () if none is printed.
      space: memory space; on TPU 0 is HBM, 1 is VMEM (printed ``S(1)``).
    """

    dtype: str
    shape: tuple[int, ...]
    layout: tuple[int, ...] = ()
    space: int = 0

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without the padding of a tiled layout."""
        return (self.size * _bits(self.dtype) + 7) // 8


def _bits(dtype: str) -> int:
    known = _BITS.get(dtype)
    if known is not None:
        return known
    digits = re.match(r"[a-z]+(\d+)", dtype)
    return int(digits.group(1)) if digits else 0


@dataclass(frozen=True)
class HloInstruction:
    """One operation of a computation.

    Attributes:
      name: unique in the program.
      op: HLO opcode (``fusion``, ``gather``, ``all-reduce-start`` …).
      results: one array, or the leaves of the tuple it returns.
      operands: names of the instructions it reads.
      attributes: the rest of its line, as printed.
    """

    name: str
    op: str
    results: tuple[Array, ...]
    operands: tuple[str, ...] = ()
    attributes: str = ""
    root: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of all results."""
        return sum(array.nbytes for array in self.results)

    @cached_property
    def called(self) -> tuple[str, ...]:
        """Computations that it runs: fusion, loop body and condition, branches, reducer."""
        found = re.findall(
            r"\b(?:calls|body|condition|to_apply|(?:true|false)_computation)=%?([\w.\-]+)", self.attributes
        )
        for several in re.findall(r"\b(?:branch_computations|called_computations|calls)=\{([^}]*)\}", self.attributes):
            found += [name.strip().lstrip("%") for name in several.split(",") if name.strip()]
        return tuple(found)

    def attribute(self, name: str) -> str:
        """The value of ``name=…`` up to the next comma outside brackets; '' if absent."""
        found = re.search(rf"(?:^|[\s,]){re.escape(name)}=", self.attributes)
        return next(_split(self.attributes[found.end() :]), "").strip() if found else ""

    @cached_property
    def config(self) -> dict[str, object]:
        """The backend's own notes (``backend_config``), {} if they are not a JSON object."""
        value = self.attribute("backend_config")
        if value.startswith('"'):  # older printers quote it
            value = value.strip('"').replace('\\"', '"')
        try:
            config = json.loads(value) if value else {}
        except ValueError:
            return {}
        return config if isinstance(config, dict) else {}

    @property
    def estimated_cycles(self) -> int | None:
        """Cycles that the TPU compiler expects, or None where it says nothing."""
        window = self.config.get("window_config")
        cycles = window.get("estimated_cycles") if isinstance(window, dict) else None
        return None if cycles is None else int(cycles)

    @property
    def path(self) -> str:
        """Where it comes from in the author's program: ``jit(step)/decoder/mlp/dot_general``."""
        found = re.search(r'op_name="([^"]*)"', self.attribute("metadata"))
        return found.group(1) if found else ""


@dataclass(frozen=True)
class Computation:
    """A named list of instructions, in the order in which they run."""

    name: str
    instructions: tuple[HloInstruction, ...]

    @cached_property
    def by_name(self) -> dict[str, HloInstruction]:
        """Instructions by name."""
        return {instruction.name: instruction for instruction in self.instructions}

    @property
    def parameters(self) -> tuple[HloInstruction, ...]:
        """Its parameters by number."""
        found = [i for i in self.instructions if i.op == "parameter"]
        return tuple(sorted(found, key=lambda i: int(i.operands[0])))

    @property
    def root(self) -> HloInstruction:
        """What it returns."""
        return next((i for i in self.instructions if i.root), self.instructions[-1])

    def users(self, name: str) -> list[HloInstruction]:
        """The instructions that read a value."""
        return [i for i in self.instructions if name in i.operands and i.op != "parameter"]


@dataclass(frozen=True)
class HloProgram:
    """A compiled program.

    Attributes:
      name: of the module.
      entry: name of the entry computation.
      computations: all of them, by name.
    """

    name: str
    entry: str
    computations: dict[str, Computation] = field(repr=False)

    @property
    def main(self) -> Computation:
        """The entry computation."""
        return self.computations[self.entry]

    def trip_count(self, loop: HloInstruction) -> int | None:
        """How often a ``while`` runs: the compiler's own note, or the bound its condition compares with; else None."""
        known = loop.config.get("known_trip_count")
        if isinstance(known, dict) and "n" in known:
            return int(known["n"])
        name = loop.attribute("condition").lstrip("%")
        return _bound(self, self.computations[name]) if name in self.computations else None

    def walk(self, computation: str | None = None, repeat: int = 1) -> Iterator[tuple[HloInstruction, int]]:
        """Everything that the entry runs, with how often.

        Fusions count as one instruction, unless they hold a collective. Both sides of a ``conditional`` are walked,
        each as often as the conditional; a loop of unknown length once.
        """
        for instruction in self.computations[computation or self.entry].instructions:
            yield instruction, repeat
            if instruction.op == "while":
                trips = self.trip_count(instruction) or 1
                yield from self.walk(instruction.attribute("body").lstrip("%"), repeat * trips)
            elif instruction.op in ("conditional", "call", "async-start") or self._hides_collective(instruction):
                for called in instruction.called:
                    yield from self.walk(called, repeat)

    def _hides_collective(self, fusion: HloInstruction) -> bool:
        """Whether a fusion holds a collective (the TPU compiler fuses all-reduce with the slice behind it)."""
        bodies = (self.computations[name] for name in fusion.called) if fusion.op == "fusion" else ()
        return any(collective_kind(i.op) for body in bodies for i in body.instructions)


def collective_kind(op: str) -> str:
    """``all-gather`` for ``all-gather`` and ``all-gather-start``; '' for their ``-done`` halves and other opcodes."""
    kind = op.removesuffix("-start")
    return kind if kind in COLLECTIVES else ""


def collective_result_bytes(instruction: HloInstruction) -> int:
    """Bytes of what a collective produces; its asynchronous half returns its operands as well, which do not count."""
    arrays = [array for array in instruction.results if array.dtype != "u32" or array.shape]  # contexts are u32[]
    if instruction.op.endswith("-start") and instruction.op != "all-reduce-start" and len(arrays) > 1:
        arrays = arrays[len(arrays) // 2 :]
    return sum(array.nbytes for array in arrays)


def _bound(program: HloProgram, condition: Computation) -> int | None:
    """The constant that a loop's counter is compared with, for ``i < n`` counting up from 0."""
    root = condition.root
    inner = condition
    if root.op == "fusion":
        inner = program.computations[root.called[0]]
    compare = inner.root
    if compare.op != "compare" or compare.attribute("direction") != "LT":
        return None
    value = inner.by_name.get(compare.operands[1])
    if value is not None and value.op == "parameter" and inner is not condition:
        value = condition.by_name.get(root.operands[int(value.operands[0])])
    if value is None or value.op != "constant" or not re.fullmatch(r"\d+", value.operands[0]):
        return None
    return int(value.operands[0])


# --------------------------------------------------------------------------- parsing

_HEAD = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s*(?:\(.*\)\s*->.*)?\{\s*$")
_LINE = re.compile(r"^\s+(ROOT\s+)?%?([\w.\-]+)\s+=\s+(.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_COMMENT = re.compile(r"/\*.*?\*/")


def read_hlo(text: str) -> HloProgram:
    """Read what ``compiled.as_text()`` prints.

    Raises:
      HireError: it is no HLO text.
    """
    computations: dict[str, Computation] = {}
    body: list[HloInstruction] = []
    entry = current = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            head = _HEAD.match(line)
            if head:
                current, body = head.group(2), []
                entry = current if head.group(1) else entry
            elif line.startswith("}") and current:
                computations[current] = Computation(current, tuple(body))
                current = ""
        elif current:
            body.append(_instruction(line))
    if not entry or entry not in computations:
        raise HireError("this is not the text of a compiled program: it has no ENTRY computation")
    name = re.match(r"HloModule\s+([\w.\-]+)", text)
    return HloProgram(name.group(1) if name else entry, entry, computations)


def _instruction(line: str) -> HloInstruction:
    matched = _LINE.match(line)
    if not matched:
        raise HireError(f"cannot read this line of a compiled program: {line.strip()[:120]}")
    root, name, rest = matched.groups()
    type_end = _type_end(rest)
    types, rest = _COMMENT.sub("", rest[:type_end]), rest[type_end:].lstrip()
    op, _, rest = rest.partition("(")
    inside = _closing(rest)
    attributes = rest[inside + 1 :].lstrip(", ")
    operands = tuple(_operand(part) for part in _split(_COMMENT.sub("", rest[:inside])) if part.strip())
    if op == "constant":
        operands = (rest[:inside],)
    return HloInstruction(name, op.strip(), _arrays(types), operands, attributes, bool(root))


def _outside(text: str) -> Iterator[tuple[int, str]]:
    """The characters outside brackets and quotes, with their positions; ends at a bracket that nothing opened."""
    depth, quoted = 0, False
    for position, character in enumerate(text):
        if character == '"' and text[position - 1 : position] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            if depth == 0:
                yield position, character
                return
            depth -= 1
        elif depth == 0:
            yield position, character


def _type_end(text: str) -> int:
    """Where the type at the beginning of a text ends: at the first blank outside brackets."""
    return next((position for position, character in _outside(text) if character == " "), len(text))


def _closing(text: str) -> int:
    """The position of the parenthesis that closes one opened before the text."""
    return next((position for position, character in _outside(text) if character in ")]}"), len(text))


def _split(text: str) -> Iterator[str]:
    """The parts of a list, split at commas outside brackets and quotes."""
    start = 0
    for position, character in _outside(text):
        if character == ",":
            yield text[start:position]
            start = position + 1
    yield text[start:]


def _operand(part: str) -> str:
    """The name in ``%name`` or ``f32[8]{0} %name``; a parameter's number as it is."""
    return part.split()[-1].lstrip("%")


def _arrays(types: str) -> tuple[Array, ...]:
    return tuple(_array(*found.groups()) for found in _ARRAY.finditer(types))


def _array(dtype: str, shape: str, layout: str | None) -> Array:
    order, _, tiling = (layout or "").partition(":")
    space = re.search(r"S\((\d+)\)", tiling)
    dims = tuple(int(n.lstrip("<=")) for n in shape.split(",") if n)
    return Array(dtype, dims, tuple(int(n) for n in order.split(",") if n), int(space.group(1)) if space else 0)
