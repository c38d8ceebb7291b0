"""Codecs of containers: lists, sets, tuples, maps and records; their children are converted column by column."""

from __future__ import annotations

import dataclasses
import typing
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate, chain
from operator import attrgetter, itemgetter
from typing import Any, Final, get_args, get_origin

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import (
    item_rows,
    list_array,
    list_parts,
    map_array,
    map_parts,
    one_array,
    struct_array,
    taken,
)
from orcapod_dagster.core.converter.codec import (
    NONE,
    Codec,
    Element,
    Misfit,
    a,
    field_hint,
    register_type_family,
    type_name,
)
from orcapod_dagster.core.converter.scalars import is_class
from orcapod_dagster.core.errors import UnsupportedTypeError
from orcapod_dagster.core.hashing import repeated_keys, value_lanes
from orcapod_dagster.core.nulls import rows_with

_ITEM: Final = "element"


def _lengths(rows: Sequence[Any]) -> list[int | None]:
    return [None if row is None else len(row) for row in rows]


def _refuse_others(values: Sequence[Any], takes: type | tuple[type, ...]) -> None:
    """Refuse values of another class; those of subclasses are taken."""
    allowed = (*takes, NONE) if isinstance(takes, tuple) else (takes, NONE)
    if not all(issubclass(one, allowed) for one in set(map(type, values))):
        row = next(r for r, value in enumerate(values) if not isinstance(value, allowed))
        raise Misfit(row, a(values[row]))


def _place(position: int, lengths: Sequence[int | None]) -> tuple[int, int]:
    """Return row, and place within the row, of the item at a position of all rows' items."""
    ends = list(accumulate(length or 0 for length in lengths))
    row = bisect_right(ends, position)
    return row, position - (ends[row - 1] if row else 0)


def _encode_parts(element: Element, parts: Iterable[Any], lengths: Sequence[int | None], what: str) -> pa.Array:
    """Encode the parts of all rows; a misfit is told by its row, and its place there."""
    try:
        return element.encode(list(parts))
    except Misfit as misfit:
        row, place = _place(misfit.row, lengths)
        raise misfit.inside(row, f"{what} {place}") from misfit.__cause__


class ListCodec(Codec):
    """`list[T]` and `tuple[T, ...]`."""

    def __init__(self, python_class: type, element: Element) -> None:
        self.element = element
        self.python_class = python_class
        self.arrow_type = pa.list_(element.field(_ITEM))

    def encode(self, values: Sequence[Any]) -> pa.Array:
        _refuse_others(values, self.python_class)
        lengths = _lengths(values)
        items = _encode_parts(self.element, chain.from_iterable(filter(None, values)), lengths, "element")
        return list_array(lengths, items, self.arrow_type)

    def decode(self, array: pa.Array) -> list[Any]:
        counts, children = list_parts(array)
        items = self.element.codec.decode(children)
        lengths: list[int | None] = counts.to_pylist()
        ends = accumulate(length or 0 for length in lengths)
        make = self.python_class
        if make is list:
            return [None if n is None else items[end - n : end] for n, end in zip(lengths, ends, strict=True)]
        return [None if n is None else make(items[end - n : end]) for n, end in zip(lengths, ends, strict=True)]

    def arrange(self, array: pa.Array) -> pa.Array:
        lengths, items = list_parts(array)
        arranged = self.element.codec.arrange(items)
        return array if arranged is items else list_array(lengths, arranged, self.arrow_type)

    def refused(self, array: pa.Array) -> pa.Array | None:
        lengths, items = list_parts(array)
        inner = self.element.codec.refused(items)
        return None if inner is None else rows_with(inner, lengths)


class SetCodec(ListCodec):
    """`set[T]` and `frozenset[T]`: each item once, in the order of the items' hashes, which no run depends on."""

    def encode(self, values: Sequence[Any]) -> pa.Array:
        return self.arrange(super().encode(values))

    def arrange(self, array: pa.Array) -> pa.Array:
        lengths, items = list_parts(array)
        items = self.element.codec.arrange(items)
        lanes = value_lanes(items)
        keys = pa.table({"row": item_rows(lengths), "a": lanes.a, "b": lanes.b})
        order = pc.sort_indices(keys, sort_keys=[("row", "ascending"), ("a", "ascending"), ("b", "ascending")])
        keys = keys.take(order)
        first = _differs_from_previous(keys)
        counts = _counts(one_array(keys["row"]).filter(first), len(array))
        return list_array(
            pc.if_else(array.is_valid(), counts, pa.nulls(len(array), pa.int64())),
            taken(items, order.filter(first)),
            self.arrow_type,
        )


def _differs_from_previous(table: pa.Table) -> pa.Array:
    if not table.num_rows:
        return pa.array([], pa.bool_())
    columns = [one_array(column) for column in table.columns]
    changed = [pc.not_equal(c.slice(1), c.slice(0, len(c) - 1)) for c in columns]
    found = changed[0]
    for one in changed[1:]:
        found = pc.or_(found, one)
    return pa.concat_arrays([pa.array([True]), found])


def _counts(rows: pa.Array, length: int) -> pa.Array:
    """Return how often each of the numbers below `length` stands in `rows`."""
    counted = rows.value_counts()
    positions = pc.index_in(pa.array(range(length), pa.int64()), value_set=counted.field("values"))
    return pc.fill_null(counted.field("counts").take(positions), 0)


class MapCodec(Codec):
    """`dict[K, V]`: a real Arrow map."""

    def __init__(self, key: Element, item: Element) -> None:
        self._key = key
        self._item = item
        self.arrow_type = pa.map_(key.codec.arrow_type, item.field("value"))

    def encode(self, values: Sequence[Any]) -> pa.Array:
        _refuse_others(values, Mapping)  # type: ignore[type-abstract]
        lengths = _lengths(values)
        filled: list[Mapping[Any, Any]] = list(filter(None, values))
        keys = _encode_parts(self._key, chain.from_iterable(filled), lengths, "the key of entry")
        items = _encode_parts(
            self._item, chain.from_iterable(m.values() for m in filled), lengths, "the value of entry"
        )
        return map_array(lengths, keys, items, self.arrow_type)

    def decode(self, array: pa.Array) -> list[Any]:
        counts, keys, items = map_parts(array)
        key_list, item_list = self._key.codec.decode(keys), self._item.codec.decode(items)
        lengths: list[int | None] = counts.to_pylist()
        ends = accumulate(length or 0 for length in lengths)
        return [
            None if n is None else dict(zip(key_list[end - n : end], item_list[end - n : end], strict=True))
            for n, end in zip(lengths, ends, strict=True)
        ]

    def arrange(self, array: pa.Array) -> pa.Array:
        lengths, keys, items = map_parts(array)
        new_keys, new_items = self._key.codec.arrange(keys), self._item.codec.arrange(items)
        if new_keys is keys and new_items is items:
            return array
        return map_array(lengths, new_keys, new_items, self.arrow_type)

    def refused(self, array: pa.Array) -> pa.Array | None:
        """Also rows with a key twice, of which a dict would keep one."""
        lengths, keys, items = map_parts(array)
        bad = repeated_keys(lengths, keys)
        for inner in (self._key.codec.refused(keys), self._item.codec.refused(items)):
            if inner is not None:
                rows = rows_with(inner, lengths)
                bad = rows if bad is None else pc.or_(bad, rows)
        return bad


class RecordCodec(Codec):
    """Values with named fields: TypedDict, dataclass, NamedTuple, fixed tuples; an Arrow struct.

    Args:
        fields: name → element.
        takes: the class whose values are taken, no subclass of it (it could have more fields) but for dict.
        columns: values → one list of values per field. Raises `Misfit`.
        make: one list of values per field → values.
    """

    def __init__(
        self,
        fields: Mapping[str, Element],
        takes: type,
        columns: Callable[[list[Any]], list[list[Any]]],
        make: Callable[..., Any],
    ) -> None:
        if not fields:
            raise UnsupportedTypeError(
                f"{takes.__qualname__} has no fields, and a struct without fields cannot be stored."
            )
        self._fields = dict(fields)
        self._takes = takes
        self._columns = columns
        self._make = make
        self.arrow_type = pa.struct([element.field(name) for name, element in fields.items()])

    def encode(self, values: Sequence[Any]) -> pa.Array:
        strange = set(map(type, values)) - {self._takes, NONE}
        if strange:
            row = next(r for r, value in enumerate(values) if type(value) in strange)
            raise Misfit(row, a(values[row]))
        rows = [row for row, value in enumerate(values) if value is not None]
        full = list(values) if len(rows) == len(values) else [values[row] for row in rows]
        try:
            children = self._children(self._columns(full))
        except Misfit as misfit:
            raise Misfit(rows[misfit.row], misfit.seen, misfit.where, misfit.reason) from misfit.__cause__
        if len(rows) == len(values):
            return struct_array(children, self.arrow_type, None, len(values))
        null = pa.array([value is None for value in values], pa.bool_())
        spread = pc.index_in(pa.array(range(len(values)), pa.int64()), value_set=pa.array(rows, pa.int64()))
        return struct_array([taken(c, spread) for c in children], self.arrow_type, null, len(values))

    def _children(self, columns: list[list[Any]]) -> list[pa.Array]:
        children: list[pa.Array] = []
        for (name, element), column in zip(self._fields.items(), columns, strict=True):
            try:
                children.append(element.encode(column))
            except Misfit as misfit:
                raise misfit.inside(misfit.row, f"field {name!r}") from misfit.__cause__
        return children

    def decode(self, array: pa.Array) -> list[Any]:
        columns = [
            element.codec.decode(child) for element, child in zip(self._fields.values(), array.flatten(), strict=True)
        ]
        make = self._make
        if not array.null_count:
            return [make(*row) for row in zip(*columns, strict=True)]
        valid = array.is_valid().to_pylist()
        return [
            make(*row) if is_valid else None for is_valid, row in zip(valid, zip(*columns, strict=True), strict=True)
        ]

    def arrange(self, array: pa.Array) -> pa.Array:
        children = array.flatten()
        elements = self._fields.values()
        arranged = [element.codec.arrange(child) for element, child in zip(elements, children, strict=True)]
        if all(new is old for new, old in zip(arranged, children, strict=True)):
            return array
        return struct_array(arranged, self.arrow_type, array.is_null() if array.null_count else None, len(array))

    def refused(self, array: pa.Array) -> pa.Array | None:
        found: pa.Array | None = None
        for element, child in zip(self._fields.values(), array.flatten(), strict=True):
            inner = element.codec.refused(child)
            if inner is not None:
                found = inner if found is None else pc.or_(found, inner)
        return found


# ---------------------------------------------------------------------------- records of each kind


def _elements(owner: Any, hints: Mapping[str, Any]) -> dict[str, Element]:
    found: dict[str, Element] = {}
    for name, hint in hints.items():
        try:
            found[name] = Element.of(hint)
        except UnsupportedTypeError as error:
            raise UnsupportedTypeError(f"field {name!r} of {type_name(owner)}: {error}") from None
    return found


def _hints(record: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(record, include_extras=True)
    except NameError as error:
        raise UnsupportedTypeError(
            f"{type_name(record)}: a type hint names something unknown: {error}. Define it at module level."
        ) from error


def _dataclass_codec(hint: Any) -> Codec:
    fields = dataclasses.fields(hint)
    outside = [field.name for field in fields if not field.init]
    if outside or any(isinstance(h, dataclasses.InitVar) for h in _hints(hint).values()):
        raise UnsupportedTypeError(
            f"{type_name(hint)} cannot be rebuilt from its fields: {outside or 'it has an InitVar'}. Use only fields of __init__."
        )
    names = [field.name for field in fields]
    elements = _elements(hint, {name: _hints(hint)[name] for name in names})
    if any(field.kw_only for field in fields):
        return RecordCodec(
            elements, hint, partial(_attributes, names), lambda *row: hint(**dict(zip(names, row, strict=True)))
        )
    return RecordCodec(elements, hint, partial(_attributes, names), hint)


def _attributes(names: Sequence[str], values: list[Any]) -> list[list[Any]]:
    return [list(map(attrgetter(name), values)) for name in names]


def _named_tuple_codec(hint: Any) -> Codec:
    hints = _hints(hint)
    untyped = [name for name in hint._fields if name not in hints]
    if untyped:
        raise UnsupportedTypeError(
            f"{type_name(hint)} has fields without type hints: {untyped}. Use typing.NamedTuple."
        )
    elements = _elements(hint, {name: hints[name] for name in hint._fields})
    return RecordCodec(elements, hint, partial(_positions, len(elements)), hint)


def _fixed_tuple_codec(hint: Any) -> Codec:
    args = get_args(hint)
    elements = _elements(hint, {f"f{position}": arg for position, arg in enumerate(args)})
    return RecordCodec(elements, tuple, partial(_positions, len(args)), lambda *row: row)


def _positions(count: int, values: list[Any]) -> list[list[Any]]:
    if set(map(len, values)) - {count}:
        row = next(r for r, value in enumerate(values) if len(value) != count)
        raise Misfit(row, f"a tuple of {len(values[row])} values", reason=f"expected {count} values")
    return [list(map(itemgetter(position), values)) for position in range(count)]


def _typed_dict_codec(hint: Any) -> Codec:
    hints = _hints(hint)
    optional = frozenset(name for name in hints if _may_be_missing(hint, name, hints[name]))
    for name in optional:
        if Element.of(field_hint(hints[name])).nullable:
            raise UnsupportedTypeError(
                f"field {name!r} of {type_name(hint)} may be missing and may be None, which a null cannot tell apart. "
                "Make it required, or not '| None'."
            )
    elements = _elements(hint, {n: field_hint(h) | None if n in optional else field_hint(h) for n, h in hints.items()})
    return dict_codec(elements, optional)


def dict_codec(elements: Mapping[str, Element], optional: frozenset[str] = frozenset()) -> RecordCodec:
    """Return the codec of dicts with these keys; an `optional` one may be missing, which null stands for."""
    names = list(elements)
    if not optional:
        return RecordCodec(
            elements, dict, partial(_items, names, optional), lambda *row: dict(zip(names, row, strict=True))
        )

    def make(*row: Any) -> dict[str, Any]:
        return {n: v for n, v in zip(names, row, strict=True) if v is not None or n not in optional}

    return RecordCodec(elements, dict, partial(_items, names, optional), make)


def _may_be_missing(record: Any, name: str, hint: Any) -> bool:
    """Tell whether a key is optional; with postponed annotations the class itself does not know of `NotRequired`."""
    mark = getattr(get_origin(hint), "_name", None)
    return mark == "NotRequired" or (name in record.__optional_keys__ and mark != "Required")


def _items(names: Sequence[str], optional: frozenset[str], values: list[dict[str, Any]]) -> list[list[Any]]:
    known = set(names)
    for row, value in enumerate(values):
        if value.keys() == known:
            continue
        strange, missing = set(value) - known, known - set(value) - optional
        if strange or missing:
            what = f"without {sorted(missing)}" if missing else f"with the further keys {sorted(map(str, strange))}"
            raise Misfit(row, f"a dict {what}")
        if any(value[name] is None for name in optional & set(value)):
            raise Misfit(row, "None", where=("a field that may be missing, but not be None",))
    return [[value.get(name) for value in values] for name in names]


# ---------------------------------------------------------------------------- families


def _list_codec(hint: Any) -> Codec:
    origin = get_origin(hint)
    element = Element.of(get_args(hint)[0])
    return ListCodec(origin, element) if origin in (list, tuple) else SetCodec(origin, element)  # pyright: ignore[reportArgumentType]  # one of four classes


def _map_codec(hint: Any) -> Codec:
    key, item = map(Element.of, get_args(hint))
    if key.nullable:
        raise UnsupportedTypeError(f"{hint}: the keys of a map cannot be optional. Use a type without None.")
    return MapCodec(key, item)


def _is_open_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple and get_args(hint)[1:] == (Ellipsis,)


register_type_family(lambda h: isinstance(h, type) and dataclasses.is_dataclass(h), _dataclass_codec)
register_type_family(typing.is_typeddict, _typed_dict_codec)
register_type_family(lambda h: is_class(h, tuple) and hasattr(h, "_fields"), _named_tuple_codec)
register_type_family(lambda h: get_origin(h) is dict, _map_codec)
register_type_family(lambda h: get_origin(h) in (list, set, frozenset), _list_codec)
register_type_family(lambda h: get_origin(h) is tuple, _fixed_tuple_codec)
register_type_family(_is_open_tuple, _list_codec)
