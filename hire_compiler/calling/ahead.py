"""Ahead of time: what ``trace``, ``lower`` and ``compile`` of a transformed function return.

JAX's own stages hold the *step program*, whose flat arguments are weights, inputs and prepared arrays. These hold one
of them, answer everything it answers, and are called like the original function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from hire_compiler.errors import CaptureError

# Runs a compiled step program for the arguments of one call; ``prepared`` may be handed in.
Run = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Any]


class Stage:
    """A stage of JAX's, of the step program; its kinds are JAX's own kinds.

    Attributes:
      stage: JAX's own object; what is not found here, JAX's private fields among it, is looked up there.
    """

    def __init__(self, stage: Any, run: Run, out_info: Any) -> None:
        self.stage = stage
        self._run = run
        self._own_out_info = out_info

    def __getattr__(self, name: str) -> Any:
        if name == "stage":  # while it is being copied or unpickled
            raise AttributeError(name)
        return getattr(self.stage, name)

    @property
    def out_info(self) -> Any:
        """The types of the results, in the author's structure."""
        return self._own_out_info

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} step program>"

    @property
    def out_tree(self) -> Any:
        """The structure of the results."""
        return jax.tree.structure(self.out_info)


class Compiled(Stage, jax.stages.Compiled):  # type: ignore[misc]
    """A compiled step: call it with the arguments that it was lowered for, static ones left out as in JAX."""

    def __call__(self, *args: Any, prepared: Any = None, **kwargs: Any) -> Any:
        """Run it; ``prepared`` is what ``step.prepare(…)`` returned, else weights are prepared at their first call."""
        return self._run(self.stage, args, kwargs, prepared)


class Lowered(Stage, jax.stages.Lowered):  # type: ignore[misc]
    """A lowered step."""

    def compile(self, compiler_options: dict[str, Any] | None = None) -> Compiled:
        """Compile it for this machine."""
        options = {} if compiler_options is None else {"compiler_options": compiler_options}
        return Compiled(self.stage.compile(**options), self._run, self.out_info)


class Traced(Stage, jax.stages.Traced):  # type: ignore[misc]
    """A traced step."""

    def lower(self, **options: Any) -> Lowered:
        """Lower it."""
        return Lowered(self.stage.lower(**options), self._run, self.out_info)


class StaticArguments:
    """The static arguments of the call that was lowered, which a call of the compiled program leaves out."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], numbers: set[int], names: frozenset[str]) -> None:
        self._count = len(args)
        self._numbers = {i: args[i] for i in numbers}
        self._names = {name: kwargs[name] for name in names}

    def put_back(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as the function itself takes them.

        Raises:
          CaptureError: there are more or fewer than the program was lowered for.
        """
        if len(args) != self._count - len(self._numbers):
            raise CaptureError(
                f"the compiled step takes {self._count - len(self._numbers)} positional arguments and got {len(args)}: "
                "it was lowered for one signature; static arguments are left out of its calls"
            )
        own = iter(args)
        whole = tuple(self._numbers[i] if i in self._numbers else next(own) for i in range(self._count))
        return whole, {**kwargs, **self._names}


def check_signature(name: str, lowered: tuple[Any, list[Any]], called: tuple[Any, list[Any]]) -> None:
    """Refuse a call of a compiled step with other arguments than it was lowered for: trees, then types.

    Raises:
      CaptureError: says which differ.
    """
    if lowered[0] != called[0]:
        raise CaptureError(
            f"{name} was lowered for arguments of the structure {lowered[0]} and is called with {called[0]}: lower it "
            "again, or call the transformed function itself, which takes any"
        )
    for index, (planned, given) in enumerate(zip(lowered[1], called[1], strict=True)):
        if (planned.shape, planned.dtype) != (given.shape, given.dtype):
            raise CaptureError(
                f"{name} was lowered for {planned.str_short()} as leaf {index} of its arguments and is called with "
                f"{given.str_short()}: lower it again, or call the transformed function itself, which takes any"
            )
