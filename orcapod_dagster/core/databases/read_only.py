"""A database that is looked at and never written: for whatever must leave a lake as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.sources import TableSource


class ReadOnlyDatabase(ArrowDatabase):
    """Reads another database; what is appended is dropped, so that no caller can store anything by it.

    Args:
        database: what is read.
    """

    def __init__(self, database: ArrowDatabase) -> None:
        self._database = database

    def append(self, path: Sequence[str], open_records: Callable[[], pa.RecordBatchReader]) -> None:
        """Drop the records."""

    def flush(self) -> None:
        """Do nothing: nothing waits."""

    def source(self, path: Sequence[str]) -> TableSource | None:
        """Return the records of the database that is read."""
        return self._database.source(path)

    def state(self, path: Sequence[str]) -> str:
        """Return the state of the database that is read."""
        return self._database.state(path)

    def children(self, path: Sequence[str]) -> list[str]:
        """Return the names of the database that is read."""
        return self._database.children(path)

    def compact(self, path: Sequence[str]) -> None:
        """Do nothing."""
