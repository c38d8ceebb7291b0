"""Codecs of single values: those that Arrow takes as they are, and those that another type stands for."""

from __future__ import annotations

import datetime as dt
import enum
import typing
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import recast
from orcapod_dagster.core.converter.codec import (
    NONE,
    Codec,
    Misfit,
    a,
    codec_of,
    register_codec,
    register_type_family,
    type_name,
    unaliased,
)
from orcapod_dagster.core.errors import UnsupportedTypeError

UTC_TIMESTAMP: Final = pa.timestamp("us", "UTC")
DECIMAL: Final = pa.decimal128(38, 18)


class _Naive:
    """Marks a naive `datetime` in `NaiveDatetime`."""


NaiveDatetime = typing.Annotated[dt.datetime, _Naive]
"""A `datetime` without a time zone; Arrow `timestamp[us]`. Plain `datetime` means aware, `timestamp[us, UTC]`."""

_EPOCH: Final = dt.date(1970, 1, 1)
_DAYS: Final = ((dt.date.min - _EPOCH).days, (dt.date.max - _EPOCH).days)

_CONVERSION_ERRORS: Final = (pa.ArrowException, UnicodeError, ValueError, TypeError, OverflowError, ArithmeticError)


class PlainCodec(Codec):
    """Values that `pa.array` takes as they are.

    Args:
        arrow_type: the type of the column.
        python_class: values of exactly this class need no check one by one.
        good: tells of a value of another class whether it is good as well; default none is.
        decode: what `to_pylist` gives → Python value; default the same.
    """

    def __init__(
        self,
        arrow_type: pa.DataType,
        python_class: type,
        good: Callable[[Any], bool] | None = None,
        decode: Callable[[Any], Any] | None = None,
    ) -> None:
        self.arrow_type = arrow_type
        self._class = python_class
        self._good = good
        self._decode = decode

    def retyped(self, arrow_type: pa.DataType) -> PlainCodec:
        """Return the same in another Arrow type, one that refuses what it does not hold."""
        return PlainCodec(arrow_type, self._class, self._good, self._decode)

    def encode(self, values: Sequence[Any]) -> pa.Array:
        strange = set(map(type, values)) - {self._class, NONE}
        if strange:
            self._check(values, strange)
        try:
            return pa.array(values, self.arrow_type)
        except _CONVERSION_ERRORS as error:
            row = next((r for r, value in enumerate(values) if not self._fits(value)), 0)
            raise Misfit(row, a(values[row]), reason=str(error)) from error

    def _check(self, values: Sequence[Any], strange: set[type]) -> None:
        for row, value in enumerate(values):
            if type(value) not in strange:
                continue
            try:
                good = self._good is not None and self._good(value)
            except _CONVERSION_ERRORS as error:
                raise Misfit(row, a(value), reason=str(error)) from error
            if not good:
                raise Misfit(row, a(value))

    def _fits(self, value: Any) -> bool:
        try:
            pa.array([value], self.arrow_type)
        except _CONVERSION_ERRORS:
            return False
        return True

    def decode(self, array: pa.Array) -> list[Any]:
        decode = self._decode
        if decode is None:
            return _values(array)
        return [None if value is None else decode(value) for value in array.to_pylist()]

    def refused(self, array: pa.Array) -> pa.Array | None:
        """Rows with a date or time that Python cannot count: before the year 1, after 9999, or no time of a day."""
        limits = _python_limits(array.type)
        if limits is None:
            return None
        counts = array.view(pa.int32() if array.type.bit_width == 32 else pa.int64())
        found = pc.fill_null(pc.or_(pc.less(counts, limits[0]), pc.greater(counts, limits[1])), False)
        return found if pc.any(found, min_count=0).as_py() else None


def _python_limits(t: pa.DataType) -> tuple[int, int] | None:
    """Return the first and the last value of a type that Python's own class of it holds, where these are not all."""
    if pa.types.is_date32(t):
        return _DAYS
    if not (pa.types.is_timestamp(t) or pa.types.is_time(t)):
        return None
    second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[t.unit]
    days = _DAYS if pa.types.is_timestamp(t) else (0, 0)
    return max(days[0] * 86_400 * second, -(2**63)), min((days[1] + 1) * 86_400 * second - 1, 2**63 - 1)


class FloatCodec(PlainCodec):
    """`float`; other numbers are taken where a float holds them exactly, also above 2**53, where Arrow takes no int."""

    def encode(self, values: Sequence[Any]) -> pa.Array:
        strange = set(map(type, values)) - {float, NONE}
        if strange:
            self._check(values, strange)
            values = [None if value is None else float(value) for value in values]
        return pa.array(values, self.arrow_type)


def _values(array: pa.Array) -> list[Any]:
    """Return `to_pylist()`, for plain numbers without its scalar objects."""
    code = {pa.int64(): "q", pa.float64(): "d"}.get(array.type)
    if code is None or array.null_count or not len(array):
        return array.to_pylist()
    start = 8 * array.offset
    data: Any = memoryview(array.buffers()[1])
    return data[start : start + 8 * len(array)].cast("B").cast(code).tolist()


class MappedCodec(Codec):
    """Values that values of another type stand for.

    Args:
        inner: the codec of the values that are stored.
        python_class: values of exactly this class are taken.
        encode, decode: value → stored value, and back. Every `ValueError` or `TypeError` names its row.
        subclasses: take values of subclasses as well.
    """

    def __init__(
        self,
        inner: Codec,
        python_class: type,
        encode: Callable[[Any], Any],
        decode: Callable[[Any], Any],
        *,
        subclasses: bool = False,
    ) -> None:
        self._inner = inner
        self.arrow_type = self._inner.arrow_type
        self._class = python_class
        self._encode = encode
        self._decode = decode
        self._subclasses = subclasses

    def encode(self, values: Sequence[Any]) -> pa.Array:
        strange = set(map(type, values)) - {self._class, NONE}
        if any(not (self._subclasses and issubclass(one, self._class)) for one in strange):
            row = next(r for r, v in enumerate(values) if type(v) in strange and not self._takes(v))
            raise Misfit(row, a(values[row]))
        encode = self._encode
        try:
            stored = [None if value is None else encode(value) for value in values]
        except _CONVERSION_ERRORS as error:
            raise self._first_misfit(values) from error
        return self._inner.encode(stored)

    def _takes(self, value: Any) -> bool:
        return self._subclasses and isinstance(value, self._class)

    def _first_misfit(self, values: Sequence[Any]) -> Misfit:
        for row, value in enumerate(values):
            try:
                None if value is None else self._encode(value)
            except _CONVERSION_ERRORS as error:
                return Misfit(row, a(value), reason=str(error))
        raise AssertionError("one value could not be encoded, and then all could")

    def decode(self, array: pa.Array) -> list[Any]:
        decode = self._decode
        return [None if value is None else decode(value) for value in self._inner.decode(array)]

    def arrange(self, array: pa.Array) -> pa.Array:
        return self._inner.arrange(array)

    def refused(self, array: pa.Array) -> pa.Array | None:
        return self._inner.refused(array)


class FlagCodec(MappedCodec):
    """A `Flag`, stored as its value."""

    def __init__(self, flag: type[enum.Flag]) -> None:
        super().__init__(codec_of(int), flag, lambda v: v.value, flag, subclasses=True)

    def refused(self, array: pa.Array) -> pa.Array | None:
        strange = [value for value in array.unique().to_pylist() if value is not None and not self._is_member(value)]
        return pc.is_in(array, value_set=pa.array(strange, array.type)) if strange else None

    def _is_member(self, value: int) -> bool:
        try:
            self._decode(value)
        except ValueError:
            return False
        return True


class ChoiceCodec(MappedCodec):
    """Values out of a fixed choice (an enum, a `Literal`), each stored as a value of a plain type."""

    def __init__(self, inner: Codec, python_class: type, stored: dict[Any, Any]) -> None:
        """Take `stored`: choice → what is stored for it."""
        self._stored = stored
        back = {value: choice for choice, value in stored.items()}
        super().__init__(inner, python_class, self._to_stored, back.__getitem__)

    def _to_stored(self, value: Any) -> Any:
        if value not in self._stored:
            raise ValueError(f"not one of {list(self._stored)}")
        return self._stored[value]

    def refused(self, array: pa.Array) -> pa.Array | None:
        known = pc.is_in(array, value_set=self._inner.encode(list(self._stored.values())))
        found = pc.and_not(array.is_valid(), known)
        return found if pc.any(found, min_count=0).as_py() else None


class UuidCodec(Codec):
    """`uuid.UUID` in Arrow's own extension type."""

    def __init__(self) -> None:
        self.arrow_type = pa.uuid()

    def encode(self, values: Sequence[Any]) -> pa.Array:
        if set(map(type, values)) - {uuid.UUID, NONE}:
            row = next(r for r, v in enumerate(values) if type(v) not in (uuid.UUID, NONE))
            raise Misfit(row, a(values[row]))
        stored = pa.array([None if v is None else v.bytes for v in values], pa.binary(16))
        return pa.ExtensionArray.from_storage(self.arrow_type, stored)

    def decode(self, array: pa.Array) -> list[Any]:
        return [None if v is None else uuid.UUID(bytes=v) for v in array.storage.to_pylist()]


# ---------------------------------------------------------------------------- which value is good


def _is_int(value: Any) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__index__")


def _is_float(value: Any) -> bool:
    if isinstance(value, float):
        return True
    return int(float(value)) == int(value) if _is_int(value) else type(value).__name__ in {"float32", "float16"}


def _is_bool(value: Any) -> bool:
    return type(value).__name__ in {"bool", "bool_"}


def _utc(value: dt.datetime) -> dt.datetime:
    if value.tzinfo is dt.UTC and type(value) is dt.datetime:
        return value
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(
            "a naive datetime; give it a time zone (datetime.now(timezone.utc)), or declare the column as NaiveDatetime"
        )
    return _whole_microseconds(value).astimezone(dt.UTC)


def _naive(value: dt.datetime) -> dt.datetime:
    if value.tzinfo is not None:
        raise ValueError("an aware datetime in a NaiveDatetime column; declare it as datetime")
    return _whole_microseconds(value)


def _whole_microseconds(value: dt.datetime) -> dt.datetime:
    """Return a datetime; a subclass that counts nanoseconds (pandas.Timestamp) must have none to lose."""
    if getattr(value, "nanosecond", 0):
        raise ValueError("it counts nanoseconds, and timestamp[us] would lose them; round it to microseconds")
    return value


def _naive_time(value: dt.time) -> dt.time:
    if value.tzinfo is not None:
        raise ValueError("a time with a time zone, which Arrow's time64[us] would lose; use a datetime")
    return value


def _same(value: Any) -> Any:
    return value


def _checked(
    arrow_type: pa.DataType, python_class: type, encode: Callable[[Any], Any], decode: Callable[[Any], Any]
) -> Codec:
    """Return a codec for values that Arrow would take in silence though they lose something: `encode` looks at each."""
    inner = PlainCodec(arrow_type, python_class, lambda value: isinstance(value, python_class))
    return MappedCodec(inner, python_class, encode, decode, subclasses=True)


def _register_scalars() -> None:
    plain: list[tuple[type, pa.DataType, Callable[[Any], bool] | None]] = [
        (bool, pa.bool_(), _is_bool),
        (int, pa.int64(), _is_int),
        (str, pa.string(), lambda v: isinstance(v, str)),
        (bytes, pa.binary(), lambda v: isinstance(v, bytes)),
        # A datetime is a date as well, but would lose its time.
        (dt.date, pa.date32(), None),
        (dt.timedelta, pa.duration("us"), lambda v: isinstance(v, dt.timedelta) and not getattr(v, "nanoseconds", 0)),
        (Decimal, DECIMAL, lambda v: isinstance(v, Decimal)),
        (NONE, pa.null(), None),
    ]
    for python_class, arrow_type, good in plain:
        register_codec(python_class, partial(PlainCodec, arrow_type, python_class, good))
    register_codec(float, lambda: FloatCodec(pa.float64(), float, _is_float))
    register_codec(uuid.UUID, UuidCodec)
    # Arrow takes a naive datetime for UTC, and drops the zone of an aware one in a naive column, and of a time.
    utc = partial(_checked, UTC_TIMESTAMP, dt.datetime, _utc, lambda v: v.replace(tzinfo=dt.UTC))
    register_codec(dt.datetime, utc)
    register_codec(NaiveDatetime, partial(_checked, pa.timestamp("us"), dt.datetime, _naive, _same))
    register_codec(dt.time, partial(_checked, pa.time64("us"), dt.time, _naive_time, _same))
    register_codec(Path, lambda: MappedCodec(codec_of(str), Path, str, Path, subclasses=True))


def register_type(
    python_class: type, stored_as: Any, encode: Callable[[Any], Any], decode: Callable[[Any], Any]
) -> None:
    """Make a class of yours known to the converter, for every schema from now on.

    Args:
        python_class: the class; values of exactly this class are taken.
        stored_as: a supported Python type, nested ones included, whose values stand for yours.
        encode, decode: value → stored value, and back.

    Example:
        >>> register_type(Angle, float, encode=lambda angle: angle.degrees, decode=Angle)
    """
    register_codec(python_class, lambda: MappedCodec(codec_of(stored_as), python_class, encode, decode))


# ---------------------------------------------------------------------------- families


def _literal_codec(hint: Any) -> Codec:
    values = get_args(hint)
    classes = {type(value) for value in values}
    if len(classes) != 1:
        raise UnsupportedTypeError(
            f"{type_name(hint)}: the values of a Literal must be of one type to have an Arrow type. Write None as '| None'."
        )
    python_class = classes.pop()
    return ChoiceCodec(codec_of(python_class), python_class, {value: value for value in values})


def _enum_codec(hint: Any) -> Codec:
    if issubclass(hint, enum.Flag):
        return FlagCodec(hint)
    return ChoiceCodec(codec_of(str), hint, {member: member.name for member in hint})


def _annotated_codec(hint: Any) -> Codec:
    """Let an annotation name the exact Arrow type, `Annotated[Decimal, pa.decimal128(20, 2)]`; others do not count."""
    inner, *notes = get_args(hint)
    for note in notes:
        if isinstance(note, pa.DataType):
            return retyped(codec_of(inner), note)
    return codec_of(inner)


class ArrowCodec(Codec):
    """Values of another codec, in an Arrow type that the user names.

    Args:
        arrow_type: that type. inner: the codec, whose values are brought to it without loss.
    """

    def __init__(self, arrow_type: pa.DataType, inner: Codec) -> None:
        self.arrow_type = arrow_type
        self._inner = inner

    def encode(self, values: Sequence[Any]) -> pa.Array:
        array = self._inner.encode(values)
        try:
            return recast(array, self.arrow_type)
        except pa.ArrowException as error:
            row = next((r for r in range(len(array)) if not _casts(array.slice(r, 1), self.arrow_type)), 0)
            raise Misfit(row, a(values[row]), reason=f"{self.arrow_type} does not hold it") from error

    def decode(self, array: pa.Array) -> list[Any]:
        return self._inner.decode(recast(array, self._inner.arrow_type))

    def arrange(self, array: pa.Array) -> pa.Array:
        plain = recast(array, self._inner.arrow_type)
        arranged = self._inner.arrange(plain)
        return array if arranged is plain else recast(arranged, self.arrow_type)

    def refused(self, array: pa.Array) -> pa.Array | None:
        return self._inner.refused(recast(array, self._inner.arrow_type))


def retyped(codec: Codec, arrow_type: pa.DataType) -> Codec:
    """Return the codec for the same Python values in another Arrow type."""
    exact = pa.types.is_integer(arrow_type) or pa.types.is_decimal(arrow_type)
    # Arrow itself refuses an integer or decimal that does not fit, but rounds a float to a narrower one.
    return codec.retyped(arrow_type) if exact and isinstance(codec, PlainCodec) else ArrowCodec(arrow_type, codec)


def _casts(array: pa.Array, target: pa.DataType) -> bool:
    try:
        recast(array, target)
    except pa.ArrowException:
        return False
    return True


def is_class(hint: Any, base: type) -> bool:
    """Tell whether a hint is a class (no parametrised one) below `base`."""
    return isinstance(hint, type) and get_origin(hint) is None and issubclass(hint, base)


def _register_families() -> None:
    register_type_family(lambda h: get_origin(h) is typing.Annotated, _annotated_codec)
    register_type_family(lambda h: get_origin(h) is Literal, _literal_codec)
    register_type_family(lambda h: is_class(h, enum.Enum), _enum_codec)
    register_type_family(lambda h: unaliased(h) is not h, lambda h: codec_of(unaliased(h)))


_register_scalars()
_register_families()
