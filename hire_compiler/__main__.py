"""``python -m hire_compiler`` is the command line."""

import sys

from hire_compiler.cli import command_line

sys.exit(command_line())
