"""What verify and clean-up ask of large values: which a table names, whether they are whole, and which no table names.

Verify asks `BlobCheck.problems` for each table, clean-up `unreferenced` for all tables together; both only read.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.blobs.handle import Blob, stored
from orcapod_dagster.core.blobs.layout import is_blob
from orcapod_dagster.core.blobs.presence import references
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.sources import TableSource

_RERUN = "Materialize the asset that made it: what is missing is computed again."
_DAMAGED = "Remove the file, and materialize the asset that made it: what is missing is computed again."


@dataclass(frozen=True, slots=True)
class BlobProblem:
    """Something that is wrong with a large value.

    Attributes:
        path: where it lies, relative to the root of the lake.
        what: what was seen and expected. do: the way out.
    """

    path: str
    what: str
    do: str


def blob_references(source: TableSource) -> pa.Table:
    """Return the large values that a version of a table names: columns `path` and `size`, each once."""
    schema = pa.schema([pa.field("path", pa.string()), pa.field("size", pa.int64())])
    found = schema.empty_table()
    for field in source.schema:
        if is_blob(field.type):
            for batch in references(source, field.name):
                stored_apart = pa.Table.from_batches([batch]).filter(batch["path"].is_valid())
                found = pa.concat_tables([found, stored_apart.cast(schema)]).group_by(["path", "size"]).aggregate([])
    return found


class BlobCheck:
    """Checks the large values of a lake, table by table; what several tables name is read once.

    Args:
        blobs: the large values of the lake, listed when the first table names one.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._listing: pa.Table | None = None
        self._whole: set[str] = set()

    def problems(self, source: TableSource, *, read_all: bool = False) -> Iterator[BlobProblem]:
        """Yield what is wrong with the values that a version of a table names.

        Args:
            source: the table.
            read_all: also read every value and compare it with its hash; costs as much as reading them.
        """
        named = blob_references(source).combine_chunks()
        if not named.num_rows:
            return
        (batch,) = named.to_batches()
        listing, absent = self._absent(batch)
        sizes = dict(zip(listing["path"].to_pylist(), listing["size"].to_pylist(), strict=True))
        for row in named.filter(absent).to_pylist():
            path, size = row["path"], row["size"]
            if path in sizes:
                yield BlobProblem(path, f"large value {path} has {sizes[path]} bytes, {size} were stored", _RERUN)
            else:
                yield BlobProblem(path, f"large value {path} of {size} bytes is missing", _RERUN)
        for path in named.filter(pc.invert(absent))["path"].to_pylist() if read_all else ():
            yield from self._read(path, sizes[path])

    def _absent(self, batch: pa.RecordBatch) -> tuple[pa.Table, pa.Array]:
        """Return what is there, and which rows are not; listed anew where one is not, for a run may have written it since."""
        if self._listing is not None:
            absent = self._blobs.absent(batch, self._listing)
            if not pc.any(absent).as_py():
                return self._listing, absent
        self._listing = self._blobs.listing()
        return self._listing, self._blobs.absent(batch, self._listing)

    def _read(self, path: str, size: int) -> Iterator[BlobProblem]:
        if path in self._whole:
            return
        self._whole.add(path)
        blob = stored(bytes.fromhex(PurePosixPath(path).name), size, "", "", path, file=None)
        self._blobs.bind([blob])
        if not _is_whole(blob):
            yield BlobProblem(path, f"large value {path} holds other bytes than its name says", _DAMAGED)


def _is_whole(blob: Blob) -> bool:
    try:
        return blob.content_digest() == blob.digest
    except OSError:
        return False


def unreferenced(blobs: BlobStore, named: Iterable[pa.Array], before: dt.datetime) -> pa.Table:
    """Return the values that no table names: path, size, modified.

    Args:
        blobs: the large values of the lake.
        named: `named_paths` of every version of every table that is to stay readable, result tables included. Asked for only
            after the values were listed, so that a commit in between is seen; not at all where none is old.
        before: younger ones are left out. A run writes a value before the commit that names it, and makes a value that it
            uses again young; so this must be longer ago than the time between two commits of any run.
    """
    listing = blobs.listing()
    left = listing.filter(pc.less(listing["modified"], pa.scalar(before, listing.schema.field("modified").type)))
    if left.num_rows:
        for paths in named:
            left = left.filter(pc.invert(pc.is_in(left["path"], value_set=paths.cast(pa.string()))))
    return left


def naming_columns(schema: pa.Schema) -> list[str]:
    """Return what to read of a Parquet file with this schema to know which large values it names."""
    names = [(field.name, is_blob(field.type)) for field in schema if _holds_blobs(field.type)]
    return [f"{name}.path" if is_plain else name for name, is_plain in names]


def named_paths(batch: pa.RecordBatch) -> Iterator[pa.Array]:
    """Yield the paths in columns that were read as `naming_columns` says, at any depth; some are null."""
    for column in batch.columns:
        is_path_alone = pa.types.is_struct(column.type) and [field.name for field in column.type.fields] == ["path"]
        yield from column.flatten() if is_path_alone and not column.type.field(0).type.num_fields else _paths(column)


def _holds_blobs(t: pa.DataType) -> bool:
    return is_blob(t) or any(_holds_blobs(t.field(i).type) for i in range(t.num_fields))


def _paths(array: Any) -> Iterator[pa.Array]:
    t = array.type
    if is_blob(t):
        yield pc.struct_field(array, "path")
    elif pa.types.is_struct(t):
        for part in array.flatten():
            yield from _paths(part)
    elif pa.types.is_map(t):
        yield from _paths(array.keys)
        yield from _paths(array.items)
    elif t.num_fields:
        yield from _paths(array.flatten())
