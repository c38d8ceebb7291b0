"""Lazy kinds of tables: datasets and LazyFrames read what they are asked for, and give what a table would; LazyFrames stream out."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from arrow_types import KEPT

from orcapod_dagster import DeltaLakeIOManager
from orcapod_dagster.core import delta
from orcapod_dagster.core.predicates import Equals, Predicate
from orcapod_dagster.core.sources import DeltaSource
from orcapod_dagster.core.storage_types import returned_type
from orcapod_dagster.kinds import as_type, as_write

ROWS = pa.table({"site": ["a", "b", "a", None], "n": [1, 2, 3, 4], "x": [1.0, float("nan"), None, 0.5]})


def write(folder: Path, table: pa.Table = ROWS, where: Predicate | None = None) -> None:
    delta.replace(str(folder), table.to_reader, where=where)


def load(folder: Path, kind: Any, columns: list[str] | None = None, where: Predicate | None = None) -> Any:
    table = delta.open_table(str(folder))
    assert table is not None
    return as_type(DeltaSource(table, where), kind, columns)


def can(work: Callable[[], Any]) -> bool:
    """Tell whether a library can do something with a type at all."""
    try:
        work()
    except Exception:
        return False
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of polars; it is no Exception
            raise
        return False
    return True


@pytest.mark.parametrize("name", list(KEPT))
def test_every_type_comes_as_in_a_table(tmp_path: Path, name: str) -> None:
    """For each Arrow type the lazy kinds give the types, rows and columns that the eager kinds give, also filtered by row."""
    table = pa.table({"n": range(len(KEPT[name])), "c": KEPT[name]})
    write(tmp_path, table)
    whole, data = load(tmp_path, pa.Table), load(tmp_path, ds.Dataset)
    assert data.schema == whole.schema
    assert data.schema.field("c").type == returned_type(KEPT[name].type)
    assert data.to_table().equals(whole)
    if can(lambda: ds.dataset(whole).to_table(filter=pc.field("n") == 1)):  # not where Arrow filters no such table
        assert data.to_table(filter=pc.field("n") == 1).equals(whole.slice(1, 1))
    if not can(lambda: pl.from_arrow(whole)):
        return
    frame = pl.from_arrow(whole)
    lazy = load(tmp_path, pl.LazyFrame)
    assert lazy.collect_schema() == frame.schema
    assert lazy.collect().equals(frame)
    assert lazy.filter(pl.col("n") == 1).select("c").collect().equals(frame[1:2, "c"].to_frame())
    assert lazy.head(1).collect().equals(frame.head(1))
    assert lazy.select(pl.len()).collect().item() == len(frame)


def test_filters_mean_the_same_as_in_memory(tmp_path: Path) -> None:
    """NaN and null are compared by the rules of polars, though rows are filtered while they are read."""
    write(tmp_path)
    frame = pl.from_arrow(ROWS)
    lazy = load(tmp_path, pl.LazyFrame)
    for one in [
        pl.col("x") > 0.7,
        pl.col("x") != 1.0,
        pl.col("x").is_nan(),
        ~(pl.col("site") == "a"),
        pl.col("site").is_null(),
    ]:
        assert lazy.filter(one).collect().equals(frame.filter(one))


@pytest.mark.parametrize("columns", [None, ["n"], ["n", "site"]], ids=str)
@pytest.mark.parametrize("first", ["one file for all", "a file for each"])
def test_only_the_partition_comes(tmp_path: Path, columns: list[str] | None, first: str) -> None:
    """The run's partition bounds lazy loads, whether its file holds others too or not, whatever columns are asked for."""
    write(tmp_path)
    for site in ["a", "b"] if first == "a file for each" else []:
        write(tmp_path, ROWS.filter(pc.field("site") == site), Equals("site", (site,)))
    expected = load(tmp_path, pa.Table, columns, Equals("site", ("a",)))
    assert expected["n"].to_pylist() == [1, 3]
    assert load(tmp_path, ds.Dataset, columns, Equals("site", ("a",))).to_table().equals(expected)
    lazy = load(tmp_path, pl.LazyFrame, columns, Equals("site", ("a",)))
    assert lazy.collect().equals(pl.from_arrow(expected))
    assert lazy.filter(pl.col("n") > 1).collect()["n"].to_list() == [3]
    nothing = load(tmp_path, ds.Dataset, columns, Equals("site", ("none",)))
    assert nothing.to_table().equals(expected.slice(0, 0))


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    """Loading opens no data file: it goes well though the file is damaged, and only reading it fails."""
    write(tmp_path)
    lazy, data = load(tmp_path, pl.LazyFrame), load(tmp_path, ds.Dataset)
    (file,) = tmp_path.glob("*.parquet")
    file.write_bytes(b"no parquet")
    load(tmp_path, pl.LazyFrame)
    with pytest.raises(Exception, match=r"(?i)parquet"):
        lazy.collect()
    with pytest.raises(Exception, match=r"(?i)parquet"):
        data.to_table()


PROBE = """
import sys
from pathlib import Path
import polars as pl, pyarrow.compute as pc, pyarrow.dataset as ds
from orcapod_dagster.core import delta
from orcapod_dagster.core.sources import DeltaSource
from orcapod_dagster.kinds import as_type

def read():
    return int(Path("/proc/self/io").read_text().split()[1])

source = DeltaSource(delta.open_table(sys.argv[1]))
began = read()
assert as_type(source, pl.LazyFrame, None).filter(pl.col("n") == 7).collect().height == 1
row = read()
assert as_type(source, ds.Dataset, None).to_table(columns=["n"], filter=pc.field("n") == 7).num_rows == 1
print(row - began, read() - row)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts bytes by /proc")
def test_one_row_of_many_reads_little(tmp_path: Path) -> None:
    """One row by a filter, and one column of it, read a small part of the bytes of a table: filters and columns reach the files."""
    count = 500_000
    numbers = pa.array(range(count), pa.int64())
    noise = pc.random(count)
    write(
        tmp_path,
        pa.table(
            {"n": numbers, "m": noise.cast(pa.string()), "o": pc.multiply(noise, 1e6).cast(pa.int64(), safe=False)}
        ),
    )
    size = sum(file.stat().st_size for file in tmp_path.glob("*.parquet"))
    shown = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout
    row, column = map(int, shown.split())
    assert row < size / 4
    assert column < size / 4


def test_a_lazy_frame_is_written_while_it_is_evaluated(tmp_path: Path) -> None:
    """A LazyFrame comes in batches, in order, and gives the types that the same frame in memory gives."""
    count = 400_000
    frame = pl.DataFrame({"n": range(count)}).with_columns(
        text=pl.col("n").cast(pl.String), when=pl.lit(dt.date(2024, 1, 1))
    )
    written = as_write(frame.lazy().with_columns(pl.col("n") * 2), "asset x")
    batches = list(written.open_reader())
    assert len(batches) > 1
    assert pa.Table.from_batches(batches)["n"].to_pylist() == list(range(0, 2 * count, 2))
    assert written.schema == as_write(frame, "asset x").schema
    delta.replace(str(tmp_path), written.open_reader, where=None)
    assert load(tmp_path, pl.LazyFrame).collect().equals(frame.with_columns(pl.col("n") * 2))


def test_assets_hand_lazy_tables_on(tmp_path: Path) -> None:
    """A chain of assets that load and return LazyFrames and datasets, partitioned by day, gives each day its rows."""
    days = dg.DailyPartitionsDefinition("2024-01-01")
    options: dict[str, Any] = {"partitions_def": days, "metadata": {"partition_expr": "day"}}

    @dg.asset(**options)
    def source(context) -> pl.LazyFrame:
        keys = [dt.date.fromisoformat(key) for key in context.partition_keys]
        return pl.LazyFrame({"day": keys, "n": [key.day for key in keys]})

    def double(source: Any) -> Any:
        return source.with_columns(pl.col("n") * 2)

    def keep(doubled: Any) -> Any:
        return doubled.filter(pc.field("n") > 2)

    double.__annotations__ = {"source": pl.LazyFrame}
    keep.__annotations__ = {"doubled": ds.Dataset}
    assets = [source, dg.asset(name="doubled", **options)(double), dg.asset(name="kept", **options)(keep)]
    resources = {"io_manager": DeltaLakeIOManager(root_uri=str(tmp_path))}
    tags = {"dagster/asset_partition_range_start": "2024-01-01", "dagster/asset_partition_range_end": "2024-01-03"}
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize(assets, resources=resources, instance=instance, tags=tags)
        dg.materialize(
            assets, selection=["doubled", "kept"], resources=resources, instance=instance, partition_key="2024-01-02"
        )
    assert sorted(load(tmp_path / "doubled", pa.Table)["n"].to_pylist()) == [2, 4, 6]
    assert sorted(load(tmp_path / "kept", pa.Table)["n"].to_pylist()) == [4, 6]
