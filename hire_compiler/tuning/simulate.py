"""Simulate: a forward pass whose feed-forward blocks leave neurons out as a rewritten decode step would.

Every row (or as many as share a choice in the step) chooses its own neurons with a predictor; those that it does not
choose are zero before the block's last product. Nothing is gathered or saved: this says what a setting costs, not how
fast it is. Which setting a block has is an argument of the program, so that one compiled program serves all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hire_compiler import _mlir
from hire_compiler.calibration.trials import vector_of
from hire_compiler.capture.program import Program
from hire_compiler.config.rules import Rule
from hire_compiler.learned.calibration import Calibration
from hire_compiler.passes.detect.search import search
from hire_compiler.passes.replace.replacement import written_input
from hire_compiler.passes.replace.shapes import canonical_input
from hire_compiler.passes.splice.splice import merge_jax_function
from hire_compiler.patterns.ffn.ffn import FfnMatch
from hire_compiler.patterns.site_match import moment_key, of_kind
from hire_compiler.runtime.materialize import materialize
from hire_compiler.runtime.predictors import kept_for, predict, prepare_copies
from hire_compiler.runtime.target import Target, target_for
from hire_compiler.runtime.topk import group_scores

Knob = tuple[int, int]  # which setting, and how many groups of neurons it keeps
OFF: Knob = (-1, 0)


@dataclass(frozen=True, eq=False)
class Simulated:
    """What a block may be set to.

    Attributes:
      rules: of each setting the predictor, the size of group and the score; how many groups are kept is a knob.
      together: rows of a call that share a choice.
    """

    rules: tuple[Rule, ...]
    together: int


@dataclass(frozen=True, eq=False)
class Simulation:
    """A program with knobs.

    Attributes:
      module: its ``@main`` takes the program's arguments, then ``arrays``, then for each of ``keys`` two numbers.
      keys: of the blocks that can be set.
      arrays: what the predictors read.
    """

    module: bytes
    keys: tuple[str, ...]
    arrays: tuple[jax.Array, ...]

    def knobs(self, knobs: Mapping[str, Knob]) -> list[np.ndarray]:
        """The last arguments."""
        return [np.int32(number) for key in self.keys for number in knobs.get(key, OFF)]  # type: ignore[misc]


def simulate(
    program: Program,
    values: Sequence[Any],
    blocks: Mapping[str, Simulated],
    calibration: Calibration,
    platform: str,
) -> Simulation:
    """A forward pass whose blocks can be set.

    Args:
      values: arguments of its ``@main``, of which the weights are read.
      blocks: by the key of their neurons.
    """
    target = target_for(platform)
    with _mlir.own_settings(), _mlir.fresh_context():
        module, _, found = search(program)
        matches = [match for match in of_kind(found.matches, FfnMatch) if match.neuron_key in blocks]
        prepared = {match.neuron_key: _arrays(match, blocks, values, calibration, target) for match in matches}
        function = _mlir.main_function(module)
        block = function.operation.regions[0].blocks[0]
        arrays = [(key, name, array) for key, some in prepared.items() for name, array in some.items()]
        added: dict[tuple[str, str], Any] = {}
        for key, name, array in arrays:
            added[key, name] = _mlir.add_argument(block, array.shape, str(array.dtype))
        for key in prepared:
            added |= {(key, name): _mlir.add_argument(block, (), "int32") for name in ("setting", "kept")}
        for match in matches:
            _mask(module, match, blocks[match.neuron_key], prepared[match.neuron_key], added, target)
        _mlir.set_main_signature(function)
        if not module.operation.verify():
            raise AssertionError("the simulated module does not verify")
        return Simulation(_mlir.to_bytecode(module), tuple(prepared), tuple(array for _, _, array in arrays))


def _arrays(
    match: FfnMatch, blocks: Mapping[str, Simulated], values: Sequence[Any], calibration: Calibration, target: Target
) -> dict[str, jax.Array]:
    """What the predictors of a block read, by number of the setting; and vectors, ``[layers, m]``."""
    moment, stacked = calibration.moment(moment_key(match)), match.predicted.layers is not None
    rows = materialize(match.predicted, values)
    made = {f"vector{i}": vector_of(origin.weight, index, values) for i, (origin, index) in enumerate(match.biases)}
    for number, rule in enumerate(blocks[match.neuron_key].rules):
        assert rule.predictor is not None
        copies = rule.predictor.copies
        build = jax.jit(lambda w, copies=copies: prepare_copies(w, copies, moment and moment.mean, stacked=stacked))
        kept = kept_for(build(rows), rows.shape[-1], target)
        made |= {f"{number}:{name}": array for name, array in kept.items()}
    return made


def _mask(
    module: Any,
    match: FfnMatch,
    simulated: Simulated,
    arrays: Mapping[str, jax.Array],
    added: Mapping[tuple[str, str], Any],
    target: Target,
) -> None:
    """Put the choice before the last product of a block."""
    names, down, first, layer = list(arrays), match.down, match.products[0], match.layer

    def masked(h: jax.Array, x: jax.Array, setting: jax.Array, kept: jax.Array, *more: jax.Array) -> list[jax.Array]:
        given = dict(zip(names, more, strict=False))
        own_layer = more[len(names)].reshape(()) if layer is not None else None
        rows, inputs = canonical_input(h, down), canonical_input(x, first)

        def chosen(number: int) -> jax.Array:
            start = f"{number}:"
            own = {name.removeprefix(start): array for name, array in given.items() if name.startswith(start)}
            scores = _scores(match, inputs, own, given, own_layer, target)
            return jnp.where(_kept(scores, simulated.rules[number], simulated.together, kept), rows, 0)

        settings = [lambda: rows, *(lambda n=n: chosen(n) for n in range(len(simulated.rules)))]  # type: ignore[misc]
        return [written_input(lax.switch(setting + 1, settings), down)]

    key = match.neuron_key
    last, at = down.start
    operands = [last.operands[at], match.x]
    values = [operand.ir for operand in operands]
    types = [jax.ShapeDtypeStruct(operand.shape, jnp.dtype(operand.dtype)) for operand in operands]
    types += [jax.ShapeDtypeStruct((), jnp.int32)] * 2
    types += [jax.ShapeDtypeStruct(arrays[name].shape, arrays[name].dtype) for name in names]
    values += [added[key, name] for name in ("setting", "kept", *names)]
    if layer is not None:
        types.append(jax.ShapeDtypeStruct(layer.shape, jnp.dtype(layer.dtype)))
        values.append(layer.ir)
    merged = merge_jax_function(module, "hire_simulated", masked, types, target)
    with _mlir.ir.InsertionPoint(down.op.ir), down.op.ir.location:
        result = _mlir.call(*merged, values)[0]
    last.ir.operands[at] = result


def _scores(
    match: FfnMatch,
    x: jax.Array,
    predictor: dict[str, jax.Array],
    given: Mapping[str, jax.Array],
    layer: jax.Array | None,
    target: Target,
) -> jax.Array:
    """How much each neuron matters, as a predictor sees it: ``[b, m]``."""

    def vector(number: int) -> jax.Array:
        stack = given[f"vector{number}"]
        return stack[0] if layer is None or len(stack) == 1 else lax.dynamic_index_in_dim(stack, layer, keepdims=False)

    z = predict(x, predictor, target, layer)
    if match.activation.gate_bias is not None:
        z = z + vector(match.activation.gate_bias)
    return match.relevance(z, [vector(i) for i in match.relevance.reads])


def _kept(scores: jax.Array, rule: Rule, together: int, kept: jax.Array) -> jax.Array:
    """Which neurons each row computes: those of the best groups of the rows that share its choice. bool ``[b, m]``.

    Rows that are left over choose with the last ones.
    """
    b, m = scores.shape
    group, size = rule.group or 1, min(together, b)
    sets = b // size
    rated = scores[: sets * size].reshape(size, sets, m).swapaxes(0, 1)
    order = jnp.argsort(-jax.vmap(lambda rows: group_scores(rows, group, rule.score))(rated), axis=1)
    first = jnp.arange(m // group) < kept
    best = jnp.zeros(order.shape, bool).at[jnp.arange(sets)[:, None], order].set(first)
    own = jnp.tile(jnp.repeat(best, group, axis=1), (size, 1))
    return jnp.concatenate([own, jnp.repeat(own[-1:], b - sets * size, axis=0)])
