"""Look-ups of few among many: whatever way is taken, the same records are found, and none is left out unnoticed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from orcapod_dagster.core import (
    DeltaTableDatabase,
    FunctionPod,
    InMemoryArrowDatabase,
    PythonPacketFunction,
    ResultCache,
    databases,
    delta,
    key_index,
    matching,
)
from orcapod_dagster.core.contexts import CONTEXT_NAMES, VARIATION_SCHEMA, Context
from orcapod_dagster.core.datagrams import Datagram
from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.execution_data import EXECUTION_DATA_SCHEMA
from orcapod_dagster.core.hashing import HASH_TYPE, hash_rows
from orcapod_dagster.core.outcomes import OutcomeLog
from orcapod_dagster.core.skip import SkipPacket
from orcapod_dagster.core.sources import DeltaSource, MemorySource, TableSource
from orcapod_dagster.core.streams import PacketStream, StreamInput

INPUT_HASH = "__input_packet_hash"


@pytest.fixture(autouse=True)
def _every_file_is_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_FEWEST_ROWS", 1)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Give what chooses between the two ways, which a plan chooses by the numbers of rows."""
    return lambda on: monkeypatch.setattr(matching, "_ROWS_PER_FIND", 0 if on else 1 << 40)


def context(code: str, run: int) -> Context:
    variation = {"function_name": "f", "function_signature_hash": "s", "function_content_hash": code, "git_hash": "g"}
    execution = {"executor_type": "local", "executor_info": {}, "python_version": "3", "extra_info": {"run": str(run)}}
    return Context.of(Datagram(variation, VARIATION_SCHEMA), Datagram(execution, EXECUTION_DATA_SCHEMA))


def hashes(numbers: list[int]) -> pa.Array:
    return hash_rows({"x": pa.array(numbers, pa.int64())})


def fill(cache: ResultCache, dice: random.Random, commits: int) -> None:
    """Store results of random inputs, some of them several times, by two versions of the code."""
    for run in range(commits):
        numbers = [dice.randrange(400) for _ in range(dice.randrange(1, 90))]
        outputs = pa.record_batch({"y": pa.array([run] * len(numbers), pa.int64())})
        cache.store_batch(hashes(numbers), outputs, context(dice.choice("ab"), run), [0.5] * len(numbers))


def delta_cache(folder: Path) -> ResultCache:
    return ResultCache(DeltaTableDatabase(str(folder), durable=False), ("f",))


def found(cache: ResultCache, keys: pa.Array, code: str) -> list[Any]:
    """Return run and record id of what a snapshot finds for each key."""
    snapshot = cache.snapshot({"__pf_var_function_content_hash": code}, keys)
    assert snapshot is not None
    positions = snapshot.find(keys)
    rows = snapshot.source.take(positions.filter(positions.is_valid()), ["y", "__record_id"]).to_pylist()
    return [None if position is None else rows.pop(0) for position in positions.to_pylist()]


@pytest.mark.parametrize("kind", ["memory", "delta", "compacted", "half compacted"])
@pytest.mark.parametrize("seed", range(2))
def test_finding_few_equals_scanning_all(
    kind: str, seed: int, tmp_path: Path, narrow: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random stores with repeated inputs, two versions of the code and many files: both ways find the same, newest, records."""
    monkeypatch.setattr(databases.delta, "MANY_FILES", 2)
    monkeypatch.setattr(databases.delta, "_GROUP_ROWS", 64)
    dice = random.Random(seed)
    cache = ResultCache(InMemoryArrowDatabase(), ("f",)) if kind == "memory" else delta_cache(tmp_path)
    fill(cache, dice, 8)
    if kind.endswith("compacted"):
        cache.compact()
    if kind == "half compacted":
        fill(cache, dice, 3)
    for code in ("a", "b", "c"):
        keys = hashes([dice.randrange(500) for _ in range(60)])
        ways: list[list[Any]] = []
        for on in (True, False):
            narrow(on)
            ways.append(found(cache, keys, code))
        assert ways[0] == ways[1]
        assert any(ways[0]) == (code != "c")


def test_whole_records_come_with_their_own_contexts(tmp_path: Path) -> None:
    """A look-up gives all columns, and every record the context that it was stored with, though each is read once."""
    cache = delta_cache(tmp_path)
    fill(cache, random.Random(7), 5)
    source = cache.database.source(cache.record_path)
    assert source is not None
    everything = pa.Table.from_batches(source.scan(source.schema.names))
    keys = hashes(list(range(0, 400, 3)))
    expected = [row for row in everything.to_pylist() if row[INPUT_HASH] in set(keys.to_pylist())]
    records = cache.lookup_batch(keys)
    assert records is not None
    assert {name for name in records.column_names if name in CONTEXT_NAMES} == CONTEXT_NAMES
    assert records.to_pylist() == expected
    assert len({str(row["__pf_exec_extra_info"]) for row in expected}) == 5


# ---------------------------------------------------------------------------- key indexes


def open_source(cache: ResultCache) -> TableSource:
    source = cache.database.source(cache.record_path)
    assert source is not None
    return source


def index_files(folder: Path) -> list[Path]:
    return sorted((folder / "f" / key_index.FOLDER).iterdir())


def outputs_of(source: TableSource, numbers: list[int]) -> list[int]:
    places, rows = source.find(INPUT_HASH, hashes(numbers), ["y"])
    assert source.take(places, ["y"]).equals(rows)
    return sorted(rows["y"].to_pylist())


def found_numbers(cache: ResultCache, numbers: list[int]) -> list[int]:
    return outputs_of(open_source(cache), numbers)


@pytest.fixture
def counted(tmp_path: Path) -> ResultCache:
    """Give a store of 3 files, in which the output of each number is the number."""
    cache = delta_cache(tmp_path)
    for start in (0, 100, 200):
        outputs = pa.record_batch({"y": pa.array(range(start, start + 100), pa.int64())})
        cache.store_batch(hashes(list(range(start, start + 100))), outputs, context("a", 0), [0.0] * 100)
    return cache


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "long", "zeros", "other rows"])
def test_an_index_that_is_not_right_is_made_again(counted: ResultCache, damage: str, tmp_path: Path) -> None:
    """Each commit leaves an index; whatever is no index of the file's rows is replaced by one, and nothing is missed."""
    path = index_files(tmp_path)[1]
    whole = path.read_bytes()
    assert len(whole) == 8 * 102
    head = {"other rows": whole[:8] + (99).to_bytes(8, "little")}
    damaged = {"empty": b"", "cut": whole[:-8], "long": whole + bytes(8), "zeros": bytes(len(whole))}
    path.unlink()
    if damage != "gone":
        path.write_bytes({**damaged, **{k: v + whole[16:] for k, v in head.items()}}[damage])
    assert found_numbers(counted, [*range(0, 300, 7), 999]) == list(range(0, 300, 7))
    assert path.read_bytes() == whole


def test_without_a_place_for_indexes_they_are_kept_in_memory(
    counted: ResultCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an index cannot be written, each file's keys are read once in a process, and all is found."""
    folder = tmp_path / "f" / key_index.FOLDER
    for path in index_files(tmp_path):
        path.unlink()
    folder.rmdir()
    folder.write_bytes(b"no folder")
    reads: list[int] = []
    column = DeltaSource._column

    def count(source: DeltaSource, index: int, name: str) -> Any:
        reads.append(index)
        return column(source, index, name)

    monkeypatch.setattr(DeltaSource, "_column", count)
    for _ in range(2):
        assert found_numbers(counted, [5, 150, 299, 300]) == [5, 150, 299]
    assert len(reads) == len(set(reads)) == 3


def test_memory_of_indexes_is_bounded() -> None:
    """The longest unused indexes are forgotten first."""
    memory = key_index._Memory(20)
    for name in "abc":
        memory.put(("t", name, "k"), bytes(8))
        memory.get(("t", "a", "k"))
    assert [name for name in "abc" if memory.get(("t", name, "k")) is not None] == ["a", "c"]


def test_long_indexes_are_not_read_whole(counted: ResultCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index above the size that is read at once gives the same rows by single entries."""
    monkeypatch.setattr(key_index, "_READ_WHOLE", 1)
    assert found_numbers(counted, [0, 99, 100, 255, 299, 300]) == [0, 99, 100, 255, 299]


def test_keys_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    """Keys with the first 8 bytes in common, beyond which the index does not see, are compared as a whole."""
    database = DeltaTableDatabase(str(tmp_path), durable=False)
    keys = pa.array([bytes(8) + n.to_bytes(8, "big") for n in range(50)], pa.binary())
    database.append(("t",), pa.table({INPUT_HASH: keys}).to_reader)
    wanted = keys.take(pa.array([3, 41, 3]))
    source = database.source(("t",))
    assert source is not None
    where, rows = source.find(INPUT_HASH, wanted.cast(HASH_TYPE), [INPUT_HASH])
    assert where.to_pylist() == [3, 41]
    assert rows[INPUT_HASH].to_pylist() == wanted.to_pylist()[:2]


@pytest.mark.parametrize("keys", [[b"", b"x", b"xy"], [b"same", b"size"]])
def test_keys_of_other_sizes_are_scanned(keys: list[bytes], tmp_path: Path) -> None:
    """Keys that are not of 16 bytes have no index, and are found all the same, also by a search for one of 16 bytes."""
    database = DeltaTableDatabase(str(tmp_path), durable=False)
    database.append(("t",), pa.table({"key": pa.array(keys, pa.binary())}).to_reader)
    for wanted in (keys, [bytes(16)]):
        rows = database.lookup(("t",), "key", pa.array(wanted, pa.binary()))
        assert rows is not None
        assert rows["key"].to_pylist() == [key for key in keys if key in wanted]


def test_compaction_takes_indexes_along(counted: ResultCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a compaction the new file has an index and the old ones have none; a reader of the old version still finds all."""
    monkeypatch.setattr(databases.delta, "MANY_FILES", 3)
    assert len(index_files(tmp_path)) == 3
    earlier = open_source(counted)
    left = tmp_path / "f" / key_index.FOLDER / ".half.written"
    left.write_bytes(b"x")
    counted.compact()
    kept = [path for path in index_files(tmp_path) if path != left]
    (live,) = delta.live_files(DeltaTable(str(tmp_path / "f")))
    assert [path.name for path in kept] == [f"{live}.{INPUT_HASH}"]
    assert left.exists()  # it may belong to a writer that still runs
    assert found_numbers(counted, [0, 250]) == [0, 250]
    assert outputs_of(earlier, [0, 250]) == [0, 250]


def test_vacuum_leaves_indexes_alone(counted: ResultCache, tmp_path: Path) -> None:
    """Deltalake's own clean-up of everything that no version names takes no index for a stray file."""
    before = index_files(tmp_path)
    DeltaTable(str(tmp_path / "f")).vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
    assert index_files(tmp_path) == before


def test_a_file_with_other_rows_than_the_log_says_is_an_error(counted: ResultCache, tmp_path: Path) -> None:
    """Positions are counted by the log, so a file that does not fit it is named instead of giving other rows."""
    folder = tmp_path / "f"
    table = DeltaTable(str(folder))
    name = next(iter(delta.live_files(table)))
    shutil.copyfile(folder / name, folder / "other.parquet")
    size, stats = (folder / name).stat().st_size, json.dumps({"numRecords": 101})
    wrong = AddAction("other.parquet", size, {}, 0, data_change=True, stats=stats)
    table.create_write_transaction([wrong], "append", table.schema())
    source = open_source(counted)
    with pytest.raises(StorageError, match=r"other\.parquet has 100 rows, the log says 101"):
        list(source.scan(["y"]))
    with pytest.raises(StorageError, match=r"other\.parquet has 100 rows"):
        source.take(pa.array(range(source.num_rows), pa.int64()), ["y"])


# ---------------------------------------------------------------------------- in the engine


class Bench:
    """A pod over a function of one integer, with results and outcomes in one database."""

    def __init__(self, database: Any, function: Callable[..., Any]) -> None:
        packet_function = PythonPacketFunction(
            function, "y", "f", input_schema={"x": int}, output_schema={"y": int}, own_code=()
        )
        self.cache = ResultCache(database, ("f",))
        self.pod = FunctionPod(packet_function, self.cache, OutcomeLog(database, ("o",)), match="version")

    def stream(self, numbers: list[int]) -> PacketStream:
        table = pa.table({"id": range(len(numbers)), "x": numbers})
        return PacketStream.open([StreamInput("t", MemorySource(table))], ["id"])

    def run(self, numbers: list[int]) -> tuple[Any, dict[int, int]]:
        """Run the rows; return the counts, and results by row."""
        plan = self.pod.plan(self.stream(numbers))
        report = self.pod.compute(plan)
        narrowed, snapshot, places = self.pod.assemble(plan, report)
        assert snapshot is not None
        rows = pa.Table.from_batches(narrowed.scan(["id"]))["id"].to_pylist()
        results = dict(zip(rows, snapshot.source.take(places, ["y"])["y"].to_pylist(), strict=True))
        return (report.cached, report.computed, report.failed, report.skipped, dict(report.reasons)), results


def picky(x: int) -> int:
    if x % 10 == 0:
        raise ValueError("ten")
    if x % 10 == 1:
        raise SkipPacket("one")
    return 2 * x


@pytest.mark.parametrize("kind", ["memory", "delta"])
def test_runs_are_the_same_either_way(kind: str, tmp_path: Path, narrow: Callable[[bool], None]) -> None:
    """Hits, misses with their reasons, failures and skips of a run do not depend on how they were looked up."""
    seen: list[Any] = []
    for on in (True, False):
        narrow(on)
        database = (
            InMemoryArrowDatabase() if kind == "memory" else DeltaTableDatabase(str(tmp_path / str(on)), durable=False)
        )
        bench = Bench(database, picky)
        seen.append([bench.run(rows) for rows in ([*range(40), 3, 10], [35, 41, 50, 11, 3, 42, 42])])
    assert seen[0] == seen[1]
    assert seen[0][1][0] == (3, 1, 1, 2, {"no earlier result": 3})


@pytest.mark.parametrize("computed_now", [True, False])
def test_a_result_that_vanishes_during_a_run_is_an_error(
    computed_now: bool, narrow: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hit of the plan, or a result of this very run, that is not there when the table is assembled is no row to leave out."""
    narrow(True)
    database = InMemoryArrowDatabase()
    bench = Bench(database, picky)
    stored = [2, 10, 11] if computed_now else [2, 3, 10, 11]
    bench.run([stored[0]] if computed_now else stored)
    plan = bench.pod.plan(bench.stream([2, 3, 10, 11, 4]))
    report = bench.pod.compute(plan)
    table = database._tables[("f",)]
    kept = hashes([2, 4]) if computed_now else hashes([3, 4])
    table[:] = [t.filter(pa.compute.is_in(t[INPUT_HASH], value_set=kept.cast(pa.binary()))) for t in table]
    lost_row = 1 if computed_now else 0
    with pytest.raises(StorageError, match=rf"results of 1 rows \(the first is row {lost_row} of the input\)"):
        bench.pod.assemble(plan, report)


def test_rows_with_equal_packets_have_one_result_however_often_it_was_computed() -> None:
    """After a forced run, rows of equal packets all have its results: none has that of an earlier run."""
    calls: list[int] = []

    def counting(x: int) -> int:
        calls.append(x)
        return len(calls)

    bench = Bench(InMemoryArrowDatabase(), counting)
    bench.run([1, 1])
    plan = bench.pod.plan(bench.stream([1, 1]), force=True)
    _, snapshot, places = bench.pod.assemble(plan, bench.pod.compute(plan))
    assert snapshot is not None
    assert snapshot.source.take(places, ["y"])["y"].to_pylist() == [2, 2]
    assert bench.run([1, 1])[1] == {0: 2, 1: 2}


def test_rows_that_never_had_a_result_are_not_lost() -> None:
    """Failures, skips, and packets that a limit left out, may be missing; the other rows are assembled."""
    bench = Bench(InMemoryArrowDatabase(), picky)
    plan = bench.pod.plan(bench.stream([2, 10, 11, 3, 4]), limit=3)
    report = bench.pod.compute(plan)
    narrowed, _, places = bench.pod.assemble(plan, report)
    assert (narrowed.num_rows, len(places)) == (1, 1)
