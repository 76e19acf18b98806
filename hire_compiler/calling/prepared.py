"""Prepared weights: made once from the caller's arrays, kept as long as those arrays live."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hire_compiler import _mlir
from hire_compiler.calling.halves import NotHalvesError, holds_halves, pieces_of
from hire_compiler.calling.writable import nobody_can_write
from hire_compiler.capture.placement import on_automatic_axes, traced_on_automatic_axes
from hire_compiler.errors import WeightError, warn
from hire_compiler.graph.weight import Weight
from hire_compiler.passes.replace.prepared_key import PreparedKey
from hire_compiler.passes.replace.replacement import Preparation, nothing_to_build
from hire_compiler.runtime.checks import all_of
from hire_compiler.runtime.materialize import materialize
from hire_compiler.runtime.pieces import all_in_pieces
from hire_compiler.runtime.target import Target

Arrays = dict[str, jax.Array]


class UnrankedError(WeightError):
    """A matrix holds NaN or Inf: nothing that is prepared from it could stand for its rows."""


class PreparedCache:
    """Maps (what to prepare, from which arrays) to prepared arrays.

    Entries hold their sources by weak reference, never by bare ``id``: when a source dies its entry goes,
    and a new array at the same address cannot be mistaken for it. Safe across threads; bounded.

    Attributes:
      limit: entries kept per preparation; the oldest is dropped first.
      built: how often something was prepared.
    """

    def __init__(self, limit: int = 4) -> None:
        self.limit = limit
        self.built = 0
        self._lock = threading.Lock()
        self._entries: dict[PreparedKey, OrderedDict[tuple[int, ...], tuple[tuple[Any, ...], Arrays]]] = {}
        self._builders: dict[Any, Any] = {}  # by what is prepared, and the types of its arrays
        self._programs: dict[str, Any] = {}  # by their code: layers that lie alike share one
        self._changes: dict[PreparedKey, int] = {}
        self._last: dict[PreparedKey, tuple[weakref.ref[Any], ...]] = {}

    def get(self, preparation: Preparation, arrays: Sequence[Any], names: Sequence[str], check: bool) -> Arrays:
        """The prepared arrays for these weights, built if they are not known.

        Args:
          arrays: the weights; NumPy arrays whose memory somebody can write are prepared anew each time, since
            nothing tells whether they have changed.
          names: of the weights, for messages.
          check: refuse matrices with NaN or Inf.

        Raises:
          WeightError: a weight was donated (deleted).
          UnrankedError: a matrix holds NaN or Inf.
          NotHalvesError: a matrix that is to be kept as bfloat16 does not fit, or is traced.
        """
        for array, name in zip(arrays, names, strict=True):
            if isinstance(array, jax.Array) and not _mlir.is_tracer(array) and array.is_deleted():
                raise WeightError(f"{name} has been donated or deleted: a weight must stay alive while it is used")
        if any(_mlir.is_tracer(array) for array in arrays):
            check_halves(preparation, arrays, names)
            return traced_on_automatic_axes(preparation.traced, arrays)
        cacheable = all(nobody_can_write(array) for array in arrays)
        with self._lock:
            entries = self._entries.setdefault(preparation.key, OrderedDict())
            address = tuple(id(array) for array in arrays)
            known = entries.get(address)
            if known is not None and all(ref() is a for ref, a in zip(known[0], arrays, strict=True)):
                return known[1]
            self._warn_of_changes(preparation, arrays, names, cacheable)
            self.built += 1
            built = self._build(preparation, arrays, names, check)
            if cacheable:
                forget = lambda _ref, e=entries, a=address: e.pop(a, None)  # noqa: E731
                entries[address] = (tuple(weakref.ref(array, forget) for array in arrays), built)
                while len(entries) > self.limit:
                    entries.popitem(last=False)
        return built

    def keep_only(self, keys: Collection[PreparedKey]) -> None:
        """Forget everything else that was prepared."""
        with self._lock:
            for key in self._entries.keys() - set(keys):
                del self._entries[key]

    def _warn_of_changes(
        self, preparation: Preparation, arrays: Sequence[Any], names: Sequence[str], cacheable: bool
    ) -> None:
        key = preparation.key
        count = self._changes[key] = self._changes.get(key, 0) + 1
        last: Sequence[Callable[[], Any]] = self._last.get(key) or (lambda: None,) * len(arrays)
        self._last[key] = tuple(weakref.ref(array) for array in arrays)
        changed = [name for name, array, ref in zip(names, arrays, last, strict=True) if ref() is not array]
        what = ", ".join(dict.fromkeys(changed or names))
        if count == 3 and not cacheable:
            warn(
                f"{what}: writable NumPy arrays are prepared anew on every call (locked ones too: a view made "
                "before, or another process, may write their memory); pass jax arrays "
                "(jnp.asarray) or call step.prepare once and pass prepared=…"
            )
        elif count == self.limit + 2 and cacheable:
            warn(
                f"{what}: different arrays in each of {count} calls, and every change prepares "
                "again; keep the same arrays, or call step.prepare once and pass prepared=…"
            )

    def _builder(self, preparation: Preparation, arrays: Sequence[Any]) -> Any:
        kind = preparation.key, tuple((jax.typeof(array), getattr(array, "sharding", None)) for array in arrays)
        builder = self._builders.get(kind)
        if builder is None:
            lowered = jax.jit(preparation.build).lower(*arrays)
            code = hashlib.sha256(_mlir.to_bytecode(lowered.compiler_ir("stablehlo"))).hexdigest()
            builder = self._programs.get(code) or lowered.compile()
            self._builders[kind] = self._programs[code] = builder
        return builder

    def _build(self, preparation: Preparation, arrays: Sequence[Any], names: Sequence[str], check: bool) -> Arrays:
        # Concrete weights are prepared now even while an outer jit is being traced.
        with jax.core.eval_context(), _mlir.own_settings(x64=_mlir.has_wide(arrays)):
            return self._build_now(preparation, [on_automatic_axes(array) for array in arrays], names, check)

    def _build_now(self, preparation: Preparation, arrays: Sequence[Any], names: Sequence[str], check: bool) -> Arrays:
        if check:
            for argument, array, name in zip(preparation.arguments, arrays, names, strict=True):
                if argument not in preparation.vectors:
                    check_finite(array, name)
            for weight in preparation.computed:
                _check_computed(weight, dict(zip(preparation.arguments, arrays, strict=True)))
        check_halves(preparation, arrays, names)
        given = dict(zip(preparation.arguments, arrays, strict=True))
        bits = {name: _alias_bits(given[argument]) for name, argument in preparation.bits}
        if preparation.build is nothing_to_build:
            return bits
        return dict(self._builder(preparation, arrays)(*arrays)) | bits


def check_halves(preparation: Preparation, arrays: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse weights that cannot be kept as bfloat16.

    Raises:
      NotHalvesError: names the first.
    """
    given, named = (dict(zip(preparation.arguments, what, strict=True)) for what in (arrays, names))
    for weight in preparation.halved:
        if any(_mlir.is_tracer(array) for array in arrays):
            raise NotHalvesError(f"{named[weight.argument]} is not known here")
        if not holds_halves(weight, given):
            raise NotHalvesError(f"{named[weight.argument]} holds numbers that bfloat16 lacks")


def _alias_bits(array: Any) -> jax.Array:
    """A bfloat16 array on the CPU as ``uint16``, or one of eight-bit floats as ``uint8``, sharing its memory."""
    bits = np.uint16 if array.dtype.itemsize == 2 else np.uint8
    if not isinstance(array, jax.Array) or array.sharding.num_devices == 1:
        return jax.device_put(np.asarray(array).view(bits), may_alias=True)
    parts = [
        jax.device_put(np.asarray(shard.data).view(bits), shard.device, may_alias=True)
        for shard in array.addressable_shards
    ]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts, dtype=bits)


@partial(jax.jit, static_argnums=1)
def _all_finite(array: jax.Array, target: Target | None) -> jax.Array:
    return all_in_pieces(jnp.isfinite, array, target)


def check_finite(array: Any, name: str) -> None:
    """Refuse a matrix that holds NaN or Inf.

    Raises:
      UnrankedError: names it, and says how to go on.
    """
    if not jnp.issubdtype(array.dtype, np.floating) or bool(_all_finite(array, pieces_of(array))):
        return
    raise _unranked(f"{name} holds NaN or Inf")


@partial(jax.jit, static_argnums=0)
def _computed_finite(weight: Weight, given: dict[int, jax.Array]) -> jax.Array:
    return all_of(jnp.isfinite(materialize(weight, given)))


def _check_computed(weight: Weight, given: dict[int, Any]) -> None:
    if not bool(_computed_finite(weight, {argument: given[argument] for argument in weight.arguments})):
        raise _unranked(f"{weight.name}, with its scales, gives NaN or Inf")


def _unranked(what: str) -> UnrankedError:
    return UnrankedError(
        f"{what}, so its rows cannot be ranked: repair the weights, leave the site dense with "
        "Rule(…, dense=True), or pass Config(check_weights=False)"
    )
