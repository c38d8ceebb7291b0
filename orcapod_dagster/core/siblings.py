"""Siblings: results of the same function under another major version, or with other output columns."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc, rows_among
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.errors import LakeError
from orcapod_dagster.core.hashing import HASH_TYPE
from orcapod_dagster.core.matching import few
from orcapod_dagster.core.reasons import named
from orcapod_dagster.core.sources import TableSource

VERSION_CHANGED: Final = "the version changed"
OUTPUTS_CHANGED: Final = "the output columns changed"
_log = logging.getLogger(__name__)
_URI: Final = 4
_WANTED: Final = (names.INPUT_HASH, names.TIMESTAMP, names.DURATION)


class Elsewhere(NamedTuple):
    """Per packet why its result does not count, a `string` array, and the seconds that it took; null without one."""

    texts: pa.Array
    durations: pa.Array


def results_elsewhere(
    database: ArrowDatabase, record_path: Sequence[str], hashes: pa.Array, outputs: pa.Schema
) -> Elsewhere:
    """Find the newest results of packets that lie beside a function's own place.

    Args:
        database: of the results.
        record_path: the function's place; its last four parts are the `uri`.
        hashes: input hashes, no two alike.
        outputs: the function's output columns.

    Results that cannot be read are left out with a warning: a reason is no reason to fail a run that does not need them.
    """
    found: list[pa.Table] = []
    try:
        for path, source in _siblings(database, tuple(record_path)):
            rows = _records(source, hashes)
            reason = _reason(path, tuple(record_path), source.schema, outputs)
            found.append(rows.append_column("reason", pa.repeat(reason, rows.num_rows)))
    except LakeError:
        _log.warning("Other versions of %s cannot be read, so no reason says what changed.", record_path, exc_info=True)
    if not found:
        return Elsewhere(pa.nulls(len(hashes), pa.string()), pa.nulls(len(hashes), pa.float64()))
    newest = pa.concat_tables(found).sort_by([(names.TIMESTAMP, "descending")])
    index = pc.index_in(hashes, value_set=one_array(newest[names.INPUT_HASH]))
    return Elsewhere(one_array(newest["reason"].take(index)), one_array(newest[names.DURATION].take(index)))


def _siblings(database: ArrowDatabase, record_path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], TableSource]]:
    if len(record_path) < _URI:
        return
    *_, type_id = record_path
    function = record_path[: -_URI + 1]
    for outputs in database.children(function):
        for version in database.children((*function, outputs)):
            path = (*function, outputs, version, type_id)
            source = None if path == record_path else database.source(path)
            if source is not None:
                yield path, source


def _records(source: TableSource, hashes: pa.Array) -> pa.Table:
    """Return the records of these packets: `_WANTED`, hashes as `fixed_size_binary[16]`."""
    if few(hashes, source):
        found = source.find(names.INPUT_HASH, hashes, _WANTED)[1]
    else:
        schema = pa.schema([source.schema.field(name) for name in _WANTED])
        found = rows_among(source.scan(_WANTED), schema, hashes)
    return found.set_column(0, names.INPUT_HASH, found[names.INPUT_HASH].cast(HASH_TYPE))


def _reason(path: Sequence[str], own: Sequence[str], stored: pa.Schema, outputs: pa.Schema) -> str:
    if path[-2] != own[-2]:
        return named(VERSION_CHANGED, [f"{path[-2]} → {own[-2]}"])
    return named(OUTPUTS_CHANGED, _column_changes(stored, outputs))


def _column_changes(stored: pa.Schema, outputs: pa.Schema) -> list[str]:
    before = {field.name: _typed(field) for field in stored if not names.is_reserved(field.name)}
    now = {field.name: _typed(field) for field in outputs}
    changed = [f"{name} {before[name]} → {now[name]}" for name in now if name in before and before[name] != now[name]]
    changed += [f"{name} (added)" for name in now if name not in before]
    return changed + [f"{name} (removed)" for name in before if name not in now]


def _typed(field: pa.Field) -> str:
    return str(field.type) if field.nullable else f"{field.type} not null"
