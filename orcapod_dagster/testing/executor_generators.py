"""The part of the conformance suite of executors that is about functions which give several rows for one packet."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from orcapod_dagster.core.executors.base import PythonFunctionExecutorProtocol, RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.generator_rows import as_list
from orcapod_dagster.core.skip import SkipPacket


def count_down(x: int) -> Iterator[int]:
    """Yield the numbers below one, the largest first; fail at 5 after some, and skip 7 after some."""
    for number in range(x - 1, -1, -1):
        yield number
        if x == 5 and number == 2:
            raise ValueError("five")
        if x == 7 and number == 2:
            raise SkipPacket("seven")


async def count_down_async(x: int) -> AsyncIterator[int]:
    """Do the same, with a turn for others before each row."""
    for number in count_down(x):
        await asyncio.sleep(0)
        yield number


async def awaited_iterator(x: int) -> Iterator[int]:
    """Return an iterator from a coroutine."""
    await asyncio.sleep(0)
    return count_down(x)


class ExecutorGeneratorsConformance(ABC):
    """What an executor has to do with functions that `generator_rows.as_list` made of generators."""

    @abstractmethod
    def make_executor(self) -> PythonFunctionExecutorProtocol:
        """Return a new executor to test."""

    @pytest.mark.parametrize("at_once", [1, 4])
    @pytest.mark.parametrize("function", [count_down, count_down_async, awaited_iterator])
    def test_generators(self, function: Callable[..., Any], at_once: int) -> None:
        """Each row has all that its generator yielded, in order, or none of it where it raised."""
        options = CallOptions(max_concurrency=at_once)
        rows = list(range(10))
        results = self.make_executor().run_rows(as_list(function), [RowBatch((rows,), {}, 0, 10)], call_options=options)
        outputs: dict[int, Any] = {}
        failures: dict[int, tuple[str, bool]] = {}
        for result in results:
            outputs.update(enumerate(result.outputs, result.start))
            failures.update({f.row: (f.message, f.skipped) for f in result.failures})
        assert failures == {5: ("five", False), 7: ("seven", True)}
        assert outputs == {x: None if x in failures else list(range(x - 1, -1, -1)) for x in rows}
