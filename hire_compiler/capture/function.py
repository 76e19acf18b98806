"""A user's function, and how the arguments of its calls split into traced leaves and static values."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from hire_compiler import _mlir
from hire_compiler.errors import CaptureError


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


class UserFunction:
    """A user's function, with the knowledge of which of its arguments are traced.

    A method of an object that JAX knows as a tree of arrays (an ``nnx`` or ``equinox`` module) takes that object as its
    first argument, so that new weights in it are seen.

    Attributes:
      original: what the user gave; never modified.
      function: what is traced: the same without compiler options.
      name: for error messages.
      compiler_options: those of the author's ``jit``.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        _refuse_stages(function)
        if not callable(function):
            raise CaptureError(f"transform and inspect take a function, not {type(function).__name__}")
        self.name = getattr(function, "__name__", type(function).__name__)
        self.original = function = _jitted_call(function)
        self._filters = type(function).__module__.startswith("equinox")
        options = _mlir.jit_options(getattr(function, "jitted_fn", function))
        self.compiler_options = dict(options.compiler_options)
        own = getattr(function, "static_argnums", None) or ()
        self._static_numbers = frozenset((own,) if isinstance(own, int) else own) | options.static_argnums
        self._static_names = options.static_argnames
        self._donated_numbers, self._donated_names = options.donate_argnums, options.donate_argnames
        owner = None if self.is_jitted else _owner_of(function)
        self._owner = () if owner is None else (owner,)
        self.function = _mlir.without_compiler_options(function) if owner is None else _unbound(function)
        self._parameters = _parameter_names(self.function)

    @property
    def is_jitted(self) -> bool:
        """Whether calling the original runs one compiled program already."""
        return callable(getattr(self.original, "lower", None))

    @property
    def may_mutate(self) -> bool:
        """Whether the function is of a kind that changes its arguments: of ``nnx``, or a method of its object."""
        return bool(self._owner) or type(self.original).__module__.startswith("flax")

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
        """Traced leaves and the tree structure (static values inside) of one call."""
        if self._filters:
            args, kwargs = jax.tree.map(_static_unless_array, (args, kwargs))
        numbers, names = self.static_places(args, kwargs)
        if numbers:
            args = tuple(Static(a) if i in numbers else a for i, a in enumerate(args))
        if names:
            kwargs = {k: Static(v) if k in names else v for k, v in kwargs.items()}
        owner = tuple(jax.tree.map(_static_unless_array, owner) for owner in self._owner)
        return jax.tree.flatten(((*owner, *args), kwargs))

    def static_places(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[set[int], frozenset[str]]:
        """Positions and names of the static arguments of a call."""
        numbers = {i % len(args) for i in self._static_numbers if -len(args) <= i < len(args)}
        return numbers, self._static_names & kwargs.keys()

    def call_flat(self, tree: Any, leaves: Sequence[Any]) -> Any:
        """Call the function on leaves."""
        args, kwargs = self._without_static(jax.tree.unflatten(tree, leaves))
        return self.function(*args, **kwargs)

    def rebuild(self, tree: Any, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call out of its leaves: the inverse of :meth:`flatten`."""
        args, kwargs = self._without_static(jax.tree.unflatten(tree, leaves))
        return args[len(self._owner) :], kwargs

    def leaves_after(self, tree: Any, leaves: Sequence[Any]) -> list[Any]:
        """The leaves of the arguments after a call: other ones where the function changed an object in place."""
        dynamic = jax.tree.unflatten(tree, leaves)
        args, kwargs = self._without_static(dynamic)
        self.function(*args, **kwargs)
        if self._filters:
            return list(leaves)
        return jax.tree.leaves((args, kwargs) if self._owner else dynamic)

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


def _refuse_stages(function: Any) -> None:
    if isinstance(function, (jax.stages.Traced, jax.stages.Lowered, jax.stages.Compiled)):
        raise CaptureError(
            f"a jax.stages.{type(function).__name__} is fixed already, so nothing can be rewritten in it: transform "
            "the function it came from, hire.transform(f).lower(…).compile(); hire.inspect(…) reads it as it is"
        )
    if hasattr(function, "mlir_module_serialized"):
        raise CaptureError("this is an export: hire.rewrite(exported) rewrites it, or transform(exported.call)")


def _jitted_call(function: Any) -> Any:
    """An object whose ``__call__`` is jitted as the bound method that a call of it runs."""
    call: Any = inspect.getattr_static(type(function), "__call__", None)
    return types.MethodType(call, function) if hasattr(call, "_jit_info") else function


def _owner_of(function: Any) -> Any:
    """The tree of arrays whose method (or ``__call__``) a function is, or None."""
    owner = function.__self__ if isinstance(function, types.MethodType) else function
    if isinstance(owner, (functools.partial, type, types.ModuleType)):
        return None
    structure = jax.tree.structure(owner)
    return None if jax.tree_util.treedef_is_leaf(structure) or not structure.num_leaves else owner


def _unbound(function: Any) -> Any:
    return function.__func__ if isinstance(function, types.MethodType) else type(function).__call__


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
