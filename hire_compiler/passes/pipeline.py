"""The stages in order: a captured program goes in, the step program and its report come out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from hire_compiler import _mlir
from hire_compiler.capture.program import Program
from hire_compiler.config.rules import Config
from hire_compiler.errors import ConfigError
from hire_compiler.graph.graph import Graph, collection_paused
from hire_compiler.learned.calibration import Calibration
from hire_compiler.passes.detect.bodies import Bodies, Inside, bodies, left_dense, on_devices
from hire_compiler.passes.detect.detect import Detection, detect
from hire_compiler.passes.detect.facts import Fits, halved_facts, site_facts
from hire_compiler.passes.detect.fit_calibration import calibration_notes, fit_calibration
from hire_compiler.passes.detect.search import search
from hire_compiler.passes.forms.dense_forms import DenseForm, dense_forms
from hire_compiler.passes.mesh.replace_site import replace_site
from hire_compiler.passes.mesh.rewrite_bodies import rewrite_bodies
from hire_compiler.passes.mesh.site_layouts import Placement
from hire_compiler.passes.normalize.fold import folded_graph
from hire_compiler.passes.normalize.normalize import normalize
from hire_compiler.passes.normalize.unused_outputs import drop_unused, output_names
from hire_compiler.passes.plan.adapted import Adapted
from hire_compiler.passes.plan.choose_rule import check_rules, idle_rules
from hire_compiler.passes.plan.plan import plan
from hire_compiler.passes.plan.replay import record_of
from hire_compiler.passes.plan.saved_plan import SiteRecord, plan_of
from hire_compiler.passes.plan.site_plan import LeftDense, SiteFacts, SitePlan
from hire_compiler.passes.splice.splice import Spliced, splice
from hire_compiler.passes.verify.verify import verify
from hire_compiler.patterns.site_match import SiteMatch
from hire_compiler.proofs.enclosure import NARROW
from hire_compiler.proofs.fast_math import fast_math_reason, rounds_as_written
from hire_compiler.reports.findings import Respelled, counted, megabytes
from hire_compiler.reports.report import Report, Site
from hire_compiler.runtime.target import Target, target_for
from hire_compiler.sharding.layout import SiteLayout

T = TypeVar("T")
_WORTH_A_LINE = 1 << 20  # bytes a call
NONE_ADAPTED: Mapping[str, Adapted] = MappingProxyType({})


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, stage: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = work()
        self.seconds[stage] = time.perf_counter() - start
        return result


@dataclass(frozen=True)
class Rewritten:
    """Outcome of a rewrite.

    Attributes:
      spliced: the step program; None when nothing was rewritten.
      plans: one for every site, in order.
      records: the same, to be kept and carried out again.
    """

    report: Report
    spliced: Spliced | None
    plans: tuple[SitePlan, ...] = ()
    records: tuple[SiteRecord, ...] = ()


def inspect_program(program: Program) -> Report:
    """Sites and misses of a program, nothing decided."""
    if program.refusal:
        return Report(notes=(f"{program.name} cannot be rewritten: {program.refusal}",))
    with _mlir.own_settings(), _mlir.fresh_context(), collection_paused():
        module, graph, found = search(program)
        inside = bodies(graph, module, program)
    report = Report(sites=found.sites, misses=found.misses)
    return _with_bodies(report, [on_devices(inspect_program(body.program), body) for body in inside.inside])


def rewrite_program(
    program: Program,
    config: Config,
    calibration: Calibration | None,
    platform: str,
    devices: int = 1,
    *,
    storable: bool = False,
    body: bool = False,
    adapted: Mapping[str, Adapted] = NONE_ADAPTED,
    fits: Fits | None = None,
) -> Rewritten:
    """Run every stage.

    Args:
      program: what to rewrite.
      config, calibration: as in :func:`hire_compiler.transform`.
      platform: to rewrite for.
      devices: over how many its arguments are spread.
      body: it is the body of a ``shard_map``, whose weights are parts of those that a calibration may know: what does
        not fit is then left out, with a note.
      adapted: by id, what counting said of the exact default, where it was tried before.
      fits: whether every entry of a float32 weight is a bfloat16 number; None where no weights are at hand.
      storable: keep prepared arrays in types that files of weights can hold, which 4-bit numbers are not.
    """
    if program.refusal:
        return Rewritten(Report(notes=(f"{program.name} is not rewritten: {program.refusal}",)), None)
    target = target_for(platform)
    if storable:
        target = replace(target, has_int4=False)
    as_written = rounds_as_written(dict(program.compiler_options))
    if as_written or body or devices > 1:  # what moves between devices may be moved narrow, or be summed narrow
        target = replace(target, keeps_rounding=False)
    if as_written:
        target = replace(target, drops_roundings=())
    run = _Run(program, config, target, platform, devices, body)
    with _mlir.own_settings(), _mlir.fresh_context(), collection_paused():
        read = run.read()
        decided = run.decide(read, calibration, adapted, fits)
        spliced, inner = run.rewrite_inside(read, decided, run.rewrite(read, decided))
    report = _with_bodies(run.report(read, decided, spliced, inner), inner)
    if not body:
        check_rules(report.sites, config)
    return Rewritten(report, spliced, decided.plans, decided.records)


@dataclass(frozen=True)
class _Read:
    """A program, normalized, and what was detected in it.

    Attributes:
      inside: bodies of its ``shard_map``s.
      unread: outputs that nobody reads.
    """

    module: Any
    graph: Graph
    found: Detection
    inside: Bodies
    unread: tuple[str, ...]


@dataclass(frozen=True)
class _Decided:
    """What is to be done with it.

    Attributes:
      plans, records: see :class:`Rewritten`.
      calibration: that of it which fits.
      doubts: notes on the calibration.
      placement, layouts: on several devices, where arrays lie, and how each site does.
      better: products that no site rewrites and that have a better form, whether that was asked for or not.
    """

    plans: tuple[SitePlan, ...]
    records: tuple[SiteRecord, ...]
    calibration: Calibration | None
    doubts: tuple[str, ...]
    placement: Placement | None
    layouts: Sequence[SiteLayout | LeftDense]
    better: Sequence[DenseForm]

    @property
    def chosen(self) -> list[int]:
        """Numbers of the sites that are rewritten."""
        return [number for number, plan in enumerate(self.plans) if plan.predictor is not None]


def _narrow_over_devices(facts: SiteFacts, match: SiteMatch, why: str) -> SiteFacts:
    """What is known of a site where, over devices, XLA may or may not round to the type of narrow logits."""
    if not facts.logits or facts.uncertifiable or match.products[0].result.dtype not in NARROW:
        return facts
    return replace(facts, uncertifiable=f"{why} (ask for a float32 result: preferred_element_type=jnp.float32)")


_COMPARED = (
    "its winners are compared with those of other devices, and XLA may or may not round them to the type of the logits"
)
_SUMMED = "its columns are split over devices, and each may round its part of a sum to the type of the logits"


@dataclass(frozen=True)
class _Run:
    """One run of the stages."""

    program: Program
    config: Config
    target: Target
    platform: str
    devices: int
    body: bool
    clock: _Clock = field(default_factory=_Clock)

    def read(self) -> _Read:
        """Parse, normalize, and detect."""
        module = self.clock.time("parse", lambda: _mlir.parse(self.program.module))
        unread = () if self.body else drop_unused(module, self.program, self.config)
        self.clock.time("normalize", lambda: normalize(module))
        graph = self.clock.time("read", lambda: folded_graph(module))
        outputs = output_names(self.program)
        found = self.clock.time("detect", lambda: detect(graph, self.program.arguments, outputs))
        return _Read(module, graph, found, bodies(graph, module, self.program), unread)

    def decide(
        self, read: _Read, calibration: Calibration | None, adapted: Mapping[str, Adapted], fits: Fits | None
    ) -> _Decided:
        """Plan every site."""
        found, config = read.found, self.config
        fitted = fit_calibration(calibration, found.matches)
        if fitted.misfits and not self.body:
            raise ConfigError(fitted.misfits[0])
        fast_math = fast_math_reason(dict(self.program.compiler_options))
        facts = site_facts(found.matches, fitted.calibration, self.target, self.devices, fast_math)
        facts = [replace(f, adapted=adapted.get(site.id)) for site, f in zip(found.sites, facts, strict=True)]
        if self.body:
            facts = [_narrow_over_devices(*each, _COMPARED) for each in zip(facts, found.matches, strict=True)]
        placement: Placement | None = None
        layouts: list[SiteLayout | LeftDense] = []
        if self.devices > 1 and config.sharded == "local":
            placement = Placement(read.module, self.program.arguments)
            layouts = self.clock.time("place", lambda: placement.layouts(read.module, found.matches))
            facts = [
                _narrow_over_devices(f, m, _SUMMED) if isinstance(layout, SiteLayout) and layout.turned else f
                for f, m, layout in zip(facts, found.matches, layouts, strict=True)
            ]
        planned = partial(plan, found.sites, config=config, platform=self.platform, layouts=layouts, anew=self.body)
        plans = planned(facts)
        records = tuple(map(record_of, plans, found.sites))  # of any weights
        if fits is not None and self.devices == 1 and config.halve:
            halved = self.clock.time("halve", lambda: halved_facts(facts, plans, found.matches, fits))
            plans = planned(halved) if halved != facts else plans
        doubts = (*fitted.misfits, *calibration_notes(plans, found.matches, fitted.calibration))
        return _Decided(plans, records, fitted.calibration, doubts, placement, layouts, self._better_forms(read, plans))

    def _better_forms(self, read: _Read, plans: Sequence[SitePlan]) -> list[DenseForm]:
        if self.devices > 1 or self.body:
            return []
        rewritten = [m for m, p in zip(read.found.matches, plans, strict=True) if p.predictor is not None]
        return dense_forms(read.graph, self.program.arguments, rewritten, self.target)

    def rewrite(self, read: _Read, decided: _Decided) -> Spliced | None:
        """Put replacements where sites are rewritten; None where nothing is."""
        replacements = []
        for i in decided.chosen:
            layout = decided.layouts[i] if decided.layouts else None
            site, match = decided.plans[i], read.found.matches[i]
            replacements.append((site.site.id, replace_site(match, site, self.target, decided.placement, layout)))
        # After the sites: what these keep of the author's code is kept as it was written.
        replacements += [(form.told.weight, form.replacement(self.target)) for form in self._forms(decided)]
        if not replacements:
            return None
        types = [(argument.shape, argument.dtype) for argument in self.program.arguments]
        return self.clock.time("splice", lambda: splice(read.module, replacements, types, self.target))

    def _forms(self, decided: _Decided) -> Sequence[DenseForm]:
        return decided.better if self.config.dense_forms else ()

    def rewrite_inside(
        self, read: _Read, decided: _Decided, spliced: Spliced | None
    ) -> tuple[Spliced | None, list[Report]]:
        """Rewrite what stands in ``shard_map``s, too; with a report of each body."""
        inner: list[Report] = []
        if self.devices > 1:

            def rewrite_body(body: Program) -> tuple[Report, Spliced | None]:
                outcome = rewrite_program(body, self.config, decided.calibration, self.platform, body=True)
                return outcome.report, outcome.spliced

            before = _mlir.to_bytecode(read.module)
            spliced, inner = self.clock.time(
                "shard_map", lambda: rewrite_bodies(self.program, before, spliced, rewrite_body, read.inside.joined)
            )
        if decided.placement is not None and spliced is not None:
            self.clock.time("verify", lambda: verify(spliced.module))
        rewritable = [body for body in read.inside.inside if self.devices > 1 and not body.why]
        inner = [on_devices(report, body) for report, body in zip(inner, rewritable, strict=True)]
        return spliced, inner + [_left_dense(body) for body in read.inside.inside if body not in rewritable]

    def report(self, read: _Read, decided: _Decided, spliced: Spliced | None, inner: Sequence[Report]) -> Report:
        """What was found and done, but for the bodies."""
        found, plans, forms = read.found, decided.plans, self._forms(decided)
        unread = read.unread if spliced is not None else ()
        return Report(
            sites=found.sites,
            misses=found.misses,
            decisions=tuple(p.decision for p in plans),
            respelled=tuple(form.told for form in forms),
            unread=unread,
            notes=(
                *idle_rules(found.sites, self.config),
                *decided.doubts,
                *(f"{name} is not read (Config.unused), so it comes back filled with NaN" for name in unread),
                *(() if self.body or plan_of(self.config) is None else _replay_notes(inner)),
                *(() if forms else _nothing_done(plans, found.sites, inner)),
                *(() if forms else _forms_offered([form.told for form in decided.better])),
            ),
            seconds=self.clock.seconds,
        )


def _forms_offered(better: Sequence[Respelled]) -> tuple[str, ...]:
    """What is not done unasked, where it is worth a line."""
    nbytes = sum(told.nbytes for told in better)
    if nbytes < _WORTH_A_LINE:
        return ()
    return (
        f"{counted(len(better), 'product')} that {'stays' if len(better) == 1 else 'stay'} dense, "
        f"{megabytes(nbytes)} a call, could be read faster: Config(dense_forms=True). Their sums are then taken in "
        "another order, which may move a result by a rounding",
    )


def _left_dense(body: Inside) -> Report:
    """The report of a ``shard_map`` that is read and not rewritten."""
    module, graph, found = body.found
    why = body.why or f"it runs on {body.devices} devices, and the arguments lie on one: place them on its mesh"
    report = left_dense(found, why)
    report = _with_bodies(report, [_left_dense(inner) for inner in bodies(graph, module, body.program).inside])
    return on_devices(replace(report, notes=(f"{why[0].upper()}{why[1:]}",) if body.why else ()), body)


def _with_bodies(report: Report, inner: Sequence[Report]) -> Report:
    """One report of a program and of the bodies of its ``shard_map``s, whose sites are numbered on."""
    for body in inner:
        taken = Counter(site.kind for site in report.sites)
        names = {}
        for site in body.sites:
            names[site.id] = f"{site.kind}/{taken[site.kind]}"
            taken[site.kind] += 1
        report = replace(
            report,
            sites=(*report.sites, *(replace(s, id=names[s.id]) for s in body.sites)),
            decisions=(*report.decisions, *(replace(d, site=names[d.site]) for d in body.decisions)),
            misses=(*report.misses, *body.misses),
            notes=(
                *(note for note in report.notes if not (body.rewritten and "runs unchanged" in note)),
                *(note for note in body.notes if "runs unchanged" not in note and note not in report.notes),
            ),
        )
    return report


def _replay_notes(inner: Sequence[Report]) -> tuple[str, ...]:
    """What a reader of a report should know of a plan that was kept."""
    anew = any(report.sites for report in inner)
    return (f"the plan was kept, and is carried out again{'; sites in a shard_map are planned anew' if anew else ''}",)


def _nothing_done(plans: Sequence[SitePlan], sites: Sequence[Site], inner: Sequence[Report]) -> tuple[str, ...]:
    if any(p.predictor is not None for p in plans):
        return ()
    if not sites and not any(report.sites for report in inner):
        return ("no site was found, so the function runs unchanged",)
    return ("no site is rewritten, so the function runs unchanged",)
