"""Databases that hold append-only tables of records behind one interface."""

from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.databases.delta import DeltaTableDatabase
from orcapod_dagster.core.databases.memory import InMemoryArrowDatabase
from orcapod_dagster.core.databases.read_only import ReadOnlyDatabase

__all__ = ["ArrowDatabase", "DeltaTableDatabase", "InMemoryArrowDatabase", "ReadOnlyDatabase"]
