"""Rows of a table by their tags: the one place that compares a given tag with stored ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.errors import InputError
from orcapod_dagster.core.hashing import hash_rows
from orcapod_dagster.core.sources import MemorySource, TableSource
from orcapod_dagster.core.tag_values import tag_array


class FoundRows(MemorySource):
    """The rows of a source that have given tags, in memory, all columns; `version` is that of its table, if it has any."""

    def __init__(self, source: TableSource, positions: pa.Array) -> None:
        super().__init__(source.take(positions, source.schema.names), source.description)
        self.version: int | None = getattr(source, "version", None)


def find_rows(source: TableSource, tags: Mapping[str, Any]) -> FoundRows:
    """Return the rows whose columns have these values; all rows where none is given.

    Args:
        source: a table.
        tags: column of it → value, of its Python type or as text (`tag_text`).

    Raises:
        InputError: a value is none of its column's type, or no tag is given, which would bring the whole table to memory.
    """
    if not tags:
        raise InputError(
            f"{source.description} has none of the tags that are given. Name one of {source.schema.names}."
        )
    columns = list(tags)
    wanted = hash_rows({name: tag_array(tags[name], source.schema.field(name).type, name) for name in columns})[0]
    found: list[pa.Array] = [pa.array([], pa.int64())]
    start = 0
    for batch in source.scan(columns):
        hashes = hash_rows(dict(zip(columns, batch.columns, strict=True)))
        found.append(pc.add(pc.indices_nonzero(pc.equal(hashes, wanted)).cast(pa.int64()), start))
        start += batch.num_rows
    return FoundRows(source, pa.concat_arrays(found))
