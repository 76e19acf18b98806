"""One captured program: a private copy of the lowered module and what its flat arguments mean.

``capture`` lowers a function once for one signature; ``offline/source`` takes one from a file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from hire_compiler import _mlir
from hire_compiler.capture.function import UserFunction
from hire_compiler.capture.hoist import hoist_constants
from hire_compiler.errors import CaptureError


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
      out_avals, out_tree: results; the tree is None for a module that came without a function.
      out_names: how the results are called where there is no tree.
      refusal: why the program cannot be rewritten at all (callbacks, effects), or ''.
      compiler_options: of the author's ``jit``: traced and lowered without, compiled with.
    """

    name: str
    module: bytes
    arguments: tuple[Argument, ...]
    constants: tuple[Any, ...] = ()
    out_avals: tuple[Any, ...] = ()
    out_tree: Any = None
    out_names: tuple[str, ...] = ()
    refusal: str = ""
    compiler_options: tuple[tuple[str, Any], ...] = ()


def identifier(name: str) -> str:
    """A program's name (or the last part of its path) as XLA takes one."""
    return "".join(c if c.isalnum() else "_" for c in name.rsplit("/", 1)[-1])


def capture(function: UserFunction, leaves: Sequence[Any], tree: Any, *, platform: str | None = None) -> Program:
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
    with jax.disable_jit(False):
        with _flax_errors_explained(function):
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
        compiler_options=tuple(function.compiler_options.items()),
    )


@contextlib.contextmanager
def _flax_errors_explained(function: UserFunction) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "TraceContextError":
            raise
        raise CaptureError(
            f"{function.name} changes an nnx module that it closes over, and a compiled step must return its new "
            "state: pass the module's state as an argument (nnx.split outside, nnx.merge inside) and return it"
        ) from error


def _lower(traced: Any, platform: str | None) -> Any:
    return traced.lower() if platform is None else traced.lower(lowering_platforms=(platform,))


def _refuse_mutation(function: UserFunction, leaves: Sequence[Any], tree: Any) -> None:
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
