"""The table of kinds: complete, and the only place that knows which kinds there are."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hire_compiler as hire
from hire_compiler.config import rules as config
from hire_compiler.passes.kinds.head_facts import no_trial
from hire_compiler.passes.kinds.kinds import KINDS, Kind
from hire_compiler.passes.kinds.probes import moment_look
from hire_compiler.passes.plan.site_plan import SiteFacts
from hire_compiler.patterns.region.dots import WeightDot, read_weight_dot
from hire_compiler.reports.report import Site

PACKAGE = Path(hire.__file__).parent


def test_every_kind_that_a_rule_can_name_has_a_row() -> None:
    assert set(KINDS) == set(typing.get_args(config.Kind))


def test_no_stage_asks_which_kind_a_match_is() -> None:
    asked = re.compile(r"isinstance\((match|m),|isinstance\([^()]*(FfnMatch|HeadMatch)|\.kind [!=]= \"(ffn|head)\"")
    stages = [path for room in ("passes", "patterns", "runtime") for path in PACKAGE.glob(f"{room}/**/*.py")]
    found = [path.name for path in stages if asked.search(path.read_text())]
    assert len(stages) > 80
    assert not found


def test_a_row_that_lacks_a_column_is_an_error() -> None:
    columns = dict(KINDS["ffn"].__dict__)
    columns.pop("on_mesh")
    with pytest.raises(TypeError, match="on_mesh"):
        Kind(**columns)


@dataclass(frozen=True, eq=False)
class ProjectionMatch:
    """A kind of site that exists in this test alone: any product with a weight."""

    kind: ClassVar[str] = "projection"
    neuron_key: ClassVar[str] = ""
    winner_key: ClassVar[str] = ""
    vectors: ClassVar[tuple[typing.Any, ...]] = ()

    dot: WeightDot

    @property
    def products(self) -> tuple[WeightDot, ...]:
        return (self.dot,)

    @property
    def ranked(self) -> WeightDot:
        return self.dot

    @property
    def weights(self) -> tuple[typing.Any, ...]:
        return (self.dot.weight,)

    def describe(self, site_id: str, counters: object) -> Site:
        dot = self.dot
        return Site(
            id=site_id, kind=self.kind, path=dot.op.scope, batch=dot.batch, d=dot.d, width=dot.rows, dtype="float32"
        )


def test_a_third_kind_is_a_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Kind(
        match=lambda op, provenance, reader: ProjectionMatch(read_weight_dot(op, provenance)),
        facts=lambda matches, target: [SiteFacts(target.costs) for _ in matches],
        looks=lambda match, strongest, wanted: [moment_look(match)],
        tried=no_trial,
        replace=KINDS["head"].replace,
        on_mesh=KINDS["head"].on_mesh,
    )
    monkeypatch.setitem(KINDS, ProjectionMatch.kind, row)

    def step(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        h = jax.nn.relu(x @ params["up"]) @ params["down"]
        return jnp.sin(h @ params["own"])

    rng = np.random.default_rng(0)
    shapes = {"up": (8, 32), "down": (32, 8), "own": (8, 8)}
    params = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    x = rng.standard_normal((1, 8), np.float32)
    report = hire.inspect(jax.jit(step), params, x)
    assert [site.id for site in report.sites] == ["ffn/0", "projection/0"]
    assert not report.misses
    transformed = hire.transform(jax.jit(step))
    np.testing.assert_allclose(transformed(params, x), step(params, x), rtol=1e-5)
    assert "no rule selects it" in str(transformed.report())
    learned = hire.calibrate(jax.jit(step), [(params, x)] * 3)
    assert "params['own'][8]" in learned.moments
