"""Arrays whose numbers may change while they live."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def nobody_can_write(array: Any) -> bool:
    """Whether the numbers of an array cannot change while it lives.

    A NumPy array that is merely locked does not promise that: its base, a view made before, or the file behind a
    memory map may be written. Only memory that jax or a ``bytes`` object owns is safe.
    """
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    if isinstance(array, memoryview):
        array = array.obj
    return isinstance(array, (jax.Array, bytes))
