"""Export: one version of a table as a single file for other tools, streamed, whole or not there at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from orcapod_dagster.core import columns as names, delta
from orcapod_dagster.core.delta.files import ROW_GROUP_ROWS
from orcapod_dagster.core.errors import LakeError, StorageError, TableNotFoundError
from orcapod_dagster.core.sources import DeltaSource
from orcapod_dagster.core.storage_types import from_storage

Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True, slots=True)
class Export:
    """What an export wrote.

    Attributes:
        rows, version: how many, of which version of the table.
        left_out: columns of this package that the format cannot hold.
    """

    rows: int
    version: int
    left_out: tuple[str, ...]


def export(
    table_uri: str,
    target: str | Path,
    *,
    columns: Sequence[str] | None = None,
    version: int | None = None,
    storage_options: Mapping[str, str] | None = None,
    force: bool = False,
) -> Export:
    """Write one version of a table to a local file, in the order of the table.

    Args:
        table_uri: the table.
        target: the file; its ending says how: `.parquet`, `.csv` or `.arrow` (an Arrow IPC file).
        columns: which, in this order; default all that the format can hold.
        version: of the table; default the newest.
        storage_options: as deltalake takes them.
        force: replace a file that is there.

    Raises:
        TableNotFoundError: there is no such table.
        LakeError: the ending is unknown, a column is not there or cannot be held, or the file is there already.
        StorageError: table or file cannot be read or written. No file of this name was begun then.
    """
    path = Path(target)
    write = _FORMATS.get(path.suffix.lower())
    if write is None:
        raise LakeError(f"{path}: the ending {path.suffix!r} is unknown. Use one of {', '.join(_FORMATS)}.")
    if path.exists() and not force:
        raise _is_there(path)
    source = _source(table_uri, version, storage_options)
    chosen, left_out = _chosen(source, columns, plain=write is _write_csv)
    schema = pa.schema([source.written_schema.field(name) for name in chosen], metadata=source.written_schema.metadata)
    rows = _Counted(from_storage(batch, schema) for batch in source.scan(chosen))
    _write_whole(path, lambda file: write(file, schema, rows), force=force)
    return Export(rows.count, source.version, left_out)


def _source(table_uri: str, version: int | None, storage_options: Mapping[str, str] | None) -> DeltaSource:
    table = delta.open_table(table_uri, storage_options)
    if table is None:
        raise TableNotFoundError(f"There is no table at {table_uri}. `inspect` lists the tables of a lake.")
    return DeltaSource(table if version is None else delta.open_at(table_uri, version, storage_options))


def _chosen(
    source: DeltaSource, columns: Sequence[str] | None, *, plain: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns to write, and those of this package that were not asked for and cannot be held as text."""
    schema = source.written_schema
    unknown = [name for name in columns or () if name not in schema.names]
    if unknown:
        raise LakeError(f"{source.description}: there is no column {unknown[0]!r}. There are {schema.names}.")
    wanted = list(columns) if columns is not None else schema.names
    nested = [name for name in wanted if plain and not _is_text(schema.field(name).type)]
    left_out = [name for name in nested if columns is None and names.is_reserved(name)]
    if len(nested) > len(left_out):
        name = next(name for name in nested if name not in left_out)
        raise LakeError(
            f"{source.description}: column {name!r} is {schema.field(name).type}, which a CSV file cannot hold. Leave it out with "
            "--columns, or export to .parquet or .arrow."
        )
    return tuple(name for name in wanted if name not in left_out), tuple(left_out)


def _is_text(t: pa.DataType) -> bool:
    """Tell whether the values of a type can stand in a CSV file so that they can be told apart and read again."""
    binary = pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_fixed_size_binary(t)
    return not (binary or pa.types.is_nested(t) or pa.types.is_interval(t) or isinstance(t, pa.BaseExtensionType))


class _Counted:
    """Batches, counted as they pass."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.count = 0

    def __iter__(self) -> Batches:
        for batch in self._batches:
            self.count += batch.num_rows
            yield batch


# ---------------------------------------------------------------------------- files


def _write_whole(path: Path, write: Callable[[Any], None], *, force: bool) -> None:
    """Write to a temporary name beside the file, and give it its name once it is whole."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with delta.reading(str(path)):
            with beside.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if force:
                beside.replace(path)
                return
            # A link, for unlike a rename it fails where a file of this name came up meanwhile.
            try:
                path.hardlink_to(beside)
            except FileExistsError:
                raise _is_there(path) from None
            except OSError:  # a file system without links
                beside.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()


def _is_there(path: Path) -> StorageError:
    return StorageError(f"{path} is there already. Nothing was written. Name another file, or replace it with --force.")


def _write_parquet(file: Any, schema: pa.Schema, batches: _Counted) -> None:
    with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=ROW_GROUP_ROWS)


def _write_arrow(file: Any, schema: pa.Schema, batches: _Counted) -> None:
    with pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _write_csv(file: Any, schema: pa.Schema, batches: _Counted) -> None:
    from pyarrow import csv

    with csv.CSVWriter(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


_FORMATS: Final[dict[str, Callable[[Any, pa.Schema, _Counted], None]]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".arrow": _write_arrow,
}
