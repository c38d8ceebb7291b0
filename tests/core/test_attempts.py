"""Packets that are tried again within a run: rounds of the engine, whatever executor runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from failing import MyExecutor, computed, pod_of, records, stream_of

from orcapod_dagster.core.databases.delta import DeltaTableDatabase
from orcapod_dagster.core.error_kinds import is_any
from orcapod_dagster.core.errors import DefinitionError, ExecutorError, StorageError
from orcapod_dagster.core.executors.base import BatchResult, RowBatch
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor
from orcapod_dagster.core.failure_policy import FailurePolicy
from orcapod_dagster.core.outcomes import OUTCOME_SCHEMA
from orcapod_dagster.core.packet_retry import PacketRetry

QUICK = PacketRetry(attempts=3, delay=0.01, jitter=0)


@pytest.mark.parametrize(
    "executor", [LocalPythonFunctionExecutor(), ProcessPoolExecutor(2), MyExecutor()], ids=["local", "pool", "mine"]
)
def test_rounds(executor: Any, tmp_path: Path) -> None:
    """Packets that fail are called again, in rounds, up to their attempts; only what failed last is recorded, with their number."""

    class FlakyError(ConnectionError):
        pass

    def work(x: int) -> int:
        calls = tmp_path / str(x)
        with calls.open("a") as file:
            file.write("x")
        if x % 10 == 3 or (x % 10 == 5 and calls.stat().st_size < 3):
            raise FlakyError(f"call {calls.stat().st_size}")
        return 2 * x

    pod = pod_of(work, executor=executor, failures=FailurePolicy(QUICK))
    report = computed(pod, 40)
    assert (report.computed, report.failed, report.tried_again) == (36, 4, 8 + 8)
    sizes = [(tmp_path / str(x)).stat().st_size for x in range(40)]
    assert sizes == [3 if x % 10 in (3, 5) else 1 for x in range(40)]
    found = records(pod, "outcomes")
    assert {(dict(row["tag"])["tag"], row["message"], row["attempts"]) for row in found} == {
        (f"t{x}", "call 3", 3) for x in (3, 13, 23, 33)
    }
    assert all(is_any(row["error_kinds"], ["OSError"]) for row in found)
    assert len(records(pod, "results")) == 36
    assert [one.attempts for one in report.failures] == [3] * 4


def test_only_what_is_named_is_tried_again() -> None:
    """Of the classes that are named, and derived ones, a failure is tried again; of others at once recorded, as a skip is."""
    calls: list[int] = []

    def work(x: int) -> int:
        calls.append(x)
        raise [ValueError, TimeoutError, FileNotFoundError][x](x)

    pod = pod_of(
        work, failures=FailurePolicy(PacketRetry(attempts=2, delay=0, exceptions=[TimeoutError, "FileNotFoundError"]))
    )
    assert computed(pod, 3).failed == 3
    assert sorted(calls) == [0, 1, 1, 2, 2]
    assert {row["error_type"]: row["attempts"] for row in records(pod, "outcomes")} == {
        "ValueError": 1,
        "TimeoutError": 2,
        "FileNotFoundError": 2,
    }


def test_a_class_is_known_where_it_cannot_be_loaded() -> None:
    """An exception of a worker that cannot be pickled is still told by the classes that it is derived from."""

    def work(x: int) -> int:
        class OddError(TimeoutError):
            def __init__(self, code: int, *, why: str) -> None:
                super().__init__(f"{code} {why}")

        raise OddError(x, why="so")

    pod = pod_of(
        work,
        executor=ProcessPoolExecutor(1),
        failures=FailurePolicy(PacketRetry(2, delay=0, exceptions="TimeoutError")),
    )
    assert computed(pod, 1).tried_again == 1
    (row,) = records(pod, "outcomes")
    assert row["error_type"].endswith("OddError")
    assert {"TimeoutError", "OSError", "Exception"} < set(row["error_kinds"])


def test_what_is_finished_is_stored_while_a_round_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the delay before a round passes, results are durable after a few seconds; an interrupt there loses none."""
    root = str(tmp_path)
    seen: list[int] = []

    def work(x: int) -> int:
        if x == 1:
            raise ConnectionError(x)
        return x

    def look() -> None:
        flush()
        if not seen:
            seen.append(len(records(pod, "results")))
            raise KeyboardInterrupt

    pod = pod_of(work, DeltaTableDatabase(root), failures=FailurePolicy(PacketRetry(2, delay=60)))
    flush = pod.cache.flush
    monkeypatch.setattr(pod.cache, "flush", look)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pod.compute(pod.plan(stream_of(3)))
    assert time.monotonic() - began < 15
    assert seen == [2]
    again = pod_of(work, DeltaTableDatabase(root))
    assert len(again.plan(stream_of(3)).to_compute) == 1
    assert records(again, "outcomes") == []


def test_what_is_finished_is_stored_while_nothing_else_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result of one worker is durable after a few seconds, also while all workers are busy with packets that take longer."""
    finished = tmp_path / "finished"

    def work(x: int) -> int:
        if x == 0:
            finished.touch()
        else:
            time.sleep(8)
        return x

    def look() -> None:
        flush()
        seen.append((len(records(pod, "results")), time.time() - finished.stat().st_mtime))

    seen = list[tuple[int, float]]()
    pod = pod_of(work, DeltaTableDatabase(str(tmp_path / "lake")), ProcessPoolExecutor(2))
    flush = pod.cache.flush
    monkeypatch.setattr(pod.cache, "flush", look)
    pod.compute(pod.plan(stream_of(3)))
    assert seen[0][0] == 1
    assert seen[0][1] < 6


def test_what_is_finished_is_stored_when_the_executor_fails() -> None:
    """An error of the executor comes out as it is, and everything that was finished before it is stored."""

    class Breaking(MyExecutor):
        def run_rows(
            self, fn: Callable[..., Any], batches: Iterable[RowBatch], **options: Any
        ) -> Iterator[BatchResult]:
            yield BatchResult(0, 2, [10, 11], [0.1, 0.1])
            raise RuntimeError("gone")

    def work(x: int) -> int:
        return x

    pod = pod_of(work, executor=Breaking())
    with pytest.raises(RuntimeError, match="gone"):
        computed(pod, 5)
    assert sorted(row["y"] for row in records(pod, "results")) == [10, 11]


class TwoWorkers(MyExecutor):
    """Gives two rows of each of some workers, which have these data of their own."""

    def __init__(self, *workers: Any) -> None:
        super().__init__()
        self._workers = workers

    def run_rows(self, fn: Callable[..., Any], batches: Iterable[RowBatch], **options: Any) -> Iterator[BatchResult]:
        for number, data in enumerate(self._workers):
            start = 2 * number
            yield BatchResult(start, 2, [start, start + 1], [0.1, 0.1], (), data)


def test_what_one_worker_finished_is_stored_where_that_of_others_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each execution context is stored by itself: errors at some end the run, told together, and lose nothing of the others."""

    def work(x: int) -> int:
        return x

    workers = [{"executor_type": "mine", "host": str(number)} for number in range(3)]
    pod = pod_of(work, executor=TwoWorkers(*workers))
    store_batch, flush = pod.cache.store_batch, pod.cache.flush

    def refuse_some(hashes: pa.Array, batch: pa.RecordBatch, *rest: Any) -> Any:
        if batch["y"][0].as_py() < most:
            raise StorageError(f"no room for {batch['y'][0]}")
        return store_batch(hashes, batch, *rest)

    def refuse_flush() -> None:
        flush()
        raise StorageError("nor to sync")

    monkeypatch.setattr(pod.cache, "store_batch", refuse_some)
    most = 1
    with pytest.raises(StorageError, match=r"^no room for 0$"):
        computed(pod, 6)
    assert sorted(row["y"] for row in records(pod, "results")) == [2, 3, 4, 5]
    most = 3
    monkeypatch.setattr(pod.cache, "flush", refuse_flush)
    with pytest.raises(StorageError, match=r"(?s)3 reasons.*no room for 0\n.*no room for 2\n.*nor to sync") as found:
        pod.compute(pod.plan(stream_of(6), force=True))
    assert isinstance(found.value.__cause__, StorageError)
    assert sorted(row["y"] for row in records(pod, "results")) == [2, 3, 4, 4, 5, 5]


class Untold:
    """What cannot be told as text."""

    def __str__(self) -> str:
        raise RuntimeError("not told")


@pytest.mark.parametrize("bad", [{"executor_type": "mine", 1: "a"}, {"executor_type": Untold()}, 7, {"host": "\ud800"}])
def test_a_worker_that_says_nonsense_of_itself_loses_nothing_of_the_others(bad: Any) -> None:
    """What an executor of users tells of a task may be no data: the run ends with that, by its name, and stores all other results."""

    def work(x: int) -> int:
        return x

    pod = pod_of(work, executor=TwoWorkers({"executor_type": "mine", "host": "0"}, bad, {"executor_type": "mine"}))
    with pytest.raises(ExecutorError, match="'mine' says of a task of function 'work' what is no execution data"):
        computed(pod, 6)
    assert sorted(row["y"] for row in records(pod, "results")) == [0, 1, 4, 5]


def test_outcomes_of_an_earlier_release_stay_readable(tmp_path: Path) -> None:
    """A table without the later columns is read, and gets them with the next outcome."""
    database = DeltaTableDatabase(str(tmp_path))

    def work(x: int) -> int:
        raise ValueError(x)

    pod = pod_of(work, database)
    computed(pod, 1)
    source = database.source(("outcomes",))
    assert source is not None
    earlier = [f for f in OUTCOME_SCHEMA if f.name not in ("attempts", "error_kinds", "tag")]
    old = pa.Table.from_batches(source.scan([f.name for f in earlier]), schema=pa.schema(earlier))
    database = DeltaTableDatabase(str(tmp_path / "earlier"))
    database.append(("outcomes",), old.to_reader)
    pod = pod_of(work, database)
    plan = pod.plan(stream_of(2))
    assert plan.reasons.counts() == {"an earlier failure": 1, "no earlier result": 1}
    pod.compute(plan)
    assert sorted(str(row["attempts"]) for row in records(pod, "outcomes")) == ["1", "1", "None"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"attempts": 0}, "attempts=0"),
        ({"attempts": True}, "attempts=True"),
        ({"delay": -1}, "delay=-1"),
        ({"backoff": 0.5}, "backoff=0.5"),
        ({"jitter": float("nan")}, "jitter=nan"),
        ({"exceptions": [3]}, "exceptions: 3"),
        ({"tries": 3}, r"\['tries'\]"),
        ("3", "packet_retry='3'"),
    ],
)
def test_a_policy_that_cannot_be_right(given: Any, says: str) -> None:
    """What is no policy is refused by the name of its attribute."""
    with pytest.raises(DefinitionError, match=says):
        PacketRetry.of(given)


def test_forms_and_pauses_of_a_policy() -> None:
    """A number, a dict and the value itself are the same policy; pauses grow up to the longest, and by their jitter."""
    assert PacketRetry.of(3) == PacketRetry.of({"attempts": 3}) == PacketRetry()
    assert PacketRetry.of(None) is None
    steady = PacketRetry(9, delay=1, backoff=3, jitter=0, max_delay=20)
    assert [steady.pause(n) for n in (1, 2, 3, 4, 2000)] == [1, 3, 9, 20, 20]
    pauses = {PacketRetry(delay=1, jitter=0.5).pause(1) for _ in range(50)}
    assert len(pauses) > 1
    assert all(1 <= pause <= 1.5 for pause in pauses)
    assert PacketRetry(exceptions=KeyError) == PacketRetry(exceptions=["KeyError"])
