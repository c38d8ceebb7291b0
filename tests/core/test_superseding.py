"""Rows of a data file that holds other rows too are taken out of it batch by batch: the others stay, in order, in bounded memory."""

from __future__ import annotations

import datetime as dt
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, WriterProperties, write_deltalake

from orcapod_dagster.core import delta
from orcapod_dagster.core.delta import scanning
from orcapod_dagster.core.predicates import AnyOf, Equals, Predicate, Window
from orcapod_dagster.core.sources import DeltaSource

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def all_rows(uri: Path) -> pa.Table:
    table = delta.open_table(str(uri))
    assert table is not None
    source = DeltaSource(table)
    return pa.Table.from_batches(source.scan(source.schema.names), schema=source.schema)


def mixed_rows(count: int) -> pa.Table:
    """Rows of sites in no order, null among them, with values of nested types, and of types that Delta lacks."""
    pick = random.Random(count)
    numbers = range(count)
    return pa.table(
        {
            "n": pa.array(numbers, pa.uint32()),
            "site": pa.array([pick.choice(["a", "b", "c", None]) for _ in numbers]),
            "at": pa.array([NOON + dt.timedelta(hours=pick.randrange(4)) for _ in numbers], pa.timestamp("us", "UTC")),
            "tags": pa.array([[str(n)] * (n % 3) if n % 5 else None for n in numbers], pa.list_(pa.string())),
            "counts": pa.array([[(str(n), n)] for n in numbers], pa.map_(pa.string(), pa.int64())),
            "text": pa.array([f"text {n}" for n in numbers]).dictionary_encode(),
        }
    )


@pytest.mark.parametrize("scan_rows", [1, 7, 64, 1000])
@pytest.mark.parametrize(
    "where",
    [
        Equals("site", ("b",)),
        Window("at", NOON, NOON + dt.timedelta(hours=1)),
        AnyOf((Equals("site", ("a",)), Window("at", NOON, NOON + dt.timedelta(hours=2)))),
    ],
    ids=["value", "window", "any"],
)
def test_the_other_rows_stay_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Predicate, scan_rows: int
) -> None:
    """However many rows are read at once, all rows that are not meant are there afterwards, unchanged and in their order."""
    monkeypatch.setattr(scanning, "SCAN_ROWS", scan_rows)
    rows = mixed_rows(150)
    delta.replace(str(tmp_path), rows.to_reader, where=None)
    delta.replace(str(tmp_path), rows.slice(0, 0).to_reader, where=where)
    kept = [row for row, meant in zip(rows.to_pylist(), where.mask(rows).to_pylist(), strict=True) if not meant]
    assert 0 < len(kept) < 150
    assert all_rows(tmp_path).to_pylist() == kept


def test_a_file_from_before_a_column_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were written before the predicate's column was added are not meant, and stay, with the columns they lack as null."""
    monkeypatch.setattr(scanning, "SCAN_ROWS", 2)
    old = pa.table({"n": [1, 2, 3, 4, 5], "a.b": ["v", "w", "x", "y", "z"]})
    delta.append(str(tmp_path), old.to_reader)
    new = pa.table({"n": [6], "a.b": ["u"], "a": ["site"]})
    for _ in range(2):
        delta.replace(str(tmp_path), new.to_reader, where=Equals("a", ("site",)), evolve="add")
    found = all_rows(tmp_path).sort_by("n").to_pylist()
    assert found == [{**row, "a": None} for row in old.to_pylist()] + new.to_pylist()
    delta.replace(str(tmp_path), new.slice(0, 0).to_reader, where=Equals("n", ("2", "5", "6")))
    assert all_rows(tmp_path)["n"].to_pylist() == [1, 3, 4]
    assert all_rows(tmp_path)["a"].to_pylist() == [None] * 3


REPLACED = """
import sys
import pyarrow as pa
from orcapod_dagster.core import delta
from orcapod_dagster.core.predicates import Equals
uri = sys.argv[1]
rows = pa.table({"site": ["b"], "noise": pa.array([b"new"], pa.binary())})
delta.replace(uri, rows.to_reader, where=Equals("site", ("b",)))
print(pa.default_memory_pool().max_memory())
"""


def test_a_large_row_group_of_another_engine_is_not_held_in_memory(tmp_path: Path) -> None:
    """A mixed file of one row group of 150 MB, made by another engine, is written anew with a fraction of that in memory."""
    count, width = 2_400_000, 52
    noise = pa.Array.from_buffers(pa.binary(width), count, [None, pa.py_buffer(os.urandom(count * width))])
    rows = pa.table({"site": pa.array(["a", "b", "c", "d"] * (count // 4)), "noise": noise.cast(pa.binary())})
    write_deltalake(
        str(tmp_path), rows, target_file_size=1 << 30, writer_properties=WriterProperties(max_row_group_size=count)
    )
    (file,) = tmp_path.glob("*.parquet")
    assert pq.ParquetFile(file).num_row_groups == 1
    done = subprocess.run([sys.executable, "-c", REPLACED, str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < rows.nbytes / 3
    others = pc.not_equal(pc.field("site"), "b")
    assert all_rows(tmp_path).filter(others).equals(rows.filter(others))
    assert all_rows(tmp_path).num_rows == count - count // 4 + 1
    assert len(DeltaTable(str(tmp_path)).file_uris()) == 2
