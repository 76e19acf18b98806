"""The author's own ``shard_map``: its body is one device's program, and is rewritten as such.

A body (``sdy.manual_computation``) reads local shards and talks to other devices by collectives of its own, so what is
rewritten in it is shard by shard from the start. It is cut out as a module, goes through all stages like any program,
and a call of the result takes its place; prepared arrays enter through the manual computation, one part a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from hire_compiler import _mlir
from hire_compiler.capture.program import Argument, Program
from hire_compiler.passes.detect.bodies import Numbers, join_some, left_apart
from hire_compiler.passes.normalize.join_bodies import NAME
from hire_compiler.passes.replace.over_mesh import over_mesh
from hire_compiler.passes.replace.replacement import Preparation, Spread
from hire_compiler.passes.splice.splice import PreparedArray, Spliced
from hire_compiler.reports.report import Report
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.sharding.layout import Axes, MeshShape, Spec


@dataclass(frozen=True)
class Body:
    """One ``shard_map`` of a program.

    Attributes:
      number: which of the program's manual computations it is; of joined ones, the last.
      mesh: all axes; every one of them is manual.
      specs: how each operand is split.
      sources: for every operand, the argument of the program that it is, or None if it is computed.
      program: its body as a program of one device.
    """

    number: int
    mesh: MeshShape
    specs: tuple[Spec, ...]
    sources: tuple[int | None, ...]
    program: Program


_UNCOUNTED = (
    "certificates inside a shard_map hold like all others (without a proof the dense branch runs), but each device has "
    "its own and they are not counted"
)
Rewrite = Callable[[Program], tuple[Report, Spliced | None]]


def rewrite_bodies(
    program: Program, module: bytes, spliced: Spliced | None, rewrite: Rewrite, joined: Sequence[Numbers] = ()
) -> tuple[Spliced | None, list[Report]]:
    """Rewrite the ``shard_map`` bodies of a program.

    Args:
      program: as it was captured.
      module: its normalized module; what is spliced already stands in ``spliced``.
      rewrite: the stages, for one device's program.
      joined: which of its manual computations are read as one. They become one where that is rewritten.

    Returns:
      The step program, changed or not, and a report for every body that stands in no loop and leaves no axis to XLA.
    """
    step = spliced or Spliced(module, tuple(range(len(program.arguments))), (), {})
    found = _bodies(program, step, joined)
    outcomes = [rewrite(body.program) for body in found]
    done = [body.number for body, (_, inner) in zip(found, outcomes, strict=True) if inner is not None]
    if not done:
        return spliced, [report for report, _ in outcomes]
    step, left = _joined(step, [numbers for numbers in joined if numbers[-1] in done])
    reports = []
    for body, (report, inner) in zip(found, outcomes, strict=True):
        if inner is not None and any(counter.measure == "proof" for counter in inner.counters):
            report = replace(report, notes=(*report.notes, _UNCOUNTED))
        reports.append(report)
        if inner is not None:
            step = _stitch(step, replace(body, number=left.index(body.number)), inner)
    return step, reports


def _operations(module: Any) -> list[Any]:
    """All manual computations that stand in no other, in program order."""
    return _mlir.outermost(_mlir.main_function(module).operation, NAME)


def _joined(step: Spliced, joined: Sequence[Numbers]) -> tuple[Spliced, list[int]]:
    """A step whose manual computations are joined, and which are left."""
    module = _mlir.parse(step.module)
    left = left_apart(len(_operations(module)), joined)
    join_some(module, joined)
    return replace(step, module=_mlir.to_bytecode(module)) if joined else step, left


def _bodies(program: Program, step: Spliced, joined: Sequence[Numbers]) -> list[Body]:
    step, left = _joined(step, joined)
    module = _mlir.parse(step.module)
    meshes = _mlir.meshes(module)
    main = _mlir.main_function(module).operation.regions[0].blocks[0]
    found = []
    for number, op in enumerate(_operations(module)):
        if op.block != main:
            continue  # in a loop, or in a branch
        name, specs = _mlir.manual_shardings(op)
        mesh = MeshShape(meshes[name])
        if set(_mlir.manual_axes(op)) != {axis for axis, _ in mesh.axes}:
            continue  # partly left to XLA's partitioner
        places = [_mlir.argument_number(operand) for operand in op.operands]
        sources = tuple(None if i is None or i >= len(step.kept) else step.kept[i] for i in places)
        types = [_mlir.tensor_type(argument.type) for argument in op.regions[0].blocks[0].arguments]
        arguments = tuple(
            replace(program.arguments[source], shape=shape, dtype=dtype)
            if source is not None
            else Argument("an array computed before the shard_map", shape, dtype, donated=True)
            for source, (shape, dtype) in zip(sources, types, strict=True)
        )
        text = _mlir.body_module(step.module, NAME, number)
        inner = Program(f"{program.name} in shard_map", text, arguments, compiler_options=program.compiler_options)
        found.append(Body(left[number], mesh, tuple(specs), sources, inner))
    return found


def _stitch(step: Spliced, body: Body, inner: Spliced) -> Spliced:
    """Put a rewritten body back; earlier bodies keep their numbers, as each is replaced by one."""
    preparations = {key: _spread(preparation, body) for key, preparation in inner.preparations.items()}
    renamed = {key: preparation.key for key, preparation in preparations.items()}
    known = {(entry.preparation, entry.name) for entry in step.prepared}
    module = _mlir.parse(step.module)
    operation = _operations(module)[body.number]
    added, places = [], []
    for entry in inner.prepared:
        preparation = preparations[entry.preparation]
        spec = preparation.spec(entry.name)
        assert spec is not None
        shape = tuple(n * body.mesh.size(spec[i]) if i < len(spec) else n for i, n in enumerate(entry.shape))
        whole = PreparedArray(renamed[entry.preparation], entry.name, shape, entry.dtype, spec)
        if (whole.preparation, whole.name) not in known:
            added.append(whole)
        places.append(whole)
    order = [*step.prepared, *added]
    position = {(entry.preparation, entry.name): len(step.kept) + i for i, entry in enumerate(order)}
    _mlir.replace_body(
        module,
        operation,
        inner.module,
        keep=inner.kept,
        new_arguments=[(entry.shape, entry.dtype) for entry in added],
        entering=[
            (position[whole.preparation, whole.name], local.shape, local.dtype, _whole_spec(whole))
            for whole, local in zip(places, inner.prepared, strict=True)
        ],
    )
    _mlir.number_channels(module)
    unused = _mlir.drop_unused_arguments(module, len(step.kept))
    kept = tuple(argument for i, argument in enumerate(step.kept) if i not in unused)
    merged = {**step.preparations, **{p.key: p for p in preparations.values()}}
    return replace(step, module=_mlir.to_bytecode(module), kept=kept, prepared=tuple(order), preparations=merged)


def _whole_spec(array: PreparedArray) -> Spec:
    assert array.spec is not None
    return (*array.spec, *(((),) * (len(array.shape) - len(array.spec))))


def _spread(preparation: Preparation, body: Body) -> Preparation:
    """The preparation of one device's body, for all devices."""
    sources = [body.sources[i] for i in preparation.arguments]
    specs = [body.specs[i] for i in preparation.arguments]
    axes = _axes(specs, body.mesh)
    arguments = tuple(source for source in sources if source is not None)
    assert len(arguments) == len(sources), "a weight of a shard_map is an argument of the program"

    def build(*arrays: jax.Array) -> Arrays:
        return over_mesh(preparation.build, body.mesh, specs, (axes,))(*arrays)

    bits = tuple((name, body.specs[i]) for name, i in preparation.bits)
    key = replace(preparation.key, mesh=str(body.mesh), split=f"inside shard_map; {specs}")
    return replace(
        preparation,
        key=key,
        arguments=arguments,
        build=build,
        bits=tuple((name, _source(body, i)) for name, i in preparation.bits),
        spread=Spread(body.mesh, axes, bits),
        vectors=frozenset(_source(body, i) for i in preparation.vectors),
    )


def _source(body: Body, operand: int) -> int:
    source = body.sources[operand]
    assert source is not None
    return source


def _axes(specs: Sequence[Spec], mesh: MeshShape) -> Axes:
    """The mesh axes along which what is prepared may differ."""
    used = {axis for spec in specs for axes in spec for axis in axes}
    return tuple(name for name, _ in mesh.axes if name in used)
