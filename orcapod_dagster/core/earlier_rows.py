"""Why a packet of a known row has no result: the rows of the asset's table, held against packets that are new to the results.

A packet is found by the hash of its input. So a row whose input changed looks like a new row, and only its tags tell that it
is none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import count_up, pc, rows_among
from orcapod_dagster.core.asset_write import BINDING
from orcapod_dagster.core.casting import one_array, recast
from orcapod_dagster.core.hashing import HASH_TYPE, PACKET_METHOD, hash_rows
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.reasons import CODE_CHANGED, SIGNATURE_CHANGED, counted, named
from orcapod_dagster.core.sources import TableSource
from orcapod_dagster.core.streams import PacketStream

INPUT_CHANGED: Final = "the input changed"
PARAMS_CHANGED: Final = "params changed"
RULES_CHANGED: Final = "the rules of hashing changed"
NAME_CHANGED: Final = "the function's name changed"
RESULT_GONE: Final = "its stored result is gone"
_NAME: Final = names.VARIATION_PREFIX + "function_name"
_RULES: Final = ""
_FOUND: Final = pa.schema([("tags", HASH_TYPE), ("input", HASH_TYPE), ("position", pa.int64())])

Binding = Mapping[str, Sequence[str]]
"""How input hashes are made: parameter → its Arrow type and where its value comes from, `"column"`, or `"default"` or
`"params"` and the digest of that value; the empty name → the rules of hashing. It is plain JSON, without any value."""


def binding_of(function: PythonPacketFunction, stream: PacketStream) -> dict[str, list[str]]:
    """Return how the input hashes of a stream's rows are made.

    Raises:
        InputError: as `PythonPacketFunction.bind_columns`.
    """
    schema = stream.schema()
    taken = [name for name in function.input_packet_schema if name in schema.names]
    # Of columns, the types alone matter.
    columns = schema.empty_table()
    one: dict[str, Any] = {name: stream.params.get(name, columns[name]) for name in taken}
    found = {_RULES: [PACKET_METHOD]}
    for name, value in function.bind_columns(one, 1).items():
        origin = "column"
        if name in stream.params or name not in one:
            origin = f"{'params' if name in stream.params else 'default'} {hash_rows({name: value})[0].as_py().hex()}"
        found[name] = [str(value.type), origin]
    return found


def stored_binding(said: Mapping[str, Any] | None) -> Binding | None:
    """Return how the input hashes of a commit's rows were made, by what it says of itself; `None` where it does not tell."""
    return None if said is None else json.loads(said.get(BINDING, "null"))


class Explained(NamedTuple):
    """What the asset's table says of packets without a result.

    Attributes:
        texts: the reason of each, a `string` array with null where none is known.
        codes: content hash of earlier code → packets.
        durations: seconds that the row's result took, where the code, and not the input, made another packet of it; null else.
    """

    texts: pa.Array
    codes: Mapping[str, int]
    durations: pa.Array


class EarlierRows:
    """The rows of an asset's table as they stand.

    Args:
        source: the table, or the run's partitions of it.
        binding: tells how their input hashes were made, `None` where that is not known; asked when it is needed.
    """

    def __init__(self, source: TableSource, binding: Callable[[], Binding | None]) -> None:
        self._source = source
        self._binding = binding

    def explain(self, stream: PacketStream, hashes: pa.Array, function: PythonPacketFunction) -> Explained:
        """Say why packets have no result, of those whose tags the table knows.

        Args:
            stream: just their rows.
            hashes: input hash of each.
            function: as it is now.
        """
        index, earlier, positions = self._rows_of(stream)
        before = earlier.take(index)
        same = one_array(pc.fill_null(pc.equal(before, hashes), False))
        other = one_array(pc.and_(index.is_valid(), pc.invert(same)))
        texts, codes = pa.nulls(len(hashes), pa.string()), dict[str, int]()
        by_code = pa.repeat(False, len(hashes))
        if pc.any(other).as_py():
            reason = self._input_reason(binding_of(function, stream))
            texts = one_array(pc.if_else(other, reason, texts))
            if reason.startswith((CODE_CHANGED, SIGNATURE_CHANGED)):
                by_code = other
            if reason.startswith(CODE_CHANGED):
                codes = counted(self._text(positions.take(index.filter(other)), names.CONTENT_HASH))
        if pc.any(same).as_py():
            made_by = self._text(positions.take(index.filter(same)), _NAME)
            texts = one_array(pc.replace_with_mask(texts, same, _by_name(made_by, function.canonical_function_name)))
            by_code = pc.or_(by_code, pc.fill_null(pc.starts_with(texts, NAME_CHANGED), False))
        return Explained(texts, codes, self._durations(one_array(by_code), index, positions))

    def _durations(self, mask: pa.Array, index: pa.Array, positions: pa.Array) -> pa.Array:
        durations = pa.nulls(len(mask), pa.float64())
        if not pc.any(mask).as_py() or names.DURATION not in self._source.schema.names:
            return durations
        rows = self._source.take(positions.take(index.filter(mask)), [names.DURATION])
        return one_array(pc.replace_with_mask(durations, mask, one_array(rows[names.DURATION])))

    def _rows_of(self, stream: PacketStream) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Return per row of the stream which of the found rows has its tags, or null; and their input hashes and positions."""
        tags = list(stream.tag_columns)
        mine = self._tags_of(stream) if {*tags, names.INPUT_HASH} <= set(self._source.schema.names) else None
        if mine is None:
            return pa.nulls(stream.num_rows, pa.int32()), pa.array([], HASH_TYPE), pa.array([], pa.int64())
        found = rows_among(self._hashed(tags), _FOUND, mine)
        keys, hashes, positions = (one_array(column) for column in found.columns)
        return pc.index_in(mine, value_set=keys), hashes, positions

    def _hashed(self, tags: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the hash of the tags, the input hash and the position of each row."""
        start = 0
        for batch in self._source.scan([*tags, names.INPUT_HASH]):
            keys = hash_rows(dict(zip(tags, batch.columns[:-1], strict=True)))
            positions = pc.add(count_up(batch.num_rows), start)
            yield pa.RecordBatch.from_arrays([keys, batch.columns[-1].cast(HASH_TYPE), positions], schema=_FOUND)
            start += batch.num_rows

    def _tags_of(self, stream: PacketStream) -> pa.Array | None:
        """Hash the tags of a stream in the types that they have in the table; `None` where a type takes them not all."""
        tags, schema = list(stream.tag_columns), self._source.schema
        hashed = [pa.array([], HASH_TYPE)]
        for batch in stream.scan(tags):
            try:
                columns = {tag: recast(batch.column(tag), schema.field(tag).type) for tag in tags}
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                return None
            hashed.append(hash_rows(columns))
        return pa.concat_arrays(hashed)

    def _text(self, positions: pa.Array, column: str) -> pa.Array:
        if column not in self._source.schema.names:
            return pa.nulls(len(positions), pa.string())
        return one_array(self._source.take(positions, [column])[column]).cast(pa.string())

    def _input_reason(self, now: Binding) -> str:
        """Say why rows have other input hashes: what is alike for all rows first, for it decides by itself."""
        before = self._binding()
        if before is None:
            return INPUT_CHANGED
        if before.get(_RULES) != now[_RULES]:
            return RULES_CHANGED
        return _changed_binding(before, now) or INPUT_CHANGED


def _changed_binding(before: Binding, now: Binding) -> str | None:
    shared = [name for name in now if name in before and name != _RULES]
    types = [f"{name} {before[name][0]} → {now[name][0]}" for name in shared if before[name][0] != now[name][0]]
    types += [f"{name} (added)" for name in now if name not in before]
    types += [f"{name} (removed)" for name in before if name not in now]
    if types:
        return named(SIGNATURE_CHANGED, types)
    for origin, reason, what in (("default ", CODE_CHANGED, "default {}"), ("params ", PARAMS_CHANGED, "{}")):
        other = [
            what.format(name)
            for name in shared
            if before[name][1] != now[name][1]
            and before[name][1].startswith(origin)
            and now[name][1].startswith(origin)
        ]
        if other:
            return named(reason, other)
    return None


def _by_name(made_by: pa.Array, now: str) -> pa.Array:
    """Say why a packet that the table has a row of has no result: it was stored under another name, or is gone."""
    coded: Any = made_by.dictionary_encode()
    texts = [
        RESULT_GONE if one == now else named(NAME_CHANGED, [f"{one} → {now}"]) for one in coded.dictionary.to_pylist()
    ]
    return one_array(pc.fill_null(pa.array(texts, pa.string()).take(coded.indices), RESULT_GONE))
