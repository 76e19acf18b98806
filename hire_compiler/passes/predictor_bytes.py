"""How many bytes a predictor keeps and reads for a site: what the plan weighs against the dense product. Pure."""

from __future__ import annotations

from math import ceil

from hire_compiler.config import Cascade, Exact, Predictor, Quantized, Rule
from hire_compiler.errors import ConfigError
from hire_compiler.report import Site
from hire_compiler.runtime.certify import BLOCK
from hire_compiler.weights import itemsize


def stored_bytes(predictor: Predictor, site: Site, where: str) -> int:
    """Bytes that a predictor keeps for one layer.

    Raises:
      ConfigError: its columns or rank do not fit the site; begins with ``where``.
    """
    if isinstance(predictor, Exact):
        return 0
    if isinstance(predictor, Cascade):
        return stored_bytes(predictor.coarse, site, where) + stored_bytes(predictor.fine, site, where)
    if isinstance(predictor, Quantized):
        if predictor.columns is None:
            return site.width * (site.d + 4)
        if site.d % predictor.columns:
            near = [c for c in (16, 32, 48, 64, 80, 96, 128) if site.d % c == 0]
            raise ConfigError(
                f"{where}: columns {predictor.columns} of {predictor} do not divide the input width d = {site.d}; "
                f"use one of {near or [site.d]}"
            )
        blocks = site.d // predictor.columns
        return site.width * (blocks + blocks % 2) * (predictor.columns // 2 + 2)
    if predictor.rank > site.d:
        raise ConfigError(f"{where}: rank {predictor.rank} is more than the input width d = {site.d}")
    row = predictor.rank + 4 if predictor.dtype == "int8" else predictor.rank * itemsize(predictor.dtype)
    first = predictor.dtype if predictor.dtype == (site.computed or site.dtype) else "float32"
    return site.width * row + predictor.rank * itemsize(first) * site.d


def read_bytes(predictor: Predictor, stored: int, candidates: int, site: Site, where: str) -> int:
    """Bytes of a predictor that one call reads, of so many stored.

    Raises:
      ConfigError: a cascade that does not narrow, or whose first pass is the dearer one; begins with ``where``.
    """
    if not isinstance(predictor, Cascade):
        return stored
    coarse, fine = (stored_bytes(stage, site, where) for stage in (predictor.coarse, predictor.fine))
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


def bound_bytes(site: Site, *, always: bool = False) -> int:
    """Bytes of the bounds that a certificate needs; ``always``: of those that every call reads.

    One bound a row, always. Of a head also norms, read on the candidates, and bounds of blocks, read where in doubt.
    """
    more = 0 if always or site.kind != "head" else 4 + 2 * ceil(site.d / BLOCK)
    return site.width * (4 + more)


def limit_bytes(rule: Rule, site: Site) -> int:
    """Bytes of the norms of a block's rows, which say that no skipped product is anything but finite."""
    if site.kind != "ffn":
        return 0
    return 4 * site.width * (1 + (site.gated and bool(rule.certify)))
