"""Data files of Delta tables: written in the order of the rows, with statistics, before any commit names them.

`write_deltalake` hands the batches of a stream to several workers, so rows leave it in another order than they
came (measured with deltalake 1.6.6 on two cores; pola-rs/polars#26912 reports the same). Results are read back in
order, and an asset's table keeps the order of its input; so files are written here, by one Parquet writer.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction
from pyarrow import fs

from orcapod_dagster.core.arrow import size_of
from orcapod_dagster.core.blobs.layout import is_blob
from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.paths import local_path
from orcapod_dagster.core.storage import options_for

ROW_GROUP_ROWS: Final = 65_536
ROW_GROUP_BYTES: Final = 128 * 1024 * 1024
FILE_ROWS: Final = 4_194_304
_LONG_AGO_MS: Final = 3_600_000


def write_files(
    uri: str,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    storage_options: Mapping[str, str] | None,
    plain_columns: Sequence[str],
    *,
    data_change: bool = True,
    suffix: str = "",
    row_group_rows: int = ROW_GROUP_ROWS,
) -> list[AddAction]:
    """Write rows to new files of a table, in order; nothing is committed.

    Args:
        uri: the table.
        batches: the rows, in Delta's storage types.
        schema: of the rows.
        storage_options: as deltalake takes them.
        plain_columns: columns of ever new values, for which a dictionary would be built in vain.
        data_change: False where the rows are not new, but come from other files of the table.
        suffix: what the files' names say of their rows (`regions.name_suffix`).
        row_group_rows: how many rows are read at least, to read one; more of them are read, and written, quicker.

    Returns:
        What a commit needs to name the files; empty where there are no rows. After an error the files are removed.
    """
    folder = local_path(uri)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    filesystem, prefix = filesystem_of(uri, storage_options)
    actions: list[AddAction] = []
    try:
        pieces = _row_groups(batches, schema)
        for first in pieces:
            path, size, rows = _write_file(
                filesystem, prefix, suffix, first, pieces, schema, plain_columns, row_group_rows
            )
            # What was written must be known when a later file fails.
            actions.append(_addition(path, size, rows, data_change=data_change))
    except BaseException:
        remove_files(uri, actions, storage_options)
        raise
    return actions


def _write_file(
    filesystem: Any,
    prefix: str,
    suffix: str,
    first: pa.Table,
    more: Iterator[pa.Table],
    schema: pa.Schema,
    plain_columns: Sequence[str],
    row_group_rows: int,
) -> tuple[str, int, int]:
    """Write one file; return its path, its size in bytes, and its number of rows."""
    name = f"part-{uuid.uuid4().hex}{suffix}.parquet"
    rows = 0
    encoded: Any = [path for path in _leaf_paths(schema) if path.split(".")[0] not in plain_columns]
    try:
        with pq.ParquetWriter(
            prefix + name,
            schema,
            filesystem=filesystem,
            compression="zstd",
            compression_level=1,
            use_dictionary=encoded,
            # Costs nothing that could be measured, and every bit that flips later on is noticed where it is read.
            write_page_checksum=True,
        ) as writer:
            writer.write_table(first, row_group_size=row_group_rows)
            rows += first.num_rows
            while rows < FILE_ROWS and (piece := next(more, None)) is not None:
                writer.write_table(piece, row_group_size=row_group_rows)
                rows += piece.num_rows
        size = filesystem.get_file_info(prefix + name).size
    except BaseException:
        with contextlib.suppress(OSError):
            filesystem.delete_file(prefix + name)
        raise
    return name, size, rows


def _addition(path: str, size: int, rows: int, *, data_change: bool) -> AddAction:
    """Return what a commit needs to name a file."""
    return AddAction(
        path=path,
        size=size,
        partition_values={},
        modification_time=int(time.time() * 1000),
        data_change=data_change,
        # Only the count: once one column has a minimum, deltalake's pyarrow dataset takes columns without one for empty.
        stats=json.dumps({"numRecords": rows}),
    )


def _leaf_paths(schema: pa.Schema) -> list[str]:
    """Return the paths of all plain values, but for large ones: a dictionary hides how many bytes a row group unfolds to."""

    def walk(path: str, t: pa.DataType) -> Iterator[str]:
        if pa.types.is_map(t):
            yield from walk(f"{path}.key_value.key", t.key_type)
            yield from walk(f"{path}.key_value.value", t.item_type)
        elif pa.types.is_list(t):
            yield from walk(f"{path}.list.element", t.value_type)
        elif pa.types.is_struct(t):
            for child in t.fields:
                if child.name == "data" and is_blob(t):
                    continue
                yield from walk(f"{path}.{child.name}", child.type)
        else:
            yield path

    return [leaf for f in schema for leaf in walk(f.name, f.type)]


def _row_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Gather small batches into tables of one row group each, full by rows or by bytes."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        for piece in bounded(batch):
            if waiting and (rows >= ROW_GROUP_ROWS or size + size_of(piece) > ROW_GROUP_BYTES):
                yield pa.Table.from_batches(waiting, schema=schema)
                waiting, rows, size = [], 0, 0
            waiting.append(piece)
            rows += piece.num_rows
            size += size_of(piece)
    if waiting:
        yield pa.Table.from_batches(waiting, schema=schema)


def bounded(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch into pieces of about `ROW_GROUP_BYTES` at most."""
    rows = batch.num_rows
    count = min(rows, max(1, -(-size_of(batch) // ROW_GROUP_BYTES)))
    length = -(-rows // count) if rows else 1
    for start in range(0, rows, length):
        yield batch.slice(start, length)


def remove_files(uri: str, actions: Sequence[AddAction], storage_options: Mapping[str, str] | None) -> None:
    """Remove files that no commit names; what cannot be removed stays as an orphan that clean-up finds."""
    if not actions:
        return
    filesystem, prefix = filesystem_of(uri, storage_options)
    for action in actions:
        with contextlib.suppress(OSError):
            filesystem.delete_file(prefix + action.path)


def refuse_lost_files(uri: str, actions: Sequence[AddAction], storage_options: Mapping[str, str] | None) -> None:
    """Refuse to commit files that are gone: a clean-up takes those of a writer that slept for a day for those of a dead one.

    Raises:
        StorageError: a file that was written an hour ago or more is not there.
    """
    if not actions or time.time() * 1000 - actions[0].modification_time < _LONG_AGO_MS:
        return
    filesystem, prefix = filesystem_of(uri, storage_options)
    entries = filesystem.get_file_info([prefix + action.path for action in actions])
    gone = [action.path for action, entry in zip(actions, entries, strict=True) if not entry.is_file]
    if gone:
        raise StorageError(
            f"{uri}: {len(gone)} files that this write made are gone, e.g. {gone[0]}; a clean-up took it for dead. Nothing was "
            "written. Run again."
        )


def filesystem_of(uri: str, storage_options: Mapping[str, str] | None) -> tuple[Any, str]:
    """Return the pyarrow filesystem of a folder, and what to put before the paths in it."""
    path = local_path(uri)
    if path is not None:
        return fs.LocalFileSystem(), f"{path}/"
    return fs.PyFileSystem(DeltaStorageHandler(uri, options_for(uri, storage_options) or {})), ""
