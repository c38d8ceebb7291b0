"""The part of the conformance suite of executors that is about async functions with several rows at a time."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from orcapod_dagster.core.executors.base import BatchResult, PythonFunctionExecutorProtocol, RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.skip import SkipPacket

LOGGER = "orcapod.conformance"


async def count_at_once(x: int) -> int:
    """Return how many calls of this function are under way in this process, this one among them; it takes 50 ms."""
    calls: set[int] = sys.__dict__.setdefault("_orcapod_calls", set())
    calls.add(x)
    most = len(calls)
    for _ in range(5):
        await asyncio.sleep(0.01)
        most = max(most, len(calls))
    calls.discard(x)
    return most


async def first_is_slow(x: int) -> int:
    """Take 2 seconds for 0, else 10 milliseconds."""
    await asyncio.sleep(2.0 if x == 0 else 0.01)
    return x


async def fail_some(x: int) -> int:
    """Fail for 3, skip 5, exit for 7, be cancelled for 8, each while others wait."""
    await asyncio.sleep(0.01 * (x % 4))
    if x == 3:
        raise ValueError("three")
    if x == 5:
        raise SkipPacket("five")
    if x == 7:
        raise SystemExit(7)
    if x == 8:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)
    return x


_whose: ContextVar[int] = ContextVar("whose", default=-1)


async def own_context(x: int) -> int:
    """Return what stands in a context variable that every row sets; -1 before."""
    before = _whose.get()
    _whose.set(x)
    await asyncio.sleep(0.01)
    return x if _whose.get() == x and before == -1 else -1


async def talk_at_once(x: int) -> int:
    """Print and log in turns with the others; a task and a thread of its own do so, too."""

    async def in_a_task() -> None:
        print("task", x)  # noqa: T201

    print("begin", x)  # noqa: T201
    await asyncio.sleep(0.02)
    logging.getLogger(LOGGER).warning("log %d", x)
    print("error", x, file=sys.stderr)  # noqa: T201
    await asyncio.create_task(in_a_task())
    await asyncio.to_thread(print, "thread", x)
    print("end", x)  # noqa: T201
    return x


async def by_descriptor(x: int) -> int:
    """Write to descriptor 1, and have a child process write, which nothing can tell apart."""
    await asyncio.sleep(0.01)
    os.write(1, b"by descriptor\n")
    if x == 0:
        subprocess.run(["/bin/sh", "-c", "echo child"], check=True)  # noqa: ASYNC221  # as users do
    print("own", x)  # noqa: T201
    return x


async def sleep_long(x: int) -> int:
    """Take ten minutes, but for the first row."""
    if x > 0:
        await asyncio.sleep(600)
    return x


async def double_later(x: int) -> int:
    """Return twice the value, after the others had their turn."""
    await asyncio.sleep(0.01)
    return 2 * x


async def interrupt_one(x: int) -> int:
    """Raise what Ctrl-C raises, in one row of many."""
    await asyncio.sleep(0.01)
    if x == 5:
        raise KeyboardInterrupt
    return x


async def end_late(x: int) -> int:
    """End the process in one row, when most of the others have finished."""
    if x == 5:
        await asyncio.sleep(1.5)
        os._exit(3)
    await asyncio.sleep(0.01)
    return x


def columns(length: int, rows: int = 1000) -> Iterator[RowBatch]:
    """Yield the numbers below `length` as batches of at most `rows` rows."""
    for start in range(0, length, rows):
        values = list(range(start, min(start + rows, length)))
        yield RowBatch((values,), {}, start, len(values))


class ExecutorConcurrencyConformance(ABC):
    """What an executor has to do with `CallOptions.max_concurrency`."""

    start_seconds: float = 0.0
    ends_what_does_not_stop: bool = True
    """Whether the rows run in processes that may end; see `ExecutorLimitsConformance`."""

    @abstractmethod
    def make_executor(self) -> PythonFunctionExecutorProtocol:
        """Return a new executor to test."""

    def run_at_once(
        self, function: Callable[..., Any], length: int, at_once: int, *, seconds: float = 1.0, capture: int = 0
    ) -> tuple[list[Any], list[BatchResult]]:
        """Run rows, and return the outputs by row, and the results as they came; every row comes once."""
        options = CallOptions(slice_seconds=seconds, capture=capture, max_concurrency=at_once)
        results = list(self.make_executor().run_rows(function, columns(length), call_options=options))
        outputs: dict[int, Any] = {}
        for result in results:
            assert result.length == len(result.outputs) == len(result.durations) > 0
            for row, output in enumerate(result.outputs, result.start):
                assert row not in outputs, f"row {row} came twice"
                outputs[row] = output
        assert sorted(outputs) == list(range(length))
        return [outputs[row] for row in range(length)], results

    @pytest.mark.parametrize("at_once", [1, 7])
    def test_so_many_rows_at_once(self, at_once: int) -> None:
        """As many rows as asked for are under way at a time in a process, never more; each is timed by itself."""
        outputs, results = self.run_at_once(count_at_once, 40, at_once)
        assert max(outputs) == at_once
        assert all(seconds > 0.045 for result in results for seconds in result.durations)

    def test_at_once_inside_a_running_loop(self) -> None:
        """The same holds when the calling thread runs an event loop already."""

        async def main() -> list[Any]:
            return self.run_at_once(count_at_once, 20, 4)[0]

        assert max(asyncio.run(main())) == 4

    def test_a_slow_row_holds_nothing_back(self) -> None:
        """While one row goes on, the results of the others come, and further ones begin."""
        _, results = self.run_at_once(first_is_slow, 60, 8, seconds=0.1)
        place = next(i for i, result in enumerate(results) if result.start == 0)
        assert sum(result.length for result in results[:place]) > 40

    def test_failures_of_rows_at_once(self) -> None:
        """Errors, skips, exits and cancellations of one row are its own."""
        outputs, results = self.run_at_once(fail_some, 20, 20)
        by_row = {failure.row: failure for result in results for failure in result.failures}
        expected = {3: "ValueError", 5: "SkipPacket", 7: "SystemExit", 8: "CancelledError"}
        assert {row: by_row[row].error_type.rpartition(".")[2] for row in sorted(by_row)} == expected
        assert outputs == [None if x in expected else x for x in range(20)]
        assert [row for row, failure in by_row.items() if failure.skipped] == [5]
        assert "slices.py" not in by_row[3].traceback
        assert "concurrent_rows.py" not in by_row[3].traceback

    def test_a_death_after_results_of_rows_at_once(self) -> None:
        """A row that ends its process fails alone; of the others, also of those whose results had come, each comes once."""
        if not self.ends_what_does_not_stop:
            pytest.skip("its rows run in the caller's own process")
        outputs, results = self.run_at_once(end_late, 12, 4, seconds=0.1)
        assert outputs == [None if x == 5 else x for x in range(12)]
        assert [failure.row for result in results for failure in result.failures] == [5]

    def test_contexts_of_rows_at_once(self) -> None:
        """What a row puts into a context variable no other row sees."""
        assert self.run_at_once(own_context, 40, 5)[0] == list(range(40))

    def test_logs_of_rows_at_once(self) -> None:
        """What Python code prints and logs is kept with its own row, also of tasks and threads that the row awaits."""
        _, results = self.run_at_once(talk_at_once, 30, 10, capture=4096)
        found: dict[int, dict[str, str]] = {}
        for result in results:
            for entry in result.logs:
                assert result.start <= entry.row < result.start + result.length
                found.setdefault(entry.row, {})[entry.stream] = entry.text
        out = "begin {0}\ntask {0}\nthread {0}\nend {0}\n"
        assert found == {x: {"stdout": out.format(x), "stderr": f"error {x}\n", "log": f"log {x}"} for x in range(30)}

    def test_what_cannot_be_told_apart_is_nobodys(self) -> None:
        """What comes through descriptors while several rows are under way is kept with none of them."""
        _, results = self.run_at_once(by_descriptor, 10, 5, capture=4096)
        logs = sorted((entry.row, entry.text) for result in results for entry in result.logs)
        assert logs == [(x, f"own {x}\n") for x in range(10)]

    def test_close_cancels_rows_at_once(self) -> None:
        """Closing after the first result ends all rows that are under way; the executor works on afterwards."""
        executor = self.make_executor()
        options = CallOptions(slice_seconds=0.0, max_concurrency=10)
        results = executor.run_rows(sleep_long, columns(50), call_options=options)
        first = next(results)
        began = time.monotonic()
        results.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # it is a generator
        assert first.outputs == [0]
        outputs: dict[int, int] = {}
        for result in executor.run_rows(double_later, columns(4), call_options=options):
            outputs.update(enumerate(result.outputs, result.start))
        assert outputs == {x: 2 * x for x in range(4)}
        assert time.monotonic() - began < 20 + self.start_seconds

    def test_interrupt_of_rows_at_once(self) -> None:
        """A KeyboardInterrupt of one row reaches the caller."""
        options = CallOptions(max_concurrency=10)
        with pytest.raises(KeyboardInterrupt):
            list(self.make_executor().run_rows(interrupt_one, columns(50), call_options=options))

    def test_sync_functions_run_one_at_a_time(self) -> None:
        """A sync function has one row at a time in a process, whatever is allowed."""
        assert self.run_at_once(_double, 300, 50)[0] == [2 * x for x in range(300)]


def _double(x: int) -> int:
    return 2 * x
