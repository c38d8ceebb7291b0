"""Regions: which values of the partition columns a file can hold, as its name says, so that others need not open it.

Delta's own place for this, minima and maxima in the log, loses rows: deltalake's pyarrow dataset takes a column without a
bound for empty as soon as another column has one, and not every column can have one (floats with NaN, truth values, bytes).
A name costs no look at the storage, stays right in every copy of the log, and means nothing to other engines. A file
without a region in its name may hold anything.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from typing import Final

import pyarrow as pa

from orcapod_dagster.core.arrow import pc

_NUMBERS: Final = re.compile(r"([0-9a-f]{8})([idt])(-?\d+)_(-?\d+)")
_TEXTS: Final = re.compile(r"([0-9a-f]{8})s((?:_[0-9a-f]{8})+)")
_OURS: Final = re.compile(r"part-[0-9a-f]{32}((?:\.[-\w]+)+)\.parquet")
_OURS_ANYWHERE: Final = r"(?:^|/)part-[0-9a-f]{32}(?:\.[-\w]+)+\.parquet$"  # as Arrow matches
_MOST_AT_ONCE: Final = 64  # so many regions, texts or spans are looked for in all names at once
_MOST_TEXTS: Final = 8
_MOST_COLUMNS: Final = 2  # so a name stays below 255 bytes, the limit of most file systems

Span = tuple[int, int]
"""From … to, both included."""


@dataclass(frozen=True, slots=True)
class Values:
    """Some values of one column.

    Attributes:
        kind: what is counted: "i" integers, "d" days, "t" microseconds since 1970, "s" digests of texts.
        spans: for "i", "d", "t"; sorted, and apart from each other.
        texts: for "s".
    """

    kind: str
    spans: tuple[Span, ...] = ()
    texts: frozenset[str] = field(default_factory=frozenset[str])

    def meets(self, other: Values) -> bool:
        """Tell whether a value can be in both; where the kinds differ, nothing is known."""
        if self.kind != other.kind:
            return True
        if not self.texts.isdisjoint(other.texts):
            return True
        return any(low <= end and start <= high for low, high in self.spans for start, end in other.spans)

    def __or__(self, other: Values) -> Values:
        return Values(self.kind, _joined([*self.spans, *other.spans]), self.texts | other.texts)


Region = Mapping[str, Values]
"""Column → its values; a column that is not named may hold anything."""


def values_of(column: pa.Array) -> Values | None:
    """Return the values of a column without nulls (integers, dates, timestamps or strings); `None` for other types."""
    kind = _kind(column.type)
    if kind is None:
        return None
    if kind == "s":
        return Values(kind, texts=frozenset(map(_digest, column.to_pylist())))
    return Values(kind, _joined([(value, value) for value in _numbers(column)]))


def span_of(ends: pa.Array) -> Values | None:
    """Return the values from the first of two (included) to the second (excluded)."""
    kind = _kind(ends.type)
    if kind is None or kind == "s":
        return None
    start, end = _numbers(ends)
    return Values(kind, ((start, end - 1),) if start < end else ())


def _kind(t: pa.DataType) -> str | None:
    if pa.types.is_integer(t):
        return "i"
    if pa.types.is_date32(t):
        return "d"
    if pa.types.is_timestamp(t):
        return "t" if t.unit == "us" else None  # as Delta holds them
    return "s" if pa.types.is_string(t) else None


def _numbers(column: pa.Array) -> list[int]:
    plain = column.cast(pa.int32()) if pa.types.is_date32(column.type) else column
    return plain.cast(pa.int64()).to_pylist()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


@lru_cache(maxsize=1024)
def _tag(column: str) -> str:
    """Return what stands for a column in names; asked for once per file."""
    return _digest(column)


def _joined(spans: list[Span]) -> tuple[Span, ...]:
    """Return sorted spans, those that touch made one."""
    joined: list[Span] = []
    for low, high in sorted(spans):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def any_of(regions: Iterable[Region]) -> tuple[Region, ...]:
    """Return regions that hold the same together; those that name one and the same column are made one."""
    merged: dict[tuple[str, str], list[Values]] = {}
    others: list[Region] = []
    for region in regions:
        if len(region) != 1:
            others.append(region)
            continue
        ((column, values),) = region.items()
        merged.setdefault((column, values.kind), []).append(values)
    return (*({column: _all_values(parts)} for (column, _), parts in merged.items()), *others)


def _all_values(parts: Sequence[Values]) -> Values:
    spans = _joined([span for part in parts for span in part.spans])
    return Values(parts[0].kind, spans, frozenset[str]().union(*(part.texts for part in parts)))


def meets(regions: Sequence[Region], held: Region) -> bool:
    """Tell whether a file that holds only values of one region can hold rows of any of others."""
    return any(
        all(name not in held or values.meets(held[name]) for name, values in region.items()) for region in regions
    )


# ---------------------------------------------------------------------------- in the names of files


def files_meeting(paths: pa.Array, regions: Sequence[Region]) -> list[str]:
    """Return those files that may hold rows of any of some regions, by their names alone, in their order."""
    columns = {name for region in regions for name in region}
    near = paths if len(regions) > _MOST_AT_ONCE else paths.filter(_may_meet(paths, regions))
    return [path for path in near.to_pylist() if meets(regions, held_by(path, columns))]


def _may_meet(paths: pa.Array, regions: Sequence[Region]) -> pa.Array:
    """Tell of which files a closer look is needed; over all names at once, for there may be thousands."""
    found = pc.invert(pc.match_substring_regex(paths, _OURS_ANYWHERE))
    for region in regions:
        inside = pa.repeat(pa.scalar(True), len(paths))
        for column, values in region.items():
            inside = pc.and_(inside, _may_hold(paths, _tag(column), values))
        found = pc.or_(found, inside)
    return found


def _may_hold(paths: pa.Array, tag: str, values: Values) -> pa.Array:
    if max(len(values.texts), len(values.spans)) > _MOST_AT_ONCE:
        return pa.repeat(pa.scalar(True), len(paths))
    if values.kind == "s":
        found = pc.invert(pc.match_substring(paths, f".{tag}s_"))
        if not values.texts:
            return found
        return pc.or_(found, pc.match_substring_regex(paths, rf"\.{tag}s[_0-9a-f]*_(?:{'|'.join(values.texts)})[._]"))
    number = r"-?\d{1,18}"  # surely an int64
    ends = pc.extract_regex(paths, rf"\.{tag}{values.kind}(?P<low>{number})_(?P<high>{number})\.")
    low, high = (pc.struct_field(ends, name).cast(pa.int64()) for name in ("low", "high"))
    found = pc.is_null(ends)
    for start, end in values.spans:
        found = pc.or_(found, pc.and_(pc.less_equal(low, end), pc.less_equal(start, high)))
    return pc.fill_null(found, True)


def name_suffix(regions: Sequence[Region]) -> str:
    """Return what the name of a file says of its rows, all of which lie in these regions; "" where it says nothing."""
    said: list[str] = []
    for column in regions[0] if regions else ():
        if len(said) == _MOST_COLUMNS or not all(column in region for region in regions):
            continue
        values = reduce(Values.__or__, (region[column] for region in regions))
        if values.texts and len(values.texts) <= _MOST_TEXTS:
            said.append(f".{_tag(column)}s" + "".join(f"_{text}" for text in sorted(values.texts)))
        elif values.spans:
            said.append(f".{_tag(column)}{values.kind}{values.spans[0][0]}_{values.spans[-1][1]}")
    return "".join(said)


def held_by(path: str, columns: Iterable[str]) -> Region:
    """Return what the name of a file says of these columns."""
    ours = _OURS.fullmatch(path.rpartition("/")[2])
    if ours is None:
        return {}
    said: dict[str, Values] = {}
    for part in ours[1].split(".")[1:]:
        if numbers := _NUMBERS.fullmatch(part):
            said[numbers[1]] = Values(numbers[2], ((int(numbers[3]), int(numbers[4])),))
        elif texts := _TEXTS.fullmatch(part):
            said[texts[1]] = Values("s", texts=frozenset(texts[2].split("_")[1:]))
    return {column: said[_tag(column)] for column in columns if _tag(column) in said}


def suffix_of(path: str) -> str:
    """Return what the name of a file says, to be said of another file with some of its rows."""
    ours = _OURS.fullmatch(path.rpartition("/")[2])
    return "" if ours is None else ours[1]
