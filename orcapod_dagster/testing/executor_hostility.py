"""The part of the conformance suite of executors that is about what functions do to the process that they run in."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orcapod_dagster.core.executors.base import BatchResult, PythonFunctionExecutorProtocol, RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions


def change_directory(x: int, *, to: str) -> str:  # noqa: ARG001  # called with a row as any other
    """Tell the working directory, and leave for another."""
    found = str(Path.cwd())
    os.chdir(to)
    return found


def pass_over(*_: object) -> None:
    """Handle a signal by doing nothing."""


def change_signals(x: int) -> bool:  # noqa: ARG001  # called with a row as any other
    """Tell whether signals have the handler that this gives them, and give it to them."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    # By name, for a worker may have got the function several times.
    found = any(getattr(signal.getsignal(number), "__name__", "") == pass_over.__name__ for number in numbers)
    for number in numbers:
        signal.signal(number, pass_over)
    return found


def fork(x: int, *, children: Path) -> int:
    """Fork in the first rows, and note the child, which comes back as its parent does."""
    if x < 4:
        child = os.fork()
        if child:
            (children / str(child)).touch()
    return x


def has_ended(process: int) -> bool:
    """Tell whether a process is gone, or nothing of it is left but its exit code."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(process, os.WNOHANG)[0] == process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def leave_threads(x: int) -> int:
    """Leave threads that run on."""
    threading.Thread(target=time.sleep, args=(1.0,)).start()
    threading.Thread(target=time.sleep, args=(60.0,), daemon=True).start()
    return x


def close_descriptors(x: int) -> int:
    """Close all descriptors, in one row."""
    if x == 5:
        os.closerange(0, 65_536)
    return x


class ExecutorHostilityConformance(ABC):
    """What every executor has to do with functions that change the process that they run in."""

    ends_what_does_not_stop: bool = True

    @abstractmethod
    def make_executor(self) -> PythonFunctionExecutorProtocol:
        """Return a new executor to test."""

    def outputs_of(
        self, function: Callable[..., Any], rows: int, seconds: float = 0.0
    ) -> tuple[list[Any], list[BatchResult]]:
        """Run the rows 0, 1, 2, … and return their outputs, each once and in order, and the results."""
        batch = RowBatch((list(range(rows)),), {}, 0, rows)
        found = list(self.make_executor().run_rows(function, [batch], call_options=CallOptions(slice_seconds=seconds)))
        found.sort(key=lambda result: result.start)
        starts = [result.start + offset for result in found for offset in range(result.length)]
        assert starts == list(range(rows))
        return [output for result in found for output in result.outputs], found

    def test_the_working_directory_is_put_back(self, tmp_path: Path) -> None:
        """A row that changes the working directory changes it for its slice of rows at most, and not for this process."""
        before = str(Path.cwd())
        outputs, _ = self.outputs_of(partial(change_directory, to=str(tmp_path)), 6)
        assert len(set(outputs)) <= 2  # of each worker's own, if it has one
        assert str(tmp_path.resolve()) not in {str(Path(one).resolve()) for one in outputs}
        assert str(Path.cwd()) == before

    def test_signal_handlers_are_put_back(self) -> None:
        """A row that sets signal handlers sets them for its slice of rows at most, and not for this process."""
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
        assert self.outputs_of(change_signals, 6)[0] == [False] * 6
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
    def test_a_forked_child_does_not_go_on(self, tmp_path: Path) -> None:
        """A child that a row forked, and that returns as its parent does, ends with the slice; every row has its value once."""
        pid, children = os.getpid(), tmp_path / "children"
        children.mkdir()
        outputs, _ = self.outputs_of(partial(fork, children=children), 20)
        if os.getpid() != pid:  # nobody but this child knows of it, and it would run all other tests once more
            (tmp_path / "went on").touch()
            os._exit(1)
        assert outputs == list(range(20))
        left = {int(path.name) for path in children.iterdir()}
        assert len(left) >= 4
        deadline = time.monotonic() + 20
        while left and time.monotonic() < deadline:
            left = {child for child in left if not has_ended(child)}
            time.sleep(0.05)
        assert not left, "a child goes on"
        assert not (tmp_path / "went on").exists()

    def test_threads_that_are_left_stop_nothing(self) -> None:
        """Threads that rows leave running keep no row from running, and no run from ending."""
        began = time.monotonic()
        assert self.outputs_of(leave_threads, 10)[0] == list(range(10))
        assert time.monotonic() - began < 50

    def test_a_row_that_closes_all_descriptors_fails_alone(self) -> None:
        """It costs its worker, and fails; of many rows in its slice, all others have their value."""
        if not self.ends_what_does_not_stop:
            pytest.skip("its rows run in the caller's own process, whose descriptors it would close")
        outputs, found = self.outputs_of(close_descriptors, 200, seconds=30.0)
        assert outputs == [None if x == 5 else x for x in range(200)]
        assert [f.row for result in found for f in result.failures] == [5]
