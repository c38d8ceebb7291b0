"""Writes to real Delta tables: creation, replacement, appends, types, refusals, and several processes at once."""

from __future__ import annotations

import datetime as dt
import multiprocessing as mp
import traceback
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from orcapod_dagster.core import delta
from orcapod_dagster.core.compaction import compact
from orcapod_dagster.core.delta import files as data_files
from orcapod_dagster.core.errors import (
    ConversionError,
    LakeError,
    LakeFormatError,
    PartitionError,
    SchemaMismatchError,
    StorageError,
)
from orcapod_dagster.core.predicates import AllOf, AnyOf, Equals, Predicate, Window
from orcapod_dagster.core.sources import DeltaSource

DAY = dt.timedelta(days=1)
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def make_table(**columns: Any) -> pa.Table:
    return pa.table(columns or {"site": ["a", "b"], "value": [1, 2]})


def replace(uri: Path, table: pa.Table, where: Predicate | None = None, **options: Any) -> delta.WriteResult:
    return delta.replace(str(uri), table.to_reader, where=where, **options)


def append(uri: Path, table: pa.Table) -> delta.WriteResult:
    return delta.append(str(uri), table.to_reader)


def read(uri: Path) -> pa.Table:
    table = delta.open_table(str(uri))
    assert table is not None
    source = DeltaSource(table)
    return pa.Table.from_batches(source.scan(source.schema.names), schema=source.schema)


def rows(uri: Path) -> list[dict[str, Any]]:
    return sorted(read(uri).to_pylist(), key=str)


# ---------------------------------------------------------------------------- replacing


def test_replace_creates_and_replaces_the_whole(tmp_path: Path) -> None:
    """Without a predicate the table is created, then replaced as a whole, and each write tells its version and rows."""
    first = replace(tmp_path / "t", make_table())
    second = replace(tmp_path / "t", make_table(site=["c"], value=[3]))
    assert (first.rows, second.rows) == (2, 1)
    assert second.version > first.version
    assert second.version == DeltaTable(str(tmp_path / "t")).version()
    assert rows(tmp_path / "t") == [{"site": "c", "value": 3}]


@pytest.mark.parametrize(
    "key", ["a", "o'hara", "x' OR '1'='1", "a/b", "../a", "%2E%2E", "é", "", " ", "a\nb", "z" * 300, '"', "NULL", "\\"]
)
def test_replace_touches_exactly_its_key(tmp_path: Path, key: str) -> None:
    """A key of any spelling replaces its own rows and no others, however often it is written."""
    replace(tmp_path / "t", make_table(site=["other", key], value=[1, 2]))
    for value in (3, 4):
        replace(tmp_path / "t", make_table(site=[key], value=[value]), Equals("site", (key,)))
        assert sorted(read(tmp_path / "t")["value"].to_pylist()) == [1, value]


def test_null_keys_stay(tmp_path: Path) -> None:
    """A row whose key is null belongs to no partition and survives all replacements."""
    replace(tmp_path / "t", make_table(site=["a", None], value=[1, 2]))
    replace(tmp_path / "t", make_table(site=["a"], value=[3]), Equals("site", ("a",)))
    assert sorted(read(tmp_path / "t")["value"].to_pylist()) == [2, 3]


def test_a_partition_is_emptied_by_no_rows(tmp_path: Path) -> None:
    """A reader without rows removes the partition's rows and leaves the others."""
    replace(tmp_path / "t", make_table())
    result = replace(tmp_path / "t", make_table().slice(0, 0), Equals("site", ("a",)))
    assert result.rows == 0
    assert rows(tmp_path / "t") == [{"site": "b", "value": 2}]


@pytest.mark.parametrize(
    "kind", [pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.timestamp("ms", "UTC")]
)
def test_windows_are_half_open(tmp_path: Path, kind: pa.DataType) -> None:
    """A window holds its start and not its end, for every type of a time column."""
    days = pa.array([0, 1, 2], pa.int32()).cast(pa.date32()).cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    when = days if pa.types.is_timestamp(kind) and kind.tz else days.cast(pa.timestamp("us"))
    table = pa.table({"when": when.cast(kind), "value": [0, 1, 2]})
    replace(tmp_path / "t", table)
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    replace(tmp_path / "t", table.slice(0, 0), Window("when", epoch + DAY, epoch + 2 * DAY))
    assert sorted(read(tmp_path / "t")["value"].to_pylist()) == [0, 2]


def test_cells_are_not_their_cross_product(tmp_path: Path) -> None:
    """Two selected cells of two dimensions leave the two other cells alone."""
    table = pa.table({"x": ["a", "a", "b", "b"], "y": [1, 2, 1, 2]})
    replace(tmp_path / "t", table)
    cells = AnyOf(tuple(AllOf((Equals("x", (x,)), Equals("y", (y,)))) for x, y in [("a", 1), ("b", 2)]))
    replace(tmp_path / "t", table.slice(0, 0), cells)
    assert rows(tmp_path / "t") == [{"x": "a", "y": 2}, {"x": "b", "y": 1}]


def test_large_writes_keep_their_order(tmp_path: Path) -> None:
    """A million rows in many batches are read back in the order in which they were written."""
    count = 1_000_000
    table = pa.table({"id": pa.array(range(count)), "half": pa.array([f"{i:09d}" for i in range(count)])})
    batches = table.to_batches(max_chunksize=50_000)
    delta.replace(str(tmp_path / "t"), lambda: pa.RecordBatchReader.from_batches(table.schema, batches), where=None)
    assert read(tmp_path / "t")["id"].combine_chunks().equals(table["id"].combine_chunks())
    assert DeltaTable(str(tmp_path / "t")).to_pyarrow_table(columns=["id"])["id"].to_pylist() == list(range(count))


def test_wide_rows_make_small_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups are bounded in bytes, whether wide rows come in one batch or in many, and keep their order."""
    monkeypatch.setattr(data_files, "ROW_GROUP_BYTES", 10_000)
    table = pa.table({"id": range(64), "text": pa.array(["x" * 1000] * 64, pa.large_string())})
    for size in (64, 3):
        batches = table.to_batches(max_chunksize=size)
        delta.replace(str(tmp_path / "t"), lambda: pa.RecordBatchReader.from_batches(table.schema, batches), where=None)  # noqa: B023
        (path,) = DeltaTable(str(tmp_path / "t")).file_uris()
        held = pq.ParquetFile(path).metadata
        assert max(held.row_group(i).num_rows for i in range(held.num_row_groups)) < 20
        assert read(tmp_path / "t")["id"].to_pylist() == list(range(64))


def test_statistics_hide_no_rows(tmp_path: Path) -> None:
    """Engines that prune files by the log's statistics find long texts and times between milliseconds."""
    table = pa.table({"text": ["z" * 300, "😀" * 90], "when": pa.array([999, 1_000_999], pa.timestamp("us", "UTC"))})
    replace(tmp_path / "t", table)
    found = DeltaTable(str(tmp_path / "t")).to_pyarrow_dataset()
    assert found.to_table(filter=pa.compute.field("text") == "z" * 300).num_rows == 1
    late = pa.scalar(1_000_999, pa.timestamp("us", "UTC"))
    assert found.to_table(filter=pa.compute.field("when") >= late).num_rows == 1


def test_a_table_that_another_engine_updated(tmp_path: Path) -> None:
    """After an UPDATE, whose files hold string views, reading and replacing still work."""
    write_deltalake(str(tmp_path / "t"), make_table())
    DeltaTable(str(tmp_path / "t")).update({"value": "value + 10"}, predicate="site = 'a'")
    replace(tmp_path / "t", make_table(site=["b"], value=[5]), Equals("site", ("b",)))
    assert rows(tmp_path / "t") == [{"site": "a", "value": 11}, {"site": "b", "value": 5}]


def test_a_physically_partitioned_table_of_another_engine(tmp_path: Path) -> None:
    """A table that another engine partitioned is written right or refused, never written with null keys."""
    write_deltalake(str(tmp_path / "t"), make_table(), partition_by=["site"])
    try:
        replace(tmp_path / "t", make_table(site=["a"], value=[10]), Equals("site", ("a",)))
    except LakeError:
        assert rows(tmp_path / "t") == [{"site": "a", "value": 1}, {"site": "b", "value": 2}]
    else:
        assert rows(tmp_path / "t") == [{"site": "a", "value": 10}, {"site": "b", "value": 2}]


def test_nothing_is_appended_to_or_brought_together_in_a_table_laid_out_in_folders(tmp_path: Path) -> None:
    """Files without partition values would be read with nulls for keys; so an append is refused, and a compaction does nothing."""
    uri = str(tmp_path / "t")
    for _ in range(3):
        write_deltalake(uri, make_table(), partition_by=["site"], mode="append")
    before, version = rows(tmp_path / "t"), DeltaTable(uri).version()
    with pytest.raises(LakeError, match="laid out in folders by \\['site'\\]"):
        append(tmp_path / "t", make_table())
    assert compact(uri) is None
    assert (rows(tmp_path / "t"), DeltaTable(uri).version()) == (before, version)
    assert not list(Path(uri).glob("part-*"))


# ---------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["a", "b"], pa.large_string()),
        pa.array(["a", "b"], pa.string_view()),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array([b"a", None], pa.large_binary()),
    ],
    ids=lambda array: str(array.type),
)
def test_variants_are_read_by_value(tmp_path: Path, array: pa.Array) -> None:
    """Large, view and dictionary variants are written, and read back with equal values."""
    replace(tmp_path / "t", pa.table({"x": array}))
    assert read(tmp_path / "t")["x"].to_pylist() == array.to_pylist()


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
        pa.array([2**64 - 1], pa.uint64()),
        pa.array([b"x" * 16], pa.uuid()),
        pa.array([1], pa.decimal256(76, 0)),
        pa.array([{}], pa.struct([])),
        pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
    ],
    ids=lambda array: str(array.type),
)
def test_nothing_is_lost_silently(tmp_path: Path, array: pa.Array) -> None:
    """A value that Delta would change is refused by the column's name, or comes back unchanged."""
    try:
        replace(tmp_path / "t", pa.table({"x": array}))
    except ConversionError as error:
        assert "'x'" in str(error)  # noqa: PT017  # refusing is right too
        return
    assert read(tmp_path / "t")["x"].equals(pa.chunked_array([array]))


def test_error_texts_hold_no_values(tmp_path: Path) -> None:
    """A refused value stands neither in the error nor in its causes."""
    with pytest.raises(ConversionError) as caught:
        replace(tmp_path / "t", pa.table({"x": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns"))}))
    assert "1700000000123456789" not in "".join(traceback.format_exception(caught.value))


def test_a_failed_first_write_leaves_no_table(tmp_path: Path) -> None:
    """After a first write that failed there is no empty table which a reader would take for a result."""

    def fail() -> pa.RecordBatchReader:
        def batches() -> Any:
            yield from make_table().to_batches()
            raise RuntimeError("upstream broke")

        return pa.RecordBatchReader.from_batches(make_table().schema, batches())

    with pytest.raises(RuntimeError, match="upstream broke"):
        delta.replace(str(tmp_path / "t"), fail, where=None)
    assert delta.open_table(str(tmp_path / "t")) is None


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    """A reader that fails midway leaves the table and its files as they were, and the error is the reader's own."""
    replace(tmp_path / "t", make_table())
    before = sorted(p.name for p in (tmp_path / "t").rglob("*.parquet"))

    def fail() -> pa.RecordBatchReader:
        def batches() -> Any:
            yield from make_table().to_batches()
            raise RuntimeError("upstream broke")

        return pa.RecordBatchReader.from_batches(make_table().schema, batches())

    with pytest.raises(RuntimeError, match="upstream broke"):
        delta.replace(str(tmp_path / "t"), fail, where=None)
    assert rows(tmp_path / "t") == [{"site": "a", "value": 1}, {"site": "b", "value": 2}]
    assert sorted(p.name for p in (tmp_path / "t").rglob("*.parquet")) == before


def test_a_null_where_none_is_taken(tmp_path: Path) -> None:
    """A null in a column that takes none is an error about the data, and names the column."""
    schema = pa.schema([pa.field("x", pa.int64(), nullable=False)])
    table = pa.table([pa.array([1, None])], schema=schema)
    with pytest.raises((ConversionError, SchemaMismatchError), match="'x'"):
        replace(tmp_path / "t", table)


# ---------------------------------------------------------------------------- schemas


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (make_table(site=["a"]), "value"),
        (make_table(site=["a"], value=[1], more=[1]), "more"),
        (make_table(site=["a"], value=["1"]), "value.*string"),
        (make_table(site=["a"], value=[1.5]), "value.*double"),
    ],
)
def test_another_schema_is_refused(tmp_path: Path, table: pa.Table, match: str) -> None:
    """A missing, additional or retyped column is refused with its name, for replacements and for appends."""
    replace(tmp_path / "t", make_table())
    with pytest.raises(SchemaMismatchError, match=match):
        replace(tmp_path / "t", table)
    with pytest.raises(SchemaMismatchError, match=match):
        append(tmp_path / "t", table)
    assert read(tmp_path / "t").num_rows == 2


def test_columns_are_added_when_allowed(tmp_path: Path) -> None:
    """With evolve="add" a new column appears, null in the rows of other partitions."""
    replace(tmp_path / "t", make_table())
    more = make_table(site=["a"], value=[5], when=pa.array([1], pa.duration("us")))
    replace(tmp_path / "t", more, Equals("site", ("a",)), evolve="add")
    assert read(tmp_path / "t").schema.field("when").type == pa.duration("us")
    assert [row["when"] for row in rows(tmp_path / "t")] == [dt.timedelta(microseconds=1), None]


def test_the_schema_is_overwritten_when_allowed(tmp_path: Path) -> None:
    """With evolve="overwrite" the whole table takes the new columns; one partition cannot."""
    replace(tmp_path / "t", make_table())
    other = make_table(site=["a"], speed=[1.5])
    with pytest.raises(SchemaMismatchError):
        replace(tmp_path / "t", other, Equals("site", ("a",)), evolve="overwrite")
    replace(tmp_path / "t", other, evolve="overwrite")
    assert read(tmp_path / "t").to_pylist() == [{"site": "a", "speed": 1.5}]


# ---------------------------------------------------------------------------- opening


def test_no_table_is_none(tmp_path: Path) -> None:
    """Where there is no table, there is no error."""
    assert delta.open_table(str(tmp_path / "nothing")) is None
    (tmp_path / "folder").mkdir()
    assert delta.open_table(str(tmp_path / "folder")) is None


def test_another_format_is_refused(tmp_path: Path) -> None:
    """A table of another format is neither read nor written, and the error names both formats."""
    properties = {"orcapod.format": "2"}
    DeltaTable.create(str(tmp_path / "t"), make_table().schema, configuration=properties, raise_if_key_not_exists=False)
    with pytest.raises(LakeFormatError, match=r"2.*1"):
        delta.open_table(str(tmp_path / "t"))
    with pytest.raises(LakeFormatError):
        replace(tmp_path / "t", make_table())
    assert DeltaTable(str(tmp_path / "t")).version() == 0


@pytest.mark.parametrize("write", [replace, append])
def test_a_root_that_cannot_be_written(tmp_path: Path, write: Callable[..., Any]) -> None:
    """A file in the place of the folder is a storage error that names the path."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file"):
        write(tmp_path / "file" / "t", make_table())


def test_a_percent_in_the_path_reaches_no_other_table(tmp_path: Path) -> None:
    """A path that delta-rs would decode is refused or right, and the decoded path stays untouched."""
    replace(tmp_path / "a" / "b", make_table())
    try:
        replace(tmp_path / "a%2Fb", make_table(site=["x"], value=[9]))
    except LakeError:
        pass
    else:
        assert rows(tmp_path / "a%2Fb") == [{"site": "x", "value": 9}]
    assert read(tmp_path / "a" / "b").num_rows == 2


def test_time_travel(tmp_path: Path) -> None:
    """An earlier version is opened by its number; one that does not exist is an error."""
    first = replace(tmp_path / "t", make_table())
    replace(tmp_path / "t", make_table(site=["c"], value=[3]))
    table = delta.open_table(str(tmp_path / "t"), version=first.version)
    assert table is not None
    assert DeltaSource(table).num_rows == 2
    with pytest.raises(LakeError):
        delta.open_table(str(tmp_path / "t"), version=99)


def test_custom_metadata_is_in_the_commit(tmp_path: Path) -> None:
    """What the caller says of a commit is read back from the newest one."""
    replace(tmp_path / "t", make_table(), custom_metadata={"orcapod.run_id": "r1"})
    table = delta.open_table(str(tmp_path / "t"))
    assert table is not None
    assert delta.last_commit_metadata(table)["orcapod.run_id"] == "r1"


# ---------------------------------------------------------------------------- predicates


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1 OR 1=1", pa.int64()),
        ("today", pa.date32()),
        ("1", pa.float64()),
        pytest.param("300", pa.int8()),
        pytest.param("01", pa.int64()),
    ],
)
def test_keys_of_another_type_are_refused(value: str, kind: pa.DataType) -> None:
    """A key that is no value of the column's type, spelled as that value is, is refused with the column's name."""
    with pytest.raises(PartitionError, match="'x'"):
        Equals("x", (value,)).mask(pa.table({"x": pa.nulls(1, kind)}))


def test_an_hour_that_comes_twice_is_refused(tmp_path: Path) -> None:
    """When clocks are set back, a naive column cannot tell two hours apart, so the window is refused."""
    zone = zoneinfo.ZoneInfo("America/New_York")
    first = dt.datetime(2020, 11, 1, 5, tzinfo=dt.UTC).astimezone(zone)
    window = Window("x", first, (first.astimezone(dt.UTC) + dt.timedelta(hours=1)).astimezone(zone))
    with pytest.raises(PartitionError, match="'x'"):
        window.mask(pa.table({"x": pa.array([dt.datetime(2020, 11, 1, 1, 30)])}))


# ---------------------------------------------------------------------------- several processes


def _race(arguments: tuple[str, int, int]) -> int:
    uri, worker, count = arguments
    for i in range(count):
        delta.append(uri, pa.table({"worker": [worker], "i": [i]}).to_reader)
    return count


def _replace_own(arguments: tuple[str, int, int]) -> int:
    uri, worker, count = arguments
    key = f"w{worker}"
    for i in range(count):
        delta.replace(uri, pa.table({"k": [key, key], "i": [i, i]}).to_reader, where=Equals("k", (key,)))
    return count


def _replace_same(arguments: tuple[str, int, int]) -> int:
    uri, worker, count = arguments
    for _ in range(count):
        delta.replace(uri, pa.table({"k": ["a"] * 5, "w": [worker] * 5}).to_reader, where=Equals("k", ("a",)))
    return count


def _replace_whole(arguments: tuple[str, int, int]) -> int:
    uri, worker, count = arguments
    for _ in range(count):
        delta.replace(uri, pa.table({"k": ["a"] * 5, "w": [worker] * 5}).to_reader, where=None)
    return count


def _run(pool: Any, work: Callable[..., int], uri: Path, workers: int = 4, count: int = 1) -> None:
    assert sum(pool.map(work, [(str(uri), w, count) for w in range(workers)], 1)) == workers * count


@pytest.fixture(scope="module")
def pool() -> Any:
    with mp.get_context("spawn").Pool(4) as processes:
        yield processes


@pytest.mark.slow
def test_creation_race(tmp_path: Path, pool: Any) -> None:
    """Four processes that create one table at once lose and duplicate nothing."""
    for turn in range(5):
        _run(pool, _race, tmp_path / f"append{turn}")
        assert rows(tmp_path / f"append{turn}") == [{"worker": w, "i": 0} for w in range(4)]
        _run(pool, _replace_whole, tmp_path / f"replace{turn}")
        assert read(tmp_path / f"replace{turn}").num_rows == 5


@pytest.mark.slow
def test_concurrent_appends(tmp_path: Path, pool: Any) -> None:
    """All appends of four processes are committed, each once."""
    _run(pool, _race, tmp_path / "t", count=10)
    found = [(row["worker"], row["i"]) for row in read(tmp_path / "t").to_pylist()]
    assert sorted(found) == [(w, i) for w in range(4) for i in range(10)]


@pytest.mark.slow
def test_concurrent_partitions(tmp_path: Path, pool: Any) -> None:
    """Four processes that replace their own partitions do not disturb each other."""
    _run(pool, _replace_own, tmp_path / "t", count=5)
    assert rows(tmp_path / "t") == [{"k": f"w{w}", "i": 4} for w in range(4) for _ in range(2)]


@pytest.mark.slow
def test_the_same_partition_at_once(tmp_path: Path, pool: Any) -> None:
    """Four processes that replace the same partition leave the rows of exactly one of them."""
    _run(pool, _replace_same, tmp_path / "t", count=5)
    found = read(tmp_path / "t")
    assert found.num_rows == 5
    assert len(set(found["w"].to_pylist())) == 1


def test_an_append_is_not_lost_by_a_replacement_beside_it(tmp_path: Path) -> None:
    """A replacement that began before an append was committed takes the appended rows away or comes before them."""
    append(tmp_path / "t", make_table())
    appended: list[int] = []

    def open_reader() -> pa.RecordBatchReader:
        def batches() -> Any:
            if not appended:
                appended.append(append(tmp_path / "t", make_table(site=["late"], value=[9])).version)
            yield from make_table(site=["new"], value=[5]).to_batches()

        return pa.RecordBatchReader.from_batches(make_table().schema, batches())

    result = delta.replace(str(tmp_path / "t"), open_reader, where=None)
    assert result.version > appended[0]
    assert rows(tmp_path / "t") == [{"site": "new", "value": 5}]


# ---------------------------------------------------------------------------- schemas that change

_BEFORE = pa.table({"id": pa.array([1, 2])})


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2], pa.timestamp("us")),
        pa.array([[1], None], pa.list_(pa.timestamp("us"))),
        pa.array([{"at": 1}, None], pa.struct([("at", pa.timestamp("s"))])),
        pa.array([255, 0], pa.uint8()),
        pa.array(["a", None]).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
@pytest.mark.parametrize("evolve", ["add", "overwrite"])
def test_a_new_column_of_any_type_leaves_a_readable_table(tmp_path: Path, column: pa.Array, evolve: Any) -> None:
    """A column that is added, or comes with other columns, is read back with its type, whatever the table was before."""
    uri = str(tmp_path / "t")
    delta.replace(uri, _BEFORE.to_reader, where=None)
    after = _BEFORE.append_column("x", column)
    delta.replace(uri, after.to_reader, where=None, evolve=evolve)
    table = delta.open_table(uri)
    assert table is not None
    assert delta.table_schema(table) == after.schema
    assert read(tmp_path / "t").to_pylist() == after.to_pylist()


def test_an_added_column_is_null_in_rows_that_were_there(tmp_path: Path) -> None:
    """A column that takes no null, added by a write of a part of the table, is null in the other rows, and nullable."""
    uri = str(tmp_path / "t")
    replace(tmp_path / "t", make_table(site=["a", "b"], value=[1, 2]))
    schema = pa.schema([("site", pa.string()), ("value", pa.int64()), pa.field("more", pa.int64(), nullable=False)])
    part = pa.table({"site": ["a"], "value": [3], "more": [4]}, schema=schema)
    delta.replace(uri, part.to_reader, where=Equals("site", ("a",)), evolve="add")
    assert rows(tmp_path / "t") == [{"site": "a", "value": 3, "more": 4}, {"site": "b", "value": 2, "more": None}]


def test_another_schema_is_one_commit(tmp_path: Path) -> None:
    """Rows and schema of a whole table change in one commit, so no reader sees one without the other."""
    uri = str(tmp_path / "t")
    delta.replace(uri, _BEFORE.to_reader, where=None)
    before = DeltaTable(uri).version()
    delta.replace(uri, pa.table({"id": ["a"]}).to_reader, where=None, evolve="overwrite")
    assert DeltaTable(uri).version() == before + 1
    assert read(tmp_path / "t").to_pylist() == [{"id": "a"}]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (pa.array([1], pa.uint8()), pa.array([-1], pa.int16())),
        (pa.array([1], pa.duration("s")), pa.array([1], pa.int64())),
        (pa.array([1], pa.timestamp("s")), pa.array([1], pa.timestamp("us"))),
        (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), pa.array([[1]])),
        (pa.array([b"ab"], pa.binary(2)), pa.array([b"a"])),
    ],
    ids=lambda array: str(array.type),
)
def test_types_that_are_stored_alike_are_not_mixed(tmp_path: Path, before: pa.Array, after: pa.Array) -> None:
    """Two types that Delta holds in the same way, but which mean other values, are a difference of schemas."""
    uri = str(tmp_path / "t")
    delta.replace(uri, pa.table({"x": before}).to_reader, where=None)
    for write in (lambda t: delta.replace(uri, t.to_reader, where=None), lambda t: delta.append(uri, t.to_reader)):
        with pytest.raises(SchemaMismatchError, match="column 'x'"):
            write(pa.table({"x": after}))
    assert read(tmp_path / "t")["x"].to_pylist() == before.to_pylist()
