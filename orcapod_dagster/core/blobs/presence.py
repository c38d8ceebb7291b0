"""Which stored results have lost a large value, so that they are no results any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.blobs.layout import BLOB_TYPE
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.sources import TableSource

_SEEN = ("path", "size")


def references(source: TableSource, column: str) -> Iterator[pa.RecordBatch]:
    """Yield `path` (null for a value in the table) and `size` of the large values of a column, row by row, in scan order."""
    schema = pa.schema([BLOB_TYPE.field(name) for name in _SEEN])
    for batch in source.scan_fields(column, _SEEN):
        yield pa.RecordBatch.from_arrays([c.cast(f.type) for c, f in zip(batch.columns, schema, strict=True)], _SEEN)


def lost_rows(source: TableSource, columns: Sequence[str], blobs: BlobStore) -> pa.Array:
    """Return the rows (`int64`, in scan order, each once) that name a value that is not there, or has another size."""
    listing: pa.Table | None = None
    found: list[int] = []
    for column in columns:
        start = 0
        for batch in references(source, column):
            if batch.column(0).null_count < batch.num_rows:
                listing = blobs.listing() if listing is None else listing
                absent = blobs.absent(batch, listing)
                found += pc.add(pc.indices_nonzero(absent).cast(pa.int64()), start).to_pylist()
            start += batch.num_rows
    return pa.array(sorted(set(found)), pa.int64())


def without_lost(found: pa.Array, source: TableSource, columns: Sequence[str], blobs: BlobStore) -> pa.Array:
    """Return the positions of results in `source`, with null where the result has lost a value."""
    lost = lost_rows(source, columns, blobs) if len(found) > found.null_count else pa.array([], pa.int64())
    if not len(lost):
        return found
    return pc.if_else(pc.is_in(found, value_set=lost), pa.scalar(None, pa.int64()), found)
