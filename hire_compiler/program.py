"""One captured program: a private copy of the lowered module and what its flat arguments mean.

``Callable`` knows how a function's arguments split into traced leaves and static values, for ``jax.jit``,
``nnx.jit``, ``eqx.filter_jit`` and plain functions alike; ``capture`` lowers it once for one signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable as Function
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from hire_compiler import _mlir
from hire_compiler.errors import CaptureError, HireError
from hire_compiler.hoist import hoist_constants


@jax.tree_util.register_pytree_node_class
class Static:
    """A leafless pytree node: its value is part of the tree's structure, so of the signature."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tree_flatten(self) -> tuple[tuple[()], Any]:
        """No children; the value is the structure."""
        return (), self.value

    @classmethod
    def tree_unflatten(cls, value: Any, children: Any) -> Static:
        """Back from the structure."""
        del children
        return cls(value)


def _is_static(node: Any) -> bool:
    return isinstance(node, Static)


class Callable:
    """A user's function, with the knowledge of which of its arguments are traced.

    Attributes:
      function: what is called; never modified.
      name: for error messages.
    """

    def __init__(self, function: Function[..., Any]) -> None:
        if not callable(function):
            raise CaptureError(f"transform and inspect take a function, not {type(function).__name__}")
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self._filters = type(function).__module__.startswith("equinox")
        statics = _mlir.jit_options(getattr(function, "jitted_fn", function))
        own = getattr(function, "static_argnums", None) or ()
        self._static_numbers = frozenset((own,) if isinstance(own, int) else own) | statics.static_argnums
        self._static_names = statics.static_argnames
        self._donated_numbers, self._donated_names = statics.donate_argnums, statics.donate_argnames
        self._parameters = _parameter_names(function)

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
        """Traced leaves and the tree structure (static values inside) of one call."""
        if self._filters:
            args, kwargs = jax.tree.map(_static_unless_array, (args, kwargs))
        if self._static_numbers:
            static = {i % len(args) for i in self._static_numbers if -len(args) <= i < len(args)}
            args = tuple(Static(a) if i in static else a for i, a in enumerate(args))
        if self._static_names and kwargs:
            kwargs = {k: Static(v) if k in self._static_names else v for k, v in kwargs.items()}
        return jax.tree.flatten((args, kwargs))

    def call_flat(self, tree: Any, leaves: Sequence[Any]) -> Any:
        """Call the function on leaves."""
        args, kwargs = self.rebuild(tree, leaves)
        return self.function(*args, **kwargs)

    def rebuild(self, tree: Any, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call out of its leaves: the inverse of :meth:`flatten`."""
        args, kwargs = self._without_static(jax.tree.unflatten(tree, leaves))
        return args, kwargs

    def leaves_after(self, tree: Any, leaves: Sequence[Any]) -> list[Any]:
        """The leaves of the arguments after a call: other ones where the function changed an object in place."""
        dynamic = jax.tree.unflatten(tree, leaves)
        args, kwargs = self._without_static(dynamic)
        self.function(*args, **kwargs)
        return list(leaves) if self._filters else jax.tree.leaves(dynamic)

    @property
    def may_mutate(self) -> bool:
        """Whether the function is of a kind that changes its arguments: an ``nnx`` transform."""
        return type(self.function).__module__.startswith("flax")

    def _without_static(self, dynamic: Any) -> Any:
        if self._filters:
            return jax.tree.map(lambda n: n.value if _is_static(n) else n, dynamic, is_leaf=_is_static)
        # Whole arguments only, and no copy of the others: a module that changes itself must be caught.
        args, kwargs = dynamic
        return (
            tuple(a.value if _is_static(a) else a for a in args),
            {k: a.value if _is_static(a) else a for k, a in kwargs.items()},
        )

    def argument_names(self, tree: Any) -> list[str]:
        """A name for every traced leaf: ``params['layers'][0]['w_up']``."""
        dummy = jax.tree.unflatten(tree, range(tree.num_leaves))
        paths = jax.tree_util.tree_flatten_with_path(dummy)[0]
        return [self._name(path) for path, _ in paths]

    def donated(self, tree: Any) -> list[bool]:
        """For every traced leaf, whether the author's ``jit`` donates it."""
        dummy = jax.tree.unflatten(tree, range(tree.num_leaves))
        count = len(dummy[0])
        return [self._is_donated(path, count) for path, _ in jax.tree_util.tree_flatten_with_path(dummy)[0]]

    def _name(self, path: Sequence[Any]) -> str:
        in_kwargs, first, *rest = (path[0].idx == 1, path[1], *path[2:])
        if in_kwargs:
            head = str(first.key)
        elif first.idx < len(self._parameters):
            head = self._parameters[first.idx]
        else:
            head = f"args[{first.idx}]"
        return head + jax.tree_util.keystr(tuple(rest))

    def _is_donated(self, path: Sequence[Any], count: int) -> bool:
        if path[0].idx == 1:
            return path[1].key in self._donated_names
        position = path[1].idx
        return position in self._donated_numbers or position - count in self._donated_numbers


def _static_unless_array(leaf: Any) -> Any:
    is_array = isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))
    return leaf if is_array else Static(leaf)


def _parameter_names(function: Any) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind in kinds)


@dataclass(frozen=True)
class Argument:
    """One flat argument of ``@main``.

    Attributes:
      name: where the caller finds it, ``params['embed']``; ``closure[0]`` for a hoisted constant.
      shape, dtype: of the array.
      donated: the author's ``jit`` gives its buffer away, so it is no weight.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    donated: bool = False


@dataclass(frozen=True)
class Program:
    """A lowered function: bytecode of the module, and its arguments in the order of ``@main``.

    Attributes:
      name: of the user's function.
      module: MLIR bytecode, a private copy.
      arguments: hoisted constants first, then the caller's leaves.
      constants: values of the hoisted constants.
      out_avals, out_tree: results; None for a module that came without a function.
      refusal: why the program cannot be rewritten at all (callbacks, effects), or ''.
    """

    name: str
    module: bytes
    arguments: tuple[Argument, ...]
    constants: tuple[Any, ...] = ()
    out_avals: tuple[Any, ...] = ()
    out_tree: Any = None
    refusal: str = ""


def identifier(name: str) -> str:
    """A program's name (or the last part of its path) as XLA takes one."""
    return "".join(c if c.isalnum() else "_" for c in name.rsplit("/", 1)[-1])


def capture(function: Callable, leaves: Sequence[Any], tree: Any, *, platform: str | None = None) -> Program:
    """Lower a function for the types of ``leaves``; its own lowering cache is never touched.

    Args:
      function: what to lower.
      leaves: arrays or ``jax.ShapeDtypeStruct``, the traced arguments.
      tree: their structure, static values inside.
      platform: lower for this one (JAX's name: ``cuda``, ``tpu``) rather than for the default backend; what a
        function computes per platform (``lax.platform_dependent``) must be what that platform would run.

    Errors of the function itself (wrong shapes, wrong dtypes) are JAX's own and pass through unchanged.
    """
    out_tree: list[Any] = []

    def flat(*values: Any) -> list[Any]:
        outputs, structure = jax.tree.flatten(function.call_flat(tree, values))
        out_tree[:] = [structure]
        return outputs

    flat.__name__ = function.name
    traced = jax.jit(flat, keep_unused=True).trace(*leaves)
    if function.may_mutate:
        _refuse_mutation(function, leaves, tree)
    replay, constants = hoist_constants(traced.jaxpr)
    out_avals = tuple(traced.jaxpr.out_avals)
    refusal = _refusal(traced.jaxpr)
    if constants:
        replay.__name__ = function.name
        traced = jax.jit(replay, keep_unused=True).trace(*constants, *leaves)
    closure = [Argument(f"closure[{i}]", tuple(c.shape), str(c.dtype)) for i, c in enumerate(constants)]
    own = [
        Argument(name, tuple(aval.shape), str(aval.dtype), donated)
        for name, aval, donated in zip(
            function.argument_names(tree),
            traced.jaxpr.in_avals[len(constants) :],
            function.donated(tree),
            strict=True,
        )
    ]
    module = b"" if refusal else _mlir.to_bytecode(_lower(traced, platform).compiler_ir("stablehlo"))
    return Program(
        name=function.name,
        module=module,
        arguments=(*closure, *own),
        constants=tuple(constants),
        out_avals=out_avals,
        out_tree=out_tree[0],
        refusal=refusal,
    )


def _lower(traced: Any, platform: str | None) -> Any:
    return traced.lower() if platform is None else traced.lower(lowering_platforms=(platform,))


def _refuse_mutation(function: Callable, leaves: Sequence[Any], tree: Any) -> None:
    # nnx writes every variable back, also those it never changed: those come out of the jaxpr as they went in.
    closed = jax.make_jaxpr(lambda *values: function.leaves_after(tree, values))(*leaves)
    for index, (before, after) in enumerate(zip(closed.jaxpr.invars, closed.jaxpr.outvars, strict=False)):
        if _mlir.forwarded(closed.jaxpr, after) is not before:
            raise CaptureError(
                f"{function.name} changes {function.argument_names(tree)[index]} in place; a compiled step must "
                "return its new state: nnx.split the module outside, nnx.merge it inside, and return the state"
            )


def _refusal(closed: Any) -> str:
    called = sorted({name for name in _primitives(closed.jaxpr) if "callback" in name or name == "debug_print"})
    if called:
        return f"it calls back into Python ({', '.join(called)}), so it runs exactly as it was"
    if closed.effects:
        effects = ", ".join(sorted(str(effect) for effect in closed.effects))
        return f"it has side effects ({effects}), so it runs exactly as it was"
    return ""


def _primitives(jaxpr: Any) -> set[str]:
    names = set()
    for eqn in jaxpr.eqns:
        names.add(eqn.primitive.name)
        for inner in _mlir.inner_jaxprs(eqn):
            names |= _primitives(inner)
    return names


def read_module(data: bytes, *, name: str) -> Program:
    """A program from a file: StableHLO text, MLIR bytecode, a portable artifact or a serialized export.

    Raises:
      HireError: it is none of these; the message says what was tried.
    """
    with _mlir.fresh_context():
        module = _mlir.parse_any(data, name)
        try:
            types = _mlir.main_function(module).type.inputs
        except HireError as error:
            raise HireError(f"{name}: {error}") from None
        arguments = tuple(Argument(f"arg{i}", *_mlir.tensor_type(type_)) for i, type_ in enumerate(types))
        return Program(name=name, module=_mlir.to_bytecode(module), arguments=arguments)
