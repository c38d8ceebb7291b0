"""Records in Delta Lake tables: append-only, one commit per flush, safe for many concurrent writers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from orcapod_dagster.core import delta
from orcapod_dagster.core.arrow import size_of
from orcapod_dagster.core.columns import INPUT_HASH, PACKET_HASH, RECORD_ID
from orcapod_dagster.core.compaction import MANY_FILES, Compaction, compact
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.delta.files import filesystem_of
from orcapod_dagster.core.key_index import IndexedFile, prune
from orcapod_dagster.core.paths import component_name, join_uri, local_path
from orcapod_dagster.core.sources import DeltaSource, TableSource

_PLAIN = (RECORD_ID, INPUT_HASH, PACKET_HASH)
_GROUP_ROWS = 8_192
"""Of compacted records: reading one costs a sixth of what it does from groups of 65,536, reading all a third more."""


class DeltaTableDatabase(ArrowDatabase):
    """One Delta table per path, below a root.

    Args:
        root_uri: a local directory or an object store URI.
        storage_options: as deltalake takes them.
        durable: force each commit to the disk, so that a power loss takes no stored result away; local disks only.
        buffer_bytes: appended rows wait for `flush` in memory up to this size, in bytes; 0 commits each append at once.
    """

    def __init__(
        self,
        root_uri: str,
        storage_options: Mapping[str, str] | None = None,
        *,
        durable: bool = True,
        buffer_bytes: int = 0,
    ) -> None:
        self.root_uri = root_uri
        self._options = dict(storage_options) if storage_options else None
        self._durable = durable
        self._buffer_bytes = buffer_bytes
        self._waiting: dict[tuple[str, ...], list[pa.Table]] = {}
        self._lock = threading.RLock()

    def uri(self, path: Sequence[str]) -> str:
        """Return where the table of a path lies."""
        return join_uri(self.root_uri, path)

    def append(self, path: Sequence[str], open_records: Callable[[], pa.RecordBatchReader]) -> None:
        """Add records: one commit, or a place in the buffer until `flush`."""
        if not self._buffer_bytes:
            self._write(path, open_records)
            return
        with self._lock:
            self._waiting.setdefault(tuple(path), []).append(open_records().read_all())
            if sum(size_of(table) for tables in self._waiting.values() for table in tables) >= self._buffer_bytes:
                self.flush()

    def flush(self) -> None:
        """Commit everything in the buffer, one commit per table."""
        with self._lock:
            for path in list(self._waiting):
                table = pa.concat_tables(self._waiting[path])
                self._write(path, table.to_reader)
                del self._waiting[path]

    def _write(self, path: Sequence[str], open_records: Callable[[], pa.RecordBatchReader]) -> None:
        uri = self.uri(path)
        # Records of a later release may have further columns, which those that are there lack.
        written = delta.append(
            uri, open_records, storage_options=self._options, plain_columns=_PLAIN, durable=self._durable, evolve="add"
        )
        _index(uri, written.files, durable=self._durable)

    def source(self, path: Sequence[str]) -> TableSource | None:
        """Return all records as of now; flushes first."""
        self.flush()
        table = delta.open_table(self.uri(path), self._options)
        return None if table is None else DeltaSource(table, description=f"records {'/'.join(path)}")

    def state(self, path: Sequence[str]) -> str:
        """Return the table's version."""
        self.flush()
        table = delta.open_table(self.uri(path), self._options)
        return "none" if table is None else f"{table.metadata().id}@{table.version()}"

    def children(self, path: Sequence[str]) -> list[str]:
        """Return the names of the folders of a path, by one listing."""
        self.flush()
        uri = self.uri(path)
        filesystem, prefix = filesystem_of(uri, self._options)
        with delta.reading(uri):
            found = filesystem.get_file_info(fs.FileSelector(prefix or "/", allow_not_found=True))
        folders = [component_name(one.base_name) for one in found if one.type == fs.FileType.Directory]
        return sorted(name for name in folders if name is not None)

    def compact(self, path: Sequence[str]) -> None:
        """Bring the rows of small files together, once there are many."""
        self.flush()
        compact_records(self.uri(path), self._options, at_least=MANY_FILES, leave_grown=True, durable=self._durable)


def compact_records(
    uri: str,
    storage_options: Mapping[str, str] | None = None,
    *,
    at_least: int = 2,
    leave_grown: bool = False,
    durable: bool = True,
) -> Compaction | None:
    """Compact a table of records so that few are found quickly: small row groups, and indexes of their keys.

    Args:
        uri: the table.
        storage_options: as deltalake takes them.
        at_least, leave_grown: as `compact`.
        durable: force the indexes to the disk.

    Returns:
        As `compact`.

    Raises:
        StorageError: the storage refused. No row was changed.
    """
    done = compact(
        uri, storage_options, at_least=at_least, leave_grown=leave_grown, plain_columns=_PLAIN,
        row_group_rows=_GROUP_ROWS,
    )  # fmt: skip
    table = None if done is None else delta.open_table(uri, storage_options)
    if done is not None and table is not None:
        _index(uri, done.made, durable=durable)
        prune(uri, delta.live_files(table))
    return done


def _index(uri: str, files: Sequence[str], *, durable: bool) -> None:
    """Write the key indexes of new files; whoever finds one missing makes it, so no error of this one counts."""
    folder = local_path(uri)
    for name in files if folder is not None else ():
        with contextlib.suppress(OSError), pq.ParquetFile(f"{folder}/{name}", page_checksum_verification=True) as file:
            if INPUT_HASH in file.schema_arrow.names:
                read = partial(_input_hashes, file)
                IndexedFile(uri, name, file.metadata.num_rows, INPUT_HASH, read).make(durable=durable)


def _input_hashes(file: pq.ParquetFile) -> Iterator[pa.Array]:
    return (batch.column(0) for batch in file.iter_batches(columns=[INPUT_HASH]))
