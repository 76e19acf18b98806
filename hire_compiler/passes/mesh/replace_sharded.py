"""Replace a site on every shard by itself (DaT-Top-k): the unsharded replacement at a shard's size, in a shard_map.

The match is restated in one device's sizes, replaced as any site is, and what comes out is wrapped: *prepare* builds
each shard's arrays from its own rows (no device ever holds more than it did), *step* runs on every shard, and the
answers meet as ``runtime/collectives.py`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler.passes.kinds.kinds import kind_of
from hire_compiler.passes.kinds.local_match import Localizer, Meeting
from hire_compiler.passes.mesh.site_layouts import Placement
from hire_compiler.passes.plan.site_plan import SitePlan
from hire_compiler.passes.replace.over_mesh import over_mesh, sharded_preparation
from hire_compiler.passes.replace.replacement import AuthorsCode, Replacement, in_place
from hire_compiler.patterns.site_match import SiteMatch
from hire_compiler.runtime.collectives import NUMBERS, meet_measured
from hire_compiler.runtime.predictors import Arrays
from hire_compiler.runtime.target import Target
from hire_compiler.sharding.dealing import Dealing, deal
from hire_compiler.sharding.layout import SiteLayout


def replace_sharded(
    match: SiteMatch, plan: SitePlan, layout: SiteLayout, placement: Placement, target: Target
) -> Replacement:
    """The replacement of a site whose shards work by themselves; ``plan`` is that of one shard."""
    dealing = _dealing(plan, layout) if plan.spread else None
    kind, local = kind_of(match), Localizer(layout, placement.source, dealing)
    together = kind.on_mesh.together(match, plan, layout, local, target)
    if together is not None:
        return together
    shard = kind.replace(kind.on_mesh.local(match, local), plan, target, local=True)
    preparation = sharded_preparation(shard.preparation, layout, dealing if kind.on_mesh.numbered else None)
    taken = [*shard.values, *(entry.value for entry in shard.captured)]
    captured = tuple(local.whole_outside(entry) for entry in shard.captured)
    inputs = [local.spec(value) for value in taken]
    outputs = [local.spec(value) for value in shard.results]
    batch_parts = layout.mesh.size(layout.batch)
    if shard.measure:
        outputs.append(())

    def step(
        prepared: Arrays,
        views: tuple[jax.Array, ...],
        *values: jax.Array,
        run_author: Callable[[], list[jax.Array]] | None = None,
    ) -> list[jax.Array]:
        names = sorted(prepared)
        spread = preparation.spread
        assert spread is not None
        whole = [*values[: len(shard.values)], *map(in_place, values[len(shard.values) :], captured)]
        whole = [_padded(array, local.full_shape(value)) for array, value in zip(whole, taken, strict=True)]

        def run(*given: jax.Array) -> list[jax.Array]:
            arrays, rest = dict(zip(names, given[: len(names)])), given[len(names) :]
            results = shard.step(arrays, rest[: len(views)], *rest[len(views) :])
            own, measured = (results[:-1], results[-1:]) if shard.measure else (results, [])
            met = kind.on_mesh.meet(match, own, Meeting(layout, plan, arrays.get(NUMBERS)))
            return [*met, *(meet_measured(shard.measure, m, layout.rows, layout.batch) for m in measured)]

        specs = [spread.spec(name) for name in names]
        specs += [layout.argument(position) for position in shard.views]
        found = over_mesh(run, layout.mesh, [*specs, *inputs], outputs)(
            *(prepared[name] for name in names), *views, *whole
        )
        return found if run_author is None else _or_author(found, run_author, plan.site.batch * batch_parts)

    return replace(
        shard,
        preparation=preparation,
        values=tuple(local.whole(value) for value in shard.values),
        captured=captured,
        results=tuple(local.whole(value) for value in shard.results),
        before=local.whole_op(shard.before),
        author=None if shard.author is None else _whole_code(shard.author, local),
        step=step,
        signature=repr((shard.signature, layout)),
    )


def _padded(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """An array with zeros behind its own rows of the vocabulary, so that it can be cut as the weight is."""
    missing = [(0, wanted - size) for wanted, size in zip(shape, array.shape, strict=True)]
    return jnp.pad(array, missing) if any(more for _, more in missing) else array


def _or_author(found: list[jax.Array], run_author: Callable[[], list[jax.Array]], rows: int) -> list[jax.Array]:
    """The shards' results; where a row is in doubt, those of the author's code, split as XLA splits it.

    A shard cannot settle a doubt: the same product written for one device may be summed in another order.
    """
    *results, measured = found

    def author() -> list[jax.Array]:
        return [theirs.reshape(own.shape).astype(own.dtype) for theirs, own in zip(run_author(), results, strict=True)]

    held = measured if measured.ndim == 0 else measured[0]
    settled: list[jax.Array] = jax.lax.cond(held >= rows, lambda: results, author)
    return [*settled, measured]


def _whole_code(code: AuthorsCode, local: Localizer) -> AuthorsCode:
    """The operations of the graph behind those of one device."""
    products = tuple((local.whole_op(op), position) for op, position in code.products)
    return replace(code, products=products, last=tuple(map(local.whole_op, code.last)))


def _dealing(plan: SitePlan, layout: SiteLayout) -> Dealing:
    """Who gets which rows: the hot ones are spread as far as the calibration knows them."""
    rows = plan.site.width * layout.shards
    hotness = plan.learned.hotness(plan.group)
    return deal(np.zeros(rows // plan.group) if hotness is None else hotness, layout.shards, plan.group)
