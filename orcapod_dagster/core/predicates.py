"""Predicates: which rows of a table a write replaces or a read returns.

They are evaluated on Arrow columns, never as SQL text, so no key of a partition can be anything but a value.
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.errors import PartitionError
from orcapod_dagster.core.regions import Region, Values, any_of, span_of, values_of


class Predicate(ABC):
    """A condition on columns of a table."""

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Return the columns it reads."""

    @abstractmethod
    def mask(self, rows: pa.Table | pa.RecordBatch) -> Any:
        """Return per row whether it is fulfilled; null counts as not.

        Raises:
            PartitionError: a value has no counterpart in the column's type.
        """

    @abstractmethod
    def expression(self, schema: pa.Schema) -> Any:
        """Return it as an expression of Arrow's datasets, over a table's stored columns; as `mask`, null counts as not."""

    @abstractmethod
    def regions(self, schema: pa.Schema) -> tuple[Region, ...]:
        """Return regions that hold every row which fulfils it, by a table's stored columns.

        Raises:
            PartitionError: as `mask`.
        """


@dataclass(frozen=True, slots=True)
class Equals(Predicate):
    """The column has one of these values."""

    column: str
    values: tuple[Any, ...]

    def columns(self) -> tuple[str, ...]:
        """Return the one column."""
        return (self.column,)

    def mask(self, rows: pa.Table | pa.RecordBatch) -> Any:
        """Return whether the value is one of them."""
        column = _plain(rows.column(self.column))
        return pc.is_in(column, value_set=_typed(self.values, column.type, self.column))

    def expression(self, schema: pa.Schema) -> Any:
        """Return whether the value is one of them."""
        return pc.field(self.column).isin(_typed(self.values, schema.field(self.column).type, self.column))

    def regions(self, schema: pa.Schema) -> tuple[Region, ...]:
        """Return one region: the values."""
        return _region(self.column, values_of(_typed(self.values, schema.field(self.column).type, self.column)))


@dataclass(frozen=True, slots=True)
class Window(Predicate):
    """The column lies in `start` (inclusive) … `end` (exclusive); aware datetimes."""

    column: str
    start: dt.datetime
    end: dt.datetime

    def columns(self) -> tuple[str, ...]:
        """Return the one column."""
        return (self.column,)

    def mask(self, rows: pa.Table | pa.RecordBatch) -> Any:
        """Return whether the value lies in the window."""
        column = rows.column(self.column)
        start, end = _typed((self.start, self.end), column.type, self.column)
        inside = pc.and_(pc.greater_equal(column, start), pc.less(column, end))
        return pc.fill_null(inside, False)

    def expression(self, schema: pa.Schema) -> Any:
        """Return whether the value lies in the window."""
        start, end = _typed((self.start, self.end), schema.field(self.column).type, self.column)
        return (pc.field(self.column) >= start) & (pc.field(self.column) < end)

    def regions(self, schema: pa.Schema) -> tuple[Region, ...]:
        """Return one region: the window."""
        t = schema.field(self.column).type
        return _region(self.column, span_of(_typed((self.start, self.end), t, self.column)))


@dataclass(frozen=True, slots=True)
class AnyOf(Predicate):
    """At least one of the parts is fulfilled; without parts, no row is."""

    parts: tuple[Predicate, ...]

    def columns(self) -> tuple[str, ...]:
        """Return the columns of all parts."""
        return tuple(dict.fromkeys(column for part in self.parts for column in part.columns()))

    def mask(self, rows: pa.Table | pa.RecordBatch) -> Any:
        """Return whether any part is fulfilled."""
        if not self.parts:
            return pa.repeat(False, rows.num_rows)
        return reduce(pc.or_, [part.mask(rows) for part in self.parts])

    def expression(self, schema: pa.Schema) -> Any:
        """Return whether any part is fulfilled."""
        return reduce(or_, [part.expression(schema) for part in self.parts], pc.scalar(False))

    def regions(self, schema: pa.Schema) -> tuple[Region, ...]:
        """Return the regions of all parts."""
        return any_of(region for part in self.parts for region in part.regions(schema))


@dataclass(frozen=True, slots=True)
class AllOf(Predicate):
    """All parts are fulfilled."""

    parts: tuple[Predicate, ...]

    def columns(self) -> tuple[str, ...]:
        """Return the columns of all parts."""
        return tuple(dict.fromkeys(column for part in self.parts for column in part.columns()))

    def mask(self, rows: pa.Table | pa.RecordBatch) -> Any:
        """Return whether all parts are fulfilled."""
        return reduce(pc.and_, [part.mask(rows) for part in self.parts])

    def expression(self, schema: pa.Schema) -> Any:
        """Return whether all parts are fulfilled."""
        return reduce(and_, [part.expression(schema) for part in self.parts])

    def regions(self, schema: pa.Schema) -> tuple[Region, ...]:
        """Return what lies in regions of every part; of a column that several parts name, the last counts."""
        found: tuple[Region, ...] = ({},)
        for part in self.parts:
            found = tuple({**one, **other} for one in found for other in part.regions(schema))
        return found


def _region(column: str, values: Values | None) -> tuple[Region, ...]:
    return ({} if values is None else {column: values},)


NOTHING: Final = AnyOf(())
"""No row at all."""


def _plain(column: Any) -> Any:
    """Bring a text column of any encoding to plain strings, for which Arrow has all kernels."""
    return column.cast(pa.string()) if _is_text(column.type) and column.type != pa.string() else column


def _is_text(t: pa.DataType) -> bool:
    if pa.types.is_dictionary(t):
        return _is_text(t.value_type)
    return pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t)


def _typed(values: Sequence[Any], t: pa.DataType, column: str) -> pa.Array:
    try:
        return pa.array([_value(value, t, column) for value in values], t)
    except (pa.ArrowInvalid, OverflowError) as error:
        raise PartitionError(f"A partition value does not fit {t}, the type of column {column!r}: {error}.") from error


def _value(value: Any, t: pa.DataType, column: str) -> Any:
    """Return a partition's value as the Python value of the column's type."""
    try:
        return _conversion(t)(value)
    except (ValueError, TypeError) as error:
        raise PartitionError(
            f"Partition value {value!r} is no {t}, the type of column {column!r}: {error}. Mend the key or partition_expr."
        ) from error


def _conversion(t: pa.DataType) -> Callable[[Any], Any]:
    if pa.types.is_integer(t):
        return _to_int
    if pa.types.is_date(t):
        return _to_date
    if pa.types.is_timestamp(t):
        return _to_aware if t.tz else _to_naive
    if _is_text(t):
        return _to_text
    raise TypeError(f"columns of type {t} are not supported for partitions; use a string, int, date or timestamp")


def _to_int(value: Any) -> int:
    found = int(value)
    if str(found) != str(value):
        raise ValueError(f"as a number it is {found}, which is another key")
    return found


def _to_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a time window needs a date or timestamp column")
    return value


def _to_date(value: Any) -> dt.date:
    if isinstance(value, dt.datetime):
        if value.time() != dt.time():
            raise ValueError("the window does not begin at midnight, so a date column cannot tell its rows apart")
        return value.date()
    return value if isinstance(value, dt.date) else dt.date.fromisoformat(value)


def _to_aware(value: Any) -> dt.datetime:
    found = value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(value)
    return found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found.astimezone(dt.UTC)


def _to_naive(value: Any) -> dt.datetime:
    found = value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(value)
    if found.tzinfo is not None and found.utcoffset() != found.replace(fold=1 - found.fold).utcoffset():
        raise ValueError(
            "clocks change then, so a column without a zone cannot tell which of two hours is meant; use an aware timestamp"
        )
    return found.replace(tzinfo=None)


def refuse_outside(rows: pa.Table | pa.RecordBatch, where: Predicate, owner: str, part: str) -> None:
    """Refuse rows that do not fulfil a predicate, before they are written as ones that do.

    Args:
        rows: of whatever else. where: the predicate.
        owner, part: whose rows these are, and what the predicate means, for the message.

    Raises:
        PartitionError: says how many there are, never which.
    """
    inside = where.mask(rows)
    if pc.all(inside, min_count=0).as_py():
        return
    outside = rows.num_rows - (pc.sum(inside).as_py() or 0)
    raise PartitionError(
        f"{owner}: {outside} rows lie outside of {part} by column {', '.join(where.columns())}. Nothing was written. Give only "
        "rows of the partition."
    )
