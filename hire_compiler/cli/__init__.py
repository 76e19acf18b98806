"""The command line: ``hire-compiler VERB …``. One verb, one function of ``verbs.py``; errors are one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

# Nothing else is imported up here: an interrupt is caught only from command_line on.


def command_line() -> int:
    """The entry point: :func:`main` in a child process that may crash."""
    try:
        from hire_compiler.cli.supervise import supervised

        return supervised(main)
    except KeyboardInterrupt:
        print("hire-compiler: interrupted; no file is half-written", file=sys.stderr)
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
      The exit code: 0; 1 if a verification failed; 2 after a one-line error.

    Raises:
      KeyboardInterrupt: somebody interrupts it.
    """
    from hire_compiler.cli.parser import make_parser, with_verb

    options = make_parser().parse_args(with_verb(sys.argv[1:] if argv is None else argv))
    import jax

    from hire_compiler.cli import verbs
    from hire_compiler.errors import HireError, HireWarning

    if "JAX_PLATFORMS" not in os.environ:  # nothing here needs an accelerator, and looking must not grab one
        jax.config.update("jax_platforms", "cpu")

    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line_warning
            warnings.simplefilter("always", HireWarning)
            code = int(getattr(verbs, options.verb)(options))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (HireError, OSError) as error:
        return _fail(_one_line(error))
    except MemoryError:
        return _fail("out of memory")
    except Exception as error:
        if "HIRE_TRACEBACK" in os.environ:
            raise
        return _fail(f"{type(error).__name__}: {_one_line(error)} (HIRE_TRACEBACK=1 shows where)")


def _one_line_warning(message: Warning | str, category: type[Warning], *_where: Any, **_how: Any) -> None:
    if category.__name__ == "HireWarning":  # what others warn of is for who writes programs
        from hire_compiler.cli.words import on_the_command_line

        print(f"hire-compiler: note: {on_the_command_line(' '.join(str(message).split()))}", file=sys.stderr)


def _fail(message: str) -> int:
    from hire_compiler.cli.words import on_the_command_line

    print(f"hire-compiler: {on_the_command_line(message)}", file=sys.stderr)
    return 2


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())
