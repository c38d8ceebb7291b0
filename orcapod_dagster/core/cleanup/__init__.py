"""Clean-up: what a lake no longer needs, found kind by kind, shown first, removed when asked for."""

from orcapod_dagster.core.cleanup.base import CleanSettings, Keep, Kind, Removable
from orcapod_dagster.core.cleanup.clean import KINDS, clean

__all__ = ["KINDS", "CleanSettings", "Keep", "Kind", "Removable", "clean"]
