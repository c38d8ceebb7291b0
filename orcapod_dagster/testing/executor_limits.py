"""The part of the conformance suite of executors that is about time limits: what takes too long fails alone, in every executor."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import signal
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orcapod_dagster.core.errors import PacketTimeoutError
from orcapod_dagster.core.executors.base import BatchResult, PythonFunctionExecutorProtocol, RowBatch
from orcapod_dagster.core.executors.batch_rows import with_rows
from orcapod_dagster.core.executors.call_options import CallOptions

LIMIT = 0.5


def dawdle(x: int) -> int:
    """Hang in some rows, each in another way that can be stopped from within."""
    if x == 3:
        time.sleep(60)
    if x == 5:
        try:
            time.sleep(60)
        except Exception:  # noqa: BLE001  # as users write it
            return -1
    if x == 7:
        try:
            while True:
                pass
        finally:
            print("closed")  # noqa: T201
    if x == 9:
        try:
            time.sleep(60)
        except BaseException:  # noqa: BLE001  # worse, but it comes to an end
            return -1
    return x


async def dawdle_async(x: int) -> int:
    """Do the same in a coroutine; row 4 raises a time-out of its own."""
    if x == 3:
        await asyncio.sleep(60)
    if x == 4:
        raise TimeoutError("of its own")
    if x in (5, 9):
        try:
            await asyncio.sleep(60)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001  # as above
            return -1
    if x == 7:
        try:
            await asyncio.sleep(60)
        finally:
            print("closed")  # noqa: T201
    return x


def ignore(x: int) -> int:
    """Hang in two rows so that nothing within the process can stop it."""
    if x == 2:
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(60)
    if x == 6:
        return sum(itertools.repeat(1, 10**15))  # C code that never lets go of the interpreter
    return x


async def ignore_async(x: int) -> int:
    """Do the same in a coroutine: it blocks its loop."""
    if x == 2:
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)
    return x


def fail_slowly(x: list[int], folder: Path) -> list[int]:
    """Take nearly as long as it may, and fail, where 0 is among the values; note each such call."""
    if 0 in x:
        (folder / f"{len(x)}.{uuid.uuid4().hex}").touch()
        time.sleep(0.9 * LIMIT)
        raise ValueError("0 is among them")
    return x


def ignore_all(x: list[int]) -> list[int]:
    """Hang where 3 is among the values, so that nothing within the process can stop it."""
    if 3 in x:
        sum(itertools.repeat(1, 10**15))
    return x


def own_alarm(x: int) -> str:
    """Tell what is set for the signal of timers, and set it."""
    found = f"{signal.getsignal(signal.SIGALRM) == signal.SIG_IGN} {signal.getitimer(signal.ITIMER_REAL)[0] <= LIMIT}"
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    if x == 2:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 60)
    return found


class ExecutorLimitsConformance(ABC):
    """What every executor has to do with rows that take longer than `CallOptions.time_limit`."""

    ends_what_does_not_stop: bool = True
    """Whether the rows run in processes that the executor may end; one that runs them in the caller's own may not."""

    @abstractmethod
    def make_executor(self) -> PythonFunctionExecutorProtocol:
        """Return a new executor to test."""

    def limited(
        self, function: Callable[..., Any], rows: int, limit: float | None = LIMIT, **calls: Any
    ) -> tuple[list[Any], dict[int, tuple[str, float]], list[BatchResult]]:
        """Run the rows 0, 1, 2, … with a limit; return their outputs, per failed row the class and the seconds, and all results."""
        batch = RowBatch((list(range(rows)),), {}, 0, rows)
        options = CallOptions(time_limit=limit, slice_seconds=0.2, capture=1000, **calls)
        results = sorted(self.make_executor().run_rows(function, [batch], call_options=options), key=lambda r: r.start)
        outputs = [output for result in results for output in result.outputs]
        failures = {f.row: f for result in results for f in result.failures}
        assert all(
            isinstance(f.error, PacketTimeoutError) == (f.error_type == "PacketTimeoutError") for f in failures.values()
        )
        assert len(outputs) == rows
        return outputs, {row: (f.error_type, f.duration) for row, f in sorted(failures.items())}, results

    @pytest.mark.parametrize("function", [dawdle, dawdle_async])
    def test_a_row_that_takes_too_long_fails_alone(self, function: Callable[..., Any]) -> None:
        """It is stopped at its limit, whatever `except` it is in, and is a failure that says so; all other rows have their value."""
        outputs, failed, results = self.limited(function, 12)
        own = failed.pop(4, ("TimeoutError", 0.0))
        assert own[0] == "TimeoutError"
        assert {row: name for row, (name, _) in failed.items()} == dict.fromkeys((3, 5, 7, 9), "PacketTimeoutError")
        late = {3, 5, 7, 9} | ({4} if function is dawdle_async else set())
        assert outputs == [None if x in late else x for x in range(12)]
        assert all(0.9 * LIMIT < seconds < 10 * LIMIT for _, seconds in failed.values())
        by_row = {f.row: f for result in results for f in result.failures}
        assert f"time limit of {LIMIT:g} s" in by_row[3].message
        assert "sleep(60)" in by_row[3].traceback
        assert [entry.text for result in results for entry in result.logs if entry.row == 7] == ["closed\n"]

    @pytest.mark.parametrize("function", [ignore, ignore_async])
    def test_a_row_that_cannot_be_stopped_ends_its_process(self, function: Callable[..., Any]) -> None:
        """C code, and what catches everything, costs its process; it fails as one that took too long, and no other row does."""
        if not self.ends_what_does_not_stop:
            pytest.skip("its rows run in the caller's own process")
        outputs, failed, _ = self.limited(function, 12)
        late = (2, 6) if function is ignore else (2,)
        assert {row: name for row, (name, _) in failed.items()} == dict.fromkeys(late, "PacketTimeoutError")
        assert outputs == [None if x in late else x for x in range(12)]
        assert all(seconds > LIMIT for _, seconds in failed.values())

    def test_each_call_of_a_batch_has_its_time(self, tmp_path: Path) -> None:
        """A batch that fails just in time is called again in halves, each of which has as much time; no process is ended for it."""
        function = with_rows(partial(fail_slowly, folder=tmp_path), ["y"], "the function")
        outputs, failed, _ = self.limited(function, 64, batch_size=64)
        assert outputs == [None, *range(1, 64)]
        assert list(failed) == [0]
        assert sorted(int(path.name.split(".")[0]) for path in tmp_path.glob("[0-9]*")) == [1, 2, 4, 8, 16, 32, 64]

    def test_a_batch_that_cannot_be_stopped_ends_its_process(self) -> None:
        """The row for which a call of a batch does not stop is found; it fails as one that took too long, and no other does."""
        if not self.ends_what_does_not_stop:
            pytest.skip("its rows run in the caller's own process")
        outputs, failed, _ = self.limited(with_rows(ignore_all, ["y"], "the function"), 4, batch_size=2)
        assert {row: name for row, (name, _) in failed.items()} == {3: "PacketTimeoutError"}
        assert outputs == [0, 1, 2, None]
        assert failed[3][1] > LIMIT

    def test_rows_within_their_limit_are_as_without(self) -> None:
        """A limit that no row reaches changes nothing, over many rows."""
        outputs, failed, _ = self.limited(int, 3000, limit=30.0)
        assert outputs == list(range(3000))
        assert failed == {}

    @pytest.mark.skipif(os.name != "posix", reason="there are no such signals")
    def test_a_row_that_sets_the_timers_signal_is_forgotten(self) -> None:
        """What a row does to the signal and the timer that stop rows is undone for the next, and for this process."""
        before = signal.getsignal(signal.SIGALRM)
        outputs, failed, _ = self.limited(own_alarm, 5)
        assert set(outputs) == {"False True"}
        assert failed == {}
        assert signal.getsignal(signal.SIGALRM) == before
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
