"""Compaction: many small files of a table become few, in one commit that changes no row.

A result table gains a file with every chunk that is made durable; a thousand of them take a second to read, one takes 14 ms.
The commit stands on the version that was looked at, like every other: an append that comes in between makes it fail, and it
is tried again on top of that, with the same files. Readers of older versions still find the old files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from deltalake import DeltaTable

from orcapod_dagster.core import delta
from orcapod_dagster.core.delta_files import FILE_ROWS, ROW_GROUP_ROWS
from orcapod_dagster.core.errors import CommitError
from orcapod_dagster.core.sources import scan_fragment
from orcapod_dagster.core.storage_types import table_from_storage

MANY_FILES: Final = 64
"""From so many small files on, reading a table is worth a compaction."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did: how many files became few, which ones, and the version of the table that it made."""

    files: int
    rows: int
    version: int
    made: tuple[str, ...] = ()


class _Overtaken(Exception):  # noqa: N818  # no error: another compaction was first
    pass


def small_files(table: DeltaTable) -> dict[str, int]:
    """Return path → size of the files that hold less than half of what a file may, in the order of the log."""
    actions = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    return {row["path"]: row["size_bytes"] for row in actions if (row["num_records"] or 0) < FILE_ROWS // 2}


def compact(
    uri: str,
    storage_options: Mapping[str, str] | None = None,
    *,
    at_least: int = 2,
    plain_columns: Sequence[str] = (),
    row_group_rows: int = ROW_GROUP_ROWS,
) -> Compaction | None:
    """Bring the rows of a table's small files together in few; every row stays.

    Args:
        uri: the table.
        storage_options: as deltalake takes them.
        at_least: with fewer small files nothing is done.
        plain_columns: columns of ever new values, which are not dictionary-encoded.
        row_group_rows: how many rows are read at least, to read one.

    Returns:
        What was done; `None` where there is no table, too few small files, or other writers were always first.

    Raises:
        StorageError: the storage refused. Nothing was changed then.
    """
    table = delta.open_table(uri, storage_options)
    small = {} if table is None else small_files(table)
    if table is None or len(small) < max(2, at_least):
        return None
    held = delta.held_schema(table)
    write = delta.Write(
        uri, delta.table_schema(table), storage_options, {}, {"orcapod.compaction": "true"}, plain_columns
    )
    write.data_change = False
    write.row_group_rows = row_group_rows
    # The small files were on the disk, and the commit that takes them out of the table may get there before the new ones.
    write.durable = True

    def supersede(current: DeltaTable) -> delta.Superseded:
        if not small.keys() <= small_files(current).keys():
            raise _Overtaken
        return delta.Superseded([delta.removal(p, size, data_change=False) for p, size in small.items()], [])

    try:
        result = write.run(lambda: pa.RecordBatchReader.from_batches(held, _batches(table, small, held)), supersede)
    except (_Overtaken, CommitError):
        return None
    return Compaction(len(small), result.rows, result.version, result.files)


def _batches(table: DeltaTable, small: Mapping[str, int], held: pa.Schema) -> Iterator[pa.RecordBatch]:
    data = delta.dataset(table)
    fragments = {delta.decoded(fragment.path): fragment for fragment in data.get_fragments()}
    for path in small:
        with delta.reading(table.table_uri):
            for rows in scan_fragment(fragments[delta.decoded(path)], data.schema, data.schema.names):
                yield from table_from_storage(pa.Table.from_batches([rows]), held).to_batches()
