"""The command line: what it prints, writes and refuses, and its exit status."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from orcapod_dagster.cli import main
from orcapod_dagster.core import delta, export as export_module
from orcapod_dagster.core.columns import INPUT_HASH
from orcapod_dagster.core.errors import LakeError, StorageError
from orcapod_dagster.core.export import export
from orcapod_dagster.core.key_index import FOLDER

ROWS = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.uint16()),
        "name": ["a", 'with "quotes", commas', None],
        "at": pa.array([0, 1, None], pa.timestamp("us", "UTC")),
        "__record_id": [b"0", b"1", b"2"],
    }
)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A lake with the asset `team/readings` in two versions."""
    for rows in (ROWS.slice(0, 2), ROWS):
        delta.replace(str(tmp_path / "lake/team/readings"), rows.to_reader, where=None)
    return tmp_path / "lake"


def run(command: str, lake: Path, *more: str) -> int:
    return main([command, "--root-uri", str(lake), *more])


def test_clean_shows_first_and_removes_when_told(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without `--yes` a table of what could go is printed and nothing goes; with it, that goes, and then there is nothing."""
    stray = lake / "team/readings/part-0.parquet#1"
    stray.write_bytes(b"x" * 2_000_000)
    assert run("clean", lake) == 0
    assert "Nothing to remove." in capsys.readouterr().out
    os.utime(stray, (time.time() - 90_000,) * 2)
    assert run("clean", lake) == 0
    shown = capsys.readouterr().out
    assert re.search(r"temporary files +0 +1 +2\.00  team/readings: a write was killed", shown)
    assert "2.00 MB in 1 files would be removed; --yes removes it." in shown
    assert stray.exists()
    assert run("clean", lake, "--yes") == 0
    assert "2.00 MB in 1 files removed." in capsys.readouterr().out
    assert not stray.exists()


def test_results_are_compacted_as_runs_compact_them(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`compact` gives a hidden table small row groups and an index, that of an asset large ones and none."""
    tables = {name: lake / name for name in (".orcapod/results/f", "plain")}
    for folder in tables.values():
        for start in (0, 10_000):
            keys = [number.to_bytes(16, "big") for number in range(start, start + 10_000)]
            delta.append(str(folder), pa.table({INPUT_HASH: pa.array(keys, pa.binary())}).to_reader)
    assert run("compact", lake) == 0
    assert "2 files with 20,000 rows" in capsys.readouterr().out
    groups: dict[str, int] = {}
    for name, folder in tables.items():
        table = delta.open_table(str(folder))
        assert table is not None
        (file,) = delta.live_files(table)
        groups[name] = pq.read_metadata(folder / file).num_row_groups
        indexes = [path.name for path in (folder / FOLDER).glob("*")]
        assert indexes == ([f"{file}.{INPUT_HASH}"] if name.startswith(".") else [])
    assert groups == {".orcapod/results/f": 3, "plain": 1}


@pytest.mark.parametrize("spelling", ["team/readings", "team/readings/", "/team//readings", "./team/readings"])
def test_a_table_is_named_as_its_folder(lake: Path, spelling: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command knows the table by its folder, whatever slashes stand around it."""
    for command, more in (("inspect", ()), ("verify", ()), ("clean", ("--older-than", "0s", "--nothing-runs"))):
        assert run(command, lake, "--table", spelling, *more) == 0
        assert re.search(r"  team/readings(\n|: )", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["inspect", "verify", "compact", "clean"])
@pytest.mark.parametrize("table", ["../other", "team/../../other", "..", "/"])
def test_a_table_outside_of_the_root_is_refused(
    lake: Path, tmp_path: Path, command: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No command looks at, or changes, what lies beside the root."""
    for _ in range(3):
        delta.append(str(tmp_path / "other"), ROWS.to_reader)
    before = sorted(tmp_path.rglob("*"))
    assert run(command, lake, "--table", table) == 2
    assert "names no folder below the root" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_clean_of_a_table_that_is_not_there(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table that is misspelt is told, not taken for one that has nothing to remove."""
    assert run("clean", lake, "--table", "reading") == 2
    assert "has no table in the folder 'reading'" in capsys.readouterr().err


def test_clean_refuses_ages_below_a_day(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An age that could hurt a run needs `--nothing-runs`; with it, superseded versions go at once."""
    assert run("clean", lake, "--older-than", "12h") == 2
    assert "--nothing-runs" in capsys.readouterr().err
    assert len(list((lake / "team/readings").glob("*.parquet"))) == 2
    assert run("clean", lake, "--older-than", "0s", "--nothing-runs", "--yes") == 0
    assert "superseded files" in capsys.readouterr().out
    assert len(list((lake / "team/readings").glob("*.parquet"))) == 1


def test_clean_of_a_damaged_table_says_so(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table that cannot be opened is left alone; the exit status is 1."""
    max((lake / "team/readings/_delta_log").glob("*.json")).write_bytes(b"")
    assert run("clean", lake, "--yes") == 1
    assert "left alone" in capsys.readouterr().out
    assert run("clean", lake / "nothing") == 2


@pytest.mark.parametrize("wrong", [["clean", "--older-than", "soon"], ["clean", "--storage-option", "geheim"]])
def test_arguments_that_cannot_be_right_are_refused(
    lake: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 2; what may be a credential is not printed."""
    with pytest.raises(SystemExit) as stopped:
        run(wrong[0], lake, *wrong[1:])
    assert stopped.value.code == 2
    assert "geheim" not in capsys.readouterr().err


def test_export_by_asset_key(lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parquet and Arrow files hold every column in the type that was written; CSV what it can hold, and says what it left out."""
    for ending in ("parquet", "arrow"):
        assert run("export", lake, "team/readings", "--to", str(tmp_path / f"x.{ending}")) == 0
    assert "3 rows of version 2" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "x.parquet").equals(ROWS)
    with pa.ipc.open_file(tmp_path / "x.arrow") as file:
        assert file.read_all().equals(ROWS)
    assert run("export", lake, "team/readings", "--to", str(tmp_path / "x.csv")) == 0
    assert "left out, for CSV cannot hold them: __record_id" in capsys.readouterr().out
    assert csv.read_csv(tmp_path / "x.csv").column_names == ["id", "name", "at"]
    assert csv.read_csv(tmp_path / "x.csv")["name"].to_pylist()[:2] == ["a", 'with "quotes", commas']


def test_export_of_columns_and_versions(lake: Path, tmp_path: Path) -> None:
    """Chosen columns come in the order in which they are named; an earlier version is exported as it was."""
    to = str(tmp_path / "x.parquet")
    assert run("export", lake, "team/readings", "--to", to, "--columns", "name,id", "--version", "1") == 0
    assert pq.read_table(to).equals(ROWS.slice(0, 2).select(["name", "id"]))


def test_a_file_that_is_there_stays_unless_forced(lake: Path, tmp_path: Path) -> None:
    """An export never replaces a file by itself, also not one that came up while it was written."""
    to = tmp_path / "x.csv"
    to.write_text("mine")
    assert run("export", lake, "team/readings", "--to", str(to)) == 2
    assert to.read_text() == "mine"
    assert run("export", lake, "team/readings", "--to", str(to), "--force") == 0
    assert to.read_text().startswith('"id"')
    late = tmp_path / "late.csv"
    with pytest.raises(StorageError, match="there already"):
        export_module._write_whole(late, lambda file: late.write_text("mine"), force=False)
    assert late.read_text() == "mine"
    assert not list(tmp_path.glob(".*.part"))


def test_a_failed_export_leaves_no_file(lake: Path, tmp_path: Path) -> None:
    """Damage amid the rows, or a column that cannot be, leaves neither a file of that name nor a temporary one."""
    path = max((lake / "team/readings").glob("*.parquet"), key=lambda p: p.stat().st_mtime_ns)
    uri = str(lake / "team/readings")
    with pytest.raises(LakeError, match="no column 'nope'"):
        export(uri, tmp_path / "x.csv", columns=["nope"])
    with pytest.raises(LakeError, match="'__record_id' is binary, which a CSV file cannot hold"):
        export(uri, tmp_path / "x.csv", columns=["__record_id"])
    with pytest.raises(LakeError, match=r"the ending '\.xlsx' is unknown"):
        export(uri, tmp_path / "x.xlsx")
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError):
        export(uri, tmp_path / "x.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["lake"]


def test_export_of_a_table_that_is_not_there(lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message says where the table was looked for and how to list those that are there."""
    assert run("export", lake, "team/other", "--to", str(tmp_path / "x.csv")) == 2
    assert "inspect" in capsys.readouterr().err


def test_exit_statuses_are_told(capsys: Any) -> None:
    """The help of the command and of each of its parts says what the exit status means."""
    for arguments in (["--help"], ["clean", "--help"], ["export", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "Exit status: 0" in capsys.readouterr().out
