"""Verify: every damage of a lake is named, and a whole lake has nothing to say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from orcapod_dagster import packet_asset, packet_resources
from orcapod_dagster.__main__ import main
from orcapod_dagster.core.verify import Finding, verify


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A lake with an ordinary asset, a packet asset of two versions, and its results."""
    current: list[pa.Table] = []

    @dg.asset
    def numbers() -> pa.Table:
        return current[-1]

    def square(x: int) -> int:
        return x * x

    asset = packet_asset(square, inputs=numbers, tag_columns=["id"], output_keys=["y"])
    resources = packet_resources(str(tmp_path / "lake"), as_default=True)
    with dg.DagsterInstance.ephemeral() as instance:
        for rows in (3_000, 4_000):
            current.append(pa.table({"id": pa.array(range(rows)), "x": pa.array(range(rows))}))
            dg.materialize([numbers, asset], instance=instance, resources=resources)
    return tmp_path / "lake"


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
    path = newest(lake / "square", "*.parquet")
    data = bytearray(path.read_bytes())
    data[8:400] = os.urandom(392)
    path.write_bytes(data)
    assert findings(lake) == []
    (found,) = findings(lake, read_all=True)
    assert (found.table, "cannot be read" in found.what) == ("square", True)


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
