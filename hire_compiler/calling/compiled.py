"""One compiled signature of a transformed function: its step program, and what it was prepared with."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hire_compiler import _mlir
from hire_compiler.calling.adapt import type_of
from hire_compiler.calling.anew import PreparedAnew
from hire_compiler.calling.measured import Measurements
from hire_compiler.calling.prepared import Arrays
from hire_compiler.capture.placement import abstract, aval_of, mesh_of, on_automatic_axes, placement_of
from hire_compiler.capture.program import Program
from hire_compiler.errors import WeightError
from hire_compiler.graph.weight import Weight
from hire_compiler.passes.plan.saved_plan import Plan
from hire_compiler.passes.replace.prepared_key import PreparedKey
from hire_compiler.passes.splice.splice import PreparedArray, Spliced
from hire_compiler.reports.report import Report, Speed
from hire_compiler.sharding.layout import MeshShape

Prepared = dict[str, Arrays]
Flat = tuple[Any, ...]

DENSE: Flat = ("the weights of this call cannot be ranked: the program runs as it was written",)


def _nothing() -> None:
    """Stands for a reference to an argument that was not seen yet."""


class CompiledStep:
    """One compiled signature of a transformed function."""

    def __init__(
        self, avals: list[Any], program: Program, spliced: Spliced | None, report: Report, leaves: list[Any]
    ) -> None:
        self.avals = avals
        self._placements = [placement_of(leaf) for leaf in leaves]
        self._seen: list[Callable[[], Any]] = [_nothing] * len(leaves)
        self._mesh = mesh_of((*program.constants, *leaves))
        self.program = program
        self.spliced = spliced
        self.report = report
        self.plan = Plan({})
        self.compiled: Any = None
        self.as_written: Any = None  # compiled by the caller of this, where it is needed
        self.watched = False  # whether a default may still be changed
        self.unranked = ""
        self.anew = PreparedAnew()
        self._said: tuple[str, ...] = ()
        self.speed: Speed | None = None  # what a comparison found
        self.spent: dict[str, float] = {}  # seconds of the first preparing and of compiling
        self.weights: tuple[int, ...] = ()
        self._kept_leaves: tuple[int, ...] = ()
        self._kept_constants: tuple[Any, ...] = ()
        self.measured = Measurements(spliced.counters if spliced else (), report)
        self._current: tuple[list[tuple[int, Any]], Flat] | None = None
        if spliced is not None:
            self._compile(program, spliced)

    def _compile(self, program: Program, spliced: Spliced) -> None:
        hidden = len(program.constants)
        self.weights = tuple(sorted({i for p in spliced.preparations.values() for i in p.arguments}))
        self._kept_constants = tuple(program.constants[i] for i in spliced.kept if i < hidden)
        self._kept_leaves = tuple(i - hidden for i in spliced.kept if i >= hidden)
        donated = [
            len(self._kept_constants) + position
            for position, i in enumerate(self._kept_leaves)
            if program.arguments[hidden + i].donated
        ]

        counters = [jax.core.ShapedArray(c.shape, np.dtype(c.dtype)) for c in spliced.counters]

        def step(*operands: Any) -> list[Any]:
            return _mlir.run_module(spliced.module, (*program.out_avals, *counters), operands)

        step.__name__ = f"hire_{program.name}".replace("<", "").replace(">", "")
        options = dict(program.compiler_options) or None
        self.compiled = jax.jit(step, donate_argnums=donated, keep_unused=True, compiler_options=options)

    def run(self, leaves: list[Any], prepared: Flat, executable: Any = None) -> list[Any]:
        """Run the step program on the caller's leaves (compiled ahead of time, if it is given)."""
        self.anew.calls += 1
        kept = [leaves[i] for i in self._kept_leaves]
        program = executable or (self.compiled if "compile" in self.spent else self._compile_and_run)
        results: list[Any] = program(*self._kept_constants, *kept, *prepared)
        own = len(self.program.out_avals)
        if len(results) > own:
            self.measured.add(results[own:])
        return results[:own]

    def _compile_and_run(self, *operands: Any) -> list[Any]:
        """The first run, whose time is that of compiling."""
        jax.block_until_ready(operands)  # what is still being prepared
        start = time.perf_counter()
        results: list[Any] = self.compiled(*operands)
        if not any(_mlir.is_tracer(operand) for operand in operands):
            self.spent["compile"] = time.perf_counter() - start
        return results

    @property
    def on_mesh(self) -> bool:
        """Whether its arguments lie on several devices."""
        return self._mesh is not None

    def say(self, note: str) -> None:
        """Add a note to the report."""
        self._said = (*self._said, note)

    def types_of(self, prepared: Flat) -> dict[Any, jax.ShapeDtypeStruct]:
        """The types of what a call took beside its leaves: of constants by position, of prepared arrays by name."""
        assert self.spliced is not None
        types: dict[Any, Any] = {i: type_of(value) for i, value in enumerate(self.program.constants)}
        entries = zip(self.spliced.prepared, prepared, strict=True)
        return types | {(entry.preparation, entry.name): type_of(array) for entry, array in entries}

    def operand_types(self, types: list[Any], known: dict[Any, Any]) -> list[Any]:
        """The types of all operands, for another step's types of the leaves and :meth:`types_of`."""
        assert self.spliced is not None
        hidden = len(self.program.constants)
        kept = [known[i] if i < hidden else types[i - hidden] for i in self.spliced.kept]
        return [*kept, *(known[entry.preparation, entry.name] for entry in self.spliced.prepared)]

    @property
    def replaced_leaves(self) -> frozenset[int]:
        """Weights that preparing reads and the step does not."""
        hidden = len(self.program.constants)
        return frozenset(i - hidden for i in self.weights if i >= hidden) - frozenset(self._kept_leaves)

    @property
    def shared_leaves(self) -> frozenset[int]:
        """Weights with which a prepared array shares its memory."""
        hidden = len(self.program.constants)
        preparations = self.spliced.preparations.values() if self.spliced is not None else ()
        return frozenset(argument - hidden for p in preparations for _, argument in p.bits)

    @property
    def halved(self) -> frozenset[Weight]:
        """Float32 weights that it keeps as bfloat16."""
        preparations = self.spliced.preparations.values() if self.spliced is not None else ()
        return frozenset(weight for preparation in preparations for weight in preparation.halved)

    def current_report(self) -> Report:
        """The report, with what the certificates have shown so far."""
        seen: dict[str, Any] = {"certificates": self.measured.certificates(), "tails": self.measured.tails()}
        notes = (*self.report.notes, *self._said)
        notes = (*notes, anew) if (anew := self.anew.note()) else notes
        notes = (*notes, f"runs as written: {self.unranked}") if self.unranked else notes
        seen |= {"speed": self.speed, "seconds": {**self.report.seconds, **self.spent}}
        return Report(**{**self.report.__dict__, **seen, "notes": notes})

    def abstract_operands(self, leaves: list[Any]) -> list[Any]:
        """Types of everything the step program takes, for lowering."""
        assert self.spliced is not None
        values = [*self.program.constants, *leaves]
        kept = [values[i] for i in self.spliced.kept]
        placed = self._placed_by_xla(values) if self._mesh is not None else {}
        return [*kept, *(placed.get((e.preparation, e.name)) or self._prepared_type(e) for e in self.spliced.prepared)]

    def _placed_by_xla(self, values: Sequence[Any]) -> dict[tuple[PreparedKey, str], jax.ShapeDtypeStruct]:
        """Where XLA puts the prepared arrays for which the plan names no place (``sharded="vanilla"``)."""
        assert self.spliced is not None
        placed = {}
        for key, preparation in self.spliced.preparations.items():
            if preparation.spread is None:
                given = [on_automatic_axes(abstract(values[i], aval_of(values[i]))) for i in preparation.arguments]
                with _mlir.own_settings(x64=_mlir.has_wide(given)):
                    lowered = jax.jit(preparation.traced).lower(*given)
                for name, sharding in lowered.compile().output_shardings.items():
                    kind = lowered.out_info[name]
                    placed[key, name] = jax.ShapeDtypeStruct(kind.shape, kind.dtype, sharding=sharding)
        return placed

    def _prepared_type(self, entry: PreparedArray) -> jax.ShapeDtypeStruct:
        dtype = jax.numpy.dtype(entry.dtype)
        if entry.spec is None or self._mesh is None:
            return jax.ShapeDtypeStruct(entry.shape, dtype)
        spec = PartitionSpec(*(axes or None for axes in entry.spec))
        return jax.ShapeDtypeStruct(entry.shape, dtype, sharding=NamedSharding(self._mesh, spec))

    def is_for(self, leaves: list[Any]) -> bool:
        """Whether the arguments have the types, and lie on the devices, for which this was planned.

        Asked in every call of every argument, most of which are those of the last call.
        """
        for i, leaf in enumerate(leaves):
            if self._seen[i]() is leaf:
                continue
            aval = aval_of(leaf)
            if aval is not self.avals[i] and aval != self.avals[i]:
                return False
            if _mlir.is_tracer(leaf):
                continue
            if placement_of(leaf) != self._placements[i]:
                return False
            if isinstance(leaf, jax.Array):
                self._seen[i] = weakref.ref(leaf)
        return True

    def remember(self, leaves: list[Any], prepared: Flat) -> None:
        """Keep the fast answer to "are these the weights of the last call?"."""
        hidden = len(self.program.constants)
        own = [i - hidden for i in self.weights if i >= hidden]
        if any(not isinstance(leaves[i], jax.Array) or _mlir.is_tracer(leaves[i]) for i in own):
            self._current = None
            return
        mine = weakref.ref(self)

        def forget(_dead: Any) -> None:
            step = mine()
            if step is not None:
                step._current = None

        self._current = ([(i, weakref.ref(leaves[i], forget)) for i in own], prepared)

    def current(self, leaves: list[Any]) -> Flat | None:
        """The prepared arrays of the last call if the weights are the same objects."""
        current = self._current
        if current is None:
            return None
        for index, reference in current[0]:
            leaf = leaves[index]
            if reference() is not leaf or leaf.is_deleted():
                return None
        return current[1]

    def nest(self, flat: Flat) -> Prepared:
        """Prepared arrays as a dict of dicts, the form that is handed out."""
        nested: Prepared = {}
        if self.spliced is not None:
            for entry, array in zip(self.spliced.prepared, flat, strict=True):
                nested.setdefault(str(entry.preparation), {})[entry.name] = array
        return nested

    def takes(self, prepared: Prepared) -> bool:
        """Whether prepared arrays that a caller hands in are named as its own are."""
        own = self.spliced.prepared if self.spliced is not None else ()
        return bool(own) and all(entry.name in prepared.get(str(entry.preparation), ()) for entry in own)

    def check_prepared(self, prepared: Prepared) -> Flat:
        """The flat prepared arrays out of what the caller handed in.

        Raises:
          WeightError: something is missing or of another shape.
        """
        assert self.spliced is not None
        flat = []
        for entry in self.spliced.prepared:
            try:
                array = prepared[str(entry.preparation)][entry.name]
            except (KeyError, TypeError):
                raise WeightError(f"prepared= {_lacking(prepared, entry)} {_described(entry)}") from None
            if array.shape != entry.shape or str(array.dtype) != entry.dtype:
                raise WeightError(
                    f"prepared= has the wrong shape or type, {array.dtype}{list(array.shape)}, for {_described(entry)}"
                )
            self._check_mesh(entry, array)
            flat.append(array)
        return tuple(flat)

    def _check_mesh(self, entry: PreparedArray, array: Any) -> None:
        planned = self._prepared_type(entry).sharding
        if planned is None or not isinstance(array, jax.Array) or _mlir.is_tracer(array):
            return
        if not array.sharding.is_equivalent_to(planned, array.ndim):
            raise WeightError(
                f"prepared= lies on other devices than the mesh it is planned for here ({dict(planned.mesh.shape)}): "
                f"prepare it again with arguments on this mesh; it is {_described(entry)}"
            )


def _lacking(prepared: Any, entry: PreparedArray) -> str:
    """What is wrong with prepared arrays that lack one: they may have been made for another mesh."""
    here, found = entry.preparation.mesh, _meshes(prepared)
    if not here or not found or here in found:
        return "lacks"
    return f"was made for the mesh {min(found)} and the weights lie on the mesh {here}; it lacks"


def _meshes(prepared: Any) -> set[str]:
    """The meshes on which prepared arrays lie."""
    arrays = [leaf for leaf in jax.tree.leaves(prepared) if isinstance(leaf, jax.Array) and not _mlir.is_tracer(leaf)]
    placed = [array.sharding for array in arrays]
    return {str(MeshShape(tuple(s.mesh.shape.items()))) for s in placed if isinstance(s, NamedSharding)}


def _described(entry: PreparedArray) -> str:
    key = entry.preparation
    return (
        f"{entry.name} ({entry.dtype}{list(entry.shape)}) of the {key.kind} with weight {key.name}: make it with "
        "step.prepare(…) of this same step, for a call with the same arguments"
    )
