"""The command line: ``hire-compiler inspect FILE``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from hire_compiler.errors import HireError
from hire_compiler.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 2 after a one-line error."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        return _inspect(options)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (HireError, OSError) as error:
        print(f"hire-compiler: {_one_line(error)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hire-compiler", description="Sparse LLM decoding on the lowered graph.")
    parser.add_argument("--version", action="version", version=f"hire-compiler {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = commands.add_parser(
        "inspect",
        help="say which sites a lowered model has, and why the others are none",
        description="Find feed-forward blocks and LM heads in a lowered model; needs neither weights nor a device.",
    )
    inspect.add_argument(
        "file", help="StableHLO text or bytecode, a VHLO portable artifact, or a serialized jax.export"
    )
    inspect.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


def _inspect(options: argparse.Namespace) -> int:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # looking needs no accelerator, and must not grab one
    from hire_compiler.api import inspect

    report = inspect(options.file)
    if not options.json:
        print(report)
        return 0
    found = report.to_dict()
    print(json.dumps({key: found[key] for key in ("sites", "misses", "notes")}, indent=2))
    return 0


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
