"""The stages in order: a captured program goes in, the step program and its report come out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from hire_compiler import _mlir
from hire_compiler.calibration import Calibration
from hire_compiler.config import Config
from hire_compiler.graph import Op, collection_paused, read_graph
from hire_compiler.monotone import is_increasing
from hire_compiler.passes.detect import Detection, Match, detect
from hire_compiler.passes.instrument import Instrumented, instrument
from hire_compiler.passes.manual import rewrite_bodies
from hire_compiler.passes.normalize import normalize
from hire_compiler.passes.plan import Choice, SiteFacts, SitePlan, check_rules, idle_rules, plan
from hire_compiler.passes.plan_shards import plan_on_mesh
from hire_compiler.passes.replace import replace_site
from hire_compiler.passes.replace_sharded import replace_sharded
from hire_compiler.passes.replacement import copied_bytes, site_matrices, site_moment_key
from hire_compiler.passes.shards import Placement
from hire_compiler.passes.splice import Spliced, splice
from hire_compiler.passes.verify import check_module
from hire_compiler.patterns.activations import EXACT_ZEROS, sample
from hire_compiler.patterns.canonical import Region
from hire_compiler.patterns.elsewhere import read_elsewhere
from hire_compiler.patterns.ffn import FfnMatch
from hire_compiler.patterns.logits import HeadMatch
from hire_compiler.program import Program
from hire_compiler.report import Report
from hire_compiler.runtime.target import Target, target_for
from hire_compiler.sharding import SiteLayout

T = TypeVar("T")


@dataclass(frozen=True)
class Rewritten:
    """Outcome of a rewrite.

    Attributes:
      spliced: the step program; None when nothing was rewritten.
      plans: one for every site, in order.
    """

    report: Report
    spliced: Spliced | None
    plans: tuple[SitePlan, ...] = ()


def inspect_program(program: Program) -> Report:
    """Sites and misses of a program, nothing decided."""
    if program.refusal:
        return Report(notes=(f"{program.name} cannot be rewritten: {program.refusal}",))
    with _mlir.fresh_context(), collection_paused():
        module = _mlir.parse(program.module)
        normalize(module)
        found = detect(read_graph(module), program.arguments)
    return Report(sites=found.sites, misses=found.misses)


def rewrite_program(
    program: Program,
    config: Config,
    calibration: Calibration | None,
    platform: str,
    devices: int = 1,
    *,
    storable: bool = False,
) -> Rewritten:
    """Run every stage.

    Args:
      program: what to rewrite.
      config, calibration: as in :func:`hire_compiler.transform`.
      platform: to rewrite for.
      devices: over how many its arguments are spread.
      storable: keep prepared arrays in types that files of weights can hold, which 4-bit numbers are not.
    """
    if program.refusal:
        return Rewritten(Report(notes=(f"{program.name} is not rewritten: {program.refusal}",)), None)
    target = target_for(platform)
    if storable:
        target = replace(target, has_int4=False)
    clock = _Clock()
    with _mlir.fresh_context(), collection_paused():
        module = clock.time("parse", lambda: _mlir.parse(program.module))
        clock.time("normalize", lambda: normalize(module))
        graph = clock.time("read", lambda: read_graph(module))
        found = clock.time("detect", lambda: detect(graph, program.arguments))
        check_rules(found.sites, config)
        facts = _facts(found, calibration, target, devices)
        placement: Placement | None = None
        layouts: list[SiteLayout | str] = []
        if devices > 1 and config.sharded == "local":
            placement = Placement(module, program.arguments)
            layouts = clock.time("place", lambda: placement.layouts(module, found.matches))
            plans = plan_on_mesh(found.sites, facts, layouts, config)
        else:
            plans = plan(found.sites, facts, config)
        chosen = [i for i, p in enumerate(plans) if p.predictor is not None]
        spliced = None
        if chosen:
            types = [(argument.shape, argument.dtype) for argument in program.arguments]
            replacements = []
            for i in chosen:
                layout = layouts[i] if layouts else ""
                replacement = (
                    replace_site(found.matches[i], plans[i], calibration, target)
                    if placement is None or isinstance(layout, str)
                    else replace_sharded(found.matches[i], plans[i], layout, placement, calibration, target)
                )
                replacements.append((plans[i].site.id, replacement))
            spliced = clock.time("splice", lambda: splice(module, replacements, types, target))
        inner: list[Report] = []
        if devices > 1:

            def rewrite_body(body: Program) -> tuple[Report, Spliced | None]:
                outcome = rewrite_program(body, config, calibration, platform)
                return outcome.report, outcome.spliced

            before = _mlir.to_bytecode(module)
            spliced, inner = clock.time("shard_map", lambda: rewrite_bodies(program, before, spliced, rewrite_body))
        if placement is not None and spliced is not None:
            clock.time("verify", lambda: check_module(spliced.module))
    report = Report(
        sites=found.sites,
        misses=found.misses,
        decisions=tuple(p.decision for p in plans),
        notes=(*idle_rules(found.sites, config), *_nothing_done(found, plans)),
        seconds=clock.seconds,
    )
    return Rewritten(_with_bodies(report, inner), spliced, plans)


def _with_bodies(report: Report, inner: Sequence[Report]) -> Report:
    """One report of a program and of the bodies of its ``shard_map``s, whose sites are numbered on."""
    for body in inner:
        taken = Counter(site.kind for site in report.sites)
        names = {s.id: f"{s.kind}/{int(s.id.partition('/')[2]) + taken[s.kind]}" for s in body.sites}
        report = replace(
            report,
            sites=(*report.sites, *(replace(s, id=names[s.id]) for s in body.sites)),
            decisions=(*report.decisions, *(replace(d, site=names[d.site]) for d in body.decisions)),
            misses=(*report.misses, *body.misses),
            notes=(
                *(note for note in report.notes if not (body.rewritten and "runs unchanged" in note)),
                *(note for note in body.notes if "runs unchanged" not in note),
            ),
        )
    return report


def _facts(found: Detection, calibration: Calibration | None, target: Target, devices: int) -> list[SiteFacts]:
    downs = {match.down.op for match in found.matches if isinstance(match, FfnMatch)}
    return [_site_facts(match, calibration, target, devices, downs) for match in found.matches]


def _uncertifiable(match: Match, target: Target) -> str:
    """Why the winners of a head, or the zeros of a feed-forward block, cannot be proven; or ''."""
    if isinstance(match, FfnMatch):
        if match.activation.selection or match.activation.name not in EXACT_ZEROS:
            return f"no bound of a neuron proves {match.activation.selection or match.activation.name} to be zero"
        first_product = match.products[match.activation.gate]
        return "" if target.platform == "cpu" or first_product.precise else _rounds(target)
    first = match.winners[0].region
    if not is_increasing(first.expression):
        return "what is compared is not known to rise with the logits"
    # Products of two bfloat16 numbers are exact in float32, so one pass of a matrix unit is enough.
    narrow = match.dot.weight.dtype == match.dot.x.dtype == "bfloat16"
    if target.platform != "cpu" and not match.dot.precise and not narrow:
        return _rounds(target)
    return ""


def _rounds(target: Target) -> str:
    return f"the product is not computed in full float32 on {target.platform}, so its rounding is not bounded"


def _gives_zeros(match: FfnMatch) -> bool:
    """Whether a good part of all inputs gives exactly zero: ReLUs, shifted ones among them."""
    if match.activation.selection or match.activation.name in EXACT_ZEROS:
        return not match.activation.selection
    samples = sample(match.region.expression, len(match.products), 320)
    return bool(np.mean(samples.result == 0) > 0.3)


def _choice(match: Match) -> Choice | None:
    if not isinstance(match, FfnMatch) or not match.activation.selection:
        return None
    code, width = match.region.expression, match.down.d
    by_gate = not match.gate_stages.rowwise_late
    return Choice(code.kept(width), match.activation.share, code.kept_group, by_gate, code.sums_rows)


def _keeps_minus_infinity(region: Region) -> bool:
    below = [np.asarray(-np.inf), *(np.asarray(0.0) for _ in region.parameters)]
    return bool(np.all(region.expression.evaluate(below) == -np.inf))


def _site_facts(
    match: Match, calibration: Calibration | None, target: Target, devices: int, downs: Collection[Op]
) -> SiteFacts:
    winners = match.winners if isinstance(match, HeadMatch) else ()
    return SiteFacts(
        weight_bytes=tuple(weight.nbytes for weight in site_matrices(match)),
        copied_bytes=copied_bytes(match),
        running_bytes=_running_bytes(match, downs),
        winners_only=bool(winners),
        uncertifiable=_uncertifiable(match, target) if isinstance(match, FfnMatch) or winners else "",
        top_k=max((winner.k for winner in winners), default=1),
        calibrated=calibration is not None and calibration.moment(site_moment_key(match)) is not None,
        devices=devices,
        exact_zeros=isinstance(match, FfnMatch) and _gives_zeros(match),
        choice=_choice(match),
        drops=not isinstance(match, HeadMatch) or all(_keeps_minus_infinity(r) for r in match.compared),
    )


def _running_bytes(match: Match, downs: Collection[Op]) -> int:
    """Bytes of a block's first matrices whose products run on, because other code reads them."""
    if not isinstance(match, FfnMatch):
        return 0
    running = read_elsewhere(match, downs)
    return sum(weight.nbytes for weight, runs in zip(match.matrices, running, strict=True) if runs)


def _nothing_done(found: Detection, plans: Sequence[SitePlan]) -> tuple[str, ...]:
    if any(p.predictor is not None for p in plans):
        return ()
    if not found.sites:
        return ("no site was found, so the function runs unchanged",)
    return ("no site is rewritten, so the function runs unchanged",)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, stage: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = work()
        self.seconds[stage] = time.perf_counter() - start
        return result


def instrument_program(program: Program, kind: str | None, platform: str) -> Instrumented:
    """The program with probes at the inputs of its sites (of one kind, or all)."""
    with _mlir.fresh_context():
        module = _mlir.parse(program.module)
        normalize(module)
        found = detect(read_graph(module), program.arguments)
        matches = [m for m, site in zip(found.matches, found.sites, strict=True) if kind in (None, site.kind)]
        return instrument(module, matches, target_for(platform))
