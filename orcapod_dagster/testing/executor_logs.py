"""The part of the conformance suite of executors that is about logs: what a row prints and logs, in every executor the same."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orcapod_dagster.core.executors.base import BatchResult, PythonFunctionExecutorProtocol, RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions

LIMIT = 4096
LOGGER = "orcapod.conformance"


def talk(x: int) -> int:
    """Print, write, log and have others print; each row in another way."""
    if x == 1:
        print("one")  # noqa: T201
        print("two", file=sys.stderr)  # noqa: T201
        print("three", end="")  # noqa: T201
    elif x == 2:
        subprocess.run(["/bin/sh", "-c", "echo child; echo its error >&2"], check=True)
    elif x == 3:
        ctypes.CDLL(None).printf(b"C code, without a newline")
    elif x == 4:
        logging.getLogger(LOGGER).warning("careful with %s", x)
        logging.getLogger(LOGGER).debug("not at this level")
        try:
            int("four")
        except ValueError:
            logging.getLogger(f"{LOGGER}.inner").exception("it failed")
    elif x == 5:
        print("\ud800 and \0")  # noqa: T201
        sys.stdout.buffer.write(b"\xff\xfe")
    elif x == 6:
        print("last words")  # noqa: T201
        raise ValueError("six")
    elif x == 8:
        os.write(1, b"by descriptor")
    return x


async def talk_async(x: int) -> int:
    """Do the same from a coroutine."""
    await asyncio.sleep(0)
    return talk(x)


TALK = {
    1: [("stdout", "one\nthree"), ("stderr", "two\n")],
    2: [("stdout", "child\n"), ("stderr", "its error\n")],
    3: [("stdout", "C code, without a newline")],
    4: [("log", "careful with 4"), ("log", "it failed\nTraceback")],
    5: [("stdout", "\\ud800 and \0\n\\xff\\xfe")],
    6: [("stdout", "last words\n")],
    8: [("stdout", "by descriptor")],
}


def flood(x: int) -> int:
    """Write 10 MB by a child process, or 100,000 records."""
    if x == 1:
        subprocess.run([sys.executable, "-c", "print('begin'); print('x' * 10_000_000); print('end')"], check=True)
    if x == 2:
        for i in range(100_000):
            logging.getLogger(LOGGER).warning("record %d", i)
    return x


def meddle(x: int) -> int:
    """Do to the streams what functions do to them, and leave it so."""
    if x == 0:
        sys.stdout.close()
        sys.stderr.close()
    if x == 2:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
        print("to nowhere")  # noqa: T201
    if x == 4:
        sys.stdout = None  # type: ignore[assignment]  # so do some
    if x == 6:
        os.chdir(tempfile.gettempdir())
    if x == 8:
        logging.basicConfig(force=True, handlers=[logging.StreamHandler(sys.stderr)])
        logging.getLogger(LOGGER).warning("by a handler")
        logging.basicConfig(force=True, handlers=[logging.NullHandler()])
    if x == 10:
        print("leaving")  # noqa: T201
        sys.exit("bye")
    if x % 2:
        print(x)  # noqa: T201
    return x


def redirect_descriptor(x: int) -> int:
    """Lead descriptor 1 elsewhere, in the first row, and leave it so."""
    if x == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    print(x)  # noqa: T201
    return x


def leave_a_thread(x: int) -> int:
    """Start a thread in the first row that prints while a later one runs, and tell the process."""
    if x == 0:
        threading.Thread(target=lambda: (time.sleep(0.3), print("late")), daemon=True).start()  # noqa: T201
        print("early")  # noqa: T201
    else:
        time.sleep(1.0)
    return os.getpid()


async def leave_a_task(x: int) -> int:
    """Start a task in the first row that prints while a later one runs."""

    async def late() -> None:
        await asyncio.sleep(0.2)
        print("late, of", x)  # noqa: T201
        logging.getLogger(LOGGER).warning("late")

    if x == 0:
        leave_a_task.kept = asyncio.create_task(late())  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]
    await asyncio.to_thread(print, "own", x)
    await asyncio.sleep(0.4)
    return x


def quiet(x: int) -> int:
    """Print nothing."""
    return x


class ExecutorLogsConformance(ABC):
    """What every executor has to do with what rows print and log."""

    @abstractmethod
    def make_executor(self) -> PythonFunctionExecutorProtocol:
        """Return a new executor to test."""

    @pytest.fixture
    def process_as_it_was(self) -> Iterator[None]:
        """Undo what rows did to this process, where they run in it."""
        directory, handlers = Path.cwd(), list(logging.root.handlers)
        yield
        os.chdir(directory)
        logging.root.handlers[:] = handlers

    def results_of(
        self, function: Callable[..., Any], rows: int, *, capture: int = LIMIT, slice_seconds: float = 1.0
    ) -> list[BatchResult]:
        """Run the rows 0, 1, 2, … and return the results."""
        batch = RowBatch((list(range(rows)),), {}, 0, rows)
        executor = self.make_executor()
        return list(
            executor.run_rows(function, [batch], call_options=CallOptions(capture=capture, slice_seconds=slice_seconds))
        )

    def logs_of(self, function: Callable[..., Any], rows: int, **options: Any) -> dict[int, list[tuple[str, str]]]:
        """Run rows, and return what each printed and logged: stream and text."""
        found: dict[int, list[tuple[str, str]]] = {}
        for result in self.results_of(function, rows, **options):
            for entry in result.logs:
                assert result.start <= entry.row < result.start + result.length
                found.setdefault(entry.row, []).append((entry.stream, entry.text))
        return found

    @pytest.mark.parametrize("function", [talk, talk_async])
    def test_logs_belong_to_their_row(self, function: Callable[..., Any]) -> None:
        """Streams, descriptors, C code, child processes and records are kept with the row they came from, and nothing else."""
        found = self.logs_of(function, 9)
        found[4] = [(stream, text.partition(" (most")[0]) for stream, text in found[4]]
        assert found == TALK

    def test_records_have_level_and_logger(self) -> None:
        """A record is kept with level, logger and time; at the levels that the loggers have in this process."""
        began = time.time()
        logging.getLogger(f"{LOGGER}.inner").setLevel(logging.CRITICAL)
        try:
            logs = [entry for result in self.results_of(talk, 5) for entry in result.logs if entry.row == 4]
        finally:
            logging.getLogger(f"{LOGGER}.inner").setLevel(logging.NOTSET)
        assert [(e.level, e.logger, e.text) for e in logs] == [("WARNING", LOGGER, "careful with 4")]
        assert began - 60 < logs[0].time < time.time() + 60

    def test_nothing_printed_no_logs(self) -> None:
        """Rows that print nothing have no entry, and without `capture` no row has one."""
        assert self.logs_of(quiet, 3000) == {}
        assert self.logs_of(talk, 9, capture=0) == {}

    def test_a_flood_is_cut(self) -> None:
        """Of 10 MB, or of 100,000 records, the first and the last are kept, and how much was cut is said."""
        found = self.logs_of(flood, 4)
        assert sorted(found) == [1, 2]
        ((stream, text),) = found[1]
        assert stream == "stdout"
        assert text.startswith("begin\nxxx")
        assert text.endswith("xxx\nend\n")
        assert f"({10_000_000 + 11 - LIMIT:,} bytes cut)" in text
        assert len(text) < LIMIT + 100
        records = [text for _, text in found[2]]
        assert (records[0], records[-1]) == ("record 0", "record 99999")
        assert sum("records cut" in text for text in records) == 1
        assert sum(map(len, records)) < 2 * LIMIT

    @pytest.mark.usefixtures("process_as_it_was")
    def test_streams_that_are_closed_or_replaced(self) -> None:
        """Whatever a row does to its streams, its directory and its logging, the next row prints as if nothing had been."""
        found = self.logs_of(meddle, 12)
        expected = {x: [("stdout", f"{x}\n")] for x in range(1, 12, 2)}
        expected[8] = [("stderr", f"WARNING:{LOGGER}:by a handler\n"), ("log", "by a handler")]
        expected[10] = [("stdout", "leaving\n")]
        assert found == expected

    def test_a_descriptor_that_is_led_elsewhere(self) -> None:
        """What goes elsewhere by `os.dup2` is not kept in its slice of rows; the next slice is captured again."""
        found = self.logs_of(redirect_descriptor, 3, slice_seconds=0.0)
        assert found == {1: [("stdout", "1\n")], 2: [("stdout", "2\n")]}

    def test_a_thread_that_outlives_its_row(self) -> None:
        """What a thread prints after its row has ended is kept with the row that runs then in its process, if one does."""
        results = self.results_of(leave_a_thread, 2, slice_seconds=30.0)
        first, second = (process for result in sorted(results, key=lambda r: r.start) for process in result.outputs)
        found = {entry.row: (entry.stream, entry.text) for result in results for entry in result.logs}
        late = {1: ("stdout", "late\n")} if first == second else {}
        assert found == {0: ("stdout", "early\n"), **late}

    def test_a_task_that_outlives_its_row(self) -> None:
        """What a task of an async function, or a thread that it awaits, prints is kept with its own row, whichever runs then."""
        found = self.logs_of(leave_a_task, 3, slice_seconds=30.0)
        assert found.pop(0) in (
            [("stdout", "own 0\n"), ("stdout", "late, of 0\n"), ("log", "late")],
            [("stdout", "own 0\nlate, of 0\n"), ("log", "late")],
        )
        assert found == {1: [("stdout", "own 1\n")], 2: [("stdout", "own 2\n")]}
