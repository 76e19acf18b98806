"""Plan a step anew in the background, and put it in the place of the one that could do better (see ``adapt.py``)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import jax

from hire_compiler import _mlir
from hire_compiler.calling.adapt import FIRST_CALLS, adapted, type_of, watches
from hire_compiler.calling.compiled import DENSE, CompiledStep
from hire_compiler.capture.function import UserFunction
from hire_compiler.config.rules import Config
from hire_compiler.learned.calibration import Calibration
from hire_compiler.passes.pipeline import rewrite_program
from hire_compiler.passes.plan.adapted import Adapted
from hire_compiler.passes.plan.saved_plan import Plan
from hire_compiler.reports.report import Report
from hire_compiler.runtime.target import target_for


class Replanner:
    """Watches the steps of one function.

    Attributes:
      put: called with (old step, new step) when the new one is compiled.
      as_written: makes a program that runs the original on flat arguments.
    """

    def __init__(
        self,
        function: UserFunction,
        config: Config,
        calibration: Calibration | None,
        put: Callable[[CompiledStep, CompiledStep], None],
        as_written: Callable[[Any], Any],
    ) -> None:
        self._function, self._config, self._calibration = function, config, calibration
        self.put, self.as_written = put, as_written
        self._lock = threading.Lock()
        self._at_work: threading.Thread | None = None

    def may_watch(self, step: CompiledStep) -> bool:
        """Whether there is a default in a step that may be changed: on one device, where it runs."""
        return self._config.adapt and self._config.plan is None and not step.on_mesh and watches(step.report)

    def look(self, step: CompiledStep, tree: Any, leaves: list[Any]) -> None:
        """After a call: start planning anew if enough calls were counted and a default loses, or could do better."""
        if not step.measured.have_arrived(FIRST_CALLS):
            return
        prepared = step.current(leaves)
        if prepared is None or prepared is DENSE:
            return
        with self._lock:
            if not step.watched:
                return
            step.watched = False
        measured, costs = step.measured, target_for(jax.default_backend()).costs
        changed = adapted(step.current_report(), measured.calls, measured.held(), measured.block_counts(), costs)
        if not changed or any(_mlir.is_tracer(leaf) for leaf in leaves):
            return
        types = [type_of(leaf) for leaf in leaves]
        known = step.types_of(prepared)
        work = (step, tree, types, known, changed, _mlir.caller_settings())
        # No daemon: Python would end it inside XLA's compiler, and that aborts the process.
        self._at_work = threading.Thread(target=self._replan, args=work, name="hire_compiler replans")
        self._at_work.start()

    def wait(self) -> None:
        """Until nothing is being planned."""
        if self._at_work is not None:
            self._at_work.join()

    def _replan(
        self,
        step: CompiledStep,
        tree: Any,
        types: list[Any],
        known: dict[Any, Any],
        changed: dict[str, Adapted],
        caller: Any,
    ) -> None:
        try:
            if _mlir.caller_settings() != caller:
                said = "; ".join(each.said for each in changed.values())
                step.say(f"{said}: not done, JAX has other settings in the calling thread alone")
                return
            made = self._made(step, tree, types, known, changed)
            if made is not None:
                self.put(step, made)
        except Exception as error:  # the old step is right, only slow
            step.say(f"planning anew failed, nothing is changed: {type(error).__name__}: {error}")

    def _made(
        self, step: CompiledStep, tree: Any, types: list[Any], known: dict[Any, Any], changed: dict[str, Adapted]
    ) -> CompiledStep | None:
        """The new step, compiled; None where the program ends meanwhile, which waits for this thread."""
        platform = jax.default_backend()
        outcome = rewrite_program(
            step.program, self._config, self._calibration, platform, adapted=changed, fits=step.halved.__contains__
        )
        if not threading.main_thread().is_alive():
            return None
        seconds = {**step.report.seconds, "planning anew": sum(outcome.report.seconds.values())}
        report = Report(**{**outcome.report.__dict__, "seconds": seconds})
        made = CompiledStep(step.avals, step.program, outcome.spliced, report, types)
        made.plan = Plan({platform: outcome.records})
        if made.compiled is not None:
            made.compiled.lower(*made.operand_types(types, known)).compile()
        elif self._function.is_jitted:
            args, kwargs = self._function.rebuild(tree, types)
            self._function.original.lower(*args, **kwargs).compile()
        else:
            made.as_written = self.as_written(tree)
            made.as_written.lower(*types).compile()
        return made
