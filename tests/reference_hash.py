"""docs/hashing.md once more, slowly: one value at a time, in plain Python, without Arrow.

A type is written as a name ("int64", "string", "timestamp[us]", …), or as `{"list": type}`, `{"map": [type, type]}`,
`{"struct": {name: type}}`, `{"decimal": scale}`. A value of it is an int for everything that counts (dates, times,
unscaled decimals), a float, str, bytes, list, list of pairs, or dict.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from decimal import Decimal, localcontext
from typing import Any

import pyarrow as pa

MASK = 2**64 - 1


def mix(h: int) -> int:
    h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCD & MASK
    h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53 & MASK
    return h ^ (h >> 33)


def words(text: str) -> tuple[int, int]:
    digest = hashlib.blake2b(text.encode(), digest_size=16, person=b"orcapod.packet.1").digest()
    return struct.unpack("<QQ", digest)


def const(label: str, index: int, lane: int) -> int:
    return words(f"{label}/{index}")[lane] | 1


def tag(kind: Any) -> str:
    if isinstance(kind, str):
        return kind
    ((name, inner),) = kind.items()
    if name == "list":
        return f"list<{tag(inner)}>"
    if name == "map":
        return f"map<{tag(inner[0])},{tag(inner[1])}>"
    if name == "decimal":
        return f"decimal({inner})"
    return f"struct<{','.join(sorted(json.dumps(n) + ':' + tag(t) for n, t in inner.items()))}>"


def bytes_lane(data: bytes, lane: int) -> int:
    total = len(data) * const("length", 0, lane)
    if len(data) > 128:
        total += const("long", 0, lane)
        data = hashlib.blake2b(data, digest_size=32).digest()
    data += b"\0" * (-len(data) % 8)
    for index in range(len(data) // 8):
        total += mix(struct.unpack_from("<Q", data, 8 * index)[0] * const("word", index, lane) & MASK)
    return total & MASK


def word(kind: str, value: Any) -> int:
    if kind != "double":
        return int(value) & MASK
    return 0x7FF8000000000000 if math.isnan(value) else struct.unpack("<Q", struct.pack("<d", value))[0]


def value_lane(value: Any, kind: Any, lane: int) -> int:
    if value is None:
        return const("null", 0, lane)
    if kind in ("string", "binary"):
        return bytes_lane(value.encode() if kind == "string" else value, lane)
    if isinstance(kind, str):
        return word(kind, value) * const("word", 0, lane) & MASK
    ((name, inner),) = kind.items()
    if name == "decimal":
        return bytes_lane(value.to_bytes(16, "little", signed=True), lane)
    if name == "struct":
        if not inner:
            return 0
        return (
            sum(mix((value_lane(value[n], t, lane) + words(f"part/{n}")[lane]) & MASK) for n, t in inner.items()) & MASK
        )
    parts: list[int] = []
    if name == "list":
        for index, item in enumerate(value):
            parts.append(mix((value_lane(item, inner, lane) + (index + 1) * const("index", 0, lane)) & MASK))
    else:
        for key, item in value:
            mixed = mix(value_lane(key, inner[0], lane))
            parts.append(mix((mixed + mix(value_lane(item, inner[1], lane)) * const("item", 0, lane)) & MASK))
    return (sum(parts) + (len(value) + 1) * const("length", 0, lane)) & MASK


def hash_row(row: dict[str, Any], kinds: dict[str, Any]) -> bytes:
    sums = [
        sum(mix((value_lane(row[n], t, lane) + words(f"part/{n}\0{tag(t)}")[lane]) & MASK) for n, t in kinds.items())
        & MASK
        for lane in (0, 1)
    ]
    return struct.pack("<QQ", mix(sums[0]), mix(sums[1] ^ sums[0]))


def hash_row_set(hashes: list[bytes]) -> bytes:
    a = sum(struct.unpack("<QQ", one)[0] for one in hashes) & MASK
    b = sum(struct.unpack("<QQ", one)[1] for one in hashes) & MASK
    return hashlib.blake2b(f"{len(hashes)}:{a:016x}:{b:016x}".encode(), digest_size=16).digest()


# ---------------------------------------------------------------------------- the same rows in Arrow

_NAMED = {
    "null": pa.null(), "bool": pa.bool_(), "int64": pa.int64(), "uint64": pa.uint64(), "double": pa.float64(),
    "string": pa.string(), "binary": pa.binary(), "date32[day]": pa.date32(), "timestamp[us]": pa.timestamp("us"),
    "timestamp[us, tz=UTC]": pa.timestamp("us", "UTC"), "timestamp[ns]": pa.timestamp("ns"),
    "timestamp[ns, tz=UTC]": pa.timestamp("ns", "UTC"), "time64[us]": pa.time64("us"), "time64[ns]": pa.time64("ns"),
    "duration[us]": pa.duration("us"), "duration[ns]": pa.duration("ns"),
}  # fmt: skip
NAMES = list(_NAMED)


def arrow_type(kind: Any) -> pa.DataType:
    if isinstance(kind, str):
        return _NAMED[kind]
    ((name, inner),) = kind.items()
    if name == "list":
        return pa.list_(arrow_type(inner))
    if name == "map":
        return pa.map_(arrow_type(inner[0]), arrow_type(inner[1]))
    if name == "decimal":
        return pa.decimal128(38, inner)
    return pa.struct([(n, arrow_type(t)) for n, t in inner.items()])


def arrow_value(value: Any, kind: Any) -> Any:
    if value is None or isinstance(kind, str):
        return value
    ((name, inner),) = kind.items()
    if name == "list":
        return [arrow_value(v, inner) for v in value]
    if name == "map":
        return [(arrow_value(k, inner[0]), arrow_value(v, inner[1])) for k, v in value]
    if name == "decimal":
        with localcontext() as context:
            context.prec = 50
            return Decimal(value).scaleb(-inner)
    return {n: arrow_value(value[n], t) for n, t in inner.items()}


def table_of(rows: list[dict[str, Any]], kinds: dict[str, Any]) -> dict[str, pa.Array]:
    return {n: pa.array([arrow_value(row[n], t) for row in rows], arrow_type(t)) for n, t in kinds.items()}
