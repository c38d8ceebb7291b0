"""Which partitions of its inputs a run is given, by every mapping of Dagster; and what is refused before anything is computed."""

from __future__ import annotations

import datetime as dt
import random
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster._core.definitions.automation_tick_evaluation_context import build_run_requests_with_backfill_policies
from dagster._core.definitions.events import AssetKeyPartitionKey

from orcapod_dagster import packet_asset, packet_resources
from orcapod_dagster.core import delta
from orcapod_dagster.core.errors import LakeError, PartitionError
from orcapod_dagster.core.sources import DeltaSource

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
DAILY = dg.DailyPartitionsDefinition("2024-03-01", end_date="2024-03-15")
HOURLY = dg.HourlyPartitionsDefinition("2024-03-01-00:00", end_date="2024-03-02-06:00")
WEEKLY = dg.WeeklyPartitionsDefinition("2024-03-03", end_date="2024-03-17")
LETTERS = dg.StaticPartitionsDefinition(["a", "b", "it's"])
WORDS = dg.StaticPartitionsDefinition(["x", "y"])
GRID = dg.MultiPartitionsDefinition(
    {"day": dg.DailyPartitionsDefinition("2024-03-01", end_date="2024-03-04"), "site": LETTERS}
)


def days(first: int, last: int) -> list[str]:
    return [f"2024-03-{day:02d}" for day in range(first, last + 1)]


def offset(start: int, end: int) -> dg.TimeWindowPartitionMapping:
    return dg.TimeWindowPartitionMapping(start_offset=start, end_offset=end, allow_nonexistent_upstream_partitions=True)


MAPPINGS: dict[str, tuple[Any, Any, dg.PartitionMapping | None, str | None, list[str]]] = {
    "same day": (DAILY, DAILY, None, "2024-03-03", days(3, 3)),
    "day before": (DAILY, DAILY, offset(-1, -1), "2024-03-03", days(2, 2)),
    "three days": (DAILY, DAILY, offset(-2, 0), "2024-03-05", days(3, 5)),
    "days before the first": (DAILY, DAILY, offset(-1, -1), "2024-03-01", []),
    "week of days": (DAILY, WEEKLY, None, "2024-03-03", days(3, 9)),
    "day of a week": (WEEKLY, DAILY, None, "2024-03-05", days(3, 3)),
    "hours of a day": (HOURLY, DAILY, None, "2024-03-01", [f"2024-03-01-{hour:02d}:00" for hour in range(24)]),
    "all": (DAILY, LETTERS, dg.AllPartitionMapping(), "a", days(1, 14)),
    "last": (DAILY, LETTERS, dg.LastPartitionMapping(), "a", days(14, 14)),
    "some": (DAILY, LETTERS, dg.SpecificPartitionsPartitionMapping(["2024-03-02", "2024-03-07"]), "a", ["2024-03-02", "2024-03-07"]),
    "many to one": (LETTERS, WORDS, dg.StaticPartitionMapping({"a": "x", "it's": "x", "b": "y"}), "x", ["a", "it's"]),
    "one to many": (WORDS, LETTERS, dg.StaticPartitionMapping({"x": {"a", "b"}, "y": "it's"}), "b", ["x"]),
    "one to none": (LETTERS, WORDS, dg.StaticPartitionMapping({"a": "x"}), "y", []),
    "a dimension": (GRID, LETTERS, dg.MultiToSingleDimensionPartitionMapping("site"), "it's", [f"{day}|it's" for day in days(1, 3)]),
    "a day of two dimensions": (GRID, DAILY, dg.MultiToSingleDimensionPartitionMapping("day"), "2024-03-02", ["2024-03-02|a", "2024-03-02|b", "2024-03-02|it's"]),
    "into two dimensions": (LETTERS, GRID, dg.MultiToSingleDimensionPartitionMapping("site"), "2024-03-02|it's", ["it's"]),
    "none of partitions": (DAILY, None, None, None, days(1, 14)),
    "partitions of none": (None, DAILY, None, "2024-03-03", ["whole"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    """One instance for all runs of this file."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def run(instance: dg.DagsterInstance, tmp_path: Path) -> Callable[..., Any]:
    """Runs assets in a lake of the test's own; `only` names the ones that run, all by default."""

    def materialize(*assets: Any, only: list[Any] | None = None, **options: Any) -> Any:
        resources = packet_resources(str(tmp_path / "lake"), as_default=True)
        return dg.materialize(list(assets), instance=instance, resources=resources, selection=only, **options)

    return materialize


def rows_of(definition: Any, keys: list[str]) -> pa.Table:
    """Return one row per partition, with its key, and in a column per dimension a value that lies in it."""
    numbers = pa.array(range(len(keys)), pa.int64())
    if definition is None:
        return pa.table({"key": ["whole"], "x": [0]})
    if definition is GRID:
        parts = [definition.get_partition_key_from_str(str(key)).keys_by_dimension for key in keys]
        moments = [dt.date.fromisoformat(part["day"]) for part in parts]
        return pa.table(
            {"day": moments, "site": [p["site"] for p in parts], "key": [str(k) for k in keys], "x": numbers}
        )
    if not hasattr(definition, "time_window_for_partition_key"):
        return pa.table({"part": keys, "key": keys, "x": numbers})
    moments = [definition.time_window_for_partition_key(key).start + dt.timedelta(minutes=5) for key in keys]
    return pa.table({"part": pa.array(moments, pa.timestamp("us", "UTC")), "key": keys, "x": numbers})


def source_of(definition: Any, name: str = "source") -> dg.AssetsDefinition:
    def source(context) -> pa.Table:
        return rows_of(definition, list(context.partition_keys) if definition is not None else [])

    expr = {"day": "day", "site": "site"} if definition is GRID else "part"
    if definition is None:
        return dg.asset(name=name)(source)
    single = dg.BackfillPolicy.single_run()
    return dg.asset(name=name, partitions_def=definition, metadata={"partition_expr": expr}, backfill_policy=single)(
        source
    )


def fill(run: Callable[..., Any], source: dg.AssetsDefinition, definition: Any) -> None:
    """Write all partitions of a source, in one run."""
    keys = None if definition is None else list(definition.get_partition_keys())
    tags = keys and span(keys[0], keys[-1])
    run(source, tags=tags or {})


def span(first: str, last: str) -> dict[str, str]:
    return {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}


def held(tmp_path: Path, name: str, *columns: str) -> pa.Table:
    table = delta.open_table(str(tmp_path / "lake" / name))
    if table is None:
        return pa.table({column: [] for column in columns})
    source = DeltaSource(table)
    return pa.Table.from_batches(source.scan(columns), schema=pa.schema([source.schema.field(c) for c in columns]))


def double(x: int) -> int:
    CALLS.append(x)
    return 2 * x


CALLS: list[int] = []


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_run_is_given_the_partitions_that_it_maps_to(run: Callable[..., Any], tmp_path: Path, name: str) -> None:
    """Ordinary assets get exactly the rows of these partitions; packet assets too, or are refused before they compute."""
    upstream, downstream, mapping, key, expected = MAPPINGS[name]
    source = source_of(upstream)
    fill(run, source, upstream)
    seen: list[pa.Table] = []
    ins = {"source": dg.AssetIn("source", partition_mapping=mapping)}

    @dg.asset(partitions_def=downstream, ins=ins)
    def reader(source: pa.Table) -> None:
        seen.append(source)

    run(source, reader, only=[reader], partition_key=key)
    assert sorted(seen[0]["key"].to_pylist()) == sorted(expected)
    assert {"key", "x"} <= set(seen[0].column_names)

    expr = {"day": "day", "site": "site"} if downstream is GRID else {"a dimension": "site", "a day of two dimensions": "day"}.get(name, "part")  # fmt: skip
    columns = source_columns(upstream)
    packets = packet_asset(
        double, inputs=ins["source"], tag_columns=columns, output_keys="y", partitions_def=downstream, metadata={"partition_expr": expr} if downstream else {}
    )  # fmt: skip
    CALLS.clear()
    fits = name in ("same day", "week of days", "hours of a day", "a dimension", "a day of two dimensions", "none of partitions")  # fmt: skip
    if fits or (not expected and "part" in columns):
        run(source, packets, only=[packets], partition_key=key)
        assert sorted(held(tmp_path, "double", "key")["key"].to_pylist()) == sorted(expected)
        assert len(CALLS) == len(expected)
    else:
        with pytest.raises(
            PartitionError, match=r"lie outside of the partitions|but the table has|is no timestamp|does not fit"
        ):
            run(source, packets, only=[packets], partition_key=key)
        assert CALLS == []
        assert held(tmp_path, "double").num_rows == 0


def source_columns(definition: Any) -> list[str]:
    """Return the columns of a source that say which row it is."""
    return ["key"] if definition is None else ["day", "site", "key"] if definition is GRID else ["part", "key"]


def test_an_asset_reads_its_own_previous_partition(run: Callable[..., Any], tmp_path: Path) -> None:
    """A running sum over days, where each reads the day before, in single runs and in a range; the first gets no rows."""
    seen: list[int] = []

    @dg.asset(
        partitions_def=DAILY,
        metadata={"partition_expr": "day"},
        ins={"total": dg.AssetIn("total", partition_mapping=offset(-1, -1))},
    )
    def total(context, total: pa.Table) -> pa.Table:
        seen.append(total.num_rows)
        before = sum(total["sum"].to_pylist()) if total.num_rows else 0
        return pa.table({"day": [context.partition_key], "sum": [before + int(context.partition_key[-2:])]})

    for key in [*days(1, 4), "2024-03-03"]:
        run(total, partition_key=key)
    assert seen == [0, 1, 1, 1, 1]
    rows = held(tmp_path, "total", "day", "sum").to_pylist()
    assert {row["day"]: row["sum"] for row in rows} == dict(zip(days(1, 4), [1, 3, 6, 10], strict=True))
    assert len(rows) == 4


@pytest.mark.parametrize("definition", [DAILY, GRID], ids=["days", "two dimensions"])
def test_sparse_backfills_change_exactly_the_selected_cells(
    run: Callable[..., Any], tmp_path: Path, definition: Any
) -> None:
    """A single-run backfill of partitions that do not lie side by side, in the runs that Dagster makes of it, changes no other."""
    turn = 0

    def source(context) -> pa.Table:
        rows = rows_of(definition, list(context.partition_keys))
        return rows.append_column("turn", pa.array([turn] * rows.num_rows, pa.int64()))

    expr = {"day": "day", "site": "site"} if definition is GRID else "part"
    asset = dg.asset(partitions_def=definition, metadata={"partition_expr": expr}, backfill_policy=dg.BackfillPolicy.single_run())(source)  # fmt: skip
    graph = dg.Definitions(assets=[asset]).get_repository_def().asset_graph
    keys = [str(key) for key in definition.get_partition_keys()]
    expected: dict[str, int] = {}
    pick = random.Random(3)
    for turn in range(1, 4):
        chosen = set(pick.sample(keys, 5))
        wanted = {AssetKeyPartitionKey(asset.key, key) for key in chosen}
        requests = build_run_requests_with_backfill_policies(wanted, graph, None)
        for request in requests:
            run(asset, tags=dict(request.tags), partition_key=request.partition_key)
        assert len(requests) < len(chosen)
        expected |= dict.fromkeys(chosen, turn)
        found = held(tmp_path, "source", "key", "turn").to_pylist()
        assert {row["key"]: row["turn"] for row in found} == expected
        assert len(found) == len(expected)


# ---------------------------------------------------------------------------- daylight saving


@pytest.mark.parametrize("day", ["2024-03-31", "2024-10-27"], ids=["spring", "autumn"])
@pytest.mark.parametrize("cron", ["0 * * * *", "0 */3 * * *", "30 4 * * *"], ids=["hourly", "three hours", "at half past four"])  # fmt: skip
def test_windows_over_changes_of_the_clock(run: Callable[..., Any], tmp_path: Path, day: str, cron: str) -> None:
    """Windows of a cron schedule in Berlin, on both days on which clocks change: each moment lies in exactly one partition."""
    begin = dt.datetime.fromisoformat(day).replace(tzinfo=BERLIN) - dt.timedelta(days=1)
    start, end = f"{begin:%Y-%m-%d} 00:00", f"{begin + dt.timedelta(days=2):%Y-%m-%d} 12:00"
    definition = dg.TimeWindowPartitionsDefinition(
        start, "%Y-%m-%d %H:%M", end=end, cron_schedule=cron, timezone="Europe/Berlin"
    )
    utc = begin.astimezone(dt.UTC)
    moments = [utc + dt.timedelta(minutes=10 * i) for i in range(6 * 60)]
    keys = list(definition.get_partition_keys())

    def clock(context) -> pa.Table:
        spans = [definition.time_window_for_partition_key(key) for key in context.partition_keys]
        mine = [moment for moment in moments if any(span.start <= moment < span.end for span in spans)]
        return pa.table({"at": pa.array(mine, pa.timestamp("us", "UTC"))})

    asset = dg.asset(partitions_def=definition, metadata={"partition_expr": "at"}, backfill_policy=dg.BackfillPolicy.single_run())(clock)  # fmt: skip
    run(asset, tags=span(keys[0], keys[-1]))
    first, last = (definition.time_window_for_partition_key(key) for key in (keys[0], keys[-1]))
    wanted = [moment for moment in moments if first.start <= moment < last.end]
    assert held(tmp_path, "clock", "at")["at"].to_pylist() == wanted
    changing = [key for key in keys if key.startswith(day)][:3] if cron != "30 4 * * *" else keys[:2]
    for key in changing:
        run(asset, partition_key=key)
        assert sorted(held(tmp_path, "clock", "at")["at"].to_pylist()) == wanted


# ---------------------------------------------------------------------------- refused before compute


def numbered(run: Callable[..., Any], column: pa.Array) -> dg.AssetsDefinition:
    """Write an unpartitioned input with a column `part`."""
    rows = pa.table({"part": column, "x": list(range(len(column)))})

    @dg.asset
    def numbers() -> pa.Table:
        return rows

    run(numbers)
    return numbers


def packets_of(numbers: Any, expr: Any, definition: Any = LETTERS) -> Any:
    metadata = {} if expr is None else {"partition_expr": expr}
    return packet_asset(
        double, inputs=numbers, tag_columns=["part"], output_keys="y", partitions_def=definition, metadata=metadata
    )


@pytest.mark.parametrize(
    ("column", "expr", "message"),
    [
        (pa.array(["a"]), None, "does not say by which column"),
        (pa.array(["a"]), "other", "names the column 'other'"),
        (pa.array(["a"]), {"site": "part"}, "is one column's name"),
        (pa.array([1]), "part", "is no int64"),
        (pa.array([1.5]), "part", "columns of type double are not supported"),
        (pa.array(["a", "b"]), "part", "1 rows lie outside of the partitions"),
    ],
    ids=["no column", "unknown column", "wrong shape", "other type", "floats", "rows outside"],
)
def test_packet_assets_are_refused_before_they_compute(
    run: Callable[..., Any], tmp_path: Path, column: pa.Array, expr: Any, message: str
) -> None:
    """What cannot be written right is told before the function is called once, and nothing is stored."""
    numbers = numbered(run, column)
    packets = packets_of(numbers, expr)
    CALLS.clear()
    with pytest.raises(PartitionError, match=message):
        run(numbers, packets, only=[packets], partition_key="a")
    assert CALLS == []
    assert not (tmp_path / "lake" / "double").exists()


def test_packet_assets_whose_table_is_partitioned_otherwise_are_refused_before_they_compute(
    run: Callable[..., Any],
) -> None:
    """Partitions that come, go or move to another column than the table's are refused before the function is called."""
    numbers = numbered(run, pa.array(["a"]))
    other = packet_asset(
        double, name="other", inputs=numbers, tag_columns=["part"], output_keys="y", metadata={"partition_expr": "part"}
    )
    with_partitions = packets_of(numbers, "part")
    run(numbers, with_partitions, only=[with_partitions], partition_key="a")
    run(numbers, other, only=[other])
    CALLS.clear()
    changed = [
        (packets_of(numbers, None, None), {}, "has no partitions, but its table"),
        (packets_of(numbers, "y"), {"partition_key": "a"}, "is partitioned by 'y'"),
        (
            packet_asset(double, name="other", inputs=numbers, tag_columns=["part"], output_keys="y", partitions_def=LETTERS, metadata={"partition_expr": "part"}),
            {"partition_key": "a"},
            "was written as a whole",
        ),
    ]  # fmt: skip
    for packets, options, message in changed:
        with pytest.raises(PartitionError, match=message):
            run(numbers, packets, only=[packets], **options)
    assert CALLS == []


def test_a_table_in_partitions_is_not_read_whole_by_mistake(run: Callable[..., Any]) -> None:
    """An input whose definition here knows no partitions, but whose table was written by them, is refused for both kinds of asset."""
    source = source_of(LETTERS)
    fill(run, source, LETTERS)
    stranger = dg.AssetSpec("source")
    packets = packet_asset(double, inputs="source", tag_columns=["key"], output_keys="y")

    @dg.asset
    def reader(source: pa.Table) -> None:
        raise AssertionError

    CALLS.clear()
    for asset in (reader, packets):
        with pytest.raises(LakeError, match="its definition here knows none"):
            run(stranger, asset, only=[asset])
    assert CALLS == []
