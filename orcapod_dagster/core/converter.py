"""Python type ↔ Arrow type and values ↔ arrays; the one place that converts.

A `Codec` says how values of one Python type are held in Arrow. Codecs are found by registered hooks: exact
type first, then predicates in order of registration (newest first). Types come from schemas, never from values.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import logging
import types as python_types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.errors import ConversionError, InputError, UnsupportedTypeError
from orcapod_dagster.core.types import Schema

_log = logging.getLogger(__name__)
_NONE: Final = type(None)
UTC_TIMESTAMP: Final = pa.timestamp("us", "UTC")


class _Naive:
    """Marks a naive `datetime` in `NaiveDatetime`."""


NaiveDatetime = typing.Annotated[dt.datetime, _Naive]
"""A `datetime` without a time zone; Arrow `timestamp[us]`. Plain `datetime` means aware, `timestamp[us, UTC]`."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How values of one Python type are held in Arrow.

    Attributes:
        arrow_type: the type of the column.
        classes: runtime classes whose values need no check one by one.
        check: whether a value of another class is good as well (a subclass, an exact int for a float).
        encode: Python value → what `pa.array` takes; `None` when that is the value itself.
        decode: what `to_pylist` gives → Python value; `None` when that is the value itself.
    """

    arrow_type: pa.DataType
    classes: frozenset[type]
    check: Callable[[Any], bool]
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None


_exact: dict[Any, Callable[[], Codec]] = {}
_predicates: list[tuple[Callable[[Any], bool], Callable[[Any], Codec]]] = []
_cache: dict[Any, Codec] = {}


def register_type(python_type: Any, codec: Codec | Callable[[], Codec]) -> None:
    """Make a Python type known to the converter, for every schema from now on.

    Args:
        python_type: the class or annotation, compared by equality.
        codec: how it is held in Arrow.
    """
    _exact[python_type] = codec if callable(codec) else lambda: codec
    _cache.clear()


def register_type_family(predicate: Callable[[Any], bool], make_codec: Callable[[Any], Codec]) -> None:
    """Make a family of types known (all enums, all dataclasses); the newest registration is asked first."""
    _predicates.insert(0, (predicate, make_codec))
    _cache.clear()


def codec_of(hint: Any) -> Codec:
    """Return the codec of a non-optional Python type.

    Raises:
        UnsupportedTypeError: no hook knows the type.
    """
    try:
        found = _cache.get(hint)
    except TypeError:
        return _find_codec(hint)
    if found is None:
        found = _cache[hint] = _find_codec(hint)
    return found


def _find_codec(hint: Any) -> Codec:
    try:
        make = _exact.get(hint)
    except TypeError:
        make = None
    if make is not None:
        return make()
    for predicate, make_codec in _predicates:
        if predicate(hint):
            return make_codec(hint)
    raise UnsupportedTypeError(_why_unsupported(hint))


def _why_unsupported(hint: Any) -> str:
    if hint in (list, set, tuple, dict, frozenset, typing.List, typing.Dict, typing.Set, typing.Tuple):  # noqa: UP006  # the bare generics are what is refused
        return f"bare {_type_name(hint)!r} has no element type. Write it with parameters, e.g. list[float] or dict[str, int]."
    if hint is Any:
        return (
            "'Any' has no Arrow type. It usually comes from a missing type hint, or from an Arrow column whose type has "
            "no Python counterpart. Give a concrete type, or a schema."
        )
    if get_origin(hint) in (Union, python_types.UnionType):
        return f"{hint} mixes several types; only 'T | None' has an Arrow type. Use one type, or str."
    return f"{_type_name(hint)} has no Arrow counterpart. Use a supported type, or make it known with register_type()."


def _type_name(hint: Any) -> str:
    return getattr(hint, "__qualname__", None) or str(hint)


def split_optional(hint: Any) -> tuple[Any, bool]:
    """Split `T | None` into `(T, True)`; any other type into `(type, False)`."""
    if get_origin(hint) in (Union, python_types.UnionType):
        rest = tuple(arg for arg in get_args(hint) if arg is not _NONE)
        if len(rest) < len(get_args(hint)):
            return (rest[0] if len(rest) == 1 else Union[rest]), True  # noqa: UP007  # built at run time from a tuple
    return hint, hint is _NONE


def arrow_field(name: str, hint: Any) -> pa.Field:
    """Return the Arrow field of a column; nullable exactly where the type is `T | None`."""
    plain, nullable = split_optional(hint)
    return pa.field(name, codec_of(plain).arrow_type, nullable=nullable)


def arrow_schema(schema: Mapping[str, Any]) -> pa.Schema:
    """Return the Arrow schema of a `Schema`, field by field in its order.

    Raises:
        UnsupportedTypeError: names the column whose type has no Arrow counterpart.
    """
    fields: list[pa.Field] = []
    for name, hint in schema.items():
        try:
            fields.append(arrow_field(name, hint))
        except UnsupportedTypeError as error:
            raise UnsupportedTypeError(f"column {name!r}: {error}") from None
    return pa.schema(fields)


# ---------------------------------------------------------------------------- values → arrays


def to_array(values: Sequence[Any], hint: Any, *, column: str, owner: str = "", first_row: int = 0) -> pa.Array:
    """Convert the values of one column.

    Args:
        values: one Python value per row.
        hint: the declared type.
        column, owner: for messages ("function 'f'").
        first_row: the row number of `values[0]`, for messages.

    Returns:
        Array of the type's Arrow type.

    Raises:
        ConversionError: names the first row whose value does not fit, and its class.
    """
    plain, nullable = split_optional(hint)
    codec = codec_of(plain)
    bad = find_misfit(values, codec, nullable=nullable)
    try:
        if bad is None:
            encode = codec.encode
            ready = values if encode is None else [None if v is None else encode(v) for v in values]
            return pa.array(ready, type=codec.arrow_type)
    except (pa.ArrowException, UnicodeError, ValueError, TypeError, OverflowError) as error:
        bad, cause = _find_unconvertible(values, codec), error
    else:
        cause = None
    shown = values[bad]
    what = "None" if shown is None else f"a {type(shown).__qualname__}"
    reason = f" ({cause})" if cause else ""
    raise ConversionError(
        f"{owner + ': ' if owner else ''}column {column!r}, row {first_row + bad}: got {what}, expected "
        f"{_hint_text(hint)}{reason}. Return that type, or change the declared type of {column!r}."
    ) from cause


def find_misfit(values: Sequence[Any], codec: Codec, *, nullable: bool) -> int | None:
    """Return the position of the first value whose class does not fit, or `None`; cheap where all fit."""
    strange = set(map(type, values)) - codec.classes
    if nullable:
        strange.discard(_NONE)
    if not strange:
        return None
    for row, value in enumerate(values):
        if type(value) in strange and (value is None or not codec.check(value)):
            return row
    return None


def _find_unconvertible(values: Sequence[Any], codec: Codec) -> int:
    for row, value in enumerate(values):
        if value is None:
            continue
        try:
            pa.array([codec.encode(value) if codec.encode else value], type=codec.arrow_type)
        except Exception:  # noqa: BLE001  # whatever it is, this is the row to name
            return row
    return 0


def _hint_text(hint: Any) -> str:
    return _type_name(hint) if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


# ---------------------------------------------------------------------------- arrays → values


def to_python(array: pa.Array | pa.ChunkedArray, hint: Any) -> list[Any]:
    """Convert one column to Python values of the declared type, one per row; nulls become `None`."""
    codec = codec_of(split_optional(hint)[0])
    values: list[Any] = array.to_pylist()
    decode = codec.decode
    return values if decode is None else [None if v is None else decode(v) for v in values]


def python_type(arrow_type: pa.DataType) -> Any:
    """Return the Python type of an Arrow type; logs a warning and gives `Any` where there is none."""
    for test, result in _PYTHON_TYPES:
        if test(arrow_type):
            return result
    if pa.types.is_dictionary(arrow_type):
        return python_type(arrow_type.value_type)
    if pa.types.is_map(arrow_type):
        return dict[python_type(arrow_type.key_type), field_type(arrow_type.item_field)]  # pyright: ignore[reportInvalidTypeArguments]  # built at run time
    if _is_list(arrow_type):
        return list[field_type(arrow_type.value_field)]  # pyright: ignore[reportInvalidTypeArguments]  # built at run time
    if pa.types.is_struct(arrow_type):
        fields = {f.name: field_type(f) for f in arrow_type.fields}
        return typing.TypedDict("Struct", fields)  # type: ignore[operator]  # built at run time
    _log.warning("Arrow type %s has no Python counterpart; it is treated as Any.", arrow_type)
    return Any


def field_type(field: pa.Field) -> Any:
    """Return the Python type of an Arrow field: `T`, or `T | None` when the field is nullable."""
    inner = python_type(field.type)
    return inner | None if field.nullable and inner is not Any else inner


def python_schema(schema: pa.Schema) -> Schema:
    """Return the `Schema` of an Arrow schema, nullability exactly as its fields say."""
    return Schema({field.name: field_type(field) for field in schema})


def _is_list(t: pa.DataType) -> bool:
    return pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t) or "list_view" in str(t)


def _is_string(t: pa.DataType) -> bool:
    return pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t)


def _is_binary(t: pa.DataType) -> bool:
    return (
        pa.types.is_binary(t)
        or pa.types.is_large_binary(t)
        or pa.types.is_binary_view(t)
        or pa.types.is_fixed_size_binary(t)
    )


_PYTHON_TYPES: Final[tuple[tuple[Callable[[pa.DataType], bool], Any], ...]] = (
    (pa.types.is_boolean, bool),
    (pa.types.is_integer, int),
    (pa.types.is_floating, float),
    (_is_string, str),
    (_is_binary, bytes),
    (lambda t: pa.types.is_timestamp(t) and t.tz is not None, dt.datetime),
    (pa.types.is_timestamp, NaiveDatetime),
    (pa.types.is_date, dt.date),
    (pa.types.is_time, dt.time),
    (pa.types.is_duration, dt.timedelta),
    (pa.types.is_decimal, Decimal),
    (pa.types.is_null, _NONE),
)


# ---------------------------------------------------------------------------- columns → declared types


def conform(column: pa.Array | pa.ChunkedArray, hint: Any, *, name: str, owner: str = "") -> pa.Array:
    """Bring an input column to the type of the parameter that takes it, without loss.

    Widening (int32 → int, large string → str, int → float where exact) happens silently.

    Args:
        column: the column as the upstream has it; nulls are kept.
        hint: the parameter's type.
        name, owner: for messages.

    Returns:
        Array of the parameter's Arrow type.

    Raises:
        InputError: the types do not fit, or a value would change.
    """
    target = codec_of(split_optional(hint)[0]).arrow_type
    source = column.type
    if source != target:
        if not widens(source, target):
            raise InputError(
                f"{owner + ': ' if owner else ''}column {name!r} has type {source}, but the parameter is declared "
                f"{_hint_text(hint)} (Arrow {target}). Change the type hint, or convert the column upstream."
            )
        try:
            column = _cast(column, target)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{owner + ': ' if owner else ''}column {name!r} of type {source} holds values that {_hint_text(hint)} "
                f"(Arrow {target}) cannot hold exactly. Change the type hint, or convert the column upstream."
            ) from error
    return one_array(column)


def _cast(column: Any, target: pa.DataType) -> Any:
    if pa.types.is_integer(column.type) and pa.types.is_floating(target):
        widened = pc.cast(column, pa.int64() if column.type != pa.uint64() else pa.uint64())
        return pc.cast(widened, target, safe=True)
    return pc.cast(column, target, safe=True)


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the column as one array, without copying where it is one chunk."""
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def widens(source: pa.DataType, target: pa.DataType) -> bool:
    """Tell whether values of `source` may be brought to `target` (each value is still checked on the way)."""
    t = pa.types
    if source == target or t.is_null(source):
        return True
    if t.is_dictionary(source):
        return widens(source.value_type, target)
    if t.is_integer(source):
        return t.is_integer(target) or t.is_floating(target)
    if t.is_timestamp(source) and t.is_timestamp(target):
        return (source.tz is None) == (target.tz is None)
    if _is_list(source) and _is_list(target):
        return widens(source.value_type, target.value_type)
    if t.is_map(source) and t.is_map(target):
        return widens(source.key_type, target.key_type) and widens(source.item_type, target.item_type)
    if t.is_struct(source) and t.is_struct(target):
        return [f.name for f in source.fields] == [f.name for f in target.fields] and all(
            widens(a.type, b.type) for a, b in zip(source.fields, target.fields, strict=True)
        )
    same_family = (t.is_floating, _is_string, _is_binary, t.is_date, t.is_time, t.is_duration, t.is_decimal)
    return any(test(source) and test(target) for test in same_family)


# ---------------------------------------------------------------------------- the hooks


def _no(_value: Any) -> bool:
    return False


def _plain(python_class: type, arrow_type: pa.DataType, check: Callable[[Any], bool] | None = None) -> Codec:
    return Codec(arrow_type, frozenset({python_class}), check or (lambda v: isinstance(v, python_class)))


def _is_int(value: Any) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__index__")


def _is_float(value: Any) -> bool:
    return (
        isinstance(value, float)
        or (_is_int(value) and int(float(value)) == int(value))
        or type(value).__name__ in {"float32", "float16"}
    )


def _is_bool(value: Any) -> bool:
    return type(value).__name__ in {"bool", "bool_"}


def _utc(value: dt.datetime) -> dt.datetime:
    if value.tzinfo is None:
        raise ValueError(
            "a naive datetime; give it a time zone (datetime.now(timezone.utc)), or declare the column as NaiveDatetime"
        )
    return value.astimezone(dt.UTC)


def _naive(value: dt.datetime) -> dt.datetime:
    if value.tzinfo is not None:
        raise ValueError("an aware datetime in a NaiveDatetime column; declare it as datetime")
    return value


def _register_scalars() -> None:
    register_type(bool, _plain(bool, pa.bool_(), _is_bool))
    register_type(int, _plain(int, pa.int64(), _is_int))
    register_type(float, Codec(pa.float64(), frozenset({float}), _is_float, None))
    register_type(str, _plain(str, pa.string()))
    register_type(bytes, _plain(bytes, pa.binary()))
    register_type(dt.date, _plain(dt.date, pa.date32(), _no))
    register_type(dt.time, _plain(dt.time, pa.time64("us")))
    register_type(dt.timedelta, _plain(dt.timedelta, pa.duration("us")))
    register_type(Decimal, _plain(Decimal, pa.decimal128(38, 18)))
    register_type(
        dt.datetime, Codec(UTC_TIMESTAMP, frozenset({dt.datetime}), lambda v: isinstance(v, dt.datetime), _utc)
    )
    register_type(
        NaiveDatetime, Codec(pa.timestamp("us"), frozenset({dt.datetime}), lambda v: isinstance(v, dt.datetime), _naive)
    )
    register_type(
        uuid.UUID,
        Codec(pa.binary(16), frozenset({uuid.UUID}), _no, lambda v: v.bytes, lambda b: uuid.UUID(bytes=b)),
    )
    register_type(Path, Codec(pa.string(), frozenset({Path}), lambda v: isinstance(v, Path), str, Path))
    register_type(_NONE, Codec(pa.null(), frozenset({_NONE}), _no))


def _element(hint: Any) -> tuple[pa.Field, Codec]:
    plain, nullable = split_optional(hint)
    codec = codec_of(plain)
    return pa.field("element", codec.arrow_type, nullable), codec


def _mapper(codec: Codec, nullable: bool, back: bool = False) -> Callable[[Any], Any] | None:
    """Return what converts one nested value, with its class checked on the way in; `None` when nothing is to do."""
    if back:
        decode = codec.decode
        return None if decode is None else lambda v: None if v is None else decode(v)
    encode, classes, check = codec.encode, codec.classes, codec.check

    def convert(value: Any) -> Any:
        if value is None:
            if nullable:
                return None
            raise ValueError("None inside a value whose element type is not optional")
        if type(value) not in classes and not check(value):
            raise ValueError(f"a {type(value).__qualname__} inside, where the Arrow type is {codec.arrow_type}")
        return value if encode is None else encode(value)

    return convert


def _sequence_codec(hint: Any) -> Codec:
    origin, args = get_origin(hint), get_args(hint)
    field, inner = _element(args[0])
    convert = _mapper(inner, field.nullable)
    back = _mapper(inner, field.nullable, back=True)
    make: Any = origin
    ordered = origin in (list, tuple)

    def encode(value: Any) -> list[Any]:
        items = [convert(v) for v in value]  # type: ignore[misc]
        return items if ordered else sorted(items, key=repr)

    def decode(items: list[Any]) -> Any:
        return make(items) if back is None else make([back(v) for v in items])

    plain_list = origin is list and back is None
    return Codec(
        pa.list_(field), frozenset({origin}), lambda v: isinstance(v, origin), encode, None if plain_list else decode
    )


def _map_codec(hint: Any) -> Codec:
    key_hint, item_hint = get_args(hint)
    key_field, key = _element(key_hint)
    item_field, item = _element(item_hint)
    if key_field.nullable:
        raise UnsupportedTypeError(f"{hint}: the keys of a map cannot be optional. Use a type without None.")
    to_key, to_item = _mapper(key, False), _mapper(item, item_field.nullable)
    from_key, from_item = _mapper(key, False, back=True), _mapper(item, item_field.nullable, back=True)

    def encode(value: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
        return [(to_key(k), to_item(v)) for k, v in value.items()]  # type: ignore[misc]

    def decode(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
        if from_key is None and from_item is None:
            return dict(pairs)
        return {from_key(k) if from_key else k: from_item(v) if from_item else v for k, v in pairs}

    arrow_type = pa.map_(key_field.type, pa.field("value", item_field.type, item_field.nullable))
    return Codec(arrow_type, frozenset({dict}), lambda v: isinstance(v, Mapping), encode, decode)


def _struct_codec(
    names: Sequence[str],
    hints: Sequence[Any],
    take: Callable[[Any, str, int], Any],
    make: Callable[[dict[str, Any]], Any],
    kind: type,
) -> Codec:
    fields: list[pa.Field] = []
    steps: list[tuple[str, int, Any, Any]] = []
    for position, (name, hint) in enumerate(zip(names, hints, strict=True)):
        element, inner = _element(hint)
        fields.append(pa.field(name, element.type, element.nullable))
        steps.append((name, position, _mapper(inner, element.nullable), _mapper(inner, element.nullable, back=True)))

    def encode(value: Any) -> dict[str, Any]:
        return {name: convert(take(value, name, position)) for name, position, convert, _ in steps}

    def decode(value: dict[str, Any]) -> Any:
        return make({name: back(value[name]) if back else value[name] for name, _, _, back in steps})

    return Codec(pa.struct(fields), frozenset({kind}), lambda v: isinstance(v, kind), encode, decode)


def _record_codec(hint: Any) -> Codec:
    hints = typing.get_type_hints(hint)
    make: Any = hint
    if dataclasses.is_dataclass(hint):
        names = [f.name for f in dataclasses.fields(hint)]
        return _struct_codec(
            names,
            [hints[n] for n in names],
            lambda v, n, _: getattr(v, n),
            lambda d: make(**d),
            make,
        )
    if typing.is_typeddict(hint):
        names = list(hints)
        return _struct_codec(names, [hints[n] for n in names], lambda v, n, _: v[n], dict, dict)
    names = list(hint._fields)
    return _struct_codec(names, [hints[n] for n in names], lambda v, n, _: getattr(v, n), lambda d: hint(**d), hint)


def _fixed_tuple_codec(hint: Any) -> Codec:
    args = get_args(hint)
    names = [f"f{i}" for i in range(len(args))]

    def take(value: tuple[Any, ...], _name: str, position: int) -> Any:
        if len(value) != len(args):
            raise ValueError(f"a tuple of {len(value)} values, expected {len(args)}")
        return value[position]

    return _struct_codec(names, args, take, lambda d: tuple(d.values()), tuple)


def _literal_codec(hint: Any) -> Codec:
    values = get_args(hint)
    classes = {type(v) for v in values}
    if len(classes) != 1:
        raise UnsupportedTypeError(f"{hint}: the values of a Literal must be of one type to have an Arrow type.")
    inner = codec_of(classes.pop())

    def encode(value: Any) -> Any:
        if value not in values:
            raise ValueError(f"a value that is not one of {values}")
        return value

    return Codec(inner.arrow_type, inner.classes, inner.check, encode, inner.decode)


def _enum_codec(hint: Any) -> Codec:
    return Codec(pa.string(), frozenset({hint}), lambda v: isinstance(v, hint), lambda v: v.name, lambda s: hint[s])


def _is_class(hint: Any, base: type) -> bool:
    return isinstance(hint, type) and get_origin(hint) is None and issubclass(hint, base)


def _is_record(hint: Any) -> bool:
    named_tuple = _is_class(hint, tuple) and hasattr(hint, "_fields")
    return named_tuple or typing.is_typeddict(hint) or (isinstance(hint, type) and dataclasses.is_dataclass(hint))


def _register_families() -> None:
    register_type_family(lambda h: get_origin(h) is typing.Annotated, lambda h: codec_of(get_args(h)[0]))
    register_type_family(lambda h: get_origin(h) is Literal, _literal_codec)
    register_type_family(lambda h: _is_class(h, enum.Enum), _enum_codec)
    register_type_family(_is_record, _record_codec)
    register_type_family(lambda h: get_origin(h) is dict, _map_codec)
    register_type_family(lambda h: get_origin(h) in (list, set, frozenset), _sequence_codec)
    register_type_family(lambda h: get_origin(h) is tuple and Ellipsis in get_args(h), _sequence_codec)
    register_type_family(lambda h: get_origin(h) is tuple and Ellipsis not in get_args(h), _fixed_tuple_codec)
    register_type_family(lambda h: isinstance(h, pa.DataType), _arrow_codec)


def _arrow_codec(hint: Any) -> Codec:
    """Let a schema argument name an Arrow type directly; values are those of the Python counterpart."""
    inner = codec_of(python_type(hint))
    return Codec(hint, inner.classes, inner.check, inner.encode, inner.decode)


_register_scalars()
_register_families()
