"""The part of the conformance suite of executors that is about functions which take many rows in one call."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from orcapod_dagster.core.executors.base import BatchResult, PythonFunctionExecutorProtocol, RowBatch
from orcapod_dagster.core.executors.batch_rows import with_rows
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.skip import SkipPacket


def double_all(x: list[int]) -> list[int]:
    """Return twice each value."""
    return [2 * value for value in x]


async def double_all_async(x: list[int]) -> list[int]:
    """Do the same from a coroutine."""
    await asyncio.sleep(0)
    return double_all(x)


def sizes(x: list[int], *, factor: list[int]) -> list[tuple[int, int]]:
    """Return the size of the batch and a product; one parameter is keyword-only."""
    return [(len(x), one * other) for one, other in zip(x, factor, strict=True)]


def double_arrow(x: Any) -> Any:
    """Return a column of twice the values; takes and gives Arrow."""
    assert isinstance(x, pa.Array)
    return pa.array([None if value is None else 2 * value for value in x.to_pylist()], pa.int64())


def fail_some(x: list[int]) -> list[Any]:
    """Fail where 13 or 77 is among the values, skip where 50 is alone; mark 20 as failed and 21 as skipped."""
    if 13 in x or 77 in x:
        raise ValueError(f"of {len(x)}")
    if 50 in x:
        raise SkipPacket("fifty")
    marked: dict[int, Exception] = {20: KeyError("twenty"), 21: SkipPacket("twenty-one")}
    return [marked.get(value, value) for value in x]


async def fail_some_async(x: list[int]) -> list[Any]:
    """Do the same from a coroutine."""
    await asyncio.sleep(0)
    return fail_some(x)


def too_few(x: list[int]) -> list[int]:
    """Return one result less than asked for, where 5 is among the values."""
    return x[1:] if 5 in x else x


def sleep_by_row(x: list[int]) -> list[int]:
    """Take 10 ms per value."""
    time.sleep(0.01 * len(x))
    return x


def say_size(x: list[int]) -> list[int]:
    """Print how many there are."""
    print(f"{x[0]}: {len(x)}")  # noqa: T201
    return x


class ExecutorBatchesConformance(ABC):
    """What an executor has to do with `CallOptions.batch_size`."""

    @abstractmethod
    def make_executor(self) -> PythonFunctionExecutorProtocol:
        """Return a new executor to test."""

    def run_batches(
        self, function: Callable[..., Any], column: Any, size: int, *, capture: int = 0, **keywords: Any
    ) -> tuple[list[Any], list[BatchResult]]:
        """Run rows in batches, and return the outputs by row, and the results as they came; every row comes once."""
        length = len(column)
        batch = RowBatch((column,), keywords, 0, length)
        options = CallOptions(batch_size=size, capture=capture)
        listing = with_rows(function, ["a", "b"] if keywords else ["a"], "the function")
        results = list(self.make_executor().run_rows(listing, [batch], call_options=options))
        outputs: dict[int, Any] = {}
        for result in results:
            assert result.length == len(result.outputs) == len(result.durations) > 0
            outputs.update(enumerate(result.outputs, result.start))
        assert sum(result.length for result in results) == length
        return [outputs[row] for row in range(length)], results

    @pytest.mark.parametrize("function", [double_all, double_all_async])
    def test_batches(self, function: Callable[..., Any]) -> None:
        """Each row gets its own result, whatever the size of the batches."""
        for size in (1, 7, 1000):
            assert self.run_batches(function, list(range(300)), size)[0] == [2 * x for x in range(300)]

    def test_size_of_batches(self) -> None:
        """Batches are as large as allowed, but for the last one; keyword-only parameters are lists, too."""
        outputs, _ = self.run_batches(sizes, list(range(100)), 30, factor=list(range(100)))
        assert [product for _, product in outputs] == [x * x for x in range(100)]
        assert [size for size, _ in outputs] == [30] * 90 + [10] * 10

    def test_batches_of_arrow(self) -> None:
        """A column that is an Arrow array comes as Arrow, with its type and its nulls, and Arrow may be returned."""
        column = pa.array([*range(99), None], pa.int64())
        outputs, _ = self.run_batches(double_arrow, column, 30)
        assert outputs == [*(2 * x for x in range(99)), None]

    @pytest.mark.parametrize("function", [fail_some, fail_some_async])
    def test_failing_rows_of_batches(self, function: Callable[..., Any]) -> None:
        """The rows that make a batch fail are found; exceptions that are returned mark their rows; all others have a value."""
        outputs, results = self.run_batches(function, list(range(100)), 64)
        by_row = {failure.row: failure for result in results for failure in result.failures}
        assert {row: (f.error_type.rpartition(".")[2], f.skipped) for row, f in sorted(by_row.items())} == {
            13: ("ValueError", False),
            20: ("KeyError", False),
            21: ("SkipPacket", True),
            50: ("SkipPacket", True),
            77: ("ValueError", False),
        }
        assert by_row[13].message == "of 1"
        assert outputs == [None if x in by_row else x for x in range(100)]

    def test_a_wrong_number_of_results(self) -> None:
        """A batch that gives another number of results than rows fails as a whole, and the error says both; others do not."""
        outputs, results = self.run_batches(too_few, list(range(20)), 4)
        by_row = {failure.row: failure for result in results for failure in result.failures}
        assert sorted(by_row) == [4, 5, 6, 7]
        assert by_row[4].error_type.endswith("OutputCountError")
        assert "batch of 4 packets and returned 3 results" in by_row[4].message
        assert outputs == [None if x in by_row else x for x in range(20)]

    def test_durations_of_batches(self) -> None:
        """A row's duration is its share of its call."""
        _, results = self.run_batches(sleep_by_row, list(range(20)), 10)
        durations = [seconds for result in results for seconds in result.durations]
        assert all(0.009 < seconds < 0.1 for seconds in durations)

    def test_logs_of_batches(self) -> None:
        """What a call prints is kept with its first row, and what later runs print with theirs."""
        _, results = self.run_batches(say_size, list(range(20)), 8, capture=1000)
        logs = sorted((entry.row, entry.text) for result in results for entry in result.logs)
        assert logs == [(0, "0: 8\n"), (8, "8: 8\n"), (16, "16: 4\n")]
        calls = CallOptions(capture=1000)
        (alone,) = self.make_executor().run_rows(print, [RowBatch((["later"],), {}, 0, 1)], call_options=calls)
        assert [entry.text for entry in alone.logs] == ["later\n"]
