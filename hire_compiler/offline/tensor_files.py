"""Where ``disk.tensor_files`` stood before the rooms were drawn; kept for those who import it from here."""

from hire_compiler.offline.disk.tensor_files import read_tensors

__all__ = ["read_tensors"]
