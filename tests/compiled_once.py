"""What one test compiles, the others need not: while the suite runs, its processes share a folder of programs.

Importing this module makes the folder known to JAX, which reads the environment when it is imported itself. Set
``JAX_COMPILATION_CACHE_DIR`` to a folder that stays, and the next run of the suite takes a third of the time.
"""

from __future__ import annotations

import os
import shutil
import tempfile

FOLDER = "JAX_COMPILATION_CACHE_DIR"
OWN = tempfile.mkdtemp(prefix="compiled-") if FOLDER not in os.environ else None
if OWN is not None:
    os.environ[FOLDER] = OWN
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def remove() -> None:
    """Remove the folder, where this process made it and not the one that started it."""
    if OWN is not None:
        shutil.rmtree(OWN, ignore_errors=True)
