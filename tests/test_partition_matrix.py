"""Kinds of partitions × types of the partition column × ways to write: every cell is right, or refused with the reason.

Each cell writes through real Dagster runs and is compared with a plain dict of what each partition should hold.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from orcapod_dagster import DeltaLakeIOManager, packet_asset, packet_resources
from orcapod_dagster.core import delta
from orcapod_dagster.core.errors import OrcapodError, PartitionError
from orcapod_dagster.core.sources import DeltaSource

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "date": pa.date32(),
    "aware": pa.timestamp("us", "UTC"),
    "naive": pa.timestamp("us"),
}
SITES = ["a", "it's", "x/y 100%", "ü", ""]
NUMBERS = ["1", "10", "-2", "300", "7"]
DATES = ["2024-02-28", "2024-02-29", "2024-03-01", "2024-03-02", "2024-03-03"]
KINDS: dict[str, Callable[[], dg.PartitionsDefinition[Any]]] = {
    "static": lambda: dg.StaticPartitionsDefinition(SITES),
    "static numbers": lambda: dg.StaticPartitionsDefinition(NUMBERS),
    "static dates": lambda: dg.StaticPartitionsDefinition(DATES),
    "dynamic": lambda: dg.DynamicPartitionsDefinition(name="sites"),
    "daily": lambda: dg.DailyPartitionsDefinition("2024-03-29", end_date="2024-04-10"),
    "daily in Berlin": lambda: dg.DailyPartitionsDefinition("2024-03-29", end_date="2024-04-10", timezone="Europe/Berlin"),
    "hourly": lambda: dg.HourlyPartitionsDefinition("2024-03-31-00:00", end_date="2024-03-31-12:00"),
    "weekly": lambda: dg.WeeklyPartitionsDefinition("2024-01-07", end_date="2024-03-31"),
    "monthly": lambda: dg.MonthlyPartitionsDefinition("2023-11-01", end_date="2024-08-01"),
    "six hours": lambda: dg.TimeWindowPartitionsDefinition("2024-03-30 00:00", "%Y-%m-%d %H:%M", cron_schedule="0 */6 * * *", end="2024-04-02 00:00"),
}  # fmt: skip
IN_TIME = {"daily", "daily in Berlin", "hourly", "weekly", "monthly", "six hours"}
WHOLE_DAYS = {"daily", "daily in Berlin", "weekly", "monthly"}


def is_right(kind: str, column: str) -> bool:
    """Say whether a kind has such values; all other cells must be refused."""
    if kind in IN_TIME:
        return column in ("string", "aware", "naive") or (column == "date" and kind in WHOLE_DAYS)
    if column == "string":
        return True
    return {"static numbers": "int64", "static dates": "date"}.get(kind) == column or (
        kind == "static dates" and column in ("aware", "naive")
    )


def value_of(kind: str, definition: Any, key: str, column: str) -> Any:
    """Return a value that lies in a partition; of a window, the middle of its first hour."""
    if column == "string":
        return key
    if kind not in IN_TIME:
        return (
            int(key)
            if column == "int64"
            else dt.date.fromisoformat(key)
            if column == "date"
            else dt.datetime.fromisoformat(key)
        )
    moment = definition.time_window_for_partition_key(key).start + dt.timedelta(minutes=30)
    return moment.date() if column == "date" else moment if column == "aware" else moment.replace(tzinfo=None)


class Cell:
    """One asset in a lake of its own, and what each of its partitions should hold."""

    def __init__(self, root: Path, kind: str, column: str) -> None:
        self.kind, self.column, self.root = kind, column, root
        self.instance = dg.DagsterInstance.ephemeral()
        self.definition = KINDS[kind]()
        if isinstance(self.definition, dg.DynamicPartitionsDefinition):
            self.instance.add_dynamic_partitions("sites", SITES)
        self.keys = list(self.definition.get_partition_keys(dynamic_partitions_store=self.instance))[:5]
        self.expected: dict[str, int] = {}
        self.turn = 0
        self.asset = self.make_asset()

    def make_asset(self) -> dg.AssetsDefinition:
        @dg.asset(
            partitions_def=self.definition,
            metadata={"partition_expr": "part"},
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def rows(context) -> pa.Table:
            return self.table(list(context.partition_keys), self.turn)

        return rows

    def table(self, keys: list[str], turn: int) -> pa.Table:
        values = [value_of(self.kind, self.definition, key, self.column) for key in keys for _ in range(2)]
        schema = pa.schema([("part", TYPES[self.column]), ("key", pa.string()), ("turn", pa.int64())])
        names = [key for key in keys for _ in range(2)]
        if self.column == "int64" and not all(isinstance(value, int) for value in values):
            values = [0] * len(names)
        return pa.table([pa.array(values, schema.field("part").type), names, [turn] * len(names)], schema=schema)

    def write(self, first: str, last: str | None = None, instance: dg.DagsterInstance | None = None) -> None:
        self.turn += 1
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
        options: dict[str, Any] = {"partition_key": first} if last is None else {"tags": tags}
        dg.materialize([self.asset], instance=instance or self.instance, resources=self.resources, **options)
        chosen = self.keys[self.keys.index(first) : self.keys.index(last or first) + 1]
        self.expected |= dict.fromkeys(chosen, self.turn)

    @property
    def resources(self) -> dict[str, Any]:
        return {"io_manager": DeltaLakeIOManager(root_uri=str(self.root))}

    def check(self) -> None:
        assert held(self.root / "rows") == sorted((k, t) for k, t in self.expected.items() for _ in range(2))

    def read(self, definition: Any, **options: Any) -> list[tuple[str, int]]:
        seen: list[pa.Table] = []

        @dg.asset(partitions_def=definition)
        def reader(rows: pa.Table) -> None:
            seen.append(rows)

        dg.materialize(
            [self.asset, reader], instance=self.instance, resources=self.resources, selection=[reader], **options
        )
        return sorted(zip(seen[0]["key"].to_pylist(), seen[0]["turn"].to_pylist(), strict=True))


def held(uri: Path) -> list[tuple[str, int]]:
    table = delta.open_table(str(uri))
    if table is None:
        return []
    source = DeltaSource(table)
    found = pa.Table.from_batches(
        source.scan(["key", "turn"]), schema=pa.schema([("key", pa.string()), ("turn", pa.int64())])
    )
    return sorted(zip(found["key"].to_pylist(), found["turn"].to_pylist(), strict=True))


@pytest.fixture
def cell_of(tmp_path: Path) -> Iterator[Callable[[str, str], Cell]]:
    made: list[Cell] = []

    def make(kind: str, column: str) -> Cell:
        made.append(Cell(tmp_path / "lake", kind, column))
        return made[-1]

    yield make
    for cell in made:
        cell.instance.dispose()


CELLS = [(kind, column) for kind in KINDS for column in TYPES]


@pytest.mark.parametrize(("kind", "column"), [c for c in CELLS if is_right(*c)])
def test_right_cells(cell_of: Callable[[str, str], Cell], kind: str, column: str) -> None:
    """Single, repeated, sparse and range writes replace exactly their partitions; readers get theirs, or all."""
    cell = cell_of(kind, column)
    keys = cell.keys
    for write in ((keys[0],), (keys[3],), (keys[0],), (keys[1], keys[3]), (keys[2],), (keys[0], keys[4])):
        cell.write(*write)
        cell.check()
    assert cell.read(cell.definition, partition_key=keys[1]) == [(keys[1], cell.expected[keys[1]])] * 2
    assert cell.read(None) == sorted((k, t) for k, t in cell.expected.items() for _ in range(2))


@pytest.mark.parametrize(("kind", "column"), [c for c in CELLS if not is_right(*c)])
def test_refused_cells(cell_of: Callable[[str, str], Cell], kind: str, column: str) -> None:
    """A partition that the column's type cannot express is refused by column and type, and nothing is written."""
    cell = cell_of(kind, column)
    cell.table = lambda keys, turn: pa.table(  # type: ignore[method-assign]  # any rows: they must not come into play
        {"part": pa.nulls(1, TYPES[column]), "key": ["x"], "turn": [turn]}
    )
    with pytest.raises(PartitionError, match="'part'"):
        cell.write(cell.keys[3])
    assert held(cell.root / "rows") == []


# ---------------------------------------------------------------------------- two dimensions


class Grid:
    """An asset partitioned by site and day, on a string and a temporal column."""

    def __init__(self, root: Path, column: str) -> None:
        self.root, self.column = root, column
        self.days = dg.DailyPartitionsDefinition("2024-03-29", end_date="2024-04-10")
        self.cells = dg.MultiPartitionsDefinition(
            {"day": self.days, "site": dg.StaticPartitionsDefinition(["a", "it's", "c"])}
        )
        self.turn = 0

    def rows(self, context) -> pa.Table:
        parts = [key.keys_by_dimension for key in context.partition_keys]  # type: ignore[attr-defined]
        days = [value_of("daily", self.days, part["day"], self.column) for part in parts]
        names = [f"{part['day']}|{part['site']}" for part in parts]
        return pa.table(
            {"day": pa.array(days, TYPES[self.column]), "site": [p["site"] for p in parts], "key": names, "turn": [self.turn] * len(parts)}
        )  # fmt: skip

    def write(self, **options: Any) -> None:
        self.turn += 1
        asset = dg.asset(
            name="rows",
            partitions_def=self.cells,
            metadata={"partition_expr": {"day": "day", "site": "site"}},
            backfill_policy=dg.BackfillPolicy.single_run(),
        )(self.rows)
        dg.materialize([asset], resources={"io_manager": DeltaLakeIOManager(root_uri=str(self.root))}, **options)


@pytest.mark.parametrize("column", ["string", "date", "aware", "naive"])
def test_two_dimensions(tmp_path: Path, column: str) -> None:
    """Cells of two dimensions, written one by one, again, and as a range, are replaced exactly."""
    grid, expected = Grid(tmp_path, column), {}
    for day, site in (("2024-03-29", "a"), ("2024-03-30", "it's"), ("2024-03-29", "it's"), ("2024-03-29", "a")):
        grid.write(partition_key=dg.MultiPartitionKey({"day": day, "site": site}))
        expected[f"{day}|{site}"] = grid.turn
        assert held(tmp_path / "rows") == sorted(expected.items())
    tags = {
        "dagster/asset_partition_range_start": "2024-03-30|a",
        "dagster/asset_partition_range_end": "2024-04-01|it's",
    }
    grid.write(tags=tags)
    chosen = grid.cells.get_partition_keys_in_range(dg.PartitionKeyRange("2024-03-30|a", "2024-04-01|it's"))
    expected |= {str(key): grid.turn for key in chosen}
    assert held(tmp_path / "rows") == sorted(expected.items())


# ---------------------------------------------------------------------------- ranges beside each other, and none


def test_concurrent_ranges_of_one_asset(cell_of: Callable[[str, str], Cell]) -> None:
    """Two runs that write other ranges of one asset at once both end up whole."""
    cell = cell_of("daily", "date")
    for key in cell.keys:
        cell.write(key)
    keys, before = cell.keys, dict(cell.expected)
    with ThreadPoolExecutor(2) as pool:
        ranges = [
            (keys[0], keys[1], dg.DagsterInstance.ephemeral()),
            (keys[3], keys[4], dg.DagsterInstance.ephemeral()),
        ]
        list(pool.map(lambda one: cell.write(*one), ranges))
    found = dict(held(cell.root / "rows"))
    assert len(held(cell.root / "rows")) == 10
    assert found[keys[2]] == before[keys[2]]
    assert all(found[key] > len(keys) for key in (keys[0], keys[1], keys[3], keys[4]))
    assert found[keys[0]] == found[keys[1]]
    assert found[keys[3]] == found[keys[4]]


def test_an_empty_range_writes_nothing(cell_of: Callable[[str, str], Cell]) -> None:
    """A range that ends before it begins is refused, and the table stays as it was."""
    cell = cell_of("daily", "date")
    cell.write(cell.keys[2])
    tags = {"dagster/asset_partition_range_start": cell.keys[3], "dagster/asset_partition_range_end": cell.keys[1]}
    with pytest.raises((OrcapodError, dg.DagsterError)):
        dg.materialize([cell.asset], instance=cell.instance, resources=cell.resources, tags=tags)
    cell.check()


def test_a_partition_without_rows_is_emptied(cell_of: Callable[[str, str], Cell]) -> None:
    """A run that returns no rows for its partition empties that one, and no other."""
    cell = cell_of("static", "string")
    cell.write("a")
    cell.write("ü")
    full = cell.table
    cell.table = lambda keys, turn: full(keys, turn).slice(0, 0)  # type: ignore[method-assign]
    cell.write("a")
    del cell.expected["a"]
    cell.check()


# ---------------------------------------------------------------------------- packet assets


def double(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize("kind", ["static", "daily", "hourly", "weekly", "monthly"])
def test_packet_assets_follow_their_input(tmp_path: Path, kind: str) -> None:
    """A packet asset of a partitioned input inherits its column: single, repeated and range runs hold exactly their rows."""
    definition = KINDS[kind]()
    keys = list(definition.get_partition_keys())[:4]
    column = "string" if kind == "static" else "aware"

    @dg.asset(
        partitions_def=definition, metadata={"partition_expr": "part"}, backfill_policy=dg.BackfillPolicy.single_run()
    )
    def source(context) -> pa.Table:
        values = [value_of(kind, definition, key, column) for key in context.partition_keys]
        numbers = [keys.index(key) for key in context.partition_keys]
        return pa.table({"part": pa.array(values, TYPES[column]), "x": numbers})

    doubled = packet_asset(
        double,
        inputs=source,
        tag_columns=["part"],
        output_keys="y",
        partitions_def=definition,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    resources = packet_resources(str(tmp_path), as_default=True)
    tags = {"dagster/asset_partition_range_start": keys[1], "dagster/asset_partition_range_end": keys[3]}
    with dg.DagsterInstance.ephemeral() as instance:
        for options, expected in (
            ({"partition_key": keys[0]}, [0]),
            ({"tags": tags}, [0, 2, 4, 6]),
            ({"partition_key": keys[2]}, [0, 2, 4, 6]),
        ):
            dg.materialize([source, doubled], instance=instance, resources=resources, **options)
            table = delta.open_table(str(tmp_path / "double"))
            assert table is not None
            assert sorted(table.to_pyarrow_table()["y"].to_pylist()) == expected
