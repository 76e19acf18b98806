"""The command line: ``hire-compiler VERB …``. One verb, one function of ``verbs.py``; errors are one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hire_compiler.cli.parser import make_parser
from hire_compiler.cli.supervise import supervised
from hire_compiler.errors import HireError


def command_line() -> int:
    """The entry point: :func:`main` in a child process that may crash."""
    return supervised(main)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
      The exit code: 0; 1 if a verification failed; 2 after a one-line error.
    """
    options = make_parser().parse_args(argv)
    import jax

    from hire_compiler.cli import verbs

    if "JAX_PLATFORMS" not in os.environ:  # nothing here needs an accelerator, and looking must not grab one
        jax.config.update("jax_platforms", "cpu")

    try:
        return int(getattr(verbs, options.verb)(options))
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was changed", 130)
    except (HireError, OSError) as error:
        return _fail(_one_line(error))
    except MemoryError:
        return _fail("out of memory")
    except Exception as error:
        if "HIRE_TRACEBACK" in os.environ:
            raise
        return _fail(f"{type(error).__name__}: {_one_line(error)} (HIRE_TRACEBACK=1 shows where)")


def _fail(message: str, code: int = 2) -> int:
    print(f"hire-compiler: {message}", file=sys.stderr)
    return code


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())
