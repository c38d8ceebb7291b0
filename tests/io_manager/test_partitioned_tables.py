"""Partitions of assets are rows of their tables: written, replaced and loaded by keys and windows, or refused."""

from __future__ import annotations

import datetime as dt
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from lakes import ROWS, Lake, make_asset, make_reader

from orcapod_dagster.core.errors import (
    OrcapodError,
    PartitionError,
)

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def column_of(kind: str, days: list[int]) -> pa.Array:
    date = pa.array([18_262 + day for day in days], pa.int32()).cast(pa.date32())  # 18,262 is 2020-01-01
    if kind == "date":
        return date
    if kind == "string":
        return pc.strftime(date, format="%Y-%m-%d")
    naive = pc.add(date.cast(pa.timestamp("us")), pa.scalar(dt.timedelta(hours=3)))
    return naive if kind == "naive" else pc.assume_timezone(naive, "UTC")


@pytest.mark.parametrize("kind", ["date", "string", "naive", "aware"])
def test_daily_partitions(lake: Lake, kind: str) -> None:
    """Each day replaces its own rows; a range of days in one run replaces exactly these; a day is read alone."""
    factor = [1]

    def give(context: dg.AssetExecutionContext) -> pa.Table:
        days = [(dt.date.fromisoformat(key) - START.date()).days for key in context.partition_keys]
        return pa.table({"when": column_of(kind, days), "value": [day * factor[0] for day in days]})

    daily = dg.DailyPartitionsDefinition(start_date="2020-01-01", end_date="2020-01-06")
    options: dict[str, Any] = {"partitions_def": daily, "backfill_policy": dg.BackfillPolicy.single_run()}
    asset = make_asset(give, metadata={"partition_expr": "when"}, **options)
    seen: list[Any] = []
    down = make_reader(pa.Table, seen, name="down", partitions_def=daily)
    for key in ("2020-01-01", "2020-01-02", "2020-01-05", "2020-01-02"):
        lake.run(asset, partition_key=key)
    assert [row["value"] for row in lake.rows("source")] == [0, 1, 4]
    factor[0] = 10
    tags = {"dagster/asset_partition_range_start": "2020-01-02", "dagster/asset_partition_range_end": "2020-01-04"}
    lake.run(asset, tags=tags)
    assert [row["value"] for row in lake.rows("source")] == [0, 10, 20, 30, 4]
    lake.run(asset, down, selection=["down"], partition_key="2020-01-03")
    assert seen[0]["value"].to_pylist() == [20]


@pytest.mark.parametrize(
    ("definition", "key", "inside", "outside"),
    [
        (
            dg.HourlyPartitionsDefinition("2020-01-01-00:00"),
            "2020-01-01-05:00",
            "2020-01-01T05:59:59",
            "2020-01-01T06:00:00",
        ),
        (dg.WeeklyPartitionsDefinition("2020-01-05"), "2020-01-12", "2020-01-18T23:00:00", "2020-01-19T00:00:00"),
        (dg.MonthlyPartitionsDefinition("2020-01-01"), "2020-02-01", "2020-02-29T23:00:00", "2020-03-01T00:00:00"),
        (
            dg.MonthlyPartitionsDefinition("2020-01-01", timezone="America/New_York"),
            "2020-03-01",
            "2020-04-01T03:59:59",
            "2020-04-01T04:00:00",
        ),
    ],
    ids=["hourly", "weekly", "monthly", "monthly in New York"],
)
def test_time_windows(lake: Lake, definition: Any, key: str, inside: str, outside: str) -> None:
    """A window takes the rows up to its end in its own time zone; a later row is refused and changes nothing."""
    give = [inside]
    asset = make_asset(
        lambda _: pa.table({"when": pa.array([dt.datetime.fromisoformat(give[0])], pa.timestamp("us", "UTC"))}),
        metadata={"partition_expr": "when"},
        partitions_def=definition,
    )
    lake.run(asset, partition_key=key)
    version = lake.version()
    give[0] = outside
    with pytest.raises(PartitionError, match="when"):
        lake.run(asset, partition_key=key)
    assert lake.version() == version
    assert len(lake.rows("source")) == 1


@pytest.mark.parametrize("definition", ["static", "dynamic"])
@pytest.mark.parametrize("key", ["a", "o'hara", "x' OR '1'='1", "a/b", "../a", "%2E%2E", "é", "a b", "z" * 300])
def test_keys_of_any_spelling(lake: Lake, definition: str, key: str) -> None:
    """A partition key of any spelling replaces and reads its own rows alone."""
    keys = ["other", key]
    partitions: Any = dg.StaticPartitionsDefinition(keys)
    if definition == "dynamic":
        partitions = dg.DynamicPartitionsDefinition(name="sites")
        lake.instance.add_dynamic_partitions("sites", keys)
    turn = [0]
    asset = make_asset(
        lambda context: pa.table({"site": [context.partition_key], "turn": [turn[0]]}),
        metadata={"partition_expr": "site"},
        partitions_def=partitions,
    )
    seen: list[Any] = []
    down = make_reader(pa.Table, seen, name="down", partitions_def=partitions)
    for name in ("other", key, key):
        turn[0] += 1
        lake.run(asset, partition_key=name)
    assert {row["site"]: row["turn"] for row in lake.rows("source")} == {"other": 1, key: 3}
    lake.run(asset, down, selection=["down"], partition_key=key)
    assert seen[0].to_pylist() == [{"site": key, "turn": 3}]


def test_int_keys(lake: Lake) -> None:
    """Keys of an integer column are compared as integers."""
    asset = make_asset(
        lambda context: pa.table({"site": [int(context.partition_key)]}),
        metadata={"partition_expr": "site"},
        partitions_def=dg.StaticPartitionsDefinition(["1", "10"]),
    )
    for key in ("1", "10", "1"):
        lake.run(asset, partition_key=key)
    assert sorted(row["site"] for row in lake.rows("source")) == [1, 10]


def test_two_dimensions(lake: Lake) -> None:
    """A cell of two dimensions is replaced and read alone."""
    cells = dg.MultiPartitionsDefinition(
        {
            "site": dg.StaticPartitionsDefinition(["a", "b"]),
            "day": dg.DailyPartitionsDefinition("2020-01-01", end_date="2020-01-03"),
        }
    )
    turn = [0]

    def give(context: dg.AssetExecutionContext) -> pa.Table:
        key = context.multi_partition_key.keys_by_dimension
        turn[0] += 1
        return pa.table({"site": [key["site"]], "day": [dt.date.fromisoformat(key["day"])], "turn": [turn[0]]})

    asset = make_asset(give, metadata={"partition_expr": {"site": "site", "day": "day"}}, partitions_def=cells)
    for day, site in (("2020-01-01", "a"), ("2020-01-01", "b"), ("2020-01-02", "a"), ("2020-01-01", "a")):
        lake.run(asset, partition_key=dg.MultiPartitionKey({"site": site, "day": day}))
    found = {(row["site"], row["day"].day): row["turn"] for row in lake.rows("source")}
    assert found == {("a", 1): 4, ("b", 1): 2, ("a", 2): 3}


def make_parts(**options: Any) -> dg.AssetsDefinition:
    return make_asset(
        lambda context: ROWS.filter(pc.equal(ROWS["site"], context.partition_key)),
        partitions_def=dg.StaticPartitionsDefinition(["a", "b"]),
        **options,
    )


def test_a_partitioned_asset_without_a_column_is_refused(lake: Lake) -> None:
    """Without `partition_expr` nothing is written, and the error says what to give."""
    with pytest.raises(PartitionError, match="partition_expr"):
        lake.run(make_parts(), partition_key="a")
    assert not (lake.root / "source").exists()


def test_rows_of_another_partition_are_refused(lake: Lake) -> None:
    """Rows that lie outside of the partition are refused by column, and the table stays as it was."""
    good = make_parts(metadata={"partition_expr": "site"})
    lake.run(good, partition_key="a")
    bad = make_asset(lambda _: ROWS, partitions_def=good.partitions_def, metadata={"partition_expr": "site"})
    with pytest.raises(PartitionError, match="site"):
        lake.run(bad, partition_key="b")
    assert lake.rows("source") == [{"id": 1, "site": "a"}]


def test_an_unpartitioned_asset_of_a_partitioned_one_gets_all(lake: Lake) -> None:
    """Without partitions of its own, a downstream asset gets the rows of all partitions."""
    asset = make_parts(metadata={"partition_expr": "site"})
    for key in ("a", "b"):
        lake.run(asset, partition_key=key)
    seen: list[Any] = []
    lake.run(asset, make_reader(pa.Table, seen, name="down"), selection=["down"])
    assert sorted(seen[0]["id"].to_pylist()) == [1, 2, 3]


def test_many_to_one(lake: Lake) -> None:
    """A weekly asset gets the seven days of its week."""
    days = dg.DailyPartitionsDefinition(start_date="2020-01-05", end_date="2020-01-20")
    asset = make_asset(
        lambda context: pa.table({"day": [dt.date.fromisoformat(key) for key in context.partition_keys]}),
        metadata={"partition_expr": "day"},
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    lake.run(
        asset,
        tags={"dagster/asset_partition_range_start": "2020-01-05", "dagster/asset_partition_range_end": "2020-01-19"},
    )
    seen: list[Any] = []
    down = make_reader(pa.Table, seen, name="down", partitions_def=dg.WeeklyPartitionsDefinition("2020-01-05"))
    lake.run(asset, down, selection=["down"], partition_key="2020-01-12")
    assert sorted(day.day for day in seen[0]["day"].to_pylist()) == [12, 13, 14, 15, 16, 17, 18]


def test_a_definition_that_forgot_its_partitions_is_refused(lake: Lake) -> None:
    """A table written by partitions is neither read nor overwritten whole by a definition without partitions."""
    lake.run(make_parts(metadata={"partition_expr": "site"}), partition_key="a")
    plain = make_asset(lambda _: ROWS)
    with pytest.raises(PartitionError):
        lake.run(plain, make_reader(pa.Table, [], name="down"), selection=["down"])
    with pytest.raises(PartitionError):
        lake.run(plain)
    assert lake.rows("source") == [{"id": 1, "site": "a"}]


def test_another_partition_column_is_refused(lake: Lake) -> None:
    """A definition that names another column than the table was written by changes nothing."""
    lake.run(make_parts(metadata={"partition_expr": "site"}), partition_key="a")
    other = make_asset(
        lambda _: pa.table({"id": [1], "site": ["other"]}),
        partitions_def=dg.StaticPartitionsDefinition(["1"]),
        metadata={"partition_expr": "id"},
    )
    with pytest.raises(OrcapodError):
        lake.run(other, partition_key="1")
    assert lake.rows("source") == [{"id": 1, "site": "a"}]


def test_partitions_of_a_table_that_was_written_whole_are_refused(lake: Lake) -> None:
    """An asset that becomes partitioned does not mix its partitions with the rows of the earlier whole table."""
    lake.write(ROWS)
    with pytest.raises(OrcapodError):
        lake.run(make_parts(metadata={"partition_expr": "site"}), partition_key="a")
    assert lake.rows("source") == ROWS.to_pylist()
