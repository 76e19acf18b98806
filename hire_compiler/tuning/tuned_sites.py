"""The sites of a program that can be tuned, and the rows that they read: what is tuned, and on what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from hire_compiler import _mlir
from hire_compiler.calibration.instrument import Instrumented, instrument
from hire_compiler.capture.program import Program
from hire_compiler.graph.narrow import NarrowWeight
from hire_compiler.learned.calibration import Calibration
from hire_compiler.passes.detect.facts import learned, site_facts
from hire_compiler.passes.detect.search import search
from hire_compiler.passes.kinds.kinds import kind_of
from hire_compiler.passes.kinds.probes import Look, Probe, some_rows
from hire_compiler.passes.plan.site_plan import SiteFacts
from hire_compiler.patterns.ffn.ffn import FfnMatch
from hire_compiler.patterns.head.head import HeadMatch
from hire_compiler.patterns.site_match import SiteMatch, moment_key, of_kind, stack_of
from hire_compiler.reports.report import Site
from hire_compiler.runtime.target import target_for

ROWS_A_CALL = 128  # rows of a block's input that one call of a forward pass shows


@dataclass(frozen=True, eq=False)
class Head:
    """One head of a program."""

    site: Site
    match: HeadMatch
    facts: SiteFacts

    @property
    def key(self) -> str:
        """Under which its input is known, whatever program reads the weight."""
        return moment_key(self.match)


@dataclass(frozen=True, eq=False)
class Block:
    """One feed-forward block of a program, or one stack of them."""

    site: Site
    match: FfnMatch
    facts: SiteFacts

    @property
    def key(self) -> str:
        """Under which its input and its neurons are known, whatever program reads the weights."""
        return self.match.neuron_key

    def knowing(self, calibration: Calibration) -> Block:
        """The same block, with what a calibration knows of it."""
        return replace(self, facts=replace(self.facts, learned=learned([self.match], calibration)[self.match]))


def find_sites(program: Program, platform: str) -> tuple[tuple[Head, ...], tuple[Block, ...]]:
    """The heads and the blocks of a program that can be tuned.

    Heads with a weight of their own (of no stack of layers), stored as numbers of full width; blocks on whose input
    alone predictors can be tried.
    """
    with _mlir.own_settings(), _mlir.fresh_context():
        _, _, found = search(program)
        facts = site_facts(found.matches, None, target_for(platform), 1)
    known = {match: (site, fact) for site, match, fact in zip(found.sites, found.matches, facts, strict=True)}
    heads = [match for match in of_kind(found.matches, HeadMatch) if _is_plain(match)]
    blocks = [match for match in found.matches if kind_of(match).tried(match) is not None]
    return (
        tuple(Head(known[match][0], match, known[match][1]) for match in heads),
        tuple(Block(known[match][0], match, known[match][1]) for match in of_kind(blocks, FfnMatch)),
    )


def _is_plain(match: HeadMatch) -> bool:
    return match.dot.weight.layers is None and not isinstance(match.dot.weight, NarrowWeight)


def show_inputs(program: Program, platform: str) -> Instrumented:
    """The program, made to return also the rows that its sites read: of heads all, of blocks some."""
    with _mlir.own_settings(), _mlir.fresh_context():
        module, _, found = search(program)
        return instrument(module, found.matches, target_for(platform), 0.1, looks=_inputs)


def _inputs(match: SiteMatch) -> Sequence[Look]:
    dot, block = match.products[0], kind_of(match).tried(match)
    if block is not None:
        rows = min(dot.batch, ROWS_A_CALL)
        shape = (*stack_of(match), rows, dot.d)
        return [Look(Probe("inputs", match.neuron_key, shape, rows), dot, partial(some_rows, count=rows))]
    if match.neuron_key or dot.weight.layers is not None:
        return []
    return [Look(Probe("inputs", moment_key(match), (dot.batch, dot.d), dot.batch), dot, _as_float32)]


def _as_float32(rows: jax.Array) -> jax.Array:
    return rows.astype(jnp.float32)
