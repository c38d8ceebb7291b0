"""DeltaLakeIOManager on real Dagster runs and real Delta tables: kinds of values, partitions, refusals."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable

from orcapod_dagster import DeltaLakeIOManager
from orcapod_dagster.core import delta
from orcapod_dagster.core.compaction import MANY_FILES
from orcapod_dagster.core.errors import (
    InputError,
    LakeFormatError,
    OrcapodError,
    PartitionError,
    SchemaMismatchError,
    StorageError,
    TableNotFoundError,
)
from orcapod_dagster.core.sources import DeltaSource

ROWS = pa.table({"id": [1, 2, 3], "site": ["a", "b", "b"]})
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def shown_in_full(show: Callable[[Any], str]) -> Any:
    return pytest.param(show)


class Lake:
    """A temporary lake with a Dagster instance, and a shorthand to materialize."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.instance = dg.DagsterInstance.ephemeral()
        self.io_manager = DeltaLakeIOManager(root_uri=str(root))

    def run(self, *assets: Any, **options: Any) -> dg.ExecuteInProcessResult:
        resources = {"io_manager": self.io_manager}
        return dg.materialize(list(assets), instance=self.instance, resources=resources, **options)

    def write(self, value: Any, name: str = "source", **options: Any) -> dg.ExecuteInProcessResult:
        return self.run(make_asset(lambda _: value, name, **options))

    def rows(self, *path: str) -> list[dict[str, Any]]:
        return sorted(DeltaTable(str(self.root.joinpath(*path))).to_pyarrow_table().to_pylist(), key=str)

    def version(self, name: str = "source") -> int:
        return DeltaTable(str(self.root / name)).version()


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    one = Lake(tmp_path / "lake")
    yield one
    one.instance.dispose()


def make_asset(
    give: Callable[[dg.AssetExecutionContext], Any], name: str = "source", **options: Any
) -> dg.AssetsDefinition:
    @dg.asset(name=name, **options)
    def made(context) -> Any:
        return give(context)

    return made


def make_reader(annotation: Any, seen: list[Any], **options: Any) -> dg.AssetsDefinition:
    metadata = options.pop("input_metadata", None)

    def read(source: Any) -> None:
        seen.append(source)

    read.__annotations__ = {"source": annotation, "return": None}
    return dg.asset(ins={"source": dg.AssetIn("source", metadata=metadata)}, **options)(read)


# ---------------------------------------------------------------------------- kinds of values


@pytest.mark.parametrize(
    "give",
    [
        lambda: ROWS,
        ROWS.to_reader,
        lambda: ds.dataset(ROWS),
        lambda: ROWS.to_batches()[0],
        lambda: pl.from_arrow(ROWS),
        lambda: pl.from_arrow(ROWS).lazy(),
        ROWS.to_pandas,
        ROWS.to_pylist,
    ],
    ids=["table", "reader", "dataset", "batch", "polars", "lazy", "pandas", "dicts"],
)
def test_every_kind_is_written(lake: Lake, give: Callable[[], Any]) -> None:
    """Each kind of table gives the same rows."""
    lake.write(give())
    assert lake.rows("source") == ROWS.to_pylist()


@pytest.mark.parametrize(
    ("annotation", "kind", "to_rows"),
    [
        (Any, pa.Table, pa.Table.to_pylist),
        (pa.Table, pa.Table, pa.Table.to_pylist),
        (pa.RecordBatchReader, pa.RecordBatchReader, lambda r: r.read_all().to_pylist()),
        (ds.Dataset, ds.Dataset, lambda d: d.to_table().to_pylist()),
        (pl.DataFrame, pl.DataFrame, pl.DataFrame.to_dicts),
        (pl.LazyFrame, pl.LazyFrame, lambda frame: frame.collect().to_dicts()),
        (pd.DataFrame, pd.DataFrame, lambda frame: frame.to_dict("records")),
        (list[dict[str, Any]], list, list),
        (DeltaTable, DeltaTable, lambda t: t.to_pyarrow_table().to_pylist()),
    ],
    ids=lambda value: getattr(value, "__qualname__", str(value)),  # the same in every process that collects tests
)
def test_every_kind_is_loaded(lake: Lake, annotation: Any, kind: type, to_rows: Callable[[Any], Any]) -> None:
    """A parameter receives the kind of table that its annotation asks for."""
    seen: list[Any] = []
    rows: list[Any] = []

    def read(source: Any) -> None:
        seen.append(source)
        rows.extend(to_rows(source))

    read.__annotations__ = {"source": annotation, "return": None}
    lake.run(make_asset(lambda _: ROWS), dg.asset(read))
    assert isinstance(seen[0], kind)
    assert rows == ROWS.to_pylist()


def test_columns_are_pruned(lake: Lake) -> None:
    """The input metadata `columns` limits what is loaded."""
    seen: list[Any] = []
    lake.run(make_asset(lambda _: ROWS), make_reader(pa.Table, seen, name="down", input_metadata={"columns": ["site"]}))
    assert seen[0].column_names == ["site"]


def test_a_source_is_loaded_pinned(lake: Lake) -> None:
    """With the input metadata `orcapod/load` a pinned source is given."""
    seen: list[Any] = []
    lake.run(make_asset(lambda _: ROWS), make_reader(Any, seen, name="down", input_metadata={"orcapod/load": "source"}))
    assert isinstance(seen[0], DeltaSource)
    lake.write(ROWS.slice(0, 1))
    assert seen[0].num_rows == 3


def test_dicts_with_different_keys_lose_nothing(lake: Lake) -> None:
    """A key that only a later dict has becomes a column, null in the rows before."""
    lake.write([{"a": 1}, {"a": 2, "b": "x"}])
    assert lake.rows("source") == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]


def test_a_named_pandas_index_is_kept(lake: Lake) -> None:
    """The index of a pandas frame that has a name is a column."""
    lake.write(pd.DataFrame({"v": [1]}, index=pd.Index(["x"], name="key")))
    assert lake.rows("source") == [{"v": 1, "key": "x"}]


@pytest.mark.parametrize(
    ("value", "match"), [(None, "None"), ([], "empty list"), (42, "int"), ("text", "str"), ([1], "list")]
)
def test_what_is_no_table_is_refused(lake: Lake, value: Any, match: str) -> None:
    """A value that is no table is refused with the asset's name and the value's kind, and leaves nothing behind."""
    with pytest.raises(InputError, match=f"source.*{match}"):
        lake.write(value)
    assert not (lake.root / "source").exists()


# ---------------------------------------------------------------------------- whole tables


def test_a_second_write_replaces_the_first(lake: Lake) -> None:
    """The table holds the rows of the last materialization alone."""
    lake.write(ROWS)
    lake.write(ROWS.slice(2))
    assert lake.rows("source") == [{"id": 3, "site": "b"}]


def test_another_schema_is_refused_unless_allowed(lake: Lake) -> None:
    """Other columns are refused with the difference; the definition metadata allows them."""
    lake.write(ROWS)
    other = pa.table({"id": [1], "height": [2.5]})
    with pytest.raises(SchemaMismatchError, match=r"(?s)height.*site|site.*height"):
        lake.write(other)
    assert lake.rows("source") == ROWS.to_pylist()
    lake.write(other, metadata={"orcapod/schema_evolution": "overwrite"})
    assert lake.rows("source") == other.to_pylist()


def test_metadata_of_a_write(lake: Lake) -> None:
    """Row count, schema, names and the Delta version are shown; secrets are not."""
    lake.io_manager = DeltaLakeIOManager(
        root_uri=str(lake.root), storage_options={"aws_secret_access_key": "hidden-one"}
    )
    result = lake.write(ROWS, key_prefix=["raw"])
    (event,) = result.asset_materializations_for_node("raw__source")
    shown = {key: value.value for key, value in event.metadata.items()}
    assert shown["dagster/row_count"] == 3
    assert shown["dagster/table_name"] == "raw.source"
    assert shown["dagster/uri"] == lake.io_manager.table_uri(dg.AssetKey(["raw", "source"]))
    assert [c.name for c in shown["dagster/column_schema"].columns] == ["id", "site"]
    assert shown["orcapod/delta_version"] == DeltaTable(str(lake.root / "raw" / "source")).version()
    assert "hidden-one" not in str(event)


@pytest.mark.parametrize("show", [repr, shown_in_full(str), shown_in_full("{}".format)])
def test_secrets_are_not_shown(show: Callable[[Any], str]) -> None:
    """No text of the IO manager holds a value of its storage options."""
    manager = DeltaLakeIOManager(root_uri="s3://bucket", storage_options={"aws_secret_access_key": "hidden-one"})
    assert "hidden-one" not in show(manager)


def test_nothing_materialized_yet(lake: Lake) -> None:
    """Loading an asset without a table names the asset and says what to do."""
    with pytest.raises(TableNotFoundError, match=r"source.*[Mm]aterialize"):
        lake.run(make_asset(lambda _: ROWS), make_reader(pa.Table, [], name="down"), selection=["down"])


def test_an_unwritable_root(tmp_path: Path) -> None:
    """A file in the place of the root is a storage error."""
    (tmp_path / "file").write_text("x")
    lake = Lake(tmp_path / "file")
    with pytest.raises(StorageError, match="file"):
        lake.write(ROWS)


def test_another_format(lake: Lake) -> None:
    """A table of another format is refused, read and written."""
    DeltaTable.create(
        str(lake.root / "source"), ROWS.schema, configuration={"orcapod.format": "9"}, raise_if_key_not_exists=False
    )
    with pytest.raises(LakeFormatError, match="9"):
        lake.write(ROWS)


@pytest.mark.parametrize(
    "path",
    [
        ["..", "escaped"],
        [".orcapod", "results"],
        ["a/b"],
        ["a%2Fb"],
        ["%2E%2E"],
        ["é", "x y"],
        ["."],
        ["a", "..", "b"],
        ["x" * 300],
        ["_delta_log"],
    ],
)
def test_every_key_has_its_own_folder_below_the_root(path: list[str]) -> None:
    """No key leaves the root, takes the results' folder or holds a percent sign."""
    manager = DeltaLakeIOManager(root_uri="/lake")
    uri = manager.table_uri(dg.AssetKey(path))
    parts = uri.removeprefix("/lake/").split("/")
    assert uri.startswith("/lake/")
    assert len(parts) == len(path)
    assert not any(part.startswith(".") or not part or "%" in part or len(part) > 255 for part in parts)
    assert uri != manager.table_uri(dg.AssetKey(["a", "b"]))
    assert not uri.startswith(manager.results_root)


# ---------------------------------------------------------------------------- partitions


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


# ---------------------------------------------------------------------------- write modes and time travel


def test_an_appending_asset_adds_rows(lake: Lake) -> None:
    """With write mode "append" each run adds its rows to those that are there."""
    for _ in range(2):
        lake.write(ROWS, metadata={"orcapod/write_mode": "append"})
    assert len(lake.rows("source")) == 6


def test_many_appends_are_compacted(lake: Lake) -> None:
    """The append that makes too many small files brings them together, and every row stays."""
    for n in range(MANY_FILES - 1):
        delta.append(str(lake.root / "source"), pa.table({"n": [n]}).to_reader)
    lake.write(pa.table({"n": [MANY_FILES - 1]}), metadata={"orcapod/write_mode": "append"})
    table = DeltaTable(str(lake.root / "source"))
    assert len(table.file_uris()) == 1
    assert sorted(table.to_pyarrow_table()["n"].to_pylist()) == list(range(MANY_FILES))


def test_a_retried_step_appends_once(lake: Lake) -> None:
    """A step that is tried again after its commit, by Dagster's retry policy, does not append its rows twice."""

    class Forgetful(DeltaLakeIOManager):
        def _add_metadata(self, context: Any, *rest: Any) -> None:
            if context.step_context.previous_attempt_count == 0:
                raise dg.RetryRequested
            super()._add_metadata(context, *rest)

    io_manager = Forgetful(root_uri=str(lake.root))
    source = make_asset(lambda _: ROWS, metadata={"orcapod/write_mode": "append"})
    for expected in (3, 6):
        result = dg.materialize([source], instance=lake.instance, resources={"io_manager": io_manager})
        assert result.success
        assert any(event.is_step_restarted for event in result.all_events)
        assert len(lake.rows("source")) == expected


def test_a_step_retried_after_many_commits_appends_once(lake: Lake) -> None:
    """A step that is tried again when others have committed 70 times since does not append its rows twice."""

    class Overtaken(DeltaLakeIOManager):
        def _add_metadata(self, context: Any, *rest: Any) -> None:
            if context.step_context.previous_attempt_count == 0:
                for n in range(70):
                    delta.append(str(lake.root / "source"), ROWS.slice(0, 1).to_reader, commit_id=f"other {n}")
                raise dg.RetryRequested
            super()._add_metadata(context, *rest)

    io_manager = Overtaken(root_uri=str(lake.root))
    source = make_asset(lambda _: ROWS, metadata={"orcapod/write_mode": "append"})
    result = dg.materialize([source], instance=lake.instance, resources={"io_manager": io_manager})
    assert result.success
    assert any(event.is_step_restarted for event in result.all_events)
    assert len(lake.rows("source")) == 70 + 3


def test_append_is_refused_for_partitions_and_unknown_modes(lake: Lake) -> None:
    """A partitioned asset cannot append, and an unknown write mode is named; nothing is written."""
    metadata = {"orcapod/write_mode": "append", "partition_expr": "site"}
    partitioned = make_asset(lambda _: ROWS, partitions_def=dg.StaticPartitionsDefinition(["a"]), metadata=metadata)
    with pytest.raises(PartitionError, match="'append' would keep old rows"):
        lake.run(partitioned, partition_key="a")
    with pytest.raises(InputError, match="'replace' or 'append'"):
        lake.write(ROWS, metadata={"orcapod/write_mode": "add"})
    assert not (lake.root / "source").exists()


@pytest.mark.parametrize("partitioned", [False, True])
def test_a_data_version_that_stands_makes_no_commit(lake: Lake, partitioned: bool) -> None:
    """An ordinary asset that sets the data version of the rows which are there writes nothing; after any other write it does."""
    keys = dg.StaticPartitionsDefinition(["a", "b"])
    options: dict[str, Any] = {"partitions_def": keys, "metadata": {"partition_expr": "site"}} if partitioned else {}

    def materialize(version: str | None, key: str = "a") -> int:
        @dg.asset(name="source", **options)
        def source(context) -> pa.Table:
            if version is not None:
                context.set_data_version(context.asset_key, dg.DataVersion(version))
            return pa.table({"site": [key], "value": [version or "none"]})

        lake.run(source, **({"partition_key": key} if partitioned else {}))
        return lake.version()

    first = materialize("1")
    assert materialize("1") == first
    assert materialize("2") == first + 1
    assert materialize("2") == first + 1
    if partitioned:
        assert materialize("2", "b") == first + 2
        assert materialize("2") == first + 2
        assert materialize("2", "b") == first + 2
    standing = lake.version()
    DeltaTable(str(lake.root / "source")).delete("value = '2'")
    assert materialize("2") == standing + 2
    assert materialize(None) == standing + 3
    assert materialize("2") == standing + 4


@pytest.mark.parametrize("key", ["orcapod/schema_evolution", "orcapod/write_mode"])
def test_settings_that_mean_nothing_are_refused(lake: Lake, key: str) -> None:
    """A setting with a value that there is not is named, with those that there are, and nothing is written."""
    with pytest.raises(InputError, match=rf"asset source: '{key}' is 'ad'. Give '"):
        lake.write(ROWS, metadata={key: "ad"})
    assert not (lake.root / "source").exists()


def test_a_column_that_is_not_there_is_named(lake: Lake) -> None:
    """Asking for a column that the table lacks says which, and which there are."""
    with pytest.raises(InputError, match=r"no columns \['city'\].*\['id', 'site'\]"):
        lake.run(
            make_asset(lambda _: ROWS), make_reader(pa.Table, [], name="down", input_metadata={"columns": ["city"]})
        )


def test_time_travel(lake: Lake) -> None:
    """An input is read at the version, or at the time, that its metadata names."""
    lake.write(ROWS)
    moment = dt.datetime.now(dt.UTC)
    lake.write(ROWS.slice(2))
    seen: list[Any] = []
    for metadata in ({"orcapod/version": 1}, {"orcapod/timestamp": moment.isoformat()}, {}):
        lake.run(
            make_reader(pa.Table, seen, input_metadata=metadata, name="reader"),
            dg.AssetSpec("source"),
            selection="reader",
        )
    assert [table.num_rows for table in seen] == [3, 3, 1]


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"orcapod/version": 99}, "the versions are 1 to 1"),
        ({"orcapod/timestamp": "2024-01-01T00:00:00"}, "without a zone"),
        ({"orcapod/version": 1, "orcapod/timestamp": "2024-01-01T00:00:00Z"}, "Name one"),
    ],
)
def test_a_moment_that_cannot_be_read_is_named(lake: Lake, metadata: dict[str, Any], match: str) -> None:
    """A version that is not there, a time without a zone, and both at once are refused with what would do."""
    lake.write(ROWS)
    with pytest.raises(OrcapodError, match=match):
        lake.run(
            make_reader(pa.Table, [], input_metadata=metadata, name="reader"),
            dg.AssetSpec("source"),
            selection="reader",
        )
