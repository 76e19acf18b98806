"""``python -m hire_compiler`` is the command line."""

import sys

from hire_compiler.cli import main

sys.exit(main())
