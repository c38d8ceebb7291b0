"""Fault campaigns: processes killed, paused, racing and out of space; nothing lost, nothing twice, nothing unreadable.

The short form runs with the tests; `make faults` runs the long one (FAULTS=full), whose results stand in docs/faults.md.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from faults import workers
from orcapod_dagster.core import PythonPacketFunction, delta
from orcapod_dagster.core.columns import INPUT_HASH, RECORD_ID
from orcapod_dagster.core.hashing import hash_rows
from orcapod_dagster.core.sources import DeltaSource

FULL = os.environ.get("FAULTS") == "full"
pytestmark = pytest.mark.slow


def rounds(short: int, full: int) -> int:
    return full if FULL else short


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that start in milliseconds: forks of a server that has imported everything and used nothing."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["dagster", "faults.workers", "orcapod_dagster"])
    return context


def start(context: Any, work: Callable[..., None], *arguments: Any) -> Any:
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def finish(running: Sequence[Any], seconds: float = 300) -> None:
    for process in running:
        process.join(seconds)
        assert process.exitcode == 0


def table_of(uri: str | Path) -> pa.Table:
    table = delta.open_table(str(uri))
    if table is None:
        return pa.table({})
    source = DeltaSource(table)
    return pa.Table.from_batches(source.scan(source.schema.names), schema=source.schema)


def acknowledged(path: Path) -> dict[str, int]:
    """Return per table the rows whose write was acknowledged."""
    counts: dict[str, int] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        uri, rows = line.rsplit(" ", 1)
        counts[uri] = counts.get(uri, 0) + int(rows)
    return counts


def check_results(acknowledgements: Sequence[Path]) -> None:
    """Every acknowledged result is there, and no record twice."""
    wanted: dict[str, int] = {}
    for path in acknowledgements:
        for uri, rows in acknowledged(path).items():
            wanted[uri] = wanted.get(uri, 0) + rows
    for uri, rows in wanted.items():
        found = table_of(uri)
        assert found.num_rows >= rows, f"{uri}: {rows} rows acknowledged, {found.num_rows} there"
        assert pc.count_distinct(found[RECORD_ID]).as_py() == found.num_rows


def check_asset(root: Path, rows: int) -> None:
    found = table_of(root / "lake" / "square")
    assert found["id"].to_pylist() == list(range(rows))
    assert found["y"].to_pylist() == [i * i for i in range(rows)]


# ---------------------------------------------------------------------------- kills


def test_sigkill_at_random_moments_of_a_materialization(processes: Any, tmp_path: Path) -> None:
    """SIGKILL at random moments of a 10,000-row materialization: acknowledged results stay, none twice, the table is whole."""
    pick = random.Random(1)
    kills = done = 0
    root = tmp_path / "0"
    root.mkdir()
    began = time.monotonic()
    finish([start(processes, workers.materialize, str(root), workers.ROWS, 500)])
    duration = time.monotonic() - began
    while kills < rounds(4, 200):
        root = tmp_path / str(done + 1)
        root.mkdir(exist_ok=True)
        process = start(processes, workers.materialize, str(root), workers.ROWS, 500)
        process.join(pick.uniform(0, duration))
        killed = process.is_alive()
        process.kill()
        process.join()
        kills += killed
        check_results([root / "acknowledged"])
        if pick.random() < 0.3 or not killed:
            finish([start(processes, workers.materialize, str(root), workers.ROWS, 500)])
            check_asset(root, workers.ROWS)
            results = table_of(next(iter(acknowledged(root / "acknowledged"))))
            assert pc.count_distinct(results[INPUT_HASH]).as_py() == results.num_rows == workers.ROWS
            done += 1


@pytest.mark.parametrize(
    "failpoint",
    [
        "before the files",
        "after the files",
        "before the table is created",
        "after the table is created",
        "before the commit",
        "after the commit",
        "before the acknowledgement",
    ],
)
def test_sigkill_at_each_failpoint(processes: Any, tmp_path: Path, failpoint: str) -> None:
    """Killed between data file, creation, commit and acknowledgement: the next run completes, with every result once."""
    process = start(processes, workers.die_at, failpoint, workers.materialize, str(tmp_path), 2_000, 500)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    check_results([tmp_path / "acknowledged"])
    finish([start(processes, workers.materialize, str(tmp_path), 2_000, 500)])
    check_asset(tmp_path, 2_000)
    for uri in acknowledged(tmp_path / "acknowledged"):
        results = table_of(uri)
        assert pc.count_distinct(results[INPUT_HASH]).as_py() == results.num_rows


def test_writers_of_one_cache_are_killed(processes: Any, tmp_path: Path) -> None:
    """4 writers of one result table, killed again and again: acknowledged results stay, every packet is there in the end."""
    pick = random.Random(2)
    spans = [(0, 4_000), (3_000, 7_000), (6_000, 10_000), (0, 10_000)]
    running: dict[int, Any] = {}
    for _ in range(rounds(6, 200)):
        for number, span in enumerate(spans):
            if number not in running or not running[number].is_alive():
                running[number] = start(processes, workers.compute, str(tmp_path), number, *span)
        time.sleep(pick.uniform(0, 0.6))
        victim = running[pick.randrange(4)]
        victim.kill()
        victim.join()
    for process in running.values():
        process.join()
    finish([start(processes, workers.compute, str(tmp_path), 9, 0, 10_000)])
    check_results(list(tmp_path.glob("acknowledged-*")))
    (uri,) = {uri for path in tmp_path.glob("acknowledged-*") for uri in acknowledged(path)}
    results = table_of(uri)
    wanted = hash_rows({"x": pa.array(range(10_000))})
    assert pc.all(pc.is_in(wanted.cast(pa.binary()), value_set=pc.unique(results[INPUT_HASH]))).as_py()
    assert PythonPacketFunction(workers.square, "y").uri[0] in uri


def test_a_paused_writer_wakes_after_another_took_over(processes: Any, tmp_path: Path) -> None:
    """A writer that stands still while another finishes its work does no harm when it goes on."""
    paused = start(processes, workers.materialize, str(tmp_path), 4_000, 500)
    time.sleep(0.8)
    os.kill(paused.pid, signal.SIGSTOP)
    time.sleep(rounds(1, 60))
    finish([start(processes, workers.materialize, str(tmp_path), 4_000, 500)])
    os.kill(paused.pid, signal.SIGCONT)
    finish([paused])
    check_asset(tmp_path, 4_000)
    check_results([tmp_path / "acknowledged"])


# ---------------------------------------------------------------------------- races


def test_first_writers_race(processes: Any, tmp_path: Path) -> None:
    """8 processes that write the first rows of one table at once: one of them is the table, whole."""
    for number in range(rounds(2, 200)):
        uri = str(tmp_path / str(number))
        at = time.time() + 0.15
        finish([start(processes, workers.create, uri, writer, at) for writer in range(8)])
        assert table_of(uri).num_rows == 1


@pytest.mark.parametrize("writers", [8, 32] if FULL else [8])
def test_concurrent_appends(processes: Any, tmp_path: Path, writers: int) -> None:
    """Writers that append 20 batches each at once, to a table that is not there yet: every row is there, once."""
    uri = str(tmp_path / "t")
    batches = rounds(5, 20)
    finish([start(processes, workers.append_batches, uri, writer, batches) for writer in range(writers)], 600)
    found = table_of(uri)
    assert found.num_rows == writers * batches * 5
    assert found.group_by(["writer", "batch", "row"]).aggregate([]).num_rows == found.num_rows


def test_one_partition_by_four_runs_at_once(processes: Any, tmp_path: Path) -> None:
    """4 processes that replace one partition at once: it holds exactly one of their versions; the other one is untouched."""
    uri = str(tmp_path / "t")
    other = pa.table({"site": ["b"], "writer": [9], "row": [0]})
    delta.replace(uri, other.to_reader, where=None)
    for _ in range(rounds(2, 100)):
        at = time.time() + 0.1
        finish([start(processes, workers.replace_partition, uri, writer, at) for writer in range(4)])
        found = table_of(uri)
        mine = found.filter(pc.equal(found["site"], "a"))
        assert mine.num_rows == 20
        assert pc.count_distinct(mine["writer"]).as_py() == 1
        assert found.num_rows == 21


def test_appends_beside_replacements_equal_an_oracle(processes: Any, tmp_path: Path) -> None:
    """Processes that append to, replace and empty a partition each: in the end every partition is what its writer says."""
    uri, stop = str(tmp_path / "t"), tmp_path / "stop"
    delta.replace(uri, pa.table({"site": ["x"], "number": [0]}).to_reader, where=None)
    running = [
        start(processes, workers.keep_writing, uri, writer, str(stop), str(tmp_path / f"answer-{writer}"))
        for writer in range(4)
    ]
    time.sleep(rounds(4, 600))
    stop.touch()
    finish(running)
    found = table_of(uri)
    for writer in range(4):
        site, held = (tmp_path / f"answer-{writer}").read_text().strip().split(" ", 1)
        assert str(sorted(found.filter(pc.equal(found["site"], site))["number"].to_pylist())) == held


def test_a_reader_sees_whole_versions(processes: Any, tmp_path: Path) -> None:
    """A reader during 100 replacements of a table always gets one whole version."""
    uri, stop, answer = str(tmp_path / "t"), tmp_path / "stop", tmp_path / "answer"
    writer = start(processes, workers.replace_many, uri, rounds(10, 100), str(stop))
    finish([start(processes, workers.read_often, uri, rounds(10, 200), str(answer))])
    stop.touch()
    finish([writer])
    assert answer.read_text() == "whole\n"


# ---------------------------------------------------------------------------- storage that refuses


@pytest.mark.parametrize("limit", [10, 600, 1_500, 20_000, 150_000])
def test_no_space(processes: Any, tmp_path: Path, limit: int) -> None:
    """When files cannot grow, the write ends in a clear error, what was there stays, and the next write completes."""
    uri = str(tmp_path / "t")
    before = pa.table({"id": pa.array([-1]), "text": ["kept"]})
    delta.append(uri, before.to_reader)
    process = start(processes, workers.write_with_little_space, uri, limit)
    process.join()
    assert table_of(uri).num_rows in (1, 1 + workers.ROWS)
    if process.exitcode == 3:
        assert (tmp_path / "t.error").read_text().startswith("StorageError: ")
        assert table_of(uri).num_rows == 1
    else:
        assert process.exitcode == 0
    delta.append(uri, before.to_reader)
    assert table_of(uri)["text"].to_pylist().count("kept") == 2
