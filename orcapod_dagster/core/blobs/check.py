"""What verify and clean-up ask of large values: which a table names, whether they are whole, and which no table names.

Verify asks `BlobCheck.problems` for each table, clean-up `unreferenced` for all tables together; both only read.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

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


def unreferenced(blobs: BlobStore, named: Iterable[pa.Table], older_than: dt.timedelta) -> pa.Table:
    """Return the values that no table names: path, size, modified.

    Args:
        blobs: the large values of the lake.
        named: `blob_references` of every version of every table that is to stay readable, result tables included.
        older_than: younger ones are left out. A run writes a value before the commit that names it, and makes a value that
            it uses again young; so this must be longer than the time between two commits of any run.
    """
    listing = blobs.listing()
    before = dt.datetime.now(dt.UTC) - older_than
    left = listing.filter(pc.less(listing["modified"], pa.scalar(before, listing.schema.field("modified").type)))
    for table in named:
        left = left.filter(pc.invert(pc.is_in(left["path"], value_set=table["path"].combine_chunks())))
    return left
