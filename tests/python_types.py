"""Generated Python types of any nesting, with values of each."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import math
import types
import typing
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from orcapod_dagster.core.converter import NaiveDatetime


class Color(enum.Enum):
    RED = 1
    BLUE = "b"


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_ZONES = [dt.UTC, dt.timezone(dt.timedelta(hours=-7)), dt.timezone(dt.timedelta(seconds=1, microseconds=5))]
_YEARS = {"min_value": dt.datetime(2, 1, 1), "max_value": dt.datetime(9998, 12, 31)}
LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(),
    str: TEXT,
    bytes: st.binary(max_size=8),
    dt.datetime: st.datetimes(**_YEARS, timezones=st.sampled_from(_ZONES)),
    NaiveDatetime: st.datetimes(),
    dt.date: st.dates(),
    dt.time: st.times(),
    dt.timedelta: st.timedeltas(dt.timedelta(days=-(10**8)), dt.timedelta(days=10**8)),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False, places=18, min_value=-(10**19), max_value=10**19),
    uuid.UUID: st.uuids(),
    Path: st.sampled_from([Path("/a/b"), Path(), Path("ü x")]),
    Color: st.sampled_from(Color),
    Access: st.sampled_from([Access.READ, Access.READ | Access.WRITE, Access(0)]),
    Literal["a", "b"]: st.sampled_from(["a", "b"]),
    np.float32: st.floats(width=32).map(np.float32),
    np.int8: st.integers(-128, 127).map(np.int8),
}
HASHABLE = [bool, int, str, bytes, dt.date, dt.datetime, uuid.UUID, Path, Color, Decimal]
ARRAYS: dict[Any, st.SearchStrategy[Any]] = {
    NDArray[np.float64]: st.lists(st.floats(), max_size=6).map(np.array).map(lambda a: a.astype(np.float64)),
    NDArray[np.int16]: st.sampled_from([np.arange(6, dtype=np.int16).reshape(2, 3), np.zeros((0, 4), np.int16)]),
    np.ndarray[tuple[int], np.dtype[np.bool_]]: st.lists(st.booleans(), max_size=4).map(lambda v: np.array(v, bool)),
}


def _records(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.lists(inner, min_size=1, max_size=3).map(lambda hints: {f"f{i}": h for i, h in enumerate(hints)})
    return st.one_of(
        fields.map(lambda f: dataclasses.make_dataclass("Point", list(f.items()), frozen=True)),
        fields.map(lambda f: NamedTuple("Pair", list(f.items()))),  # type: ignore[misc]
        fields.map(lambda f: typing.TypedDict("Box", f)),  # type: ignore[operator]
        fields.map(lambda f: tuple[tuple(f.values())]),
    )


def hints(*, arrays: bool = True) -> st.SearchStrategy[Any]:
    """Python types, nested up to some levels, optional ones inside."""
    return st.recursive(
        st.sampled_from([*LEAVES, *(ARRAYS if arrays else [])]),
        lambda inner: st.one_of(
            inner.map(lambda t: list[t]),
            inner.map(lambda t: tuple[t, ...]),
            inner.map(lambda t: list[t | None]),
            st.sampled_from(HASHABLE).map(lambda t: set[t]),
            st.tuples(st.sampled_from(HASHABLE), inner).map(lambda kv: dict[kv]),
            st.tuples(st.sampled_from(HASHABLE), inner).map(lambda kv: dict[kv[0], kv[1] | None]),
            _records(inner),
        ),
        max_leaves=4,
    )


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in LEAVES:
        return LEAVES[hint]
    if hint in ARRAYS:
        return ARRAYS[hint]
    if origin in (typing.Union, types.UnionType):
        return st.none() | values(args[0])
    if origin is list:
        return st.lists(values(args[0]), max_size=3)
    if origin is set:
        return st.sets(values(args[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values(args[0]), values(args[1]), max_size=3)
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(values(args[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, args))
    fields = {name: values(inner) for name, inner in typing.get_type_hints(hint, include_extras=True).items()}
    return st.fixed_dictionaries(fields) if typing.is_typeddict(hint) else st.builds(hint, **fields)


@st.composite
def columns(draw: Any, *, arrays: bool = True) -> tuple[Any, list[Any]]:
    """A type, and some values of it."""
    hint = draw(hints(arrays=arrays))
    if draw(st.booleans()):
        hint = typing.Optional[hint]  # noqa: UP045  # of a type that is known at run time only
    return hint, draw(st.lists(values(hint), max_size=4))


def same(one: Any, other: Any) -> bool:
    """Equal, of the same class, at every depth; NaN is NaN, 0.0 is not -0.0, the order of a set is none."""
    if isinstance(one, dt.datetime) and isinstance(other, dt.datetime):
        return one == other and (one.tzinfo is None) == (other.tzinfo is None)
    if isinstance(one, Path):
        return one == other
    if type(one) is not type(other):
        return False
    if isinstance(one, (float, np.floating)):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return bool(one == other)
