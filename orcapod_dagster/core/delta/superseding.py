"""What a write takes out of a table: whole files, and the rows of some of them that stay and are written anew."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.delta.files import remove_files, write_files
from orcapod_dagster.core.delta.scanning import dataset, stream_fragment
from orcapod_dagster.core.delta.table import all_decoded, decoded, held_schema
from orcapod_dagster.core.predicates import Predicate
from orcapod_dagster.core.regions import suffix_of
from orcapod_dagster.core.storage_types import table_from_storage


@dataclass(frozen=True, slots=True)
class Superseded:
    """What a commit takes away: whole files, and the rows of some of them that stay and were written anew."""

    removes: list[RemoveAction]
    rewritten: list[AddAction]


def removal(path: str, size: int, *, data_change: bool = True) -> RemoveAction:
    """Return what takes a file out of a table."""
    return RemoveAction(
        path=path, data_change=data_change, deletion_timestamp=int(time.time() * 1000), size=size, partition_values={}
    )


def supersede(
    uri: str,
    table: DeltaTable,
    where: Predicate | None,
    storage_options: Mapping[str, str] | None,
    plain_columns: Sequence[str],
) -> Superseded:
    """Find the files whose rows fulfil `where`; of files with other rows too, those are written anew, batch by batch.

    Args:
        uri: the table. table: the same, at the version to stand on.
        where: the rows to take out; None means all.
        storage_options, plain_columns: as in `changes.append`.

    Returns:
        What the commit is to say. After an error no file is left that was written.
    """
    found = Superseded([], [])
    files = pa.table(table.get_add_actions(flatten=True))
    sizes: dict[str, int] = dict(zip(files["path"].to_pylist(), files["size_bytes"].to_pylist(), strict=True))
    if where is None:
        found.removes.extend(removal(path, size) for path, size in sizes.items())
        return found
    paths = dict(zip(all_decoded(pa.array(list(sizes), pa.string())), sizes, strict=True))
    data, held = dataset(table, where), held_schema(table)
    try:
        for fragment in data.get_fragments():
            path = paths[decoded(fragment.path)]
            meant, others = _rows_of_both(fragment, data.schema, where)
            if meant:
                found.removes.append(removal(path, sizes[path]))
            if meant and others:
                rest = _rest(fragment, data.schema, where, held)
                suffix = suffix_of(path)
                found.rewritten.extend(write_files(uri, rest, held, storage_options, plain_columns, suffix=suffix))
    except BaseException:
        remove_files(uri, found.rewritten, storage_options)
        raise
    return found


def _rows_of_both(fragment: Any, schema: pa.Schema, where: Predicate) -> tuple[bool, bool]:
    """Return whether a file has rows that fulfil a predicate, and whether it has others; it is read until both is known."""
    meant = others = False
    for batch in stream_fragment(fragment, schema, where.columns()):
        mask = where.mask(batch)
        meant = meant or pc.any(mask, min_count=0).as_py()
        others = others or not pc.all(mask, min_count=0).as_py()
        if meant and others:
            break
    return meant, others


def _rest(fragment: Any, schema: pa.Schema, where: Predicate, held: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file that do not fulfil a predicate, in their order, as Delta holds them."""
    for batch in stream_fragment(fragment, schema, schema.names):
        kept = batch.filter(pc.invert(where.mask(batch)))
        yield from table_from_storage(pa.Table.from_batches([kept]), held).to_batches()
