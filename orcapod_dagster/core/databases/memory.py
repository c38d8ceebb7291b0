"""Records in the memory of this process: for tests, notebooks and trying out."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

import pyarrow as pa

from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.sources import MemorySource, TableSource


class InMemoryArrowDatabase(ArrowDatabase):
    """Keeps records as Arrow tables in this process; everything is gone when it ends."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, ...], list[pa.Table]] = defaultdict(list)
        self._lock = threading.Lock()

    def append(self, path: Sequence[str], open_records: Callable[[], pa.RecordBatchReader]) -> None:
        """Add records, at once visible."""
        table = open_records().read_all()
        with self._lock:
            tables = self._tables[tuple(path)]
            known = tables[0].column_names if tables else table.column_names
            tables.append(table.select(known) if set(known) == set(table.column_names) else table)

    def flush(self) -> None:
        """Do nothing: records are visible as soon as they are appended."""

    def source(self, path: Sequence[str]) -> TableSource | None:
        """Return the records as of now."""
        table = self._table(path)
        return None if table is None else MemorySource(table)

    def state(self, path: Sequence[str]) -> str:
        """Return how many records there are; they only become more."""
        with self._lock:
            return str(sum(table.num_rows for table in self._tables.get(tuple(path), ())))

    def children(self, path: Sequence[str]) -> list[str]:
        """Return the names that come after a path."""
        depth = len(path)
        with self._lock:
            return sorted({one[depth] for one in self._tables if len(one) > depth and one[:depth] == tuple(path)})

    def compact(self, path: Sequence[str]) -> None:
        """Put the appended pieces of a path into one table."""
        with self._lock:
            pieces = self._tables.get(tuple(path))
            if pieces:
                pieces[:] = [pa.concat_tables(pieces).combine_chunks()]

    def _table(self, path: Sequence[str]) -> pa.Table | None:
        with self._lock:
            tables = list(self._tables.get(tuple(path), ()))
        return pa.concat_tables(tables) if tables else None
