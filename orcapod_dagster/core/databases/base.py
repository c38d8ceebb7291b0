"""The interface of a database of records: append, flush, and read a pinned state."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import pyarrow as pa

from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.sources import TableSource

_log = logging.getLogger(__name__)


class ArrowDatabase(ABC):
    """Append-only Arrow tables by path.

    Note to implementers: appended rows may wait in a buffer until `flush`; after `flush` returned they are durable
    and seen by every reader, also in other processes. Nothing is ever changed or removed by this interface.
    """

    @abstractmethod
    def append(self, path: Sequence[str], open_records: Callable[[], pa.RecordBatchReader]) -> None:
        """Add records; all tables under one path have one schema.

        Args:
            path: names from general to special; safe for any characters.
            open_records: gives the rows, anew for each try.
        """

    @abstractmethod
    def flush(self) -> None:
        """Make everything appended so far durable."""

    @abstractmethod
    def source(self, path: Sequence[str]) -> TableSource | None:
        """Return the flushed and buffered records as of now, pinned; `None` where nothing was ever appended."""

    @abstractmethod
    def state(self, path: Sequence[str]) -> str:
        """Return a text that changes whenever records were added under the path."""

    @abstractmethod
    def children(self, path: Sequence[str]) -> list[str]:
        """Return the names that come after a path in the paths of records, sorted; none where there are none.

        A name may also lead to nothing, where a first append was killed.
        """

    @abstractmethod
    def compact(self, path: Sequence[str]) -> None:
        """Bring what many small appends left behind into a form that is quick to read; no record changes."""

    def keep_quick(self, path: Sequence[str]) -> None:
        """Compact after an append; a storage that refuses is no error, for the records are there."""
        try:
            self.compact(path)
        except StorageError:
            _log.warning(
                "The records %s could not be compacted; reading them stays slow.", "/".join(path), exc_info=True
            )

    def lookup(
        self, path: Sequence[str], column: str, keys: pa.Array, columns: Sequence[str] | None = None
    ) -> pa.Table | None:
        """Return the records whose binary `column` is one of `keys`, in the order of the `source`; `None` as there.

        Args:
            path: as in `append`.
            column: a binary column.
            keys: a small set, up to some thousands; for more, read the `source`.
            columns: what to return; default all.
        """
        source = self.source(path)
        return None if source is None else source.find(column, keys, columns or source.schema.names)[1]
