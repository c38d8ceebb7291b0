"""Verify: every damage of a lake is named, and a whole lake has nothing to say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from orcapod_dagster import Blob, packet_asset, packet_resources
from orcapod_dagster.cli import main
from orcapod_dagster.core import delta
from orcapod_dagster.core.lake import Lake
from orcapod_dagster.core.sources import DeltaSource
from orcapod_dagster.core.standing_rows import check_rows, standing_rows
from orcapod_dagster.core.verify import Finding, verify


@pytest.fixture
def finish(tmp_path: Path) -> Callable[[int], None]:
    """Materialize an ordinary asset with so many rows, and a packet asset of it."""
    return lambda rows: materialize(tmp_path / "lake", rows)


def materialize(lake: Path, rows: int) -> None:
    @dg.asset
    def numbers() -> pa.Table:
        return pa.table({"id": pa.array(range(rows)), "x": pa.array(range(rows))})

    def square(x: int) -> int:
        return x * x

    asset = packet_asset(square, inputs=numbers, tag_columns=["id"], output_keys=["y"])
    resources = packet_resources(str(lake), as_default=True)
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([numbers, asset], instance=instance, resources=resources)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "lake"
    for rows in (3_000, 4_000):
        materialize(folder, rows)
    return folder


@pytest.fixture
def lake(finished: Path, tmp_path: Path) -> Path:
    """A lake with an ordinary asset, a packet asset of two versions, and its results."""
    return Path(shutil.copytree(finished, tmp_path / "lake"))


def findings(lake: Path, *, read_all: bool = False) -> list[Finding]:
    return [finding for report in verify(str(lake), read_all=read_all) for finding in report.findings]


def newest(table: Path, pattern: str) -> Path:
    return max(table.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def test_a_whole_lake_has_nothing_to_say(lake: Path) -> None:
    """Every table is listed with its rows, hidden result tables too, and nothing is found."""
    reports = {report.table: report for report in verify(str(lake), read_all=True)}
    assert reports["square"].rows == reports["numbers"].rows == 4_000
    (results,) = (report for name, report in reports.items() if name.startswith(".orcapod/results/square"))
    assert results.rows == 4_000
    assert findings(lake, read_all=True) == []


def cut_log(table: Path) -> None:
    newest(table, "_delta_log/*.json").write_bytes(b"")


def remove_file(table: Path) -> None:
    newest(table, "*.parquet").unlink()


def empty_file(table: Path) -> None:
    newest(table, "*.parquet").write_bytes(b"")


def cut_file(table: Path) -> None:
    path = newest(table, "*.parquet")
    path.write_bytes(path.read_bytes()[:-100])


def scramble_footer(table: Path) -> None:
    path = newest(table, "*.parquet")
    data = path.read_bytes()
    path.write_bytes(data[:-30] + bytes(30))


def remove_log_entry(table: Path) -> None:
    (table / "_delta_log" / f"{1:020}.json").unlink()


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (cut_log, "is empty"),
        (remove_file, "is missing"),
        (empty_file, "has 0 bytes"),
        (cut_file, "were written"),
        (scramble_footer, "no whole Parquet file"),
        (remove_log_entry, "cannot be opened"),
    ],
)
def test_each_damage_is_named(lake: Path, damage: Callable[[Path], None], match: str) -> None:
    """A log or a data file that is cut, empty, scrambled or gone is named with its table and what to do; others stay silent."""
    damage(lake / "square")
    found = findings(lake)
    assert [one.table for one in found] == ["square"]
    assert match in found[0].what
    assert found[0].do
    assert not found[0].harmless


def test_a_damaged_page_is_found_when_all_is_read(lake: Path) -> None:
    """Bytes that changed in the middle of a file are found by reading every value."""
    path = newest(lake / "numbers", "*.parquet")
    data = bytearray(path.read_bytes())
    data[8:400] = os.urandom(392)
    path.write_bytes(data)
    assert findings(lake) == []
    (found,) = findings(lake, read_all=True)
    assert (found.table, "cannot be read" in found.what) == ("numbers", True)


def test_orphans_are_a_note(lake: Path) -> None:
    """A file of no version is named as harmless once it is a day old; one of an older version never is."""
    orphan = lake / "square" / "part-orphan.parquet"
    orphan.write_bytes(b"x" * 10)
    assert findings(lake) == []
    os.utime(orphan, (time.time() - 90_000,) * 2)
    for path in (lake / "square").glob("*.parquet"):
        os.utime(path, (time.time() - 90_000,) * 2)
    (found,) = findings(lake)
    assert found.harmless
    assert "1 files (10 bytes)" in found.what
    assert "clean" in found.do


def test_lost_and_changed_large_values_are_found(tmp_path: Path) -> None:
    """Values that rows name are missed by the table and its results, other bytes of the same size when all is read."""
    root = tmp_path / "lake"

    @dg.asset
    def seeds() -> pa.Table:
        return pa.table({"seed": [1, 2, 3]})

    def grow(seed: int) -> Blob:
        return Blob(bytes([seed]) * 100_000)

    asset = packet_asset(grow, inputs=seeds, tag_columns=["seed"], output_keys=["leaf"])
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([seeds, asset], instance=instance, resources=packet_resources(str(root), as_default=True))
    assert findings(root, read_all=True) == []
    gone, other, _ = sorted((root / ".orcapod/blobs").glob("??/*"))
    gone.unlink()
    other.chmod(0o644)
    other.write_bytes(b"x" * 100_000)
    said = f"large value .orcapod/blobs/{gone.parent.name}/{gone.name} of 100000 bytes is missing"
    assert [(one.table.startswith(".orcapod/results/grow"), one.what) for one in findings(root)] == [
        (True, said),
        (False, said),
    ]
    more = [one for one in findings(root, read_all=True) if one.what != said]
    assert [one.what for one in more] == [
        f"large value .orcapod/blobs/{other.parent.name}/{other.name} holds other bytes than its name says"
    ]
    assert not any(one.harmless for one in more)


def test_the_command(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command lists, verifies and compacts; its exit status is 0, 1 for a damage, 2 where there is no lake."""
    root = ["--root-uri", str(lake)]
    assert main(["inspect", *root]) == 0
    assert "square" in capsys.readouterr().out
    assert main(["compact", *root]) == 0
    assert "2 files with 4,000 rows brought together" in capsys.readouterr().out
    assert main(["verify", "--read-all", *root]) == 0
    remove_file(lake / "square")
    assert main(["verify", *root]) == 1
    assert "WRONG: file part-" in capsys.readouterr().out
    assert main(["verify", "--root-uri", str(lake / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not (lake / "nothing").exists()


def test_the_module_is_a_command(lake: Path) -> None:
    """`python -m orcapod_dagster` runs it."""
    command = [sys.executable, "-m", "orcapod_dagster", "verify", "--root-uri", str(lake), "--table", "numbers"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4,000" in done.stdout
    assert "square" not in done.stdout


def rot(path: Path, place: float) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("table", ["numbers", "square", "results"])
@pytest.mark.parametrize("place", [0.1, 0.3, 0.5])
def test_one_flipped_bit_is_found(lake: Path, table: str, place: float) -> None:
    """Each page has a checksum, so a bit that flipped on the disk is found in any table, though the page decompresses to values."""
    folder = next((lake / ".orcapod/results").rglob("_delta_log")).parent if table == "results" else lake / table
    rot(max(folder.glob("*.parquet"), key=lambda path: path.stat().st_size), place)
    found = [one for one in findings(lake, read_all=True) if not one.harmless]
    if table == "results":  # holds rows of two runs, in a file each
        assert found[0].table.startswith(".orcapod/results/")
    assert len(found) == 1
    assert "cannot be read" in found[0].what
    assert "repair()" in found[0].do


def test_the_way_out_of_a_rotten_result_leads_out(lake: Path, finish: Callable[[int], None]) -> None:
    """What the finding tells to do is done: the file removed, the table repaired, the asset materialized; then all is well."""
    from deltalake import DeltaTable

    folder = next((lake / ".orcapod/results").rglob("_delta_log")).parent
    path = max(folder.glob("*.parquet"), key=lambda path: path.stat().st_size)
    rot(path, 0.3)
    path.unlink()
    assert [one.harmless for one in findings(lake)] == [False]
    DeltaTable(str(folder)).repair()
    assert findings(lake, read_all=True) == []
    finish(4_000)
    assert findings(lake, read_all=True) == []
    assert sum(report.rows for report in verify(str(lake), table=str(folder.relative_to(lake)))) == 4_000


def test_rows_that_somebody_else_changed_are_found(lake: Path) -> None:
    """A value that another engine changed, in whole files with right checksums, is not what the asset's commit says."""
    from deltalake import DeltaTable

    DeltaTable(str(lake / "square")).update(updates={"y": "y + 1"}, predicate="id = 7")
    assert findings(lake) == []
    (found,) = findings(lake, read_all=True)
    assert (found.table, "are not those that version 2 was written with" in found.what) == ("square", True)
    assert "materialize the asset again" in found.do


def ordinary(rows: pa.Table) -> dg.AssetsDefinition:
    @dg.asset
    def numbers() -> pa.Table:
        return rows

    return numbers


def test_rows_that_were_added_are_no_damage(tmp_path: Path) -> None:
    """A packet asset that appends is whole, however many runs added rows to its table."""

    def square(x: int) -> int:
        return x * x

    for start in (0, 10, 20):
        numbers = ordinary(pa.table({"id": list(range(start, start + 10)), "x": list(range(10))}))

        asset = packet_asset(
            square, inputs="numbers", tag_columns=["id"], output_keys=["y"], metadata={"orcapod/write_mode": "append"}
        )
        with dg.DagsterInstance.ephemeral() as instance:
            resources = packet_resources(str(tmp_path / "lake"), as_default=True)
            dg.materialize([numbers, asset], instance=instance, resources=resources)
    assert {one.table: one.rows for one in verify(str(tmp_path / "lake"))}["square"] == 30
    assert findings(tmp_path / "lake", read_all=True) == []


def test_a_log_whose_first_commits_are_gone_is_damaged(tmp_path: Path) -> None:
    """Deltalake opens a log that begins in the middle where a later commit says the schema, without the rows before it."""
    from deltalake import DeltaTable

    uri = str(tmp_path / "lake/t")
    for number in range(3):
        delta.append(uri, pa.table({"n": [number]}).to_reader)
    DeltaTable(uri).restore(2)  # its commit says protocol and schema
    delta.append(uri, pa.table({"n": [3]}).to_reader)
    assert findings(tmp_path / "lake", read_all=True) == []
    for number in (0, 1):
        Path(uri, f"_delta_log/{number:020}.json").unlink()
    assert sorted(DeltaTable(uri).to_pyarrow_table()["n"].to_pylist()) == [1, 3]
    (found,) = findings(tmp_path / "lake")
    assert (found.what, found.harmless) == ("the log lacks commit 0, and no checkpoint holds it", False)


def test_a_table_without_its_log_is_damaged(lake: Path) -> None:
    """Data files without a log are no table that was just created; the way back is told."""
    shutil.rmtree(lake / "square/_delta_log")
    (report,) = verify(str(lake), table="square")
    assert [("but no log" in one.what, one.harmless) for one in report.findings] == [(True, False)]


def test_a_tag_that_stands_twice_is_found(lake: Path) -> None:
    """A row that stands twice in a packet asset's table is named with its tag columns, without reading every value."""
    uri = str(lake / "square")
    table = delta.open_table(uri)
    assert table is not None
    row = pa.Table.from_batches(DeltaSource(table).scan(delta.table_schema(table).names)).slice(0, 2)
    delta.append(uri, row.to_reader)
    (found,) = findings(lake)
    assert "2 rows of the table have tags (id) that another row has" in found.what


def test_partitions_are_held_against_their_own_commits(tmp_path: Path) -> None:
    """Each partition is held against the commit that wrote it, whatever was written since; a changed one is named."""
    partitions = dg.StaticPartitionsDefinition(["a", "b", "c"])

    @dg.asset(partitions_def=partitions, metadata={"partition_expr": "site"})
    def numbers(context) -> pa.Table:  # no annotation: here it would be a string

        keys = context.partition_keys
        return pa.table(
            {"site": [k for k in keys for _ in range(50)], "n": [*range(50)] * len(keys), "x": [*range(50)] * len(keys)}
        )

    def square(x: int) -> int:
        return x * x

    asset = packet_asset(
        square, inputs=numbers, tag_columns=["site", "n"], output_keys=["y"], partitions_def=partitions,
        metadata={"partition_expr": "site"},
    )  # fmt: skip
    resources = packet_resources(str(tmp_path / "lake"), as_default=True)
    span = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"}
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([numbers, asset], instance=instance, resources=resources, tags=span)
        dg.materialize([numbers, asset], instance=instance, resources=resources, partition_key="b")
    assert findings(tmp_path / "lake", read_all=True) == []
    uri = str(tmp_path / "lake" / "square")
    table = delta.open_table(uri)
    assert table is not None
    held = list(standing_rows(Lake(str(tmp_path / "lake")).folder("square"), table))
    assert held, "nothing was held against anything"
    wrong = replace(held[0], data_version="rows.v0:00")
    (found,) = check_rows(table, wrong, read_all=True)
    assert held[0].part in found
