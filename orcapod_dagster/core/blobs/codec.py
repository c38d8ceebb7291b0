"""The converter's codec of `Blob`, and which columns of a schema hold large values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import pyarrow as pa

from orcapod_dagster.core.arrow import pc, size_of
from orcapod_dagster.core.blobs.handle import Blob
from orcapod_dagster.core.blobs.layout import BLOB_TYPE
from orcapod_dagster.core.converter import Codec, Misfit, register_codec, split_optional
from orcapod_dagster.core.errors import ConversionError, DefinitionError

LONGEST_BYTES: Final = 16 * 1024 * 1024
"""A value of a column of plain bytes may have so many; rows lie in memory by the thousand, and their values with them."""


class BlobCodec(Codec):
    """Handles ↔ their struct. A handle that lies in no lake is encoded with its bytes."""

    arrow_type = BLOB_TYPE

    def encode(self, values: Sequence[Any]) -> pa.Array:
        """Convert handles, or what they are made of; one that lies in a lake by its path, any other by its bytes."""
        rows: list[dict[str, Any] | None] = []
        for row, value in enumerate(values):
            if value is not None and not Blob.takes(value):
                hint = "give the path of a file as a pathlib.Path" if isinstance(value, str) else ""
                raise Misfit(row, f"a {type(value).__qualname__}", reason=hint)
            try:
                rows.append(None if value is None else _struct(value if isinstance(value, Blob) else Blob(value)))
            except (OSError, ValueError) as error:
                raise Misfit(row, f"a {type(value).__qualname__}", reason=str(error)) from error
        return pa.array(rows, BLOB_TYPE)

    def decode(self, array: pa.Array) -> list[Any]:
        """Convert to handles; those of values that lie in a lake are to be bound to it."""
        return [None if row is None else Blob.of(row) for row in array.to_pylist()]


def _struct(blob: Blob) -> dict[str, Any]:
    data = None if blob.place is not None else blob.read()
    path = None if blob.place is None else blob.place[1]
    return {"hash": blob.digest, "size": blob.size, "media_type": blob.media_type, "path": path, "data": data}


register_codec(Blob, BlobCodec)


def blob_columns(schema: Mapping[str, Any], owner: str) -> tuple[str, ...]:
    """Return the columns declared `Blob` or `Blob | None`.

    Raises:
        DefinitionError: a column has them inside of another type.
    """
    names: list[str] = []
    for name, hint in schema.items():
        plain, _ = split_optional(hint)
        if plain is Blob:
            names.append(name)
        elif _mentions(plain):
            raise DefinitionError(
                f"{owner}, column {name!r}: {hint} has a Blob inside. A Blob is a column of its own: declare it 'Blob' or "
                "'Blob | None', one column for each value, or keep several files in one archive."
            )
    return tuple(names)


def _mentions(hint: Any) -> bool:
    return hint is Blob or any(map(_mentions, get_args(hint)))


def refuse_long_bytes(arrays: Sequence[pa.Array], schema: pa.Schema, owner: str) -> None:
    """Refuse columns of plain bytes with a value longer than `LONGEST_BYTES`.

    Raises:
        ConversionError: names the column and the size.
    """
    for array, field in zip(arrays, schema, strict=True):
        if not pa.types.is_binary(array.type) or size_of(array) <= LONGEST_BYTES:
            continue
        longest = pc.max(pc.binary_length(array)).as_py() or 0
        if longest > LONGEST_BYTES:
            raise ConversionError(
                f"{owner}: column {field.name!r}: got {longest:,} bytes, at most {LONGEST_BYTES:,} lie in a table. Declare the "
                "output 'Blob', which is stored beside the table."
            )
