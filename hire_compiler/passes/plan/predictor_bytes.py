"""How many bytes a predictor keeps and reads for a site: what the plan weighs against the dense product. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from hire_compiler.config.predictors import Cascade, Predictor
from hire_compiler.errors import ConfigError
from hire_compiler.passes.plan.site_plan import SiteFacts
from hire_compiler.reports.report import Site
from hire_compiler.runtime.certify import BLOCK
from hire_compiler.runtime.predictors import RECORDS
from hire_compiler.runtime.record import Record


def stored_bytes(predictor: Predictor, site: Site, where: str) -> int:
    """Bytes that a predictor keeps for one layer.

    Raises:
      ConfigError: its columns or rank do not fit the site; begins with ``where``.
    """
    return sum(stored for _, stored in _copies(predictor, site, where))


def scanned_bytes(predictor: Predictor, site: Site, where: str) -> int:
    """Bytes that it reads for one layer to score every row.

    Raises:
      ConfigError: as for :func:`stored_bytes`.
    """
    return sum(record.passes * stored for record, stored in _copies(predictor, site, where))


def _copies(predictor: Predictor, site: Site, where: str) -> Iterator[tuple[Record, int]]:
    for name, options in predictor.copies:
        record = RECORDS[name]
        if why := record.misfit(site.d, **options):
            raise ConfigError(f"{where}: {why}")
        yield record, record.stored_bytes(site.width, site.d, site.dtype, **options)


def read_bytes(predictor: Predictor, candidates: int, site: Site, where: str) -> int:
    """Bytes of a predictor that one call reads.

    Raises:
      ConfigError: a cascade that does not narrow, or whose first pass is the dearer one; begins with ``where``.
    """
    if not isinstance(predictor, Cascade):
        return scanned_bytes(predictor, site, where)
    coarse, fine = (scanned_bytes(stage, site, where) for stage in (predictor.coarse, predictor.fine))
    if not candidates <= predictor.survivors <= site.width:
        raise ConfigError(
            f"{where}: a cascade narrows, but {site.width} rows → {predictor.survivors} survivors → {candidates} "
            "candidates does not; choose survivors in between"
        )
    if coarse >= fine:
        raise ConfigError(
            f"{where}: a cascade's first pass is the cheaper one, but {predictor.coarse} reads {coarse} bytes and "
            f"{predictor.fine} {fine}; lower the rank"
        )
    return coarse + fine * predictor.survivors // site.width


def learns(predictor: Predictor | None) -> bool:
    """Whether a predictor is better with the second moment of its input."""
    return predictor is not None and any(RECORDS[name].learns for name, _ in predictor.copies)


def unpacks(predictor: Predictor | None) -> bool:
    """Whether a copy is unpacked again for every row of a batch."""
    return predictor is not None and any(RECORDS[name].unpacks for name, _ in predictor.copies)


def bound_bytes(site: Site, facts: SiteFacts, *, always: bool = False) -> int:
    """Bytes of the bounds that a certificate needs; ``always``: of those that every call reads.

    One bound a row, always. Of a head also norms, read on the candidates, and bounds of blocks, read where in doubt.
    """
    more = 0 if always or not facts.logits else 4 + 2 * ceil(site.d / BLOCK)
    return site.width * (4 + more)


def limit_bytes(site: Site, facts: SiteFacts) -> int:
    """Bytes of the norms of a block's rows, which say that no skipped product is anything but finite."""
    if not facts.neurons:
        return 0
    return 4 * site.width * (1 + site.gated)
