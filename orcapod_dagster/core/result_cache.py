"""ResultCache: input packet hash → output packet, with variation, execution context and timestamp; append-only.

A record holds the output columns and, under the names of `columns.py`, what made them.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import count_up, first_of_each, pc, rows_among
from orcapod_dagster.core.casting import one_array
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
from orcapod_dagster.core.errors import InputError, OrcapodError
from orcapod_dagster.core.files import FileMemory, FileReader, Looks
from orcapod_dagster.core.hashing import HASH_TYPE, PACKET_METHOD, hash_rows, split_lanes
from orcapod_dagster.core.joined_source import JoinedSource
from orcapod_dagster.core.sources import TableSource
from orcapod_dagster.core.stand_ins import PacketFunctionWrapper
from orcapod_dagster.core.widening import WidenedSource

MatchPolicy = Literal["version", "signature", "content", "environment"]
"""Which stored result counts as the same computation: by uri, and signature hash, and content hash, and environment."""

Constraints = Mapping[str, str | Collection[str]]
"""Stored column → the value that a record must have, or several, of which it must have one."""

_MATCH_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "version": (),
    "signature": ("function_signature_hash",),
    "content": ("function_signature_hash", "function_content_hash"),
    "environment": ("function_signature_hash", "function_content_hash"),
}
EARLIER_COLUMNS: Final = (names.SIGNATURE_HASH, names.CONTENT_HASH, names.ENVIRONMENT_HASH, names.DURATION)
MATCH_POLICIES: Final = tuple(_MATCH_KEYS)
ROW_FIELDS: Final[tuple[pa.Field, ...]] = (
    pa.field(names.RECORD_ID, pa.binary(), nullable=False),
    pa.field(names.INPUT_HASH, pa.binary(), nullable=False),
    pa.field(names.TIMESTAMP, UTC_TIMESTAMP, nullable=False),
    pa.field(names.DURATION, pa.float64(), nullable=False),
)
CONTEXT_KEY_FIELD: Final = pa.field(names.CONTEXT_KEY, pa.string(), nullable=False)
_ROWS_PER_FIND: Final = 512
"""Finding one record by its key costs at most what reading the keys and constraints of so many does: 100 among 100,000 in 13
files take 11 to 22 ms of a processor by their keys, 75 to 100 ms by reading all (measured)."""


def match_constraints(match: MatchPolicy, variation: Mapping[str, str], environment: str) -> Constraints:
    """Return what a record must have under a match policy.

    Args:
        match: the policy.
        variation: what the function is.
        environment: hash of the environment that its code refers to.
    """
    wanted = {names.VARIATION_PREFIX + key: variation[key] for key in _MATCH_KEYS[match]}
    return wanted | ({names.ENVIRONMENT_HASH: environment} if match == "environment" else {})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The keys of all records that match, as of one moment, each once.

    Attributes:
        keys: input packet hashes, `fixed_size_binary[16]`, no two alike.
        positions: where the newest record of each stands in `source`, or None when they are 0, 1, 2, …
        source: the pinned records.
        all_keys: the hashes of all records that were looked at, also of such as do not match; in no order.
        state: `ResultCache.state`, from before the records were looked at: what was added since is in no snapshot of it.
    """

    keys: pa.Array
    positions: pa.Array | None
    source: TableSource
    all_keys: pa.Array
    state: str

    def find(self, hashes: pa.Array) -> pa.Array:
        """Return, per hash, the position of its newest record in `source`; null where there is none."""
        if len(hashes) == len(self.keys) and hashes.equals(self.keys):
            found = count_up(len(hashes))
        else:
            found = pc.index_in(hashes, value_set=self.keys).cast(pa.int64())
        return found if self.positions is None else pc.take(self.positions, found)


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
        wanted = [*own, *_present(constraints, source)]
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
        wanted, present = [names.INPUT_HASH, names.TIMESTAMP], _present(constraints, source)
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
        return _newest_first(
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


def _present(constraints: Constraints, source: TableSource) -> list[str]:
    """Return the constrained columns that there are: older tables may lack one."""
    return [name for name in constraints if name in source.schema.names]


def fulfilling(
    rows: pa.Table | pa.RecordBatch, constraints: Constraints, known: Mapping[str, str] | None = None
) -> pa.Array:
    """Tell which rows have what the constraints ask for; without one of the columns, none has.

    Args:
        rows: with the constrained columns.
        constraints: what a row must have.
        known: the columns that hold one value in all rows, in place of them.
    """
    mask: Any = pa.repeat(True, rows.num_rows)
    for column, wanted in constraints.items():
        if known is not None and column in known:
            if known[column] not in ([wanted] if isinstance(wanted, str) else wanted):
                return pa.repeat(False, rows.num_rows)
            continue
        if column not in rows.schema.names:
            return pa.repeat(False, rows.num_rows)
        values = rows.column(column)
        values_set = None if isinstance(wanted, str) else pa.array(list(wanted), values.type)
        one = pc.equal(values, wanted) if values_set is None else pc.is_in(values, value_set=values_set)
        mask = pc.and_(mask, one_array(one).fill_null(False))
    return mask


def few(hashes: pa.Array, source: TableSource) -> bool:
    """Tell whether it costs less to find some records by their keys than to read the keys of all."""
    return len(hashes) * _ROWS_PER_FIND <= source.num_rows


def _newest_first(
    keys: pa.Array, stamps: pa.Array, mask: pa.Array, positions: pa.Array | None, source: TableSource, state: str
) -> Snapshot:
    """Drop what does not match and, where keys may repeat, all records of a key but the newest."""
    all_keys = keys
    if not pc.all(mask).as_py():
        positions = _taken(positions, pc.indices_nonzero(mask))
        keys, stamps = keys.filter(mask), stamps.filter(mask)
    if len(keys) > 1 and pc.count_distinct(split_lanes(keys).a).as_py() < len(keys):
        order = pc.sort_indices(pa.table([stamps], names=["t"]), [("t", "descending")])
        newest = order.filter(first_of_each(keys.take(order)))
        keys, positions = keys.take(newest), _taken(positions, newest)
    return Snapshot(keys, positions, source, all_keys, state)


def _taken(positions: pa.Array | None, rows: pa.Array) -> pa.Array:
    """Return the positions of these rows, of which None stands for 0, 1, 2 and so on."""
    return rows.cast(pa.int64()) if positions is None else positions.take(rows)


def _hash_of(packet: Packet) -> pa.Array:
    return pa.array([packet.content_hash().digest], HASH_TYPE)


def _packet_of(record: pa.Table) -> Packet:
    shown = record.select([n for n in record.column_names if n not in (CONTEXT_HASH, names.ENVIRONMENT_HASH)])
    return Packet(shown.combine_chunks(), meta_info={names.COMPUTED: False})


# ---------------------------------------------------------------------------- a packet function with its cache


class CachedPacketFunction(PacketFunctionWrapper):
    """A packet function that computes each input packet once.

    Args:
        packet_function: what computes.
        result_database: where results are kept.
        record_path_prefix: names before the function's `uri` in the record path.
        match: which stored result counts as the same computation.
    """

    def __init__(
        self,
        packet_function: Any,
        result_database: ArrowDatabase,
        record_path_prefix: Sequence[str] = (),
        *,
        match: MatchPolicy = "content",
    ) -> None:
        super().__init__(packet_function)
        self.match: MatchPolicy = match
        self.cache = ResultCache(result_database, (*record_path_prefix, *packet_function.uri))

    @functools.cached_property
    def _files(self) -> FileReader:
        function = self.packet_function
        owner = f"function {function.canonical_function_name!r}"
        return FileReader(function.input_packet_schema, owner, FileMemory(self.cache.database))

    @property
    def record_path(self) -> tuple[str, ...]:
        """Where the records lie in the database."""
        return self.cache.record_path

    def set_auto_flush(self, on: bool = True) -> None:
        """Say whether each result is durable when its call returns."""
        self.cache.auto_flush = on

    def call(
        self, packet: Packet, logger: Any = None, *, skip_cache_lookup: bool = False, skip_cache_insert: bool = False
    ) -> Packet | None:
        """Return the output packet, from the cache where it holds one; meta `__computed` tells which.

        Raises:
            InputError: a file that the packet names cannot be read, or changed while the function ran.
        """
        consumed = self._consume(packet)
        cached = None if skip_cache_lookup else self._find(consumed)
        if cached is not None:
            return cached
        return self._keep(consumed, self.packet_function.call(packet, logger), skip_cache_insert)

    async def async_call(
        self, packet: Packet, logger: Any = None, *, skip_cache_lookup: bool = False, skip_cache_insert: bool = False
    ) -> Packet | None:
        """As `call`, from inside a running event loop."""
        consumed = self._consume(packet)
        cached = None if skip_cache_lookup else self._find(consumed)
        if cached is not None:
            return cached
        return self._keep(consumed, await self.packet_function.async_call(packet, logger), skip_cache_insert)

    def _keep(self, consumed: _Consumed, output: Packet | None, skip_insert: bool) -> Packet | None:
        if output is None:
            return None
        if consumed.looks is not None:
            changed = self._files.changed(consumed.columns, consumed.looks)
            if changed:
                raise InputError(changed[0])
        if not skip_insert:
            self._store(consumed, output)
        return output.with_meta_columns(computed=True)

    def record_packet(self, input_packet: Packet, output_packet: Packet, skip_duplicates: bool = False) -> None:
        """Store a result that was computed elsewhere."""
        consumed = self._consume(input_packet)
        if skip_duplicates and self.cache.lookup_hash(consumed.input_hash) is not None:
            return
        self._store(consumed, output_packet)

    def _store(self, consumed: _Consumed, output: Packet) -> None:
        function = self.packet_function
        context = Context.of(
            Datagram(function.get_function_variation_data(), function.get_function_variation_data_schema()),
            Datagram(function.get_execution_data(), function.get_execution_data_schema()),
            function.get_environment().environment_hash,
        )
        self.cache.store_hash(consumed.input_hash, output, context)
        if self.cache.auto_flush:
            self._files.flush()

    def get_cached_output_for_packet(self, packet: Packet) -> Packet | None:
        """Return the stored output of a packet, or `None`."""
        return self._find(self._consume(packet))

    def _find(self, consumed: _Consumed) -> Packet | None:
        function = self.packet_function
        constraints = match_constraints(
            self.match, function.get_function_variation_data(), function.get_environment().environment_hash
        )
        found = self.cache.lookup_hash(consumed.input_hash, constraints)
        if found is None:
            return None
        everything = found.as_table(columns=names.ColumnConfig.all())
        return Packet(everything, function.output_packet_schema).with_source(function.uri)

    def get_all_cached_outputs(self, include_system_columns: bool = False) -> pa.Table | None:
        """Return all stored outputs, or `None`."""
        return self.cache.get_all_records(include_system_columns)

    def _consume(self, packet: Packet) -> _Consumed:
        """Hash the packet as the function consumes it: its columns, of the parameters' types, files by their content."""
        bound = self.packet_function.bind_packet(packet)
        if not bound:
            raise OrcapodError(
                f"{self.packet_function.canonical_function_name} takes no parameters, so there is nothing to look up by."
            )
        if not self._files.names:
            return _Consumed(hash_rows(bound), bound)
        columns, looks, problems = self._files.contents(bound)
        if problems:
            raise InputError(problems[0])
        return _Consumed(hash_rows(columns), bound, looks)


@dataclass(frozen=True, slots=True)
class _Consumed:
    """One packet as its function consumes it: the hash, an array of one, the columns, and how its files looked."""

    input_hash: pa.Array
    columns: Mapping[str, pa.Array]
    looks: Looks | None = None


__all__ = ["CachedPacketFunction", "Context", "MatchPolicy", "ResultCache", "Snapshot", "match_constraints"]
