"""A captured program with probes at its sites: the stages up to detection, then ``instrument.py``."""

from __future__ import annotations

from hire_compiler import _mlir
from hire_compiler.calibration.head_trials import HeadCandidate, heads_for_trial
from hire_compiler.calibration.instrument import Instrumented, instrument
from hire_compiler.calibration.trials import Candidate, candidates_for_trial
from hire_compiler.capture.program import Program
from hire_compiler.config.rules import Config
from hire_compiler.passes.detect.facts import site_facts
from hire_compiler.passes.detect.search import search
from hire_compiler.runtime.target import target_for


def instrument_program(
    program: Program, kind: str | None, platform: str, strongest: float, config: Config | None = None
) -> Instrumented:
    """The program with probes at its sites (of one kind, or all); see :func:`hire_compiler.calibrate`."""
    with _mlir.own_settings(), _mlir.fresh_context():
        module, _, found = search(program)
        target, wanted = target_for(platform), [kind in (None, site.kind) for site in found.sites]
        matches = [match for match, probed in zip(found.matches, wanted, strict=True) if probed]
        facts = site_facts(found.matches, None, target, 1)
        asked = config or Config()
        blocks = candidates_for_trial(found.sites, found.matches, facts, asked)
        heads = heads_for_trial(found.sites, found.matches, asked)
        tried: list[Candidate | HeadCandidate] = [c for c in blocks if c.match in matches]
        tried += [c for c in heads if c.match in matches]
        return instrument(module, matches, target, strongest, tried)
