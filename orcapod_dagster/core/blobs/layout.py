"""How a table holds a large value: its digest, size and media type, and where its bytes are."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from orcapod_dagster.core.casting import is_binary

BLOB_TYPE: Final = pa.struct(
    [
        pa.field("hash", pa.binary(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("media_type", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("data", pa.binary()),
    ]
)
"""`hash` is BLAKE2b-256 of the bytes, `size` their number. A small value lies in `data`; of a large one, `path` is where it
lies, relative to the lake's root. One of the two is null."""

_NAMES: Final = frozenset(field.name for field in BLOB_TYPE.fields)


def is_blob(t: pa.DataType) -> bool:
    """Tell whether a column of this type holds large values: a struct of just these five fields."""
    if not pa.types.is_struct(t) or t.num_fields != len(_NAMES):
        return False
    return all(t.get_field_index(name) >= 0 for name in _NAMES) and is_binary(t.field("hash").type)


def counted(array: pa.Array) -> pa.Array:
    """Return what counts of large values, `struct<file: binary>` of their digests; nulls stay."""
    digests = array.flatten()[array.type.get_field_index("hash")].cast(pa.binary())
    return pa.StructArray.from_arrays([digests], fields=[pa.field("file", pa.binary())], mask=array.is_null())
