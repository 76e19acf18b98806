"""The heads of a program, and the rows that they read: what is tuned, and on what."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hire_compiler import _mlir
from hire_compiler.graph import Graph, read_graph
from hire_compiler.narrow import NarrowWeight
from hire_compiler.passes.detect import Detection, detect
from hire_compiler.passes.facts import site_facts
from hire_compiler.passes.fold import fold_constants
from hire_compiler.passes.instrument import Instrumented, instrument
from hire_compiler.passes.normalize import normalize
from hire_compiler.passes.probes import Look, Probe
from hire_compiler.passes.site_plan import SiteFacts
from hire_compiler.patterns.logits import HeadMatch
from hire_compiler.patterns.site_match import SiteMatch, moment_key, of_kind
from hire_compiler.program import Program
from hire_compiler.report import Site
from hire_compiler.runtime.target import target_for


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


def find_heads(program: Program, platform: str) -> tuple[Head, ...]:
    """The heads of a program with a weight of their own (of no stack of layers), stored as numbers of full width."""
    with _mlir.own_settings(), _mlir.fresh_context():
        module = _mlir.parse(program.module)
        normalize(module)
        found = _found(module, program)
        facts = site_facts(found.matches, None, target_for(platform), 1)
    known = {match: (site, fact) for site, match, fact in zip(found.sites, found.matches, facts, strict=True)}
    heads = [match for match in of_kind(found.matches, HeadMatch) if _is_plain(match)]
    return tuple(Head(known[match][0], match, known[match][1]) for match in heads)


def _is_plain(match: HeadMatch) -> bool:
    return match.dot.weight.layers is None and not isinstance(match.dot.weight, NarrowWeight)


def show_inputs(program: Program, platform: str) -> Instrumented:
    """The program, made to return also every row that its heads read."""
    with _mlir.own_settings(), _mlir.fresh_context():
        module = _mlir.parse(program.module)
        normalize(module)
        matches = of_kind(_found(module, program).matches, HeadMatch)
        return instrument(module, matches, target_for(platform), 0.1, looks=_inputs)


def _found(module: object, program: Program) -> Detection:
    graph: Graph = read_graph(module)
    fold_constants(graph)
    return detect(graph, program.arguments)


def _inputs(match: SiteMatch) -> list[Look]:
    dot = match.products[0]
    if dot.weight.layers is not None:
        return []
    return [Look(Probe("inputs", moment_key(match), (dot.batch, dot.d), dot.batch), dot, _as_float32)]


def _as_float32(rows: jax.Array) -> jax.Array:
    return rows.astype(jnp.float32)
