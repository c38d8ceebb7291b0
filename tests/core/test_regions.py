"""Regions in the names of files: a pruned read or replacement gives what an unpruned one gives, and opens no more than it must."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Schema, write_deltalake
from deltalake.transaction import AddAction

from orcapod_dagster.core import delta
from orcapod_dagster.core.errors import PartitionError
from orcapod_dagster.core.predicates import AllOf, AnyOf, Equals, Predicate, Window
from orcapod_dagster.core.regions import held_by, meets, name_suffix, suffix_of
from orcapod_dagster.core.sources import DeltaSource

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
TEXTS = ["", "a", "a/b", "'; --", "é", "z" * 300, "z" * 299 + "y", "\n", "😀"]
TYPES: dict[str, pa.DataType] = {
    "text": pa.string(),
    "large": pa.large_string(),
    "kinds": pa.dictionary(pa.int32(), pa.string()),
    "number": pa.int64(),
    "small": pa.uint8(),
    "day": pa.date32(),
    "old_day": pa.date64(),
    "naive": pa.timestamp("us"),
    "aware": pa.timestamp("ms", "Europe/Vienna"),
    "nanos": pa.timestamp("ns", "UTC"),
}


def make_window(column: str, low: int, high: int) -> Window:
    return Window(column, EPOCH + low * DAY, EPOCH + high * DAY)


def value_of(t: pa.DataType, number: int) -> Any:
    """Return the same key as a value of any type."""
    if pa.types.is_timestamp(t):
        return EPOCH + number * DAY if t.tz else (EPOCH + number * DAY).replace(tzinfo=None)
    if pa.types.is_date(t):
        return (EPOCH + number * DAY).date()
    return number if pa.types.is_integer(t) else TEXTS[number]


def make_rows(column: str, numbers: list[int]) -> pa.Table:
    t = TYPES[column]
    keys = pa.array([value_of(t, n) for n in numbers], pa.string() if pa.types.is_dictionary(t) else t)
    return pa.table(
        {column: keys.cast(t), "n": pa.array(numbers, pa.int64()), "x": pa.array([None] * len(numbers), pa.float64())}
    )


def pick(column: str, numbers: list[int]) -> Predicate:
    """Return a predicate that means exactly these keys."""
    t = TYPES[column]
    if not pa.types.is_temporal(t):
        return Equals(column, tuple(str(value_of(t, n)) for n in numbers))
    parts = tuple(make_window(column, n, n + 1) for n in numbers)
    return parts[0] if len(parts) == 1 else AnyOf(parts)


def read(uri: Path, where: Predicate | None = None) -> list[int]:
    table = delta.open_table(str(uri))
    assert table is not None
    return sorted(n for batch in DeltaSource(table, where).scan(["n"]) for n in batch["n"].to_pylist())


@pytest.mark.parametrize("column", list(TYPES))
def test_pruned_is_unpruned(tmp_path: Path, column: str) -> None:
    """Random replacements and reads of partitions, one or several at once, agree with a model that knows no files."""
    choose = random.Random(column)
    table = make_rows(column, list(range(6)) * 2)
    delta.replace(str(tmp_path), table.to_reader, where=None)  # one file without a region holds all keys
    model = dict.fromkeys(range(6), 2)
    for _ in range(10):
        numbers = choose.sample(range(9), choose.choice([1, 1, 2, 5]))
        count = choose.choice([0, 1, 3])
        rows = make_rows(column, numbers * count)
        delta.replace(str(tmp_path), rows.to_reader, where=pick(column, numbers))
        model.update(dict.fromkeys(numbers, count))
        assert read(tmp_path) == sorted(n for n, times in model.items() for _ in range(times))
        for wanted in [[choose.randrange(9)], choose.sample(range(9), 4)]:
            assert read(tmp_path, pick(column, wanted)) == sorted(n for n in wanted for _ in range(model.get(n, 0)))


def test_two_dimensions_are_pruned_by_both(tmp_path: Path) -> None:
    """Cells of two dimensions read their own rows, from their own files."""
    cells = [(site, day) for site in ("a", "b", "c") for day in range(4)]

    def where(site: str, day: int) -> Predicate:
        return AllOf((Equals("site", (site,)), make_window("day", day, day + 1)))

    for n, (site, day) in enumerate(cells):
        rows = pa.table({"site": [site], "day": pa.array([day], pa.int32()).cast(pa.date32()), "n": [n]})
        delta.replace(str(tmp_path), rows.to_reader, where=where(site, day))
    table = delta.open_table(str(tmp_path))
    assert table is not None

    def files(asked: Predicate) -> int:
        return len(list(delta.dataset(table, asked).get_fragments()))

    assert all(files(where(*cell)) == 1 for cell in cells)
    both = AnyOf((where("a", 1), where("c", 3)))
    assert files(both) == 2
    assert read(tmp_path, both) == [1, 11]


def test_files_of_other_partitions_are_not_opened(tmp_path: Path) -> None:
    """With every other file damaged, one partition is still read and replaced."""
    for number in range(5):
        delta.replace(str(tmp_path), make_rows("text", [number]).to_reader, where=pick("text", [number]))
    (kept,) = delta.dataset(DeltaTable(str(tmp_path)), pick("text", [3])).get_fragments()
    for file in tmp_path.glob("*.parquet"):
        if file.name != kept.path:
            file.write_bytes(b"no parquet")
    assert read(tmp_path, pick("text", [3])) == [3]
    delta.replace(str(tmp_path), make_rows("text", [3, 3]).to_reader, where=pick("text", [3]))
    assert read(tmp_path, pick("text", [3])) == [3, 3]


def test_files_of_other_writers_hold_anything(tmp_path: Path) -> None:
    """Rows that another engine added or rewrote are found, in files whose names say nothing."""
    for number in range(3):
        delta.replace(str(tmp_path), make_rows("text", [number]).to_reader, where=pick("text", [number]))
    write_deltalake(str(tmp_path), make_rows("text", [1, 2]), mode="append")
    DeltaTable(str(tmp_path)).update({"text": "'a'"}, predicate="n = 0")
    assert read(tmp_path, pick("text", [1])) == [0, 1, 1]
    delta.replace(str(tmp_path), make_rows("text", [1]).to_reader, where=pick("text", [1]))
    assert read(tmp_path) == [1, 2, 2]


def test_rows_outside_are_refused(tmp_path: Path) -> None:
    """A row that does not fulfil the predicate is never written to a file whose name says that all do."""
    delta.replace(str(tmp_path), make_rows("text", [0]).to_reader, where=None)
    with pytest.raises(PartitionError, match="1 rows lie outside of the rows to replace by column text"):
        delta.replace(str(tmp_path), make_rows("text", [1, 2]).to_reader, where=pick("text", [1]))
    assert read(tmp_path) == [0]
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_bounds_in_the_log_would_lose_rows(tmp_path: Path) -> None:
    """The fact that keeps regions out of the log's statistics: with a bound of one column, rows are not found."""
    rows = pa.table({"text": ["a"], "whole": [2.0], "odd": [float("nan")]})
    pq.write_table(rows, tmp_path / "x.parquet")
    table = DeltaTable.create(str(tmp_path), Schema.from_arrow(rows.schema))
    said = {
        "numRecords": 1,
        "minValues": {"text": "a"},
        "maxValues": {"text": "a"},
        "nullCount": {"text": 0, "whole": 0, "odd": 0},
    }
    add = AddAction("x.parquet", (tmp_path / "x.parquet").stat().st_size, {}, 0, True, json.dumps(said))
    table.create_write_transaction([add], "append", table.schema())
    assert table.to_pyarrow_dataset().count_rows(filter=pc.field("whole") == 2.0) == 0


SCHEMA = pa.schema([("text", pa.string()), ("number", pa.int64()), ("aware", pa.timestamp("us", "UTC"))])


def every_predicate() -> Iterator[Predicate]:
    yield from (Equals("text", tuple(TEXTS[:n])) for n in (1, 2, 8, 9))
    yield from (
        Equals("number", numbers) for numbers in [("-5",), ("3", "4"), ("9223372036854775807", "-9223372036854775808")]
    )
    yield from (make_window("aware", low, high) for low, high in [(-700_000, -699_999), (0, 1), (1, 3)])


@pytest.mark.parametrize(
    "where", [*every_predicate(), AllOf((Equals("text", ("a",)), Equals("number", ("1",))))], ids=str
)
@pytest.mark.parametrize("other", list(every_predicate()), ids=str)
def test_names_are_short_and_read_back(where: Predicate, other: Predicate) -> None:
    """What a name says survives the name, fits a file system, and shuts out only regions that share nothing."""
    regions, suffix = where.regions(SCHEMA), name_suffix(where.regions(SCHEMA))
    name = f"part-{'0' * 32}{suffix}.parquet"
    assert len(name.encode()) < 255
    assert suffix_of(name) == suffix
    held = held_by(name, SCHEMA.names)
    assert meets(regions, held)
    if meets(regions, other.regions(SCHEMA)[0]):
        assert meets(other.regions(SCHEMA), held)


@pytest.mark.parametrize(
    "name",
    [
        "part-00000-7f0e8f9e-5a0e-4f0e-9d5a-2d6a6b1b1b1b-c000.snappy.parquet",
        "part-0.parquet",
        "x.parquet",
        f"part-{'0' * 32}.parquet",
    ],
)
def test_other_names_say_nothing(name: str) -> None:
    """The names that other writers give, and ours without a region, shut nothing out."""
    assert held_by(name, SCHEMA.names) == {}
    assert suffix_of(name) == ""
