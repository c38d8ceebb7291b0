"""ResultCache: input packet hash → output packet, with variation, execution context and timestamp; append-only.

A record holds the output columns and, under the names of `columns.py`, what made them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc, rows_among
from orcapod_dagster.core.contexts import (
    CONTEXT_FIELDS,
    CONTEXT_HASH,
    CONTEXT_NAMES,
    ENVIRONMENT_FIELD,
    SLICE_ROWS,
    Context,
    ContextReader,
)
from orcapod_dagster.core.converter import UTC_TIMESTAMP
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.datagrams import Datagram, Packet, new_record_ids
from orcapod_dagster.core.hashing import HASH_TYPE, PACKET_METHOD
from orcapod_dagster.core.joined_source import JoinedSource
from orcapod_dagster.core.matching import (
    Constraints,
    MatchPolicy,
    constrained_columns,
    few,
    fulfilling,
    match_constraints,
)
from orcapod_dagster.core.snapshots import Snapshot
from orcapod_dagster.core.sources import TableSource
from orcapod_dagster.core.widening import WidenedSource

EARLIER_COLUMNS: Final = (names.SIGNATURE_HASH, names.CONTENT_HASH, names.ENVIRONMENT_HASH, names.DURATION)
ROW_FIELDS: Final[tuple[pa.Field, ...]] = (
    pa.field(names.RECORD_ID, pa.binary(), nullable=False),
    pa.field(names.INPUT_HASH, pa.binary(), nullable=False),
    pa.field(names.TIMESTAMP, UTC_TIMESTAMP, nullable=False),
    pa.field(names.DURATION, pa.float64(), nullable=False),
)
CONTEXT_KEY_FIELD: Final = pa.field(names.CONTEXT_KEY, pa.string(), nullable=False)


class ResultCache:
    """The results of one packet function in a database.

    Args:
        result_database: where records are kept.
        record_path: the function's place in it, e.g. its `uri`.
        auto_flush: whether each store is durable when it returns; else `flush()` makes it so.
    """

    def __init__(self, result_database: ArrowDatabase, record_path: Sequence[str], auto_flush: bool = True) -> None:
        self.database = result_database
        self.record_path = tuple(record_path)
        self.auto_flush = auto_flush
        # Further tables whose records are read as if they stood in this one; see `counting.py`.
        self.beside: tuple[TableSource, ...] = ()
        self.beside_state = ""
        self.beside_schema: pa.Schema | None = None

    def source(self) -> TableSource | None:
        """Return all records as of now, those of further tables after the own ones; `None` where there are none."""
        own = self.database.source(self.record_path)
        if not self.beside or self.beside_schema is None:
            return own
        if own is not None and own.schema != self.beside_schema:
            own = WidenedSource(own, self.beside_schema)
        return JoinedSource([*([] if own is None else [own]), *self.beside])

    def state(self) -> str:
        """Return a text that changes whenever records are added, to further tables too."""
        own = self.database.state(self.record_path)
        return f"{own}+{self.beside_state}" if self.beside_state else own

    # ------------------------------------------------------------------ one packet

    def lookup(self, input_packet: Packet, additional_constraints: Constraints | None = None) -> Packet | None:
        """Return the newest stored output of an input packet, with meta `__computed` False, or `None`.

        Args:
            input_packet: the packet as the function consumes it.
            additional_constraints: what the record must have (see `match_constraints`).
        """
        return self.lookup_hash(_hash_of(input_packet), additional_constraints)

    def lookup_hash(self, input_hash: pa.Array, additional_constraints: Constraints | None = None) -> Packet | None:
        """As `lookup`, by the hash of the input packet, an array of one."""
        found = self.lookup_batch(input_hash, additional_constraints)
        if found is None or found.num_rows == 0:
            return None
        newest = found.take(pc.sort_indices(found, [(names.TIMESTAMP, "descending")]).slice(0, 1))
        return _packet_of(newest)

    def store(
        self,
        input_packet: Packet,
        output_packet: Packet,
        variation_datagram: Datagram,
        execution_datagram: Datagram,
        skip_duplicates: bool = False,
        *,
        duration: float = 0.0,
        environment: str | None = None,
    ) -> None:
        """Store one result.

        Args:
            input_packet, output_packet: what went in and came out.
            variation_datagram, execution_datagram: what made it and how it ran.
            skip_duplicates: store nothing where the input has a result already.
            duration: seconds the function took.
            environment: hash of the environment that its code refers to.
        """
        input_hash = _hash_of(input_packet)
        if skip_duplicates and self.lookup_hash(input_hash) is not None:
            return
        context = Context.of(variation_datagram, execution_datagram, environment)
        self.store_hash(input_hash, output_packet, context, duration=duration)

    def store_hash(
        self,
        input_hash: pa.Array,
        output_packet: Packet,
        context: Context,
        *,
        duration: float = 0.0,
    ) -> None:
        """As `store`, by the hash of the input packet, an array of one, and the context."""
        self.store_batch(
            input_hash,
            output_packet.as_table().combine_chunks().to_batches()[0],
            context,
            [duration],
            record_ids=output_packet.datagram_id.bytes,
        )

    # ------------------------------------------------------------------ many packets

    def lookup_batch(
        self, input_hashes: pa.Array, additional_constraints: Constraints | None = None
    ) -> pa.Table | None:
        """Return all records of a small set of input hashes that fulfil the constraints, or `None` without a table.

        They stand in the order of the store, with all columns.
        """
        source = self.source()
        if source is None:
            return None
        constraints = additional_constraints or {}
        own = [name for name in source.schema.names if name not in CONTEXT_NAMES]
        wanted = [*own, *constrained_columns(constraints, source)]
        positions, found = source.find(names.INPUT_HASH, input_hashes, list(dict.fromkeys(wanted)))
        mask = fulfilling(found, constraints)
        contexts = ContextReader(source)
        whole = contexts.beside_table(found.filter(mask).select(own), positions.filter(mask), source.schema)
        return pa.Table.from_batches(whole, schema=source.schema)

    def store_batch(
        self,
        input_hashes: pa.Array,
        outputs: pa.RecordBatch,
        context: Context,
        durations: Sequence[float],
        record_ids: bytes | None = None,
    ) -> None:
        """Store results that share variation and execution context; durable on return when `auto_flush`.

        Args:
            input_hashes: `fixed_size_binary[16]`, one per row.
            outputs: the output columns, one row per hash.
            context: what made all of these rows.
            durations: seconds per row.
            record_ids: UUIDv7 per row, 16 bytes each; fresh ones by default.
        """
        rows = len(input_hashes)
        if not rows:
            return
        ids = pa.Array.from_buffers(HASH_TYPE, rows, [None, pa.py_buffer(record_ids or new_record_ids(rows))])
        now = pa.scalar(dt.datetime.now(dt.UTC), UTC_TIMESTAMP)
        own = (
            ids.cast(pa.binary()),
            input_hashes.cast(pa.binary()),
            pa.repeat(now, rows),
            pa.array(durations, pa.float64()),
        )
        schema = record_schema(outputs.schema)

        def open_records() -> pa.RecordBatchReader:
            return pa.RecordBatchReader.from_batches(schema, _record_batches(schema, outputs, own, context))

        self.database.append(self.record_path, open_records)
        if self.auto_flush:
            self.database.flush()

    def snapshot(self, constraints: Constraints, hashes: pa.Array | None = None) -> Snapshot | None:
        """Return the keys of all records that fulfil the constraints, or `None` where nothing was ever stored.

        Args:
            constraints: what a record must have.
            hashes: the input hashes that will be asked for; where they are few, the keys of other records are left out.
        """
        state = self.state()
        source = self.source()
        if source is None:
            return None
        wanted, present = [names.INPUT_HASH, names.TIMESTAMP], constrained_columns(constraints, source)
        parts: Iterable[tuple[Mapping[str, str], Iterable[pa.RecordBatch]]]
        if hashes is not None and few(hashes, source):
            positions, rows = source.find(names.INPUT_HASH, hashes, [*wanted, *present])
            parts = [({}, rows.to_batches())]
        else:
            positions, parts = None, source.scan_parts(wanted, present)
        keys, stamps = [pa.array([], HASH_TYPE)], [pa.array([], UTC_TIMESTAMP)]
        masks = [pa.array([], pa.bool_())]
        for known, batches in parts:
            for batch in batches:
                keys.append(batch.column(0).cast(HASH_TYPE))
                stamps.append(batch.column(1))
                masks.append(fulfilling(batch, constraints, known))
        return Snapshot.of(
            pa.concat_arrays(keys), pa.concat_arrays(stamps), pa.concat_arrays(masks), positions, source, state
        )

    def newest(self, hashes: pa.Array, source: TableSource) -> pa.Table:
        """Return what is said of the newest result of each input hash, whoever made it.

        Args:
            hashes: input hashes, no two alike, each with a record in `source`.
            source: the pinned records.

        Returns:
            `EARLIER_COLUMNS`, a row per hash, in their order.
        """
        wanted = [names.INPUT_HASH, names.TIMESTAMP, *EARLIER_COLUMNS]
        present = [name for name in wanted if name in source.schema.names]
        if few(hashes, source):
            found = source.find(names.INPUT_HASH, hashes, present)[1]
        else:
            schema = pa.schema([source.schema.field(name) for name in present])
            found = rows_among(source.scan(present), schema, hashes)
        if names.ENVIRONMENT_HASH not in present:
            found = found.append_column(ENVIRONMENT_FIELD, pa.nulls(found.num_rows, ENVIRONMENT_FIELD.type))
        found = found.sort_by([(names.TIMESTAMP, "descending")])
        order = pc.index_in(hashes, value_set=found[names.INPUT_HASH].cast(HASH_TYPE))
        return found.take(order).select(list(EARLIER_COLUMNS))

    def get_all_records(self, include_system_columns: bool = False) -> pa.Table | None:
        """Return all records, or `None` where nothing was ever stored.

        Args:
            include_system_columns: with the columns that say what made them; else output columns alone.
        """
        source = self.source()
        if source is None:
            return None
        chosen = [n for n in source.schema.names if include_system_columns or not names.is_reserved(n)]
        return pa.Table.from_batches(source.scan(chosen), schema=pa.schema([source.schema.field(n) for n in chosen]))

    def compact(self) -> None:
        """Bring the records of many small stores together, so that they are quick to read; a storage that refuses is no error."""
        self.database.keep_quick(self.record_path)

    def flush(self) -> None:
        """Make everything stored so far durable."""
        self.database.flush()


def result_path(uri: Sequence[str]) -> tuple[str, ...]:
    """Return the path of the results of the function with a `uri`, among the hidden tables."""
    return ("results", *uri)


def record_schema(outputs: pa.Schema) -> pa.Schema:
    """Return the schema of a function's records: own columns, outputs, context columns."""
    marker = pa.field(CONTEXT_HASH, pa.binary(), nullable=False)
    return pa.schema([*ROW_FIELDS, *outputs, *CONTEXT_FIELDS, CONTEXT_KEY_FIELD, marker, ENVIRONMENT_FIELD])


def _record_batches(
    schema: pa.Schema, outputs: pa.RecordBatch, own: Sequence[pa.Array], context: Context
) -> Iterator[pa.RecordBatch]:
    marker = pa.repeat(pa.scalar(context.context_hash, pa.binary()), SLICE_ROWS)
    key = pa.repeat(pa.scalar(PACKET_METHOD), SLICE_ROWS)
    environments = context.environments(SLICE_ROWS)
    for start in range(0, outputs.num_rows, SLICE_ROWS):
        count = min(SLICE_ROWS, outputs.num_rows - start)
        arrays = [
            *(array.slice(start, count) for array in own),
            *(column.slice(start, count) for column in outputs.columns),
            *context.rows(count).columns,
            key.slice(0, count),
            marker.slice(0, count),
            environments.slice(0, count),
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _hash_of(packet: Packet) -> pa.Array:
    return pa.array([packet.content_hash().digest], HASH_TYPE)


def _packet_of(record: pa.Table) -> Packet:
    shown = record.select([n for n in record.column_names if n not in (CONTEXT_HASH, names.ENVIRONMENT_HASH)])
    return Packet(shown.combine_chunks(), meta_info={names.COMPUTED: False})


__all__ = ["Context", "MatchPolicy", "ResultCache", "Snapshot", "match_constraints"]
