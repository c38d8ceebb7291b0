"""The asset table: assembled from stored results in the order of the input, written only when something is new."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import dagster as dg
import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.asset_write import BINDING, COLUMNS, DATA_VERSION, INPUT_VERSIONS, PART, TAGS, AssetWrite
from orcapod_dagster.core.casting import recast
from orcapod_dagster.core.contexts import CONTEXT_FIELDS, CONTEXT_HASH, CONTEXT_NAMES, ContextReader
from orcapod_dagster.core.counting import covers
from orcapod_dagster.core.earlier_rows import EarlierRows, binding_of, stored_binding
from orcapod_dagster.core.exploding import explode
from orcapod_dagster.core.hashing import HASH_TYPE, RowSetDigest
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.result_cache import CONTEXT_KEY_FIELD, ROW_FIELDS, record_schema
from orcapod_dagster.core.snapshots import Snapshot
from orcapod_dagster.core.sources import DeltaSource, MemorySource, TableSource
from orcapod_dagster.core.storage_types import same_meaning
from orcapod_dagster.core.streams import PacketStream, StreamInput
from orcapod_dagster.inputs import HIDDEN
from orcapod_dagster.io_manager import EVOLUTION_KEY
from orcapod_dagster.partitions import plain, refuse_outside
from orcapod_dagster.resources import IO_MANAGER_KEY
from orcapod_dagster.spec import PacketAssetSpec

IDENTITY: Final = "orcapod.identity"
STORE_STATE: Final = "orcapod.store_state"
PACKETS: Final = "orcapod.packets"
RECORDS: Final = "orcapod.records"
_PREVIEW_ROWS: Final = 10


@dataclass(frozen=True, slots=True)
class Assembly:
    """The asset table as it should be, streamed from stored results.

    Attributes:
        stream: the input's rows with their results beside them.
        kept: tags, the index of a generator, and carried columns. outputs: the function's columns.
        index: the column that counts the rows of a packet, for a generator.
        schema: of the asset table.
        contexts: finds the context columns of a row. positions: where each row's result stands among the stored ones.
        store_state: `ResultCache.state` as of these results; empty where there are none at all.
    """

    stream: PacketStream
    kept: tuple[str, ...]
    outputs: tuple[str, ...]
    index: str | None
    schema: pa.Schema
    contexts: ContextReader
    positions: pa.Array
    store_state: str

    @classmethod
    def of(
        cls, spec: PacketAssetSpec, stream: PacketStream, snapshot: Snapshot | None, positions: pa.Array
    ) -> Assembly:
        """Put results beside the rows of a stream.

        Args:
            spec: the asset.
            stream: rows that all have a result.
            snapshot: the results; None where there are none at all.
            positions: per row, where its result stands in the snapshot's source.
        """
        fields = [
            *_kept_fields(spec, stream),
            *spec.function.row_arrow_schema,
            *ROW_FIELDS,
            *CONTEXT_FIELDS,
            CONTEXT_KEY_FIELD,
        ]
        empty = MemorySource(record_schema(spec.function.output_arrow_schema).empty_table())
        source: TableSource = empty if snapshot is None else snapshot.source
        rename = {column: HIDDEN + column for column in source.schema.names}
        whole = stream.beside(StreamInput("results", source, rename), positions)
        reader = ContextReader(source)
        state = "" if snapshot is None else snapshot.state
        kept, outputs = table_columns(spec, stream), tuple(spec.function.output_keys)
        return cls(whole, kept, outputs, spec.index_column, pa.schema(fields), reader, positions, state)

    def scan(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield rows in the input's order, without context columns."""
        for rows, _ in self._scan(columns):
            yield rows

    def packets(self) -> Iterator[pa.RecordBatch]:
        """Yield, of each packet, what travels from the input, and its input hash."""
        yield from self._scan_packets([*(c for c in self.kept if c != self.index), names.INPUT_HASH])

    def _scan(self, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
        """Yield rows, and the position of the result of each."""
        start = 0
        if self.index is None:
            for batch in self._scan_packets(columns):
                yield batch, self.positions.slice(start, batch.num_rows)
                start += batch.num_rows
            return
        lists = [name for name in self.outputs if name in columns] or [self.outputs[0]]
        plain = [name for name in columns if name not in (self.index, *lists)]
        for batch in self._scan_packets([*plain, *lists]):
            for rows, packets in explode(batch, lists, self.index, columns):
                yield rows, self.positions.slice(start, batch.num_rows).take(packets)
            start += batch.num_rows

    def _scan_packets(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        inner = [c if c in self.kept else HIDDEN + c for c in columns]
        for batch in self.stream.scan(inner):
            yield batch.rename_columns(list(columns))

    def open_reader(self) -> pa.RecordBatchReader:
        """Return all columns of the asset table, streamed."""
        return pa.RecordBatchReader.from_batches(self.schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        plain = [name for name in self.schema.names if name not in CONTEXT_NAMES]
        for batch, positions in self._scan([*plain, CONTEXT_HASH]):
            yield from self.contexts.beside(batch, positions, self.schema)

    def first_rows(self) -> pa.Table:
        """Return tags and values of the first rows, for a preview."""
        columns = [*self.kept, *self.outputs]
        first = next(self.scan(columns), None)
        if first is None:
            return pa.schema([self.schema.field(c) for c in columns]).empty_table()
        return pa.Table.from_batches([first.slice(0, _PREVIEW_ROWS)])


def kept_columns(spec: PacketAssetSpec, stream: PacketStream) -> tuple[str, ...]:
    """Return the columns that travel from the input to the asset table: tags, then carried ones."""
    return (*stream.tag_columns, *(c for c in spec.carry if c not in stream.tag_columns))


def table_columns(spec: PacketAssetSpec, stream: PacketStream) -> tuple[str, ...]:
    """Return the columns of the asset table that are no outputs: tags, the index of a generator, then carried ones."""
    kept = kept_columns(spec, stream)
    tags = len(stream.tag_columns)
    return (*kept[:tags], *spec.index_columns, *kept[tags:])


def _kept_fields(spec: PacketAssetSpec, stream: PacketStream) -> list[pa.Field]:
    index = pa.field(spec.index_column or "", pa.int64(), nullable=False)
    schema = stream.schema()
    return [index if name == spec.index_column else schema.field(name) for name in table_columns(spec, stream)]


class AssetTable:
    """The table that an asset, or the partitions of its run, has now.

    Each of our commits says from which results it was assembled. As long as that holds, a run whose rows have the
    same tags and input hashes in the same order needs to look at nothing else.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        spec: PacketAssetSpec,
        pod: FunctionPod,
        partition_expr: Any,
        stream: PacketStream,
    ) -> None:
        self._spec = spec
        self._pod = pod
        self._partition_expr = partition_expr
        io_manager = getattr(context.resources, IO_MANAGER_KEY)
        _refuse_wrong_partitions(io_manager, context, spec, partition_expr, stream)
        self._current: TableSource | None = io_manager.current_source(context, partition_expr)
        partitioned = context.has_partition_key or context.has_partition_key_range
        keys = list(context.partition_keys) if partitioned else []
        self._standing_commit = partial(io_manager.standing_commit, spec.key, keys)
        self._part = json.dumps(keys) if keys else ""
        settings = context.assets_def.metadata_by_key.get(spec.key, {})
        self._may_change_types = not keys and plain(settings.get(EVOLUTION_KEY)) == "overwrite"
        self._binding = partial(binding_of, pod.function, stream)
        sources = {part.input.name: part.input.source for part in stream.parts}
        self._read = {name: one.version for name, one in sources.items() if isinstance(one, DeltaSource)}
        if self._current is not None:
            pod.planner.earlier_rows = EarlierRows(self._current, lambda: stored_binding(self._standing_commit()))
        self._run_id = context.run.run_id

    def standing(self, stream: PacketStream, hashes: pa.Array) -> str | None:
        """Return the data version, if the table holds just these rows with the results that count now; else `None`."""
        is_generator = self._spec.index_column is not None
        if self._current is None or (self._current.num_rows != stream.num_rows and not is_generator):
            return None
        said = self._standing_commit()
        if said is None:
            return None
        stamp = self._stamp(stream, self._pod.counting.state())
        if not covers(stamp.pop(IDENTITY), str(said.get(IDENTITY, ""))) or any(
            said.get(key) != value for key, value in stamp.items()
        ):
            return None
        if is_generator:
            same = self._same_packets(self._current, stream, hashes, said) and not self._pod.planner.lost_values(
                self._current
            )
            return str(said[DATA_VERSION]) if same else None
        kept = list(kept_columns(self._spec, stream))
        table = PacketStream.open([StreamInput("table", self._current)], stream.tag_columns)
        beside = [*kept, names.INPUT_HASH]
        rows = min(stream.chunk_rows(kept), table.chunk_rows(beside))
        start = 0
        for mine, standing in zip(stream.scan(kept, rows), table.scan(beside, rows), strict=True):
            keys = standing.column(len(kept)).cast(HASH_TYPE)
            if not keys.equals(hashes.slice(start, len(keys))):
                return None
            if any(not _same(mine.column(i), standing.column(i)) for i in range(len(kept))):
                return None
            start += len(keys)
        if self._pod.planner.lost_values(self._current):
            return None
        return str(said[DATA_VERSION])

    def _same_packets(
        self, current: TableSource, stream: PacketStream, hashes: pa.Array, said: Mapping[str, Any]
    ) -> bool:
        """Tell whether a generator's table was made of just these packets, also of such as gave no row, and is as it was made."""
        packets, start = RowSetDigest(), 0
        kept = kept_columns(self._spec, stream)
        for batch in stream.scan(kept):
            columns = dict(zip(kept, batch.columns, strict=True))
            packets.update({**columns, names.INPUT_HASH: hashes.slice(start, batch.num_rows)})
            start += batch.num_rows
        if said.get(PACKETS) != str(packets.content_hash()):
            return False
        columns = table_columns(self._spec, stream)
        _, records = _digests(current.scan([*columns, names.RECORD_ID]), len(columns))
        return said.get(RECORDS) == str(records.content_hash())

    def _stamp(self, stream: PacketStream, store_state: str) -> dict[str, str]:
        columns = [*table_columns(self._spec, stream), "", *self._spec.function.output_keys]
        return {
            IDENTITY: self._pod.planner.identity(),
            STORE_STATE: store_state,
            COLUMNS: json.dumps(columns),
        }

    def first_rows(self, stream: PacketStream) -> pa.Table:
        """Return tags and values of the table's first rows, for a preview."""
        assert self._current is not None
        columns = [*table_columns(self._spec, stream), *self._spec.function.output_keys]
        first = next(self._current.scan(columns), None)
        empty = pa.schema([self._current.schema.field(c) for c in columns]).empty_table()
        return empty if first is None else pa.Table.from_batches([first.slice(0, _PREVIEW_ROWS)])

    def keep(self, data_version: str) -> AssetWrite:
        """Return what tells the IO manager to leave the table as it is."""
        assert self._current is not None
        schema = self._current.schema
        return AssetWrite(
            schema, schema.empty_table().to_reader, unchanged=True, custom_metadata={DATA_VERSION: data_version}
        )

    def write(self, assembly: Assembly) -> AssetWrite:
        """Return what the IO manager is to write; nothing where the table holds these rows in whatever order."""
        digested = [*assembly.kept, *assembly.outputs, names.RECORD_ID]
        values, records = _digests(assembly.scan(digested), len(assembly.kept))
        current, unchanged = self._current, False
        of_packets = {} if assembly.index is None else {PACKETS: _digest_of_packets(assembly)}
        if (
            current is not None
            and current.num_rows == values.rows
            and set(assembly.schema.names) == set(current.schema.names)
        ):
            # Values, too: another engine may have changed them, and kept the ids of the records.
            standing = _digests(current.scan(digested), len(assembly.kept))
            same = [one.content_hash() for one in standing] == [values.content_hash(), records.content_hash()]
            unchanged = same and not self._grown(assembly) and self._stands_for(of_packets)
        said: dict[str, str] = {
            **self._stamp(assembly.stream, assembly.store_state),
            DATA_VERSION: str(values.content_hash()),
            PART: self._part,
            TAGS: json.dumps([*assembly.stream.tag_columns, *self._spec.index_columns]),
            BINDING: json.dumps(self._binding()),
            INPUT_VERSIONS: json.dumps(self._read),
            "orcapod.run_id": self._run_id,
        }
        if assembly.index is not None:
            said |= {**of_packets, RECORDS: str(records.content_hash())}
        return AssetWrite(
            schema=assembly.schema,
            open_reader=assembly.open_reader,
            unchanged=unchanged,
            custom_metadata=said,
            partition_columns=self._partition_expr,
            plain_columns=(names.RECORD_ID, names.INPUT_HASH),
        )

    def _stands_for(self, of_packets: Mapping[str, str]) -> bool:
        """Tell whether what the table's commit says of its packets is true still.

        A generator's packet without rows may have come, or gone, and changed no row; by an old commit, each later run would take it
        for new. Of plain functions, whose packets are the rows, there is nothing to say.
        """
        said = self._standing_commit() if of_packets else None
        return said is None or of_packets.items() <= said.items()

    def _grown(self, assembly: Assembly) -> bool:
        """Tell whether an output has another type now, or may be null, for which the asset may have its table written anew."""
        assert self._current is not None
        pairs = [(self._current.schema.field(name), assembly.schema.field(name)) for name in assembly.outputs]
        grown = (not same_meaning(old.type, new.type) or (new.nullable and not old.nullable) for old, new in pairs)
        return self._may_change_types and any(grown)


def _refuse_wrong_partitions(
    io_manager: Any, context: dg.AssetExecutionContext, spec: PacketAssetSpec, partition_expr: Any, stream: PacketStream
) -> None:
    """Refuse, before anything is computed, what the IO manager would refuse to write afterwards.

    Raises:
        PartitionError: the asset's partitions cannot be written right, or rows lie outside of the run's. Rows whose
            partition is an output of the function can be told only when they are there.
    """
    definition = context.assets_def.partitions_def
    keys = [] if definition is None else list(context.partition_keys)
    kept = kept_columns(spec, stream)
    fields = [*_kept_fields(spec, stream), *spec.function.row_arrow_schema]
    _, where = io_manager.part_to_write(spec.key, definition, keys, partition_expr, pa.schema(fields))
    if where is not None and set(where.columns()) <= set(kept):
        for batch in stream.scan(where.columns()):
            refuse_outside(batch, where, f"asset {spec.key.to_user_string()}", keys)


def _digest_of_packets(assembly: Assembly) -> str:
    digest = RowSetDigest()
    for batch in assembly.packets():
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        digest.update({**columns, names.INPUT_HASH: columns[names.INPUT_HASH].cast(HASH_TYPE)})
    return str(digest.content_hash())


def _same(mine: pa.Array, standing: pa.Array) -> bool:
    return recast(mine, standing.type).equals(standing)


def _digests(batches: Iterator[pa.RecordBatch], tags: int) -> tuple[RowSetDigest, RowSetDigest]:
    """Digest rows twice: tags and values, and tags with the ids of their records (last column)."""
    values, records = RowSetDigest(), RowSetDigest()
    for batch in batches:
        columns: dict[str, Any] = dict(zip(batch.schema.names, batch.columns, strict=True))
        record = columns.pop(names.RECORD_ID)
        values.update(columns)
        kept: Mapping[str, Any] = {name: columns[name] for name in batch.schema.names[:tags]}
        records.update({**kept, names.RECORD_ID: record})
    return values, records
