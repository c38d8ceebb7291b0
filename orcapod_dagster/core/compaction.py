"""Compaction: many small files of a table become few, in one commit that changes no row.

A result table gains a file with every chunk that is made durable; a thousand of them take a second to read, one takes 14 ms.
The commit stands on the version that was looked at, like every other: an append that comes in between makes it fail, and it
is tried again on top of that, with the same files. Readers of older versions still find the old files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import pyarrow as pa
from deltalake import DeltaTable

from orcapod_dagster.core import delta
from orcapod_dagster.core.delta.files import FILE_ROWS, ROW_GROUP_ROWS
from orcapod_dagster.core.delta.scanning import scan_fragment
from orcapod_dagster.core.errors import CommitError
from orcapod_dagster.core.storage_types import table_from_storage

COMPACTED: Final = "orcapod.compaction"
"""In the metadata of a commit: it changed no row."""
MANY_FILES: Final = 32
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
    return {path: size for path, (_, size) in _small(table).items()}


def _small(table: DeltaTable) -> dict[str, tuple[int, int]]:
    """Return path → rows and bytes of the small files, in the order of the log."""
    actions = pa.table(table.get_add_actions(flatten=True)).select(["path", "num_records", "size_bytes"]).to_pylist()
    found = {row["path"]: (row["num_records"] or 0, row["size_bytes"]) for row in actions}
    return {path: said for path, said in found.items() if said[0] < FILE_ROWS // 2}


def _without_grown(files: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Leave out every file that has more rows than all smaller ones together."""
    smallest_first = sorted(files, key=lambda path: files[path][0])
    together = list(accumulate((files[path][0] for path in smallest_first), initial=0))
    while smallest_first and files[smallest_first[-1]][0] > together[len(smallest_first) - 1]:
        smallest_first.pop()
    kept = set(smallest_first)
    return {path: said for path, said in files.items() if path in kept}


def compact(
    uri: str,
    storage_options: Mapping[str, str] | None = None,
    *,
    at_least: int = 2,
    leave_grown: bool = False,
    plain_columns: Sequence[str] = (),
    row_group_rows: int = ROW_GROUP_ROWS,
) -> Compaction | None:
    """Bring the rows of a table's small files together in few; every row stays.

    Args:
        uri: the table.
        storage_options: as deltalake takes them.
        at_least: with fewer small files nothing is done.
        leave_grown: leave files alone that have more rows than all smaller ones together. So, of a table that grows by small
            files, a row is written again as often as the table doubles, and a few files more are left than one; rows of
            different files change their order.
        plain_columns: columns of ever new values, which are not dictionary-encoded.
        row_group_rows: how many rows are read at least, to read one.

    Returns:
        What was done; `None` where there is no table, too few small files, or other writers were always first, and for a
        table that another engine laid out in folders by partition, which only that engine brings together right.

    Raises:
        StorageError: the storage refused. Nothing was changed then.
    """
    table = delta.open_table(uri, storage_options)
    found = {} if table is None or table.metadata().partition_columns else _small(table)
    small = {path: size for path, (_, size) in (_without_grown(found) if leave_grown else found).items()}
    if table is None or len(small) < max(2, at_least):
        return None
    held = delta.held_schema(table)
    write = delta.Write(uri, delta.table_schema(table), storage_options, {}, {COMPACTED: "true"}, plain_columns)
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
