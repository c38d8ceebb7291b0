"""The local executor, and the loop that all executors share."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orcapod_dagster.core.errors import ExecutorError
from orcapod_dagster.core.executors.base import PythonFunctionExecutorBase, RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.concurrent_rows import run_concurrently
from orcapod_dagster.core.executors.event_loop import EventLoopThread
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.executors.slices import is_async, run_slice
from orcapod_dagster.testing.executors import ExecutorConformance, double, double_async, make_batches


class TestLocal(ExecutorConformance):
    ends_what_does_not_stop = False
    has_worker_processes = False

    def make_executor(self) -> LocalPythonFunctionExecutor:
        return LocalPythonFunctionExecutor()


def test_local_runs_in_order() -> None:
    """Slices come in the order of the rows."""
    starts = [r.start for r in LocalPythonFunctionExecutor().run_rows(abs, make_batches(range(50), rows=10))]
    assert starts == [0, 10, 20, 30, 40]


def test_local_has_no_options() -> None:
    """An option that the executor does not know is refused by name."""
    with pytest.raises(TypeError, match="num_cpus"):
        LocalPythonFunctionExecutor().with_options(num_cpus=1)


def test_no_supported_types_means_all() -> None:
    """An executor that lists no function types supports every one."""

    class Any_(LocalPythonFunctionExecutor):
        def supported_function_type_ids(self) -> frozenset[str]:
            return frozenset()

    assert Any_().supports("anything.v9")
    assert not LocalPythonFunctionExecutor().supports("anything.v9")
    assert issubclass(Any_, PythonFunctionExecutorBase)


def test_async_call_that_raises_stop_iteration_ends() -> None:
    """On Python 3.11 a StopIteration in a thread would leave its future waiting for ever."""

    def take(items: list[int]) -> int:
        return next(iter(items))

    call = LocalPythonFunctionExecutor().async_execute_callable(take, {"items": []})
    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(asyncio.wait_for(call, 5))


def test_slice_keeps_to_its_rows() -> None:
    """A slice starts at the row asked for, and a failure's row counts from there."""
    result = run_slice(lambda x: 1 // (x - 3), ([1, 2, 3, 4],), {}, 1, 4, 10.0)
    assert result.outputs == [-1, None, 1]
    assert [(f.row, f.error_type, f.skipped) for f in result.failures] == [(1, "ZeroDivisionError", False)]


def test_error_whose_text_raises_is_kept() -> None:
    """An exception with a broken `__str__` is a failure like others."""

    class BrokenError(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    def fail(x: int) -> int:
        raise BrokenError

    (failure,) = run_slice(fail, ([1],), {}, 0, 1, 1.0).failures
    assert failure.message == "<no message: ValueError in __str__>"


def test_an_exit_in_a_background_task_is_its_rows_failure() -> None:
    """A SystemExit of a task that an async function awaits fails that row, and the loop goes on."""

    async def leave() -> None:
        raise SystemExit(3)

    async def call(x: int) -> int:
        if x == 1:
            await asyncio.create_task(leave())
        return x

    result = run_slice(call, ([0, 1, 2],), {}, 0, 3, 10.0)
    assert result.outputs == [0, None, 2]
    assert result.failures[0].error_type == "SystemExit"


def test_one_loop_for_all_slices_of_a_run() -> None:
    """What an async function binds to its loop, such as a client, works in later slices too."""
    loops: set[int] = set()

    async def call(x: int) -> int:
        loops.add(id(asyncio.get_running_loop()))
        return x

    results = LocalPythonFunctionExecutor().run_rows(
        call, [RowBatch(([1, 2, 3],), {}, 0, 3)], call_options=CallOptions(slice_seconds=0.0)
    )
    assert len(list(results)) == 3
    assert len(loops) == 1


def test_close_cancels_what_an_async_function_left_running() -> None:
    """A task left in the loop is cancelled when the run ends, and the thread is gone."""
    seen: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def call() -> None:
        seen.append(str(asyncio.create_task(background()).done()))
        await asyncio.sleep(0)

    with EventLoopThread() as loop:
        loop.run(call())
    assert seen == ["False", "cancelled"]


def test_is_async_sees_through_partials_and_objects() -> None:
    """Partials of async functions and objects with an async `__call__` count as async."""

    async def call(x: int) -> int:
        return x

    class Callable_:
        async def __call__(self, x: int) -> int:
            return x

    functions: list[Any] = [call, functools.partial(call), Callable_(), lambda x: x, abs, dict]
    assert [is_async(f) for f in functions] == [True, True, True, False, False, False]


def test_a_limit_that_cannot_be_kept_is_refused() -> None:
    """In another thread than the main one, sync rows with a time limit are refused before the first; async ones are not."""
    options = CallOptions(time_limit=1.0)

    def run(function: Callable[..., Any]) -> list[Any]:
        return list(LocalPythonFunctionExecutor().run_rows(function, make_batches([1]), call_options=options))

    with ThreadPoolExecutor() as threads:
        with pytest.raises(ExecutorError, match="main thread"):
            threads.submit(run, double).result()
        assert threads.submit(run, double_async).result()[0].outputs == [2]


def test_rows_at_once_always_say_which_result_is_the_last() -> None:
    """However results are fetched while rows end, the last run of rows, and no other, says that no more come."""

    async def call(x: int) -> int:
        for _ in range(x % 3):
            await asyncio.sleep(0)
        return x

    with EventLoopThread() as loop:
        for seconds in (0.0, 1e-5, 1e-4) * 30:
            told = list(run_concurrently(call, (list(range(40)),), {}, 40, seconds, 4, loop))
            assert [one.more for one in told] == [True] * (len(told) - 1) + [False]
            assert sorted(row for one in told for row in one.outputs) == list(range(40))
