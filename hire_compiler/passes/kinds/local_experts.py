"""A layer of experts over devices: not rewritten there yet."""

from __future__ import annotations

from typing import NoReturn

from hire_compiler.passes.kinds.local_match import OnMesh, Source
from hire_compiler.patterns.experts.experts import ExpertsMatch
from hire_compiler.sharding.layout import NotLocal, SiteLayout


def _rows(match: ExpertsMatch, plain: SiteLayout, source: Source) -> NoReturn:
    raise NotLocal("its experts are spread over devices or copied to them, which is not followed yet")


def _unasked(match: ExpertsMatch, *others: object) -> NoReturn:
    raise AssertionError("a layer of experts has no shards")


EXPERTS_ON_MESH: OnMesh[ExpertsMatch] = OnMesh(_rows, _unasked, _unasked, _unasked, numbered=False)
