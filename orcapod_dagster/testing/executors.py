"""The conformance suite of executors: subclass `ExecutorConformance` to test your own.

class TestMyExecutor(ExecutorConformance):
    def make_executor(self) -> PythonFunctionExecutorProtocol:
        return MyExecutor()
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from orcapod_dagster.core.executors.base import BatchResult, PythonFunctionExecutorProtocol, RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.skip import SkipPacket
from orcapod_dagster.testing.executor_batches import ExecutorBatchesConformance
from orcapod_dagster.testing.executor_concurrency import ExecutorConcurrencyConformance
from orcapod_dagster.testing.executor_generators import ExecutorGeneratorsConformance
from orcapod_dagster.testing.executor_hostility import ExecutorHostilityConformance
from orcapod_dagster.testing.executor_imports import ExecutorImportsConformance
from orcapod_dagster.testing.executor_limits import ExecutorLimitsConformance
from orcapod_dagster.testing.executor_logs import ExecutorLogsConformance
from orcapod_dagster.testing.executor_states import ExecutorStatesConformance

TYPE_ID = "python.function.v0"


class RejectedError(Exception):
    """What the functions of this suite raise; it carries more than its text."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


class UnpicklableError(Exception):
    """An exception that pickling cannot rebuild, as many libraries define them."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code} because of {reason}")
        self.code = code


def double(x: int) -> int:
    """Return twice the value."""
    return 2 * x


def weigh(x: int, *, factor: int) -> int:
    """Return a product; one parameter is keyword-only."""
    return x * factor


def only_keywords(*, x: int) -> int:
    """Return the value; no parameter is positional."""
    return x


async def double_async(x: int) -> int:
    """Return twice the value, after another task had its turn."""
    await asyncio.sleep(0)
    return 2 * x


def raise_some(x: int) -> int:
    """Fail for 3, skip 5, exit for 7."""
    if x == 3:
        raise RejectedError(x)
    if x == 5:
        raise SkipPacket("five")
    if x == 7:
        raise SystemExit(7)
    return x


async def raise_some_async(x: int) -> int:
    """Do the same from a coroutine; 8 has its own task cancelled."""
    await asyncio.sleep(0)
    if x == 8:
        raise asyncio.CancelledError("eight")
    return raise_some(x)


def raise_unpicklable(x: int) -> int:
    """Fail for 1 with an exception that does not survive pickling."""
    if x == 1:
        raise UnpicklableError(x, reason="one")
    return x


def interrupt(x: int) -> int:  # noqa: ARG001  # called with a row as any other  # noqa: ARG001  # it does not get so far
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt


def sleep_briefly(x: int) -> int:
    """Take 50 milliseconds."""
    time.sleep(0.05)
    return x


def tell_time(x: int) -> float:  # noqa: ARG001  # called with a row as any other
    """Return when it was called."""
    return time.time()


def sleep_long(x: int) -> int:
    """Take ten minutes, but for the first row."""
    if x > 0:
        time.sleep(600)
    return x


def make_batches(*columns: Sequence[Any], rows: int = 1000, **keywords: Any) -> Iterator[RowBatch]:
    """Yield columns as batches of at most `rows` rows."""
    length = len([*columns, *keywords.values()][0])
    for start in range(0, length, rows):
        span = slice(start, min(start + rows, length))
        by_name = {name: column[span] for name, column in keywords.items()}
        yield RowBatch(tuple(column[span] for column in columns), by_name, start, span.stop - start)


def gather(results: Iterator[BatchResult], length: int) -> tuple[list[Any], dict[int, BatchResult]]:
    """Return the outputs in the order of rows and the slice of each row; every row is covered once and timed."""
    outputs: dict[int, Any] = {}
    slices: dict[int, BatchResult] = {}
    for result in results:
        assert result.length == len(result.outputs) == len(result.durations) > 0
        assert all(result.start <= failure.row < result.start + result.length for failure in result.failures)
        for offset, output in enumerate(result.outputs):
            row = result.start + offset
            assert row not in outputs, f"row {row} came twice"
            outputs[row] = output
            slices[row] = result
    assert sorted(outputs) == list(range(length))
    return [outputs[row] for row in range(length)], slices


class ExecutorConformance(
    ExecutorBatchesConformance,
    ExecutorConcurrencyConformance,
    ExecutorGeneratorsConformance,
    ExecutorLogsConformance,
    ExecutorImportsConformance,
    ExecutorLimitsConformance,
    ExecutorHostilityConformance,
    ExecutorStatesConformance,
):
    """What every executor of Python functions has to do."""

    start_seconds: float = 0.0
    """How long the executor may need, at most, before its first row runs and after it is closed, in seconds."""

    @abstractmethod
    def make_executor(self) -> PythonFunctionExecutorProtocol:
        """Return a new executor to test."""

    def run(
        self, function: Callable[..., Any], *columns: Sequence[Any], **keywords: Any
    ) -> tuple[list[Any], dict[int, BatchResult]]:
        """Run all rows and gather them."""
        batches = make_batches(*columns, **keywords)
        length = len([*columns, *keywords.values()][0])
        return gather(self.make_executor().run_rows(function, batches), length)

    def test_it_says_what_it_is(self) -> None:
        """It follows the protocol, has a type id, and supports Python functions."""
        executor = self.make_executor()
        assert isinstance(executor, PythonFunctionExecutorProtocol)
        assert executor.executor_type_id
        assert executor.supports(TYPE_ID)
        assert TYPE_ID in executor.supported_function_type_ids() or not executor.supported_function_type_ids()
        assert isinstance(executor.supports_concurrent_execution, bool)

    def test_its_data_fits_its_schema(self) -> None:
        """The data has the schema's names and types, and names the type of executor."""
        executor = self.make_executor()
        data, schema = executor.get_executor_data(), executor.get_executor_data_schema()
        assert data["executor_type"] == executor.executor_type_id
        assert list(data) == list(schema)
        assert all(isinstance(data[name], schema[name]) for name in schema)

    def test_its_data_cannot_be_changed_from_outside(self) -> None:
        """Who changes the data that it gave, or that a slice carries, changes nothing in the executor."""
        executor = self.make_executor()
        before = copy.deepcopy(executor.get_executor_data())
        given = executor.get_executor_data()
        given["executor_type"] = "another"
        for value in given.values():
            if isinstance(value, dict):
                value["more"] = 1
        (result,) = executor.run_rows(double, make_batches([1]))
        assert dict(result.execution_data) == before
        assert executor.get_executor_data() == before

    def test_with_options_gives_a_new_executor(self) -> None:
        """A copy with other options is another object of the same class and the same type id."""
        executor = self.make_executor()
        other = executor.with_options()
        assert other is not executor
        assert type(other) is type(executor)
        assert other.executor_type_id == executor.executor_type_id

    def test_values_and_rows(self) -> None:
        """Every row of many batches comes once, with its own value."""
        outputs, _ = self.run(double, range(3500))
        assert outputs == [2 * x for x in range(3500)]

    @pytest.mark.parametrize("function", [weigh, only_keywords])
    def test_keyword_columns(self, function: Callable[..., Any]) -> None:
        """Keyword-only parameters get their columns, with and without positional ones."""
        if function is weigh:
            outputs, _ = self.run(weigh, list(range(1500)), factor=list(range(1500)))
            assert outputs == [x * x for x in range(1500)]
        else:
            outputs, _ = self.run(only_keywords, x=list(range(1500)))
            assert outputs == list(range(1500))

    def test_no_rows(self) -> None:
        """No batch, and a batch without rows, give no result."""
        executor = self.make_executor()
        assert list(executor.run_rows(double, [])) == []
        assert list(executor.run_rows(double, [RowBatch(([],), {}, 0, 0)])) == []

    def test_no_parameters(self) -> None:
        """A function without parameters is called once per row."""
        results = self.make_executor().run_rows(lambda: "same", [RowBatch((), {}, 0, 3)])
        assert gather(results, 3)[0] == ["same"] * 3

    def test_batches_are_taken_as_needed(self) -> None:
        """When the first result comes, most batches have not been asked for."""
        taken: list[int] = []

        def batches() -> Iterator[RowBatch]:
            for batch in make_batches(range(200_000), rows=100):
                taken.append(batch.start)
                yield batch

        results = self.make_executor().run_rows(double, batches())
        next(results)
        results.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # it is a generator
        assert len(taken) < 1000

    @pytest.mark.parametrize("function", [raise_some, raise_some_async])
    def test_failures_stop_no_other_row(self, function: Callable[..., Any]) -> None:
        """Errors, exits and skips are kept with row, class, text and traceback; all other rows have their value."""
        outputs, slices = self.run(function, range(20))
        by_row = {
            failure.row: failure for row, result in slices.items() for failure in result.failures if failure.row == row
        }
        expected = {3: "RejectedError", 5: "SkipPacket", 7: "SystemExit"}
        if function is raise_some_async:
            expected[8] = "CancelledError"
        assert {row: by_row[row].error_type.rpartition(".")[2] for row in sorted(by_row)} == expected
        assert outputs == [None if x in expected else x for x in range(20)]
        assert [row for row in by_row if by_row[row].skipped] == [5]
        assert by_row[5].message == "five"
        assert "raise RejectedError(x)" in by_row[3].traceback
        assert isinstance(by_row[3].error, RejectedError)
        assert by_row[3].error.value == 3
        assert by_row[3].duration >= 0

    def test_a_traceback_leads_through_the_users_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a module that workers may not find, each frame has its file, line and function; none is of what called it."""
        text = "def helper(x):\n    raise KeyError(x)\n\n\ndef fail(x):\n    return helper(x)\n"
        (tmp_path / "module_of_a_user.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "module_of_a_user", raising=False)
        _, slices = self.run(importlib.import_module("module_of_a_user").fail, [1])
        lines = slices[0].failures[0].traceback.splitlines()
        frames = [line.strip() for line in lines if line.startswith("  File")]
        file = tmp_path / "module_of_a_user.py"
        assert frames == [f'File "{file}", line 6, in fail', f'File "{file}", line 2, in helper']
        assert lines[-1] == "KeyError: 1"

    def test_an_error_that_cannot_be_pickled_keeps_its_text(self) -> None:
        """The exception itself or a stand-in: class name, message and the other rows are kept."""
        outputs, slices = self.run(raise_unpicklable, range(3))
        (failure,) = slices[1].failures
        assert outputs == [0, None, 2]
        assert failure.error_type.endswith("UnpicklableError")
        assert failure.message == "1 because of one"
        assert "1 because of one" in str(failure.error)

    def test_interrupt_is_raised(self) -> None:
        """A KeyboardInterrupt is no failure of a row: it reaches the caller."""
        with pytest.raises(KeyboardInterrupt):
            list(self.make_executor().run_rows(interrupt, make_batches([1, 2])))

    def test_async_function(self) -> None:
        """An async function gives its value, not a coroutine."""
        assert self.run(double_async, range(300))[0] == [2 * x for x in range(300)]

    def test_async_function_inside_a_running_loop(self) -> None:
        """The same holds when the calling thread runs an event loop already."""

        async def main() -> list[Any]:
            return self.run(double_async, range(50))[0]

        assert asyncio.run(main()) == [2 * x for x in range(50)]

    def test_slices_end_in_time(self) -> None:
        """Rows that take 50 ms come in slices of about the time asked for, never all at once."""
        results = self.make_executor().run_rows(
            sleep_briefly, make_batches(range(20)), call_options=CallOptions(slice_seconds=0.2)
        )
        outputs, slices = gather(results, 20)
        assert outputs == list(range(20))
        # The bound is checked after each row, so a slice ends with the first row beyond it.
        assert max(sum(result.durations[:-1]) for result in slices.values()) <= 0.2
        assert all(duration >= 0.045 for result in slices.values() for duration in result.durations)

    def test_a_slice_has_at_least_one_row(self) -> None:
        """A bound shorter than any row gives one row at a time."""
        results = self.make_executor().run_rows(
            sleep_briefly, make_batches(range(3)), call_options=CallOptions(slice_seconds=0.0)
        )
        assert [result.length for result in results] == [1, 1, 1]

    def test_batches_begin_when_they_may(self) -> None:
        """An executor that looks at `not_before` begins no row before it, and gives finished rows while the others wait."""
        executor = self.make_executor()
        if not getattr(executor, "waits_for_batches", False):
            pytest.skip("this executor is given batches when they may begin")
        list(executor.run_rows(tell_time, make_batches([0])))  # what starts once has started
        began = time.time()
        moments = [time.monotonic() + 3.0 + 0.5 * x for x in range(4)]
        batches = (RowBatch(([x],), {}, x, 1, moments[x]) for x in range(4))
        came: list[float] = []
        outputs: dict[int, float] = {}
        for result in executor.run_rows(tell_time, batches):
            came.append(time.time() - began)
            outputs[result.start] = result.outputs[0] - began
        told = [outputs[x] for x in range(4)]
        earliest = [3.0 + 0.5 * x for x in range(4)]
        assert all(moment >= least - 0.05 for moment, least in zip(told, earliest, strict=True))
        assert came[0] < told[3]

    def test_it_tells_how_many_rows_are_under_way(self) -> None:
        """An executor that tells it has some rows with workers before the first result, and never more than are left."""
        told: list[int] = []
        options = CallOptions(slice_seconds=0.0, under_way=told.append)
        left = 12
        for result in self.make_executor().run_rows(sleep_briefly, make_batches(range(left)), call_options=options):
            if not told:
                pytest.skip("this executor does not tell")
            assert 1 <= told[-1] <= left
            left -= result.length
        assert left == 0
        assert min(told) >= 0

    def test_close_cancels(self) -> None:
        """Closing after the first result ends what runs; the executor works on afterwards."""
        executor = self.make_executor()
        results = executor.run_rows(sleep_long, make_batches(range(50)), call_options=CallOptions(slice_seconds=0.0))
        first = next(results)
        began = time.monotonic()
        results.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # it is a generator
        assert first.outputs == [0]
        assert gather(executor.run_rows(double, make_batches([4])), 1)[0] == [8]
        assert time.monotonic() - began < 20 + self.start_seconds

    @pytest.mark.parametrize("function", [double, double_async])
    def test_one_call(self, function: Callable[..., Any]) -> None:
        """`execute_callable` and its async form return the function's value."""
        executor = self.make_executor()
        assert executor.execute_callable(function, {"x": 4}) == 8
        assert asyncio.run(executor.async_execute_callable(function, {"x": 4})) == 8

    def test_one_call_raises_the_users_exception(self) -> None:
        """The exception of a single call is the user's own, of the same class and content, in both forms."""
        executor = self.make_executor()
        with pytest.raises(RejectedError) as caught:
            executor.execute_callable(raise_some, {"x": 3})
        assert caught.value.value == 3
        with pytest.raises(RejectedError):
            asyncio.run(executor.async_execute_callable(raise_some, {"x": 3}))
        with pytest.raises(SkipPacket, match="five"):
            executor.execute_callable(raise_some, {"x": 5})
