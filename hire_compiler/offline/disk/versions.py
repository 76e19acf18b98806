"""What wrote an artifact, and whether this JAX still reads it."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import jax
import jax.export

from hire_compiler import _mlir
from hire_compiler.errors import HireError
from hire_compiler.version import __version__


def versions_here() -> dict[str, str]:
    """Of the packages that write an artifact here, and until when JAX promises to load what they write."""
    return {
        "hire_compiler": __version__,
        "jax": jax.__version__,
        "jaxlib": _installed("jaxlib"),
        "libtpu": _installed("libtpu"),
        "python": platform.python_version(),
        "stablehlo": _mlir.stablehlo_version(),
        "calling_convention": str(jax.config.jax_export_calling_convention_version),
        # A date would be invented: the promise counts from the release of that JAX, which no package knows.
        "loads_until": f"JAX releases of the six months after jax {jax.__version__}; later ones by the portable form",
    }


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def check_export_version(exported: Any) -> None:
    """Refuse an export whose calling convention or StableHLO this JAX does not know: it would fail only when called.

    Raises:
      HireError: says both versions.
    """
    oldest = jax.export.minimum_supported_calling_convention_version
    newest = jax.export.maximum_supported_calling_convention_version
    version = exported.calling_convention_version
    if not oldest <= version <= newest:
        remedy = "install a newer jax" if version > newest else "export it again"
        raise HireError(
            f"was exported with calling convention {version}, and jax {jax.__version__} knows {oldest} to {newest}: "
            f"{remedy}"
        )
    _mlir.check_version(exported.mlir_module_serialized)
