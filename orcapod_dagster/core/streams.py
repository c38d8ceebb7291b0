"""PacketStream: tag columns and packet columns over re-readable table sources, joined on shared tags.

Joins never gather rows: per source there is an array of row positions, found by hashing the shared tags, and
each chunk takes just its rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, write_deltalake

from orcapod_dagster.core.arrow import count_up, pc, size_of
from orcapod_dagster.core.casting import one_array, recast
from orcapod_dagster.core.errors import InputError
from orcapod_dagster.core.hashing import canonical_type, hash_lanes, hash_rows
from orcapod_dagster.core.sources import TableSource
from orcapod_dagster.core.storage_types import storage_schema, to_storage

CHUNK_ROWS: Final = 65_536
CHUNK_BYTES: Final = 128 * 1024 * 1024
_EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class StreamInput:
    """One upstream of a stream.

    Attributes:
        name: the upstream's name, for messages.
        source: its rows, pinned to one version.
        rename: upstream column → name in the stream.
    """

    name: str
    source: TableSource
    rename: Mapping[str, str] = field(default_factory=dict[str, str])

    def columns(self) -> dict[str, str]:
        """Return name in the stream → upstream column."""
        return {self.rename.get(column, column): column for column in self.source.schema.names}


@dataclass(frozen=True, slots=True)
class _Part:
    """One input within a stream: which of its rows the stream's rows are."""

    input: StreamInput
    positions: pa.Array | None  # int64, one per row of the stream; None when row i is row i

    def read(self, columns: Sequence[str], start: int, count: int) -> pa.Table:
        assert self.positions is not None
        return self.input.source.take(self.positions.slice(start, count), columns)


@dataclass(frozen=True, slots=True)
class PacketStream:
    """Rows of one or several inputs: tag columns say which row it is, packet columns hold its values.

    Attributes:
        tag_columns: names of the tags, unique together.
        parts: the inputs with the positions of their rows.
        num_rows: rows after the join.
        unmatched: input name → its rows that found no partner in the join.
        params: columns that hold the same value in every row, as one-element arrays.
    """

    tag_columns: tuple[str, ...]
    parts: tuple[_Part, ...]
    num_rows: int
    unmatched: Mapping[str, int]
    params: Mapping[str, pa.Array] = field(default_factory=dict[str, pa.Array])

    @classmethod
    def open(
        cls, inputs: Sequence[StreamInput], tag_columns: Sequence[str], params: Mapping[str, pa.Array] | None = None
    ) -> PacketStream:
        """Join inputs on their shared tags (inner) into one stream, in the order of the first.

        Args:
            inputs: at least one; each must have at least one tag column, and share one with those before it.
            tag_columns: all tags of the result; an input's own tags are those that it has as columns.
            params: column → one-element array, the same for every row.

        Raises:
            InputError: a tag column is missing, an input shares none with those before it, or has a shared one in a type
                of another meaning (int and str, with and without a time zone), whose values never match.
        """
        _check_columns(inputs, tag_columns)
        first, *others = inputs
        stream = cls(tuple(tag_columns), (_Part(first, None),), first.source.num_rows, {}, dict(params or {}))
        for other in others:
            stream = stream._join(other)
        return stream

    def refuse_unclear_tags(self) -> None:
        """Refuse null and repeated tags.

        Raises:
            InputError: names the input, the column, and examples of repeated tags.
        """
        for part in self.parts:
            _check_unique(part.input, _own_tags(part.input, self.tag_columns))

    # ------------------------------------------------------------------ columns

    def schema(self) -> pa.Schema:
        """Return all columns of the stream; of the tags of several inputs the first input's type counts."""
        fields: dict[str, pa.Field] = {}
        for part in self.parts:
            for name, column in part.input.columns().items():
                fields.setdefault(name, part.input.source.schema.field(column).with_name(name))
        fields |= {name: pa.field(name, value.type) for name, value in self.params.items()}
        return pa.schema(list(fields.values()))

    def chunk_rows(self, columns: Sequence[str]) -> int:
        """Return how many rows of these columns are about `CHUNK_BYTES`; at most `CHUNK_ROWS`."""
        width = sum(part.input.source.row_bytes(list(names.values())) for part, names in self._by_part(columns))
        width += sum(size_of(value) for name, value in self.params.items() if name in columns)
        return max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(1, width)))

    def scan(self, columns: Sequence[str], chunk_rows: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the stream's rows in order, batch after batch; repeatable.

        Args:
            columns: names in the stream.
            chunk_rows: the rows of each batch but the last; default as many as are about `CHUNK_BYTES`.
        """
        schema = self.schema()
        wanted = pa.schema([schema.field(name) for name in columns])
        readers = [_PartReader(part, names) for part, names in self._by_part(columns)]
        rows = chunk_rows or self.chunk_rows(columns)
        for start in range(0, self.num_rows, rows):
            count = min(rows, self.num_rows - start)
            found: dict[str, Any] = {n: pa.repeat(v[0], count) for n, v in self.params.items() if n in columns}
            for reader in readers:
                found |= reader.read(start, count)
            yield pa.RecordBatch.from_arrays([_single(found[n], wanted.field(n).type) for n in columns], schema=wanted)

    def _by_part(self, columns: Sequence[str]) -> list[tuple[_Part, dict[str, str]]]:
        left = [name for name in columns if name not in self.params]
        chosen: list[tuple[_Part, dict[str, str]]] = []
        for part in self.parts:
            available = part.input.columns()
            mine = {name: available[name] for name in left if name in available}
            left = [name for name in left if name not in mine]
            if mine:
                chosen.append((part, mine))
        if left:
            raise InputError(
                f"No input has the columns {left}; there are {self.schema().names}. Check names and rename."
            )
        return chosen

    # ------------------------------------------------------------------ joining and narrowing

    def _join(self, other: StreamInput) -> PacketStream:
        mine = set(self.schema().names)
        shared = [tag for tag in _own_tags(other, self.tag_columns) if tag in mine]
        self._check_types(other, shared)
        left = _key_hashes(self.scan(shared), shared)
        names = other.columns()
        right = _key_hashes(_renamed(other.source.scan([names[t] for t in shared]), shared), shared)
        left_rows, right_rows = _match(left, right)
        parts = [_Part(p.input, left_rows if p.positions is None else p.positions.take(left_rows)) for p in self.parts]
        unmatched = {
            **self.unmatched,
            self._name(): len(left) - pc.count_distinct(left_rows).as_py(),
            other.name: len(right) - pc.count_distinct(right_rows).as_py(),
        }
        return replace(self, parts=(*parts, _Part(other, right_rows)), num_rows=len(left_rows), unmatched=unmatched)

    def _check_types(self, other: StreamInput, shared: Sequence[str]) -> None:
        names, schema = other.columns(), self.schema()
        for tag in shared:
            mine, theirs = schema.field(tag).type, other.source.schema.field(names[tag]).type
            if canonical_type(mine) != canonical_type(theirs):
                raise InputError(
                    f"The tag column {tag!r} has type {mine} in {self._name()}, but {theirs} in {other.name}; values of these "
                    "types never match. Give it one type upstream."
                )

    def _name(self) -> str:
        return " ⋈ ".join(part.input.name for part in self.parts)

    def where(self, condition: str) -> PacketStream:
        """Return the rows whose tags fulfil an SQL condition.

        Raises:
            InputError: the condition is no SQL over the tag columns.
        """
        with tempfile.TemporaryDirectory() as folder:
            rows = self._select(condition, Path(folder) / "tags")
        return self.narrow(rows)

    def narrow(self, rows: pa.Array) -> PacketStream:
        """Return the rows at these positions (`int64`), in their order."""
        parts = [_Part(p.input, rows if p.positions is None else p.positions.take(rows)) for p in self.parts]
        return replace(self, parts=tuple(parts), num_rows=len(rows))

    def beside(self, other: StreamInput, positions: pa.Array) -> PacketStream:
        """Return the stream with another source's rows beside its own: row i gets that source's row `positions[i]`."""
        in_order = other.source.num_rows == len(positions) and positions.equals(count_up(len(positions)))
        return replace(self, parts=(*self.parts, _Part(other, None if in_order else positions)))

    def _select(self, condition: str, folder: Path) -> pa.Array:
        schema = self.schema()
        held = storage_schema(pa.schema([schema.field(tag) for tag in self.tag_columns]))
        tags = pa.Table.from_batches((to_storage(batch, held) for batch in self.scan(self.tag_columns)), schema=held)
        numbered = tags.append_column("__row", count_up(self.num_rows))
        write_deltalake(str(folder), numbered)
        try:
            query = f'SELECT "__row" FROM tags WHERE ({condition})'  # noqa: S608  # read-only, over a private copy of the tags
            found = QueryBuilder().register("tags", DeltaTable(str(folder))).execute(query).read_all()
        except Exception as error:
            raise InputError(
                f"rows={condition!r} is no SQL condition over the tag columns {list(self.tag_columns)}: {error}"
            ) from error
        return pa.array(sorted(set(pa.table(found)["__row"].to_pylist())), pa.int64())


class _PartReader:
    """Reads consecutive chunks of one part; a part in its own order is scanned once, not taken row by row."""

    def __init__(self, part: _Part, columns: Mapping[str, str]) -> None:
        self._part = part
        self._columns = dict(columns)
        self._scan = part.input.source.scan(list(columns.values())) if part.positions is None else None
        self._waiting: list[pa.RecordBatch] = []

    def read(self, start: int, count: int) -> dict[str, Any]:
        wanted = list(self._columns.values())
        table = self._part.read(wanted, start, count) if self._scan is None else self._next(count)
        return {name: table[column] for name, column in self._columns.items()}

    def _next(self, count: int) -> pa.Table:
        assert self._scan is not None
        have = sum(batch.num_rows for batch in self._waiting)
        while have < count:
            batch = next(self._scan)
            self._waiting.append(batch)
            have += batch.num_rows
        table = pa.Table.from_batches(self._waiting)
        self._waiting = table.slice(count).to_batches()
        return table.slice(0, count)


def _single(column: Any, target: pa.DataType) -> pa.Array:
    return recast(one_array(column), target)


def _renamed(batches: Iterator[pa.RecordBatch], names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch.rename_columns(list(names))


def _own_tags(one: StreamInput, tag_columns: Sequence[str]) -> list[str]:
    available = one.columns()
    return [tag for tag in tag_columns if tag in available]


def _check_columns(inputs: Sequence[StreamInput], tag_columns: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for position, one in enumerate(inputs):
        tags = _own_tags(one, tag_columns)
        if not tags:
            raise InputError(
                f"{one.name} has none of the tag columns {list(tag_columns)}; it has {sorted(one.columns())}. Name its tags "
                "in tag_columns, or rename its columns."
            )
        if position and not set(tags) & set(seen):
            raise InputError(
                f"{one.name} shares no tag column with the inputs before it, so they cannot be joined. Add a shared tag."
            )
        for name in one.columns():
            if name not in tag_columns and name in seen:
                seen[name] += f" and {one.name}"
            else:
                seen[name] = one.name
    missing = [tag for tag in tag_columns if tag not in seen]
    if missing:
        raise InputError(
            f"No input has the tag columns {missing}; {', '.join(i.name for i in inputs)} have {sorted(seen)}."
        )


def ambiguous_columns(stream: PacketStream) -> dict[str, list[str]]:
    """Return the columns, other than tags, that more than one input has, with the inputs' names."""
    owners: dict[str, list[str]] = {}
    for part in stream.parts:
        for name in part.input.columns():
            owners.setdefault(name, []).append(part.input.name)
    return {n: o for n, o in owners.items() if len(o) > 1 and n not in stream.tag_columns}


def _key_hashes(batches: Iterator[pa.RecordBatch], names: Sequence[str]) -> pa.Array:
    hashed = [hash_rows(dict(zip(names, batch.columns, strict=True))) for batch in batches]
    return pa.concat_arrays(hashed) if hashed else pa.array([], pa.binary(16))


def _match(left: pa.Array, right: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the pairs of positions with equal keys, in the order of `left`, then of `right`."""
    if pc.count_distinct(right).as_py() == len(right):
        found = pc.index_in(left, value_set=right).cast(pa.int64())
        hit = found.is_valid()
        return pc.indices_nonzero(hit).cast(pa.int64()), found.filter(hit)
    pairs = _keyed(left, "left").join(_keyed(right, "right"), keys="key", join_type="inner")
    pairs = pairs.sort_by([("left", "ascending"), ("right", "ascending")])
    return one_array(pairs["left"]), one_array(pairs["right"])


def _keyed(keys: pa.Array, name: str) -> pa.Table:
    return pa.table({"key": keys.cast(pa.binary()), name: count_up(len(keys))})


def _check_unique(one: StreamInput, tags: Sequence[str]) -> None:
    """Refuse null and repeated tags of an input, with examples."""
    names = one.columns()
    lanes: list[pa.Array] = []
    for batch in one.source.scan([names[tag] for tag in tags]):
        for tag, column in zip(tags, batch.columns, strict=True):
            if column.null_count:
                raise InputError(
                    f"{one.name}: tag column {tag!r} is null in {column.null_count} rows. Tags must say which row it is; fill or drop them."
                )
        lanes.append(hash_lanes(dict(zip(tags, batch.columns, strict=True))).a)
    keys = pa.concat_arrays(lanes) if lanes else pa.array([], pa.uint64())
    if pc.count_distinct(keys).as_py() < len(keys):
        _refuse_repeated(one, tags, keys)


def _refuse_repeated(one: StreamInput, tags: Sequence[str], keys: pa.Array) -> None:
    counts = keys.value_counts()
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    rows = pc.indices_nonzero(pc.is_in(keys, value_set=repeated)).cast(pa.int64())
    names = one.columns()
    table = one.source.take(rows, [names[tag] for tag in tags]).rename_columns(list(tags))
    # By hash, since Arrow groups by plain types only; by the whole one, for `keys` are half of it.
    hashes = hash_rows(dict(zip(tags, table.columns, strict=True)))
    counts = hashes.value_counts()
    counts = counts.filter(pc.greater(counts.field("counts"), 1))
    if not len(counts):
        return
    some = table.take(pc.index_in(counts.field("values").slice(0, _EXAMPLES), value_set=hashes)).to_pylist()
    examples = "; ".join(
        f"{row} × {count}" for row, count in zip(some, counts.field("counts").to_pylist(), strict=False)
    )
    raise InputError(
        f"{one.name}: {len(counts)} tags stand in more than one row, e.g. {examples}. The tag columns {list(tags)} must "
        "say which row it is; add the column that tells these rows apart to tag_columns, or remove the repeats upstream."
    )
