"""Commits of a table: tried again, looked up after an error, and found by their names however many came after them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake.exceptions import CommitFailedError

from orcapod_dagster.core import delta
from orcapod_dagster.core.delta import pace


def append(uri: Path, *values: int, **options: Any) -> delta.WriteResult:
    return delta.append(str(uri), pa.table({"value": list(values)}).to_reader, **options)


def append_named(uri: Path, value: int, **options: Any) -> delta.WriteResult:
    return append(uri, value, commit_id=f"append {value}", **options)


def values(uri: Path) -> list[int]:
    table = delta.open_table(str(uri))
    assert table is not None
    return sorted(table.to_pyarrow_table()["value"].to_pylist())


def test_a_writer_whose_time_is_over_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that stood still longer than it may try, and lost its first try meanwhile, goes on as any other."""
    attempt = delta.Write._try
    append(tmp_path, 1)

    def stand_still(self: Any, *arguments: Any) -> None:
        monkeypatch.setattr(delta.Write, "_try", attempt)
        append(tmp_path, 2)
        attempt(self, *arguments)

    monkeypatch.setattr(pace, "_SECONDS", 0.0)
    monkeypatch.setattr(delta.Write, "_try", stand_still)
    append(tmp_path, 3)
    assert values(tmp_path) == [1, 2, 3]


def test_a_commit_is_found_behind_many_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error after a commit that happened, told when 60 others had committed since, loses no row and repeats none."""
    append(tmp_path / "t", 0)
    tried = delta.Write._try

    def late(write: delta.Write, table: Any, actions: list[Any]) -> None:
        tried(write, table, actions)
        monkeypatch.setattr(delta.Write, "_try", tried)
        for value in range(2, 62):
            append(tmp_path / "t", value)
        raise OSError("the answer was late")

    monkeypatch.setattr(delta.Write, "_try", late)
    append(tmp_path / "t", 1)
    assert values(tmp_path / "t") == list(range(62))


def test_a_named_append_is_found_behind_many_others(tmp_path: Path) -> None:
    """An append that is tried again after 60 other commits, and a clean-up of the log, writes nothing and tells its version."""
    first = append_named(tmp_path, 0)
    for value in range(1, 61):
        append_named(tmp_path, value) if value % 2 else append(tmp_path, value)
    log = tmp_path / "_delta_log"
    checkpoint = max(int(file.name[:20]) for file in log.glob("*.checkpoint.parquet"))
    for file in log.glob("*.json"):
        if int(file.stem) < checkpoint:
            file.unlink()
    files = set(tmp_path.glob("*.parquet"))
    for value, version in ((0, first.version), (1, first.version + 1), (59, first.version + 59)):
        again = append_named(tmp_path, value, durable=True)
        assert (again.version, again.rows) == (version, 0)
    assert set(tmp_path.glob("*.parquet")) == files
    assert values(tmp_path) == list(range(61))


def test_a_named_append_whose_answer_was_lost_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error after the commit of a named append, told when 60 others had committed since, loses no row and repeats none."""
    append_named(tmp_path, 0)
    tried = delta.Write._try

    def late(write: delta.Write, table: Any, actions: list[Any]) -> None:
        tried(write, table, actions)
        monkeypatch.setattr(delta.Write, "_try", tried)
        for value in range(2, 62):
            append_named(tmp_path, value)
        raise OSError("the answer was late")

    monkeypatch.setattr(delta.Write, "_try", late)
    assert append_named(tmp_path, 1).version == 2
    assert values(tmp_path) == list(range(62))


def test_names_of_appends_are_forgotten(tmp_path: Path) -> None:
    """Checkpoints hold names of appends for the time that the table says, so they do not grow for ever."""
    for name, kept, duration in (("long", True, None), ("short", False, "interval 0 seconds")):
        properties = {} if duration is None else {"delta.setTransactionRetentionDuration": duration}
        for value in range(10):
            append_named(tmp_path / name, value, properties=properties)
        (checkpoint,) = (tmp_path / name / "_delta_log").glob("*.checkpoint.parquet")
        names = [entry["appId"] for entry in pq.read_table(checkpoint)["txn"].to_pylist() if entry]
        assert ("append 3" in names, len(names) >= 9) == (kept, kept)


def test_a_table_made_anew_between_two_tries_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the table is removed after a lost try, and the commit to the new one is answered by an error, the rows are there once."""
    uri, tried, tries = tmp_path / "t", delta.Write._try, list[int]()
    for value in range(5):
        append(uri, value)

    def spy(write: delta.Write, table: Any, actions: list[Any]) -> None:
        tries.append(table.version())
        if len(tries) == 1:
            (write_file,) = {uri / action.path for action in actions}
            held = write_file.read_bytes()
            shutil.rmtree(uri)
            monkeypatch.setattr(delta.Write, "_try", tried)
            append(uri, 9)
            monkeypatch.setattr(delta.Write, "_try", spy)
            write_file.write_bytes(held)
            raise CommitFailedError("another writer was first")
        tried(write, table, actions)
        raise OSError("the answer was lost")

    monkeypatch.setattr(delta.Write, "_try", spy)
    append(uri, 5)
    assert tries == [5, 1]
    assert values(uri) == [5, 9]
