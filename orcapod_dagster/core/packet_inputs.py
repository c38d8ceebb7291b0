"""What a packet function takes: columns brought to the types of its parameters, checked, and converted to Python values."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orcapod_dagster.core import converter
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.blobs.codec import blob_columns
from orcapod_dagster.core.datagrams import Packet
from orcapod_dagster.core.errors import InputError
from orcapod_dagster.core.files import file_columns
from orcapod_dagster.core.signature import checked_arrow_schema
from orcapod_dagster.core.types import Schema


@dataclass(frozen=True)
class PacketInputs:
    """The parameters of one function that are columns.

    What follows from their types is found when it is first asked for, and raises a DefinitionError where a type cannot be right.

    Attributes:
        schema: type of one packet's value by parameter, in the function's order; those with a default are optional.
        signature: of the function, with its other parameters too.
        arrow_parameters: those of a batch function that take Arrow arrays as they are.
        owner: the function, for messages.
    """

    schema: Schema
    signature: inspect.Signature
    arrow_parameters: frozenset[str]
    owner: str

    @functools.cached_property
    def arrow_schema(self) -> pa.Schema:
        """The parameters' Arrow types."""
        return checked_arrow_schema(self.schema, self.owner, "parameter")

    @functools.cached_property
    def file_columns(self) -> tuple[str, ...]:
        """The parameters that hold paths of files or directories."""
        return file_columns(self.schema, self.owner)

    @functools.cached_property
    def blob_columns(self) -> tuple[str, ...]:
        """The parameters that take large values."""
        return blob_columns(self.schema, self.owner)

    # ------------------------------------------------------------------ one packet

    def kwargs_of(self, packet: Packet) -> dict[str, Any]:
        """Return the function's keyword arguments for one packet, brought to the parameters' types.

        Raises:
            InputError: a column is missing, of another type, or holds a value that the parameter does not take.
        """
        columns = self.bind_packet(packet)
        return {name: converter.to_python(array, self.schema[name])[0] for name, array in columns.items()}

    def batch_of(self, packet: Packet) -> dict[str, Any]:
        """As `kwargs_of`, for a batch function: a batch of this packet alone."""
        positional, keyword = self.argument_columns(self.bind_packet(packet))
        return {**dict(zip([n for n in self.schema if n not in keyword], positional, strict=True)), **keyword}

    def bind_packet(self, packet: Packet) -> dict[str, pa.Array]:
        """Return the consumed columns of one packet as one-row arrays of the parameters' types.

        Raises:
            InputError: a column is missing, of another type, or holds a value that the parameter does not take.
        """
        table = packet.as_table()
        columns = self.bind_columns({name: table[name] for name in table.column_names}, 1)
        for reason in self.refused_rows(columns).values():
            raise InputError(reason)
        return columns

    # ------------------------------------------------------------------ many rows

    def bind_columns(self, columns: Mapping[str, pa.Array | pa.ChunkedArray], rows: int) -> dict[str, pa.Array]:
        """Pick the consumed columns and bring them to the parameters' types; a missing optional one gets its default.

        Args:
            columns: the input's columns by parameter name; further ones are not looked at.
            rows: their length.

        Returns:
            Parameter name → array of the parameter's Arrow type. Nulls are kept, also where they are not allowed.

        Raises:
            InputError: a column is missing, or of a type that does not fit.
        """
        bound: dict[str, pa.Array] = {}
        for name, hint in self.schema.items():
            if name in columns:
                bound[name] = converter.conform(columns[name], hint, name=name, owner=self.owner)
            elif name in self.schema.optional:
                default = self.signature.parameters[name].default
                one = converter.to_array([default], hint, column=name, owner=self.owner)
                bound[name] = pa.repeat(one[0], rows) if default is not None else pa.nulls(rows, one.type)
            else:
                raise InputError(
                    f"{self.owner}: parameter {name!r} has no column in the input, which has {sorted(columns)}. Rename an "
                    f"upstream column to it (rename={{'<column>': '{name}'}}), give it as params, or give it a default."
                )
        return bound

    def refused_rows(self, bound: Mapping[str, pa.Array]) -> dict[int, str]:
        """Find the rows that hold what a parameter does not take; see `converter.misfits`.

        Args:
            bound: what `bind_columns` gave.

        Returns:
            Row → why it is refused.
        """
        rows: dict[int, str] = {}
        for name, array in bound.items():
            hint = self.schema[name]
            refused = converter.misfits(array, hint)
            if refused is None:
                continue
            for row in pc.indices_nonzero(refused).to_pylist():
                what = (
                    f"holds what {converter.type_name(hint)} does not take: a null inside, an unknown name, a key twice, "
                    "or a time that Python cannot count"
                )
                if not array[row].is_valid:
                    what = "is null, but the parameter takes no null"
                rows[row] = (
                    f"{self.owner}: column {name!r} {what}. Declare it as '... | None' where a null is meant, or mend or "
                    "remove such rows upstream."
                )
        return rows

    def argument_columns(
        self, bound: Mapping[str, pa.Array], bind_blobs: Callable[[list[Any]], None] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Convert bound columns to Python values: those of positional parameters in order, and the keyword-only ones.

        Parameters of batch functions that take Arrow keep their arrays.

        Args:
            bound: what `bind_columns` gave.
            bind_blobs: tells handles of large values in which lake they lie.
        """
        positional: list[Any] = []
        keyword: dict[str, Any] = {}
        by_name = False
        for name, parameter in self.signature.parameters.items():
            if name not in self.schema:
                by_name = True  # worker state is given by its name, and so is what stands behind it
                continue
            values: Any = (
                bound[name] if name in self.arrow_parameters else converter.to_python(bound[name], self.schema[name])
            )
            if bind_blobs is not None and name in self.blob_columns:
                bind_blobs(values)
            if by_name or parameter.kind is parameter.KEYWORD_ONLY:
                keyword[name] = values
            else:
                positional.append(values)
        return tuple(positional), keyword
