"""Where ``disk.stored`` stood before the rooms were drawn; kept for those who import it from here."""

from hire_compiler.offline.disk.stored import Member

__all__ = ["Member"]
