"""Splice: put the replacements into the module and take out what they made dead.

A replacement is an ordinary JAX function, exported at the captured types, merged into the module as a private
function and called in place of the site. Prepared arrays become arguments of ``@main``; bodies of loops
use them directly (StableHLO's regions see values from outside).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.export

from hire_compiler import _mlir
from hire_compiler.graph.graph import Op, Value
from hire_compiler.passes.replace.prepared_key import PreparedKey
from hire_compiler.passes.replace.replacement import AuthorsCode, Preparation, Replacement
from hire_compiler.patterns.region.canonical import Outside
from hire_compiler.proofs.enclosure import NARROW
from hire_compiler.runtime.target import Target, lowering_platform
from hire_compiler.sharding.layout import Spec


@dataclass(frozen=True)
class PreparedArray:
    """One prepared array that the step takes: entry ``name`` of what ``preparation`` builds.

    Attributes:
      spec: on a mesh, the axes that split its first dimensions.
    """

    preparation: PreparedKey
    name: str
    shape: tuple[int, ...]
    dtype: str
    spec: Spec | None = None


@dataclass(frozen=True)
class Measured:
    """A measurement that the step returns: of which site, of what, and its type.

    Of what: ``Replacement.measure``; or ``"runs"``, how often a site in loops or branches ran in one call.
    """

    site: str
    measure: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Spliced:
    """The step program.

    Attributes:
      module: bytecode; ``@main`` takes the kept arguments, then the prepared arrays.
      kept: positions of the original arguments that it still reads.
      prepared: the prepared arrays, in order.
      preparations: by key, everything that has to be prepared.
      counters: what the step returns after the program's own results.
    """

    module: bytes
    kept: tuple[int, ...]
    prepared: tuple[PreparedArray, ...]
    preparations: dict[PreparedKey, Preparation]
    counters: tuple[Measured, ...] = ()


def splice(
    module: Any,
    planned: Sequence[tuple[str, Replacement]],
    arguments: Sequence[tuple[tuple[int, ...], str]],
    target: Target,
) -> Spliced:
    """Edit a parsed, normalized module in place.

    Args:
      module: whose values the replacements captured.
      planned: site ids and their replacements.
      arguments: shape and dtype of every argument of ``@main``.
      target: platform the replacements are lowered for.
    """
    function = _mlir.main_function(module)
    block = function.operation.regions[0].blocks[0]
    replacements = [replacement for _, replacement in planned]
    preparations = {r.preparation.key: r.preparation for r in replacements}
    shapes = {key: _prepared_shapes(p, arguments) for key, p in preparations.items()}
    order = [
        PreparedArray(key, name, tuple(built[name].shape), str(built[name].dtype), preparations[key].spec(name))
        for key, built in shapes.items()
        for name in sorted(built)
    ]
    added = {(entry.preparation, entry.name): _mlir.add_argument(block, entry.shape, entry.dtype) for entry in order}
    lowered: dict[str, tuple[str, Any]] = {}
    replaced: dict[int, Any] = {}
    counts = []
    for site, replacement in planned:
        count = _call_replacement(module, block, replacement, shapes, added, lowered, replaced, arguments, target)
        if count is not None:
            counts.append((site, replacement.measure, count))
    counters = [counter for counted in counts for counter in _return_count(block, *counted)]
    _mlir.set_main_signature(function)
    _mlir.run_passes(module, "trivial-dce")
    _mlir.erase_unread(block, "stablehlo.composite")  # the pass takes it for something with effects
    _mlir.run_passes(module, "trivial-dce")
    kept = tuple(i for i in range(len(arguments)) if _has_uses(block.arguments[i]))
    for i in sorted(set(range(len(arguments))) - set(kept), reverse=True):
        block.erase_argument(i)
    _mlir.set_main_signature(function)
    _mlir.number_channels(module)
    if not module.operation.verify():
        raise AssertionError("the spliced module does not verify")
    return Spliced(_mlir.to_bytecode(module), kept, tuple(order), preparations, tuple(counters))


def _return_count(block: Any, site: str, measure: str, count: Any) -> list[Measured]:
    """Let ``@main`` return what a site measured; where it stands in loops or branches, also how often it ran.

    Done when every replacement stands where it belongs, because loops and branches on the way are built anew.
    """
    inner = _mlir.block_of(count)
    if inner == block:
        _mlir.append_result(block, count)
        return [Measured(site, measure, *_mlir.tensor_type(count.type))]
    found = []
    for name, value in ((measure, count), ("runs", _mlir.one_in(inner))):
        total = _mlir.carry_out(value, block)
        if total is None:
            return []
        _mlir.append_result(block, total)
        found.append(Measured(site, name, *_mlir.tensor_type(total.type)))
    return found


def _prepared_shapes(
    preparation: Preparation, arguments: Sequence[tuple[tuple[int, ...], str]]
) -> dict[str, jax.ShapeDtypeStruct]:
    given = [_struct(*arguments[i]) for i in preparation.arguments]
    with _mlir.own_settings(x64=_mlir.has_wide(given)):
        return dict(jax.eval_shape(preparation.traced, *given))


def _struct(shape: tuple[int, ...], dtype: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jax.numpy.dtype(dtype))


def _call_replacement(
    module: Any,
    block: Any,
    replacement: Replacement,
    shapes: dict[PreparedKey, dict[str, jax.ShapeDtypeStruct]],
    added: dict[tuple[PreparedKey, str], Any],
    lowered: dict[str, tuple[str, Any]],
    replaced: dict[int, Any],
    arguments: Sequence[tuple[tuple[int, ...], str]],
    target: Target,
) -> Any | None:
    key = replacement.preparation.key
    names = sorted(shapes[key])
    types = [shapes[key][name] for name in names]
    types += [_struct(*arguments[i]) for i in replacement.views]
    types += [_struct(value.shape, value.dtype) for value in replacement.values]
    types += [_struct(entry.value.shape, entry.value.dtype) for entry in replacement.captured]
    author = None
    if replacement.author is not None:
        author = _outline_author(module, replacement.author, f"hire_author_{len(lowered)}", target)
        types += [_struct(*_mlir.tensor_type(value.type)) for value in author.inputs]
    # Prefill and decode of one block differ in nothing but these.
    out = [(value.shape, value.dtype) for value in (*replacement.results, *replacement.behind)]
    signature = repr((replacement.signature, types, out, "" if author is None else author.code))
    known = lowered.get(signature)
    if known is None:
        known = _lower(module, replacement, names, types, target)
        if author is not None:
            _mlir.call_outlined(module, _AUTHOR, author)
        lowered[signature] = known
    elif author is not None:
        author.function.operation.erase()
    operands = [added[key, name] for name in names]
    operands += [block.arguments[i] for i in replacement.views]
    behind = [_captured(entry, replacement.before, replaced) for entry in replacement.captured]
    behind += [] if author is None else author.inputs
    with _mlir.ir.InsertionPoint(replacement.before.ir), replacement.before.ir.location:
        # The author's product reads its input rounded to its type. What replaces it widens the input at once, and XLA
        # would drop the rounding.
        now = [(v, replaced.get(id(v), v.ir)) for v in replacement.values]
        values = [_mlir.held(ir) if v.op and v.dtype in NARROW else ir for v, ir in now]
        results = _mlir.call(*known, [*operands, *values, *behind])
    for op in replacement.late:
        op.ir.move_before(replacement.before.ir)
    for old, new in zip(replacement.results, results, strict=False):
        replaced[id(old)] = new  # for sites to come that captured it
        if replacement.inside:
            _mlir.replace_uses_outside(old.ir, new, [op.ir for op in replacement.inside])
        else:
            old.ir.replace_all_uses_with(new)
    for old, new in zip(replacement.behind, results[len(replacement.results) :], strict=False):
        for op, position in old.uses:
            if _stands_behind(op, replacement.before):
                op.ir.operands[position] = new
    return results[-1] if replacement.measure else None


def _stands_behind(op: Op, before: Op) -> bool:
    """Whether an operation, or one that holds it, follows another in its block."""
    top = op.holder_in(before.block)
    return top is not None and top.position > before.position


def _captured(entry: Outside, before: Op, replaced: dict[int, Any]) -> Any:
    """A value of the author's program; or what its scatter writes into an array of one number."""
    if entry.base is None:
        return replaced.get(id(entry.value), entry.value.ir)
    assert entry.value.op is not None
    return _mlir.scatter_into(entry.value.op.ir, entry.base, before.ir)


_AUTHOR = "hire_author"  # stands for the author's code while a replacement is lowered


def _outline_author(module: Any, author: AuthorsCode, name: str, target: Target) -> _mlir.Outlined:
    """The author's code from the product to the values that are replaced, as a function."""
    results = [value.ir for op in author.last for value in op.results]
    products = [op for op, _ in author.products]
    stops = [op.ir.operands[x] for op, x in author.products]
    for op, x in author.products:
        weight = op.operands[1 - x]
        again = any(weight is value for value in author.weights)
        if target.widens_in_front and weight.dtype == "bfloat16" and not again and op.in_loop:
            # XLA takes the widened weight out of the author's loop, but not out of a branch in it. So it is widened in
            # front of the branch.
            stops.append(_mlir.widened_and_back(op.ir, 1 - x, "float32"))
    following = author.following or [other for op in products for other in followers(op, author.last)]
    copied = [op.ir for op in (*products, *following, *makers(author.weights)) if op.results]
    return _mlir.outline(module, name, results, copied, stops)


def makers(values: Sequence[Value]) -> list[Op]:
    """Every operation that stands between parameters, or what a loop carries, and some values."""
    found: dict[int, Op] = {}
    queue = list(values)
    while queue:
        op = queue.pop().op
        if op is not None and id(op) not in found:
            found[id(op)] = op
            queue += op.operands
    return list(found.values())


def followers(first: Op, last: Sequence[Op]) -> list[Op]:
    """Every operation that follows from ``first``, up to the last of ``last``, perhaps in a branch behind it."""
    inner, end = last[0].block, max(op.position for op in last)
    found, queue = {id(first): first}, [first]
    while queue:
        for result in queue.pop().results:
            for op, _ in result.uses:
                between = op.position <= end if op.block is inner else op.block is first.block
                if between and id(op) not in found:
                    found[id(op)] = op
                    queue.append(op)
    return list(found.values())


def _lower(
    module: Any, replacement: Replacement, names: list[str], types: list[Any], target: Target
) -> tuple[str, Any]:
    first, second = len(names), len(names) + len(replacement.views)
    third = second + len(replacement.values) + len(replacement.captured)
    made = [_struct(value.shape, value.dtype) for value in (*replacement.results, *replacement.behind)]

    def flat(*values: jax.Array) -> list[jax.Array]:
        prepared = dict(zip(names, values[:first], strict=True))
        given = prepared, values[first:second], *values[second:third]
        if replacement.author is None:
            return replacement.step(*given)

        def run_author() -> list[jax.Array]:
            return list(jax.ffi.ffi_call(_AUTHOR, made)(*values[third:]))

        return replacement.step(*given, run_author=run_author)

    return merge_jax_function(module, "hire_site", flat, types, target)


def merge_jax_function(
    module: Any, name: str, function: Callable[..., Any], types: Sequence[Any], target: Target
) -> tuple[str, Any]:
    """Lower a JAX function at the given types and merge it into ``module``: its name there, and its type.

    Through ``jax.export``, because a plain lowering of ``top_k`` does not serialize.
    """
    platform = lowering_platform(target.platform)
    with _mlir.own_settings():
        exported = jax.export.export(
            jax.jit(function, keep_unused=True),
            platforms=[platform],
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(_AUTHOR)],
        )(*types)
    return _mlir.merge_function(module, name, _mlir.parse_portable(exported.mlir_module_serialized))


def _has_uses(value: Any) -> bool:
    return next(iter(value.uses), None) is not None
