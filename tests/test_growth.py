"""A materialization after many costs what the tenth costs: files opened and commits read do not grow with the runs before."""

from __future__ import annotations

from pathlib import Path

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
    assert checkpoint >= 40
    for file in log.glob("*.json"):
        if int(file.stem) < checkpoint:
            file.unlink()
    write(tmp_path, 60)
    assert read(tmp_path, 60) == [60] * 3
    assert read(tmp_path, 0) == [0] * 3
