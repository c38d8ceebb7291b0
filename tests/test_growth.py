"""A materialization after many costs what the tenth costs: files opened and commits read do not grow with the runs before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from orcapod_dagster.core import delta
from orcapod_dagster.core.predicates import Equals
from orcapod_dagster.core.sources import DeltaSource


def write(uri: Path, number: int) -> None:
    key = f"key {number}"
    table = pa.table({"key": [key] * 3, "n": [number] * 3})
    delta.replace(str(uri), table.to_reader, where=Equals("key", (key,)))


def read(uri: Path, number: int) -> list[int]:
    table = delta.open_table(str(uri))
    assert table is not None
    source = DeltaSource(table, Equals("key", (f"key {number}",)))
    return [n for batch in source.scan(["n"]) for n in batch["n"].to_pylist()]


def test_a_partition_more_opens_no_file_of_the_others(tmp_path: Path) -> None:
    """With 60 partitions, one more is written, read and replaced though no other data file can be read."""
    for number in range(60):
        write(tmp_path, number)
    for file in tmp_path.glob("*.parquet"):
        file.write_bytes(b"")
    for _ in range(2):
        write(tmp_path, 60)
        assert read(tmp_path, 60) == [60] * 3


def test_the_log_is_read_from_its_last_checkpoint(tmp_path: Path) -> None:
    """After 60 commits the table has checkpoints, and opens without the commits before the last of them."""
    for number in range(60):
        write(tmp_path, number)
    log = tmp_path / "_delta_log"
    checkpoint = max(int(file.name[:20]) for file in log.glob("*.checkpoint.parquet"))
    assert checkpoint >= 50
    for file in log.glob("*.json"):
        if int(file.stem) < checkpoint:
            file.unlink()
    write(tmp_path, 60)
    assert read(tmp_path, 60) == [60] * 3
    assert read(tmp_path, 0) == [0] * 3


def calls_of(work: Callable[[], Any]) -> int:
    """Count the calls that Python makes, of its own functions and of others; they are the same however busy the machine is."""
    counted = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counted


def test_nothing_is_done_per_file_of_the_other_partitions(tmp_path: Path) -> None:
    """Writing, replacing and reading one partition among 100 takes as many calls as among 10: no step goes through all files."""
    calls: dict[int, list[int]] = {}
    for number in range(100):
        if number not in (10, 99):
            write(tmp_path, number)
            continue
        work = (write, write, read)  # a new partition, the same again, and a look at it
        calls[number] = [calls_of(lambda step=step, at=number: step(tmp_path, at)) for step in work]
    for few, many in zip(calls[10], calls[99], strict=True):
        assert few > 100  # the counter counts
        assert many < few + 50, calls


def test_a_dataset_of_some_files_is_that_of_all_but_for_the_others(tmp_path: Path) -> None:
    """Order, schema and file system are those of the whole dataset, also where the folder's name must be encoded in a URI."""
    uri = tmp_path / "a b ü#?"
    for number in (3, 1, 2):
        write(uri, number)
    write(uri, 1)
    table = delta.open_table(str(uri))
    assert table is not None
    whole, some = delta.dataset(table), delta.dataset(table, Equals("key", ("key 1", "key 3")))
    wanted = [f.path for f in whole.get_fragments() if f.to_table()["n"][0].as_py() in (1, 3)]
    assert [f.path for f in some.get_fragments()] == wanted
    assert some.schema == whole.schema
    assert some.filesystem == whole.filesystem
    lazy = DeltaSource(table).dataset(["n"])
    assert lazy is not None
    assert lazy.to_table().num_rows == 9


def test_the_log_is_cleaned_with_each_checkpoint(tmp_path: Path) -> None:
    """Entries beyond their retention go, though not every commit looks for them, and the table stays readable."""
    table = pa.table({"n": [1]})
    for _ in range(25):
        delta.replace(
            str(tmp_path), table.to_reader, where=None, properties={"delta.logRetentionDuration": "interval 0 seconds"}
        )
    left = sorted(int(file.stem) for file in (tmp_path / "_delta_log").glob("*.json"))
    assert left[-1] == 25
    assert left[0] >= 10
    found = delta.open_table(str(tmp_path))
    assert found is not None
    assert found.version() == 25
