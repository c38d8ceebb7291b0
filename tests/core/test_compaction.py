"""Compaction: no row is lost, doubled or changed, whoever writes meanwhile."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orcapod_dagster.core import DeltaTableDatabase, InMemoryArrowDatabase, compaction, databases, delta
from orcapod_dagster.core.compaction import MANY_FILES, compact, small_files
from orcapod_dagster.core.contexts import VARIATION_SCHEMA, Context
from orcapod_dagster.core.datagrams import Datagram
from orcapod_dagster.core.execution_data import EXECUTION_DATA_SCHEMA
from orcapod_dagster.core.files.memory import DIGEST_BYTES, RECORD_PATH, STATE_BYTES, FileMemory
from orcapod_dagster.core.hashing import HASH_TYPE
from orcapod_dagster.core.outcomes import Outcome, OutcomeLog
from orcapod_dagster.core.sources import DeltaSource


def rows(uri: str) -> Counter[str]:
    table = delta.open_table(uri)
    assert table is not None
    source = DeltaSource(table)
    found = pa.Table.from_batches(source.scan(source.schema.names), schema=source.schema)
    return Counter(map(str, found.to_pylist()))


def part(number: int) -> pa.Table:
    return pa.table(
        {
            "n": pa.array([number, None], pa.uint64()),
            "at": pa.array([number, None], pa.timestamp("s", "Europe/Berlin")),
            "tags": pa.array([[("k", str(number))], None], pa.map_(pa.string(), pa.string())),
        }
    )


def append(uri: str, first: int, last: int) -> None:
    for number in range(first, last):
        delta.append(uri, part(number).to_reader)


def files(uri: str) -> int:
    table = delta.open_table(uri)
    assert table is not None
    return len(small_files(table))


def test_rows_and_types_stay(tmp_path: Path) -> None:
    """Many small files become one in one commit, with equal rows and types; earlier versions are still readable."""
    uri = str(tmp_path / "t")
    append(uri, 0, 12)
    before, schema = rows(uri), delta.table_schema(delta.open_table(uri))  # type: ignore[arg-type]
    done = compact(uri)
    assert done is not None
    assert (done.files, done.rows, files(uri)) == (12, 24, 1)
    assert rows(uri) == before
    assert delta.table_schema(delta.open_table(uri)) == schema  # type: ignore[arg-type]
    earlier = delta.open_table(uri, version=done.version - 1)
    assert earlier is not None
    assert DeltaSource(earlier).num_rows == 24


def test_too_few_files_and_no_table_are_left_alone(tmp_path: Path) -> None:
    """Where there is nothing to gain nothing is written."""
    uri = str(tmp_path / "t")
    assert compact(uri) is None
    append(uri, 0, 3)
    assert compact(uri, at_least=4) is None
    assert files(uri) == 3
    assert compact(uri) is not None
    assert compact(uri) is None


def test_appends_meanwhile_lose_nothing(tmp_path: Path) -> None:
    """Appends and compactions by several threads at once: every row is there, once."""
    uri = str(tmp_path / "t")
    append(uri, 0, 5)
    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(append, uri, 100 * n, 100 * n + 12) for n in (1, 2)]
        compactions = [pool.submit(lambda: [compact(uri) for _ in range(8)]) for _ in range(2)]
        for one in (*writers, *compactions):
            one.result()
    expected: Counter[str] = Counter()
    for number in (*range(5), *range(100, 112), *range(200, 212)):
        expected += Counter(map(str, delta_form(number)))
    assert rows(uri) == expected


def delta_form(number: int) -> list[dict[str, Any]]:
    """Return the rows of a part in the plain types of the engine."""
    return part(number).set_column(1, "at", part(number)["at"].cast(pa.timestamp("s", "UTC"))).to_pylist()


def test_a_compaction_that_fails_leaves_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while the new files are written leaves the table as it was, and no file behind."""
    uri = str(tmp_path / "t")
    append(uri, 0, 4)
    before, names = rows(uri), {path.name for path in Path(uri).glob("*.parquet")}

    def fail(*_: Any) -> Any:
        yield from ()
        raise OSError("no space left on device")

    monkeypatch.setattr(compaction, "_batches", fail)
    with pytest.raises(OSError, match="no space"):
        compact(uri)
    assert rows(uri) == before
    assert {path.name for path in Path(uri).glob("*.parquet")} == names


def test_a_database_compacts_itself_once_there_are_many_files(tmp_path: Path) -> None:
    """Below the threshold nothing happens; above it one file is left, and look-ups find every record."""
    database = DeltaTableDatabase(str(tmp_path))
    for number in range(MANY_FILES):
        database.append(("f",), pa.table({"key": pa.array([number.to_bytes(2, "big")], pa.binary())}).to_reader)
        if number == MANY_FILES - 2:
            database.compact(("f",))
            assert files(database.uri(("f",))) == MANY_FILES - 1
    database.compact(("f",))
    assert files(database.uri(("f",))) == 1
    found = database.lookup(("f",), "key", pa.array([b"\x00\x07", b"\x00\x1f"], pa.binary()))
    assert found is not None
    assert found.num_rows == 2


def test_a_growing_database_rewrites_rows_as_often_as_it_doubles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 64 appends, each with a compaction, there are few files, and all commits together wrote each row some six times."""
    monkeypatch.setattr("orcapod_dagster.core.databases.delta.MANY_FILES", 4)
    database, folder = DeltaTableDatabase(str(tmp_path), durable=False), tmp_path / "f"
    for number in range(64):
        database.append(("f",), pa.table({"key": pa.array([number.to_bytes(2, "big")], pa.binary())}).to_reader)
        database.compact(("f",))
    assert files(str(folder)) < 4 + 6
    source = database.source(("f",))
    assert source is not None
    keys = [key for batch in source.scan(["key"]) for key in batch["key"].to_pylist()]
    assert sorted(keys) == [number.to_bytes(2, "big") for number in range(64)]
    written = sum(
        pq.read_metadata(file).num_rows for file in folder.glob("*.parquet")
    )  # superseded ones are still there
    assert written <= 64 * 6


def test_compaction_in_memory_is_no_change() -> None:
    """A database in memory keeps its records, and its state, which tells an append from a compaction."""
    database = InMemoryArrowDatabase()
    for number in range(3):
        database.append(("f",), part(number).to_reader)
    before = database.state(("f",))
    database.compact(("f",))
    assert database.state(("f",)) == before
    source = database.source(("f",))
    assert source is not None
    assert source.num_rows == 6
    database.append(("f",), part(3).to_reader)
    assert database.state(("f",)) != before


def test_failures_and_digests_of_files_are_brought_together_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run with a failure, or with a new file, adds a data file; all rows stay in few, the latest failure being the latest."""
    monkeypatch.setattr(databases.delta, "MANY_FILES", 4)
    database = DeltaTableDatabase(str(tmp_path), durable=False)
    log, memory = OutcomeLog(database, ("o",)), FileMemory(database)
    variation = {"function_name": "f", "function_signature_hash": "s", "function_content_hash": "c", "git_hash": "g"}
    execution = {"executor_type": "local", "executor_info": {}, "python_version": "3", "extra_info": {}}
    context = Context.of(Datagram(variation, VARIATION_SCHEMA), Datagram(execution, EXECUTION_DATA_SCHEMA))
    key = pa.array([b"k" * 16], HASH_TYPE)
    states = [bytes([run]) * STATE_BYTES for run in range(20)]
    for run, state in enumerate(states):
        log.store(key, [Outcome(0, "FAILED" if run % 2 else "SKIPPED", "E", str(run), "", 0.0)], context)
        memory.remember(state, bytes([run]) * DIGEST_BYTES)
        memory.flush()
    for path in (log.path, RECORD_PATH):
        source = database.source(path)
        assert source is not None
        assert (source.num_rows, files(database.uri(path)) < 8) == (20, True)
    assert log.latest({}, key)["state"].to_pylist() == ["FAILED"]
    assert FileMemory(database).recall(states) == {state: bytes([state[0]]) * DIGEST_BYTES for state in states}
