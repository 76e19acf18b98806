"""``join``: an engine's two programs, one that makes logits and one that samples, as one of which the token leaves.

An engine that compiles them apart hands the logits from one program to the next, so all of them have to be right. In
one program only the winners count, and those can be proven: the head becomes certifiable.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

import jax

from hire_compiler import _mlir
from hire_compiler.authors.wrapped import function_of, place_of_logits, shown
from hire_compiler.errors import CaptureError, ConfigError, HireError


def join(
    logits_fn: Callable[..., Any],
    sample_fn: Callable[..., Any],
    *,
    logits: str | None = None,
    into: int | str = 0,
) -> Callable[..., Any]:
    """One function out of two that an engine compiles apart: one makes logits, one samples a token from them.

    Args:
      logits_fn: makes the logits, and what else a step makes; a ``jax.jit`` function or any that ``jax.jit`` takes.
      sample_fn: takes the logits as one of its arguments; its result takes their place in that of ``logits_fn``.
      logits: which result of ``logits_fn`` holds them, as JAX prints paths: ``"[0]"``, ``"['logits']"``. Needed only
        where several floating-point results could be meant.
      into: the number or the name of the argument of ``sample_fn`` that takes them; the first by default.

    Returns:
      A jitted function with the arguments of ``logits_fn``, then those of ``sample_fn`` but the logits, by position or
      by name. What both call by the same name is one argument. Static and donated arguments stay so.

    Raises:
      ConfigError: the two do not fit together; when called, if an argument is missing or unknown, no result is the
        logits, or ``sample_fn`` does not take them.
      CaptureError: one of them is of a kind that cannot be wrapped.
    """
    first, second = _part(logits_fn), _part(sample_fn)
    taken = second.parameter(into)
    others = [parameter for parameter in second.parameters if parameter.name != taken]
    parameters = _merged(first.parameters, others)
    name = f"{first.name}_and_{second.name}"

    def joined(*args: Any, **kwargs: Any) -> Any:
        given = _given(name, parameters, args, kwargs)
        paths, tree = jax.tree_util.tree_flatten_with_path(first(given))
        place = place_of_logits(paths, logits, first.name)
        leaves: list[Any] = [leaf for _, leaf in paths]
        leaves[place] = _sampled(first, second, {**given, taken: leaves[place]}, taken)
        return jax.tree.unflatten(tree, leaves)

    joined.__name__ = joined.__qualname__ = name
    joined.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return jax.jit(
        joined,
        static_argnames=sorted(first.static | second.static - {taken}),
        donate_argnames=sorted(first.donated | second.donated - {taken}),
        compiler_options=_compiler_options(first, second),
    )


@dataclass(frozen=True)
class _Part:
    """One of the two functions.

    Attributes:
      static, donated: names of its arguments.
    """

    function: Callable[..., Any]
    name: str
    parameters: tuple[Parameter, ...]
    static: frozenset[str]
    donated: frozenset[str]
    compiler_options: Mapping[str, Any]

    def parameter(self, wanted: int | str) -> str:
        """The name of the argument that takes the logits."""
        names = [parameter.name for parameter in self.parameters]
        if isinstance(wanted, str) and wanted in names:
            return wanted
        if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 <= wanted < len(names):
            return names[wanted]
        listing = ", ".join(names) or "no arguments"
        raise ConfigError(f"into is {wanted!r}, but no argument of {self.name} is that: it takes {listing}")

    def __call__(self, given: Mapping[str, Any]) -> Any:
        """Its result: its arguments by position as far as they go, because not every function takes them by name."""
        missing = [p.name for p in self.parameters if p.default is Parameter.empty and p.name not in given]
        if missing:
            raise ConfigError(
                f"{self.name} needs {', '.join(missing)}, which the call of the joined step does not give"
            )
        args: list[Any] = []
        named = {p.name: given[p.name] for p in self.parameters if p.name in given}
        for parameter in self.parameters:
            if parameter.kind is Parameter.KEYWORD_ONLY or parameter.name not in named:
                break
            args.append(named.pop(parameter.name))
        return self.function(*args, **named)


def _part(function: Any) -> _Part:
    if hasattr(function, "mlir_module_serialized"):
        raise CaptureError("join takes functions: of an export, give it one with named arguments that calls its .call")
    function = function_of(function, "join")
    name = getattr(function, "__name__", type(function).__name__)
    try:
        parameters = tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise CaptureError(f"the arguments of {name} are not known: wrap it in a function that names them") from None
    for parameter in parameters:
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is Parameter.VAR_POSITIONAL else "**"
            raise CaptureError(
                f"{name} takes {stars}{parameter.name}, so it is not known which arguments are its own: wrap it in a "
                "function that names them"
            )
    options = _mlir.jit_options(function)
    numbers = [p.name for p in parameters if p.kind is not Parameter.KEYWORD_ONLY]

    def names(given: frozenset[str], places: frozenset[int]) -> frozenset[str]:
        return given | {numbers[i] for i in places if -len(numbers) <= i < len(numbers)}

    return _Part(
        function=_mlir.without_compiler_options(function),
        name=name,
        parameters=parameters,
        static=names(options.static_argnames, options.static_argnums),
        donated=names(options.donate_argnames, options.donate_argnums),
        compiler_options=dict(options.compiler_options),
    )


def _merged(first: tuple[Parameter, ...], second: list[Parameter]) -> list[Parameter]:
    """The arguments of both, each name once: those by position, then those by name only.

    Without defaults, which are those of the functions themselves: one may stand before an argument without any.
    """
    by_name = {parameter.name: parameter for parameter in (*second, *first)}
    order = dict.fromkeys(parameter.name for parameter in (*first, *second))
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    sorted_ = sorted(order, key=lambda name: by_name[name].kind is Parameter.KEYWORD_ONLY)
    return [Parameter(name, kinds[by_name[name].kind is Parameter.KEYWORD_ONLY]) for name in sorted_]


def _given(name: str, parameters: list[Parameter], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one call by their names."""
    positional = [p.name for p in parameters if p.kind is not Parameter.KEYWORD_ONLY]
    listing = ", ".join(p.name for p in parameters) or "none"
    if len(args) > len(positional):
        raise ConfigError(f"{name} takes {len(positional)} arguments by position, not {len(args)}: {listing}")
    given = dict(zip(positional, args, strict=False))
    for key, value in kwargs.items():
        if key in given:
            raise ConfigError(f"{name} is given {key} twice, by position and by name")
        if all(key != p.name for p in parameters):
            raise ConfigError(f"{name} has no argument {key!r}; it takes {listing}")
        given[key] = value
    return given


def _sampled(first: _Part, second: _Part, given: Mapping[str, Any], taken: str) -> Any:
    try:
        return second(given)
    except HireError:
        raise
    except (TypeError, ValueError) as error:
        (said, *_) = str(error).splitlines() or [type(error).__name__]
        made = f"the logits of {first.name}, {shown(given[taken])}, as its {taken}"
        raise ConfigError(f"{second.name} does not take {made}: {said}") from error


def _compiler_options(first: _Part, second: _Part) -> dict[str, Any] | None:
    one, other = first.compiler_options, second.compiler_options
    for key in one.keys() & other.keys():
        if one[key] != other[key]:
            raise ConfigError(
                f"{first.name} is compiled with {key}={one[key]!r}, {second.name} with {other[key]!r}: one program "
                "has one of them"
            )
    return {**one, **other} or None
