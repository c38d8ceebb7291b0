"""Content hashes of rows, schemas and row sets, vectorised over Arrow columns.

The encoding is specified in `docs/hashing.md`; its version is the method name. Every value becomes a pair of
64-bit lanes by arithmetic modulo 2**64; containers (list, map, struct, row) sum the mixed lanes of their parts.
All arithmetic runs in Arrow kernels over blocks of rows, never per row in Python (but for long strings, whose
bytes go through BLAKE2b one by one).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import pyarrow as pa

from orcapod_dagster.core.arrow import count_up, pc
from orcapod_dagster.core.blobs.layout import counted, is_blob
from orcapod_dagster.core.casting import (
    is_binary,
    is_list,
    is_string,
    item_rows,
    list_parts,
    map_parts,
    one_array,
    recast,
    repeated_name,
    unencoded,
)
from orcapod_dagster.core.errors import UnsupportedTypeError
from orcapod_dagster.core.types import ContentHash

PACKET_METHOD: Final = "orcapod.packet.v1"
SCHEMA_METHOD: Final = "orcapod.schema.v1"
ROWS_METHOD: Final = "orcapod.rows.v1"
HASH_TYPE: Final = pa.binary(16)

_BLOCK_ROWS: Final = 65_536
_INLINE_BYTES: Final = 128
_U64: Final = pa.uint64()
_MASK: Final = 2**64 - 1
_NAN_BITS: Final = 0x7FF8000000000000


class Lanes(NamedTuple):
    """The two 64-bit halves of hashes, one element per value; never null."""

    a: pa.Array
    b: pa.Array


def _u64(value: int) -> pa.Scalar:
    return pa.scalar(value & _MASK, _U64)


@lru_cache(maxsize=64)
def _const(label: str, index: int = 0) -> tuple[pa.Scalar, pa.Scalar]:
    """Return a pair of odd constants: the words of `"<label>/<index>"`, lowest bit set."""
    a, b = _words(f"{label}/{index}")
    return _u64(a | 1), _u64(b | 1)


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[int, int]:
    digest = hashlib.blake2b(text.encode(), digest_size=16, person=b"orcapod.packet.1").digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _mix(h: pa.Array) -> pa.Array:
    """Apply the 64-bit finaliser of MurmurHash3 (A. Appleby, public domain): a bijection with 0 → 0."""
    s33, m1, m2 = _mixers()
    h = pc.multiply(pc.bit_wise_xor(h, pc.shift_right(h, s33)), m1)
    h = pc.multiply(pc.bit_wise_xor(h, pc.shift_right(h, s33)), m2)
    return pc.bit_wise_xor(h, pc.shift_right(h, s33))


# Not at import: the first Arrow scalar imports pandas, where that is installed.
@lru_cache(maxsize=1)
def _mixers() -> tuple[pa.Scalar, pa.Scalar, pa.Scalar]:
    return _u64(33), _u64(0xFF51AFD7ED558CCD), _u64(0xC4CEB9FE1A85EC53)


# ---------------------------------------------------------------------------- rows


def hash_rows(columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Array:
    """Hash rows by the names, canonical types and values of their columns.

    Args:
        columns: name → column; all of one length. The order of columns does not matter, nor does nullability,
            chunking, slicing, dictionary encoding, or large/view variants.

    Returns:
        Array `fixed_size_binary[16] not null`, one hash per row (method `orcapod.packet.v1`).

    Raises:
        UnsupportedTypeError: a column's type has no canonical encoding; names the column.
    """
    return join_lanes(hash_lanes(columns))


def hash_lanes(columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> Lanes:
    """As `hash_rows`, but the two halves as `uint64` arrays; cheaper where rows are only compared or summed."""
    return _joined([_hash_block(block) for block in _blocks({n: _canonical(n, c) for n, c in columns.items()})])


def _joined(blocks: list[Lanes]) -> Lanes:
    """Put the lanes of consecutive blocks together."""
    if len(blocks) == 1:
        return blocks[0]
    empty = [pa.array([], _U64)]
    return Lanes(pa.concat_arrays([x.a for x in blocks] or empty), pa.concat_arrays([x.b for x in blocks] or empty))


def _blocks(columns: Mapping[str, pa.Array]) -> Iterator[dict[str, pa.Array]]:
    rows = len(next(iter(columns.values()))) if columns else 0
    for start in range(0, rows, _BLOCK_ROWS):
        yield {name: column.slice(start, _BLOCK_ROWS) for name, column in columns.items()}


def _hash_block(columns: Mapping[str, pa.Array]) -> Lanes:
    total = _sum_of_parts({f"{name}\0{type_tag(column.type)}": _lanes(column) for name, column in columns.items()})
    return Lanes(_mix(total.a), _mix(pc.bit_wise_xor(total.b, total.a)))


def _sum_of_parts(parts: Mapping[str, Lanes]) -> Lanes:
    """Sum named parts, each mixed with the key of its name; independent of their order."""
    a: Any = None
    b: Any = None
    for label, lanes in parts.items():
        key_a, key_b = _words(f"part/{label}")
        part_a, part_b = _mix(pc.add(lanes.a, _u64(key_a))), _mix(pc.add(lanes.b, _u64(key_b)))
        a, b = (part_a, part_b) if a is None else (pc.add(a, part_a), pc.add(b, part_b))
    return Lanes(a, b)


def join_lanes(lanes: Lanes) -> pa.Array:
    """Interleave two lanes (little-endian) into one `fixed_size_binary[16]` array."""
    rows = len(lanes.a)
    joined = bytearray(16 * rows)
    words = memoryview(joined).cast("Q")
    words[0::2] = _words_of(lanes.a)
    words[1::2] = _words_of(lanes.b)
    return pa.Array.from_buffers(HASH_TYPE, rows, [None, pa.py_buffer(joined)])


def split_lanes(hashes: pa.Array) -> Lanes:
    """Undo `join_lanes`."""
    rows = len(hashes)
    words = memoryview(hashes.buffers()[1])[16 * hashes.offset : 16 * (hashes.offset + rows)].cast("B").cast("Q")
    return Lanes(_from_words(words[0::2].tobytes(), rows), _from_words(words[1::2].tobytes(), rows))


def _words_of(array: pa.Array) -> memoryview:
    return memoryview(array.buffers()[1])[8 * array.offset : 8 * (array.offset + len(array))].cast("B").cast("Q")


def _from_words(data: Any, rows: int) -> pa.Array:
    return pa.Array.from_buffers(_U64, rows, [None, pa.py_buffer(data)])


# ---------------------------------------------------------------------------- canonical types


def _canonical(name: str, column: pa.Array | pa.ChunkedArray) -> pa.Array:
    array = counted(one_array(column)) if is_blob(column.type) else one_array(column)
    try:
        return recast(array, canonical_type(array.type))
    except UnsupportedTypeError as error:
        raise UnsupportedTypeError(f"column {name!r}: {error}") from None


def value_lanes(array: pa.Array) -> Lanes:
    """Return the lanes of every value of an array, canonical or not; equal values of one type have equal lanes."""
    return _lanes(recast(array, canonical_type(array.type)))


def canonical_type(t: pa.DataType) -> pa.DataType:
    """Return the type whose encoding stands for all types of the same meaning (int32 → int64, large string → string).

    Raises:
        UnsupportedTypeError: the type has no canonical encoding (unions, intervals, structs with a name twice).
    """
    is_ = pa.types
    if isinstance(t, pa.BaseExtensionType):
        return canonical_type(t.storage_type)
    if is_.is_dictionary(t) or is_.is_run_end_encoded(t):
        return canonical_type(t.value_type)
    for test, target in _CANONICAL:
        if test(t):
            return target
    if is_.is_timestamp(t):
        unit = "ns" if t.unit == "ns" else "us"
        return pa.timestamp(unit, "UTC" if t.tz else None)
    if is_.is_time(t) or is_.is_duration(t):
        unit = "ns" if t.unit == "ns" else "us"
        return pa.time64(unit) if is_.is_time(t) else pa.duration(unit)
    if is_.is_decimal(t):
        return pa.decimal256(76, t.scale) if t.bit_width == 256 else pa.decimal128(38, t.scale)
    if is_.is_map(t):
        return pa.map_(canonical_type(t.key_type), canonical_type(t.item_type))
    if is_.is_struct(t):
        name = repeated_name(t)
        if name is not None:
            raise UnsupportedTypeError(
                f"Arrow type {t} has two fields {name!r} and no content hash. Rename one upstream."
            )
        return pa.struct([pa.field(f.name, canonical_type(f.type)) for f in t.fields])
    if is_list(t):
        return pa.list_(pa.field("element", canonical_type(t.value_type)))
    raise UnsupportedTypeError(f"Arrow type {t} has no content hash. Convert the column to a supported type upstream.")


_CANONICAL: Final[tuple[tuple[Any, pa.DataType], ...]] = (
    (pa.types.is_null, pa.null()),
    (pa.types.is_boolean, pa.bool_()),
    (pa.types.is_uint64, pa.uint64()),
    (pa.types.is_integer, pa.int64()),
    (pa.types.is_floating, pa.float64()),
    (is_string, pa.string()),
    (is_binary, pa.binary()),
    (pa.types.is_date, pa.date32()),
)


@lru_cache(maxsize=1024)
def type_tag(t: pa.DataType) -> str:
    """Return the text that stands for a canonical type in hashes; independent of nullability and of the names of items."""
    if pa.types.is_map(t):
        return f"map<{type_tag(t.key_type)},{type_tag(t.item_type)}>"
    if pa.types.is_list(t):
        return f"list<{type_tag(t.value_type)}>"
    if pa.types.is_struct(t):
        # Names as JSON strings: no name can pass for another structure.
        inner = ",".join(sorted(f"{json.dumps(f.name)}:{type_tag(f.type)}" for f in t.fields))
        return f"struct<{inner}>"
    if pa.types.is_decimal(t):
        return f"decimal({t.scale})"
    return str(t)


# ---------------------------------------------------------------------------- values


def _lanes(array: pa.Array) -> Lanes:
    """Return the lanes of every value; nulls get the lanes of null."""
    t = array.type
    if pa.types.is_null(t):
        return Lanes(*(pa.repeat(null, len(array)) for null in _const("null")))
    if pa.types.is_string(t) or pa.types.is_binary(t):
        # In blocks: each value is padded to the longest, and a row may hold many.
        starts = range(0, len(array), _BLOCK_ROWS)
        lanes = _joined([_binary_lanes(array.slice(start, _BLOCK_ROWS)) for start in starts])
    elif pa.types.is_map(t):
        lanes = _map_lanes(array)
    elif pa.types.is_list(t):
        lanes = _list_lanes(array)
    elif pa.types.is_struct(t):
        lanes = _sum_of_parts({f.name: _lanes(c) for f, c in zip(t.fields, array.flatten(), strict=True)})
        lanes = lanes if t.num_fields else _word_lanes(pa.repeat(_u64(0), len(array)))
    elif pa.types.is_decimal(t):
        lanes = _decimal_lanes(array)
    else:
        lanes = _word_lanes(_to_words(array))
    if array.null_count:
        valid = array.is_valid()
        null_a, null_b = _const("null")
        lanes = Lanes(pc.if_else(valid, lanes.a, null_a), pc.if_else(valid, lanes.b, null_b))
    return lanes


def _word_lanes(words: pa.Array) -> Lanes:
    return Lanes(*(pc.multiply(words, key) for key in _const("word")))


def _to_words(array: pa.Array) -> pa.Array:
    """Return fixed-width values as 64-bit words: integers sign-extended, floats by their bits, all NaNs alike."""
    t = array.type
    if array.null_count:
        array = _fill(array)
    if pa.types.is_floating(t):
        words = array.view(_U64)
        nan = pc.is_nan(array)
        return pc.if_else(nan, _u64(_NAN_BITS), words) if pc.any(nan).as_py() else words
    if pa.types.is_boolean(t):
        return array.cast(_U64)
    if t.bit_width < 64:  # date32
        return array.view(pa.int32()).cast(pa.int64()).view(_U64)
    return array if t == _U64 else array.view(_U64)


def _fill(array: pa.Array) -> pa.Array:
    width = array.type.bit_width
    plain = array if width == 1 else array.view({32: pa.int32(), 64: pa.int64()}[width])
    return pc.fill_null(plain, False if width == 1 else 0).view(array.type)


def _decimal_lanes(array: pa.Array) -> Lanes:
    """Hash a decimal as the bytes of its unscaled two's-complement integer, little-endian."""
    width = array.type.bit_width // 8
    data = pa.Array.from_buffers(pa.binary(width), len(array), array.buffers(), array.null_count, array.offset)
    return _binary_lanes(data.cast(pa.binary()))


def _binary_lanes(array: pa.Array) -> Lanes:
    if array.null_count:
        array = pc.fill_null(array, "" if pa.types.is_string(array.type) else b"")
    lengths = pc.binary_length(array)
    longest = pc.max(lengths).as_py() or 0
    size = lengths.cast(_U64)
    extra = [pc.multiply(size, key) for key in _const("length")]
    if longest > _INLINE_BYTES:
        is_long = pc.greater(lengths, _INLINE_BYTES)
        array, longest = _digest_long(array, is_long), _INLINE_BYTES
        zero = _u64(0)
        extra = [pc.add(e, pc.if_else(is_long, key, zero)) for e, key in zip(extra, _const("long"), strict=True)]
    total_a, total_b = extra
    for position, word in enumerate(_padded_words(array, longest)):
        key_a, key_b = _const("word", position)
        total_a = pc.add(total_a, _mix(pc.multiply(word, key_a)))
        total_b = pc.add(total_b, _mix(pc.multiply(word, key_b)))
    return Lanes(total_a, total_b)


def _digest_long(array: pa.Array, is_long: pa.Array) -> pa.Array:
    """Replace values longer than the inline limit by their BLAKE2b-256 digest."""
    array = array.cast(pa.binary())
    digests = [hashlib.blake2b(v.as_buffer(), digest_size=32).digest() for v in array.filter(is_long)]
    return pc.replace_with_mask(array, is_long, pa.array(digests, pa.binary()))


def _padded_words(array: pa.Array, longest: int) -> Iterator[pa.Array]:
    """Yield the 1st, 2nd, … 8-byte little-endian word of every value, padded with zero bytes."""
    count = -(-longest // 8)
    if count == 0:
        return
    text = pa.Array.from_buffers(pa.string(), len(array), array.buffers(), array.null_count, array.offset)
    padded = pc.ascii_rpad(text, width=8 * count, padding="\0")
    words = memoryview(padded.buffers()[2])[: 8 * count * len(array)].cast("B").cast("Q")
    for position in range(count):
        yield _from_words(words[position::count].tobytes(), len(array))


def _list_lanes(array: pa.Array) -> Lanes:
    counts, items = list_parts(array)
    child = _lanes(items)
    lengths, starts, ends = _segments(counts)
    index = pc.subtract(count_up(len(child.a)).cast(_U64), pc.take(starts, item_rows(counts)))
    step = pc.add(index, _u64(1))
    keys = _const("index")
    parts = Lanes(*(_mix(pc.add(lane, pc.multiply(step, key))) for lane, key in zip(child, keys, strict=True)))
    return _segment_sums(parts, lengths, starts, ends)


def _map_lanes(array: pa.Array) -> Lanes:
    """Hash a map independent of the order of its entries."""
    counts, keys, items = map_parts(array)
    parts = Lanes(
        *(
            _mix(pc.add(_mix(key), pc.multiply(_mix(item), constant)))
            for key, item, constant in zip(_lanes(keys), _lanes(items), _const("item"), strict=True)
        )
    )
    return _segment_sums(parts, *_segments(counts))


def _segments(counts: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Return length, start and end of each row's items among all items."""
    lengths = pc.fill_null(counts, 0).cast(_U64)
    ends = pc.cumulative_sum(lengths)
    return lengths, pc.subtract(ends, lengths), ends


def _segment_sums(parts: Lanes, lengths: pa.Array, starts: pa.Array, ends: pa.Array) -> Lanes:
    sums: list[pa.Array] = []
    zero = pa.array([0], _U64)
    for lane, length_key in zip(parts, _const("length"), strict=True):
        running = pa.concat_arrays([zero, pc.cumulative_sum(lane)])
        total = pc.subtract(pc.take(running, ends), pc.take(running, starts))
        sums.append(pc.add(total, pc.multiply(pc.add(lengths, _u64(1)), length_key)))
    return Lanes(sums[0], sums[1])


def repeated_keys(lengths: pa.Array, keys: pa.Array) -> pa.Array | None:
    """Find maps that hold a key twice.

    Args:
        lengths: entries per map; null for a null map.
        keys: the keys of all maps, one after another.

    Returns:
        Boolean array, one per map, or `None` where no map does.
    """
    if not len(keys):
        return None
    rows = item_rows(lengths)
    lanes = value_lanes(keys)
    together = _mix(pc.add(lanes.a, _mix(pc.add(rows.cast(_U64), _u64(1)))))
    if pc.count_distinct(together).as_py() == len(keys):
        return None
    entries = pa.table({"row": rows, "a": lanes.a, "b": lanes.b})
    counted = entries.group_by(["row", "a", "b"]).aggregate([([], "count_all")])
    twice = one_array(counted.filter(pc.greater(counted["count_all"], 1))["row"])
    return pc.is_in(pa.array(range(len(lengths)), pa.int64()), value_set=twice) if len(twice) else None


# ---------------------------------------------------------------------------- schemas and row sets


def hash_schema(schema: pa.Schema) -> ContentHash:
    """Hash a schema by names, types and nullability at any depth; not by column order, nor by encodings (large, view, dictionary)."""
    fields = "\n".join(sorted(map(_field_text, schema)))
    return ContentHash(SCHEMA_METHOD, hashlib.blake2b(fields.encode(), digest_size=16).digest())


def _field_text(field: pa.Field) -> str:
    return f"{json.dumps(field.name)}:{_type_text(unencoded(field.type))}{'?' if field.nullable else ''}"


def _type_text(t: pa.DataType) -> str:
    """Return the text of a type without encodings: as Arrow names it, with the fields of nested ones spelled out."""
    if isinstance(t, pa.BaseExtensionType):
        return f"extension<{json.dumps(t.extension_name)},{_type_text(unencoded(t.storage_type))}>"
    if pa.types.is_map(t):
        return f"map<{_type_text(t.key_type)},{_field_text(t.item_field)}>"
    if pa.types.is_struct(t):
        return f"struct<{','.join(sorted(map(_field_text, t.fields)))}>"
    if is_list(t):
        size = f"[{t.list_size}]" if pa.types.is_fixed_size_list(t) else ""
        return f"list<{_field_text(t.value_field)}>{size}"
    return str(t)


class RowSetDigest:
    """A running digest of a multiset of rows: independent of their order, chunking and grouping."""

    __slots__ = ("_a", "_b", "rows")

    def __init__(self) -> None:
        self._a = 0
        self._b = 0
        self.rows = 0

    def update(self, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> None:
        """Add rows; all columns of one length."""
        lanes = hash_lanes(columns)
        self._a = (self._a + (pc.sum(lanes.a).as_py() or 0)) & _MASK
        self._b = (self._b + (pc.sum(lanes.b).as_py() or 0)) & _MASK
        self.rows += len(lanes.a)

    def content_hash(self) -> ContentHash:
        """Return the hash of all rows added so far."""
        text = f"{self.rows}:{self._a:016x}:{self._b:016x}"
        return ContentHash(ROWS_METHOD, hashlib.blake2b(text.encode(), digest_size=16).digest())
