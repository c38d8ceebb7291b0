"""What a packet function gives: return values split into output columns, and converted to Arrow."""

from __future__ import annotations

import functools
import itertools
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core import converter
from orcapod_dagster.core.arrow import size_of
from orcapod_dagster.core.blobs.codec import blob_columns, refuse_long_bytes
from orcapod_dagster.core.blobs.keeper import Keeper
from orcapod_dagster.core.errors import ConversionError, DefinitionError, OutputCountError, OutputSizeError
from orcapod_dagster.core.forms import generated, lists_of
from orcapod_dagster.core.signature import checked_arrow_schema, output_keys, output_schema
from orcapod_dagster.core.types import Schema

LARGEST_BATCH: Final = 1024 * 1024 * 1024
"""Bytes of the outputs of several rows that are converted at once; Arrow counts the bytes of one array with 31 bits."""


@dataclass(frozen=True)
class PacketOutputs:
    """The output columns of one function.

    What follows from their types is found when it is first asked for, and raises a DefinitionError where a type cannot be right.

    Attributes:
        keys: names of the columns, in order.
        record_type: the TypedDict, dataclass or NamedTuple whose fields they are; None where the function returns bare values.
        row_schema: type of one row's value by column.
        is_generator: whether a return value is any number of rows, of which a record holds lists.
        owner: the function, for messages.
    """

    keys: tuple[str, ...]
    record_type: Any
    row_schema: Schema
    is_generator: bool
    owner: str

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        hints: Mapping[str, Any],
        keys: str | Sequence[str] | None,
        given: Mapping[str, Any] | None,
        owner: str,
        *,
        batch: bool,
    ) -> PacketOutputs:
        """Return the output columns of a function.

        Args:
            function: the plain one. hints: its type hints, as of one packet.
            keys: names of the columns, given: their types, where users give them.
            owner: the function, for messages. batch: whether it takes many packets in one call.

        Raises:
            DefinitionError: they do not fit the return type, repeat, or are reserved; a generator does not say what it yields, takes
                many packets in one call, or has no columns.
        """
        row_hint = generated(function, hints.get("return"), owner)
        is_generator = row_hint is not None
        if is_generator:
            hints = {**hints, "return": row_hint}
        record_type, found = output_keys(keys, hints.get("return"), given)
        row_schema = output_schema(found, record_type, hints, given, owner)
        if is_generator and (batch or not found):
            raise DefinitionError(
                f"{owner} is a generator. It takes one packet, so leave batch=True out, and its rows need columns: give output_keys, or "
                "yield TypedDicts, dataclasses or NamedTuples."
            )
        return cls(found, record_type, row_schema, is_generator, owner)

    @functools.cached_property
    def schema(self) -> Schema:
        """Type of a record's value by column."""
        return Schema(lists_of(self.row_schema)) if self.is_generator else self.row_schema

    @functools.cached_property
    def row_arrow_schema(self) -> pa.Schema:
        """Arrow types of the columns of one row."""
        return checked_arrow_schema(self.row_schema, self.owner, "output")

    @functools.cached_property
    def arrow_schema(self) -> pa.Schema:
        """Arrow types of the columns of a record."""
        return checked_arrow_schema(self.schema, self.owner, "output")

    @functools.cached_property
    def blob_columns(self) -> tuple[str, ...]:
        """The columns of large values."""
        return blob_columns(self.schema, self.owner)

    def blob_parts(self) -> dict[Any, str]:
        """Return where large values stand in a return value, and their columns: by field, by position, or None for the value itself."""
        if self.record_type is not None:
            return {name: name for name in self.blob_columns}
        if len(self.keys) == 1:
            return {None: self.keys[0]}
        return {self.keys.index(name): name for name in self.blob_columns}

    # ------------------------------------------------------------------ return values

    def split(self, outputs: Sequence[Any]) -> dict[str, list[Any]]:
        """Split return values into one list per output column.

        Raises:
            OutputCountError: a value has another count than `keys`, or is not iterable.
        """
        if self.is_generator:
            ends = [*itertools.accumulate(map(len, outputs), initial=0)]
            columns = self._split_rows([row for rows in outputs for row in rows])
            spans = [slice(first, end) for first, end in itertools.pairwise(ends)]
            return {key: [values[span] for span in spans] for key, values in columns.items()}
        return self._split_rows(outputs)

    def _split_rows(self, outputs: Sequence[Any]) -> dict[str, list[Any]]:
        if not self.keys:
            return {}
        if self.record_type is not None:
            read = dict.__getitem__ if typing.is_typeddict(self.record_type) else getattr
            return {key: [read(value, key) for value in outputs] for key in self.keys}
        if len(self.keys) == 1:
            return {self.keys[0]: list(outputs)}
        count = len(self.keys)
        if not set(map(type, outputs)) <= {tuple, list} or set(map(len, outputs)) - {count}:
            outputs = [_checked_values(value, self.keys, self.owner) for value in outputs]
        return {key: list(map(itemgetter(i), outputs)) for i, key in enumerate(self.keys)}

    def to_batch(self, outputs: Sequence[Any], keeper: Keeper | None = None) -> pa.RecordBatch:
        """Convert return values to a record batch of `arrow_schema`.

        Args:
            outputs: one return value per row.
            keeper: where large values go that are not stored yet; without one they lie in the batch.

        Raises:
            OutputCountError, ConversionError: name the column and the class of the first value that does not fit.
            OutputSizeError: they are more than `LARGEST_BATCH`, or one is more than Arrow holds; fewer rows may fit.
        """
        columns = self.split(outputs)
        if keeper is not None:
            for name in self.blob_columns:
                columns[name] = self._kept(columns[name], name, keeper)
        arrays = [
            converter.to_array(values, self.schema[name], column=name, owner=self.owner)
            for name, values in columns.items()
        ]
        if not arrays:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * len(outputs), pa.struct([])))
        refuse_long_bytes(arrays, self.arrow_schema, self.owner)
        # Arrow gives several arrays for more than 2 GiB, and a batch takes one.
        whole = all(isinstance(array, pa.Array) for array in arrays)
        size = sum(size_of(array) for array in arrays)
        if not whole or (len(outputs) > 1 and size > LARGEST_BATCH):
            raise OutputSizeError(
                f"{self.owner}: the values of {len(outputs):,} rows have {size:,} bytes, more than go into one batch. Declare large "
                "outputs 'Blob', which are stored beside the table."
            )
        return pa.RecordBatch.from_arrays(arrays, schema=self.arrow_schema)

    def _kept(self, values: Sequence[Any], column: str, keeper: Keeper) -> list[Any]:
        try:
            return [keeper.keep(value, column) for value in values]
        except ValueError as error:
            raise ConversionError(f"{self.owner}: {error}") from error


def _checked_values(value: Any, keys: tuple[str, ...], owner: str) -> tuple[Any, ...]:
    try:
        values = tuple(value)
    except TypeError:
        raise OutputCountError(
            f"{owner} returned a {type(value).__qualname__}, which is not iterable, but declares {len(keys)} output keys "
            f"{list(keys)}. Return {len(keys)} values."
        ) from None
    if len(values) != len(keys):
        raise OutputCountError(
            f"{owner} returned {len(values)} values, but declares {len(keys)} output keys {list(keys)}. Return one value per key."
        )
    return values
