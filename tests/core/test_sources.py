"""Sources: scans and takes by position, over Delta tables with several files and over tables in memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orcapod_dagster.core import delta
from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.predicates import Equals, Window
from orcapod_dagster.core.sources import DeltaSource, MemorySource, TableSource

COUNT = 200_000


def make_rows(count: int = COUNT, site: str = "a") -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "site": pa.array([site] * count),
            "text": [f"{site}{i}" for i in range(count)],
        }
    )


def write(uri: Path, table: pa.Table, site: str | None = None) -> None:
    delta.replace(str(uri), table.to_reader, where=None if site is None else Equals("site", (site,)))


def open_source(uri: Path, where: Equals | Window | None = None) -> DeltaSource:
    table = delta.open_table(str(uri))
    assert table is not None
    return DeltaSource(table, where, "asset flights")


def from_delta(folder: Path) -> TableSource:
    write(folder / "t", make_rows())
    return open_source(folder / "t")


def from_files(folder: Path) -> TableSource:
    for site, count in (("b", 70_000), ("a", COUNT), ("c", 1)):
        write(folder / "t", make_rows(count, site), site)
    return open_source(folder / "t")


def from_part(folder: Path) -> TableSource:
    both = pa.concat_tables([make_rows(100), make_rows(), make_rows(100, "b"), make_rows(5)])
    write(folder / "t", pa.concat_tables([both, make_rows(7, "b")]))
    return open_source(folder / "t", Equals("site", ("a",)))


def from_memory(folder: Path) -> TableSource:
    return MemorySource(make_rows())


@pytest.fixture(params=[from_delta, from_files, from_part, from_memory])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> TableSource:
    make: Callable[[Path], TableSource] = request.param
    return make(tmp_path)


def test_scans_are_repeatable(source: TableSource) -> None:
    """Two scans give the same rows in the same order, as many as `num_rows` says, in the order of columns asked for."""
    first = pa.Table.from_batches(source.scan(["text", "id"]))
    assert first.column_names == ["text", "id"]
    assert first.num_rows == source.num_rows
    assert pa.Table.from_batches(source.scan(["text", "id"])).equals(first)


@pytest.mark.parametrize("kind", ["none", "one", "last", "sorted", "shuffled", "repeated", "dense"])
def test_take_speaks_of_scan_positions(source: TableSource, kind: str) -> None:
    """Rows are taken by their position in the scan, in the order of the positions."""
    count, dice = source.num_rows, random.Random(1)
    some = [dice.randrange(count) for _ in range(500)]
    positions = {
        "none": [],
        "one": [0],
        "last": [count - 1],
        "sorted": sorted(set(some)),
        "shuffled": some,
        "repeated": [5, 5, 5, count - 1, 5],
        "dense": list(range(60_000, 140_000)),
    }[kind]
    whole = pa.Table.from_batches(source.scan(["id", "text"]))
    taken = source.take(pa.array(positions, pa.int64()), ["text", "id"])
    expected = whole.take(pa.array(positions, pa.int64())).select(["text", "id"])
    assert taken.combine_chunks().equals(expected.combine_chunks())


def test_a_source_stays_at_its_version(tmp_path: Path) -> None:
    """A later write does not change what a source gives."""
    write(tmp_path / "t", make_rows(10))
    source = open_source(tmp_path / "t")
    write(tmp_path / "t", make_rows(3))
    assert source.num_rows == 10
    assert pa.Table.from_batches(source.scan(["id"])).num_rows == 10
    assert open_source(tmp_path / "t").num_rows == 3


def test_descriptions_name_what_is_read(tmp_path: Path) -> None:
    """The description says which asset and which version it is."""
    write(tmp_path / "t", make_rows(10))
    source = open_source(tmp_path / "t")
    assert source.description == f"asset flights, version {source.version}"


def test_an_empty_table(tmp_path: Path) -> None:
    """A table without rows has its schema, no rows, and an empty scan and take."""
    write(tmp_path / "t", make_rows(0))
    source = open_source(tmp_path / "t")
    assert source.num_rows == 0
    assert sum(batch.num_rows for batch in source.scan(["id"])) == 0
    assert source.take(pa.array([], pa.int64()), ["id"]).schema.names == ["id"]
    assert source.schema.names == ["id", "site", "text"]


def test_a_predicate_that_no_row_fulfils(tmp_path: Path) -> None:
    """A partition that was never written is empty."""
    write(tmp_path / "t", make_rows(10))
    source = open_source(tmp_path / "t", Equals("site", ("z",)))
    assert source.num_rows == 0
    assert list(source.scan(["id"])) == []


def test_positions_stay_after_a_checkpoint(tmp_path: Path) -> None:
    """Files are read in the same order whether the log is replayed from commits or from a checkpoint."""
    for i in range(12):
        delta.append(str(tmp_path / "t"), pa.table({"i": [i]}).to_reader)
    before = pa.Table.from_batches(open_source(tmp_path / "t").scan(["i"]))
    table = delta.open_table(str(tmp_path / "t"))
    assert table is not None
    table.create_checkpoint()
    assert pa.Table.from_batches(open_source(tmp_path / "t").scan(["i"])).equals(before)


def test_a_filtered_scan_gives_columns_that_it_does_not_filter_by(tmp_path: Path) -> None:
    """The predicate's column need not be among the columns asked for."""
    write(tmp_path / "t", pa.concat_tables([make_rows(3), make_rows(2, "b")]))
    source = open_source(tmp_path / "t", Equals("site", ("b",)))
    assert pa.Table.from_batches(source.scan(["text"])).to_pylist() == [{"text": "b0"}, {"text": "b1"}]


def test_fields_of_a_struct_are_read_with_the_checksums_of_their_pages(tmp_path: Path) -> None:
    """A bit that flipped in a field that is read by itself is an error, as it is for whole columns, never another value."""
    sizes = pa.array([i * 7919 % 100_003 for i in range(20_000)], pa.int64())
    struct = pa.StructArray.from_arrays([pa.nulls(len(sizes), pa.string()), sizes], ["path", "size"])
    delta.append(str(tmp_path), pa.table({"s": struct}).to_reader)
    (file,) = tmp_path.glob("*.parquet")
    page = pq.ParquetFile(file).metadata.row_group(0).column(1).data_page_offset
    content = bytearray(file.read_bytes())
    content[page + 3_000] ^= 4
    file.write_bytes(content)
    table = delta.open_table(str(tmp_path))
    assert table is not None
    with pytest.raises(StorageError, match="CRC checksum"):
        list(DeltaSource(table).scan_fields("s", ["size"]))
