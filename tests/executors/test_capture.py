"""What capture does to the process in which it runs: streams, descriptors, threads, and a disk that is full."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import errno
import io
import logging
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from orcapod_dagster.core.errors import ExecutorError
from orcapod_dagster.core.executors import capture as capture_module
from orcapod_dagster.core.executors.base import BatchResult
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.capture import Capture, LogEntry
from orcapod_dagster.core.executors.ends import Record, RecordEnds, TextEnds
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor
from orcapod_dagster.core.executors.row_worker import make_worker
from orcapod_dagster.core.executors.slices import run_slice
from orcapod_dagster.core.executors.spool import open_spool
from orcapod_dagster.testing.executors import make_batches


@pytest.fixture
def capture() -> Iterator[Capture]:
    one = Capture(1000)
    yield one
    one.close()


def logs_of(capture: Capture, function: Callable[[int], Any], rows: int, seconds: float = 60.0) -> list[LogEntry]:
    result = run_slice(function, (list(range(rows)),), {}, 0, rows, seconds, None, capture)
    if result.interrupt is not None:
        raise result.interrupt
    return list(result.logs)


def texts_of(results: list[BatchResult]) -> dict[int, str]:
    return {entry.row: entry.text for result in results for entry in result.logs}


def state() -> tuple[Any, ...]:
    places = [(os.fstat(number).st_dev, os.fstat(number).st_ino) for number in (1, 2)]
    return places, sys.stdout, sys.stderr, logging.getLogRecordFactory(), logging.lastResort


def test_everything_is_as_before(capture: Capture) -> None:
    """After a slice, descriptors, streams and logging are exactly what they were; also when a row was interrupted."""
    before = state()
    descriptors = set(Path("/dev/fd").iterdir())
    logs_of(capture, print, 3)
    assert state() == before

    def interrupt(x: int) -> None:
        print("before")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logs_of(capture, interrupt, 3)
    assert state() == before
    assert [entry.text for entry in logs_of(capture, print, 2)] == ["0\n", "1\n"]
    assert set(Path("/dev/fd").iterdir()) == descriptors


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_interrupt_in_async_rows_leaves_the_streams(stubborn: bool) -> None:
    """After Ctrl-C in async rows the streams lead where they led, and still do when the row that ran then has ended."""
    code = (
        "import asyncio, os, signal, sys, threading, time\n"
        "from orcapod_dagster.core.executors import event_loop\n"
        "from orcapod_dagster.core.executors.call_options import CallOptions\n"
        "from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor\n"
        "from orcapod_dagster.testing.executors import make_batches\n"
        f"event_loop._CLOSE_SECONDS = {0.1 if stubborn else 20.0}\n"
        "def state(): return [os.fstat(n).st_ino for n in (1, 2)], sys.stdout, sys.stderr\n"
        "before, ended, began = state(), [], time.monotonic()\n"
        "async def work(x):\n"
        "    print('row', x)\n"
        "    if x == 1: os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.6)\n"
        "    ended.append(x)\n"
        "    await asyncio.sleep(0)\n"
        "try: list(LocalPythonFunctionExecutor().run_rows(work, make_batches(range(9)), call_options=CallOptions(capture=100, slice_seconds=60)))\n"
        "except KeyboardInterrupt: pass\n"
        "assert time.monotonic() - began < 10\n"
        f"assert ended == {[0] if stubborn else [0, 1]}, ended\n"
        "assert state() == before\n"
        "time.sleep(1.5)\n"
        "assert state() == before\n"
        "assert ended == [0, 1], ended\n"
        "print('after')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "row 0\nrow 1\nafter\n"


@pytest.mark.parametrize("row", [1, 40])
def test_what_an_earlier_run_left_running_is_nobodys(row: int, capfd: pytest.CaptureFixture[str]) -> None:
    """What a thread of an async packet prints and logs while another run's packets run is shown, and is none of theirs."""
    go, said = threading.Event(), threading.Event()

    def talk() -> None:
        go.wait()
        print("left over")
        logging.getLogger("capture.tests").warning("left over")
        said.set()

    async def leave(x: int) -> None:
        if x == row:
            threading.Thread(target=contextvars.copy_context().run, args=(talk,), daemon=True).start()

    async def work(x: int) -> None:
        go.set()
        await asyncio.to_thread(said.wait)
        print("own", x)

    list(LocalPythonFunctionExecutor().run_rows(leave, make_batches(range(50)), call_options=CallOptions(capture=100)))
    results = list(
        LocalPythonFunctionExecutor().run_rows(work, make_batches(range(3)), call_options=CallOptions(capture=100))
    )
    assert [(e.row, e.text) for r in results for e in r.logs] == [(x, f"own {x}\n") for x in range(3)]
    assert capfd.readouterr().out.count("left over") == 1


def test_no_descriptor_and_no_thread_stays() -> None:
    """When the run is over, or given up, its spools, handles and thread are gone."""

    def count() -> tuple[int, int]:
        return len(list(Path("/dev/fd").iterdir())), threading.active_count()

    before = count()
    for _ in range(3):
        list(
            LocalPythonFunctionExecutor().run_rows(print, make_batches(range(3)), call_options=CallOptions(capture=100))
        )
        results: Any = LocalPythonFunctionExecutor().run_rows(
            print, make_batches(range(3)), call_options=CallOptions(capture=100, slice_seconds=0)
        )
        next(results)
        results.close()
    assert count() == before


def test_a_closed_worker_leaves_nothing() -> None:
    """A worker of a function that a process no longer keeps gives back its spools, handles and threads, its loop's, too."""

    async def work(x: int) -> None:
        print(x)

    before = len(list(Path("/dev/fd").iterdir())), threading.active_count()
    worker = make_worker(cloudpickle.dumps((work, {}, {})), "cloudpickle", (100, {}), CallOptions().for_workers())
    worker.run(cloudpickle.dumps((([1, 2],), {}, 2)), 60.0)
    assert (len(list(Path("/dev/fd").iterdir())), threading.active_count()) > before
    worker.close()
    assert (len(list(Path("/dev/fd").iterdir())), threading.active_count()) == before


def test_what_stood_for_stdout_before_gets_it(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `sys.stdout` was an object without a descriptor (a notebook, a test runner), what rows print goes on to it."""
    notebook = io.StringIO()
    monkeypatch.setattr(sys, "stdout", notebook)
    logs_of(capture, lambda x: (print("é", x), os.write(1, b"by descriptor\n")), 2)
    assert notebook.getvalue() == "é 0\nby descriptor\né 1\nby descriptor\n"
    assert sys.stdout is notebook
    monkeypatch.setattr(sys, "stdout", None)
    assert len(logs_of(capture, print, 2)) == 2


def test_a_process_without_standard_streams() -> None:
    """With descriptors 1 and 2 closed, as a daemon may have them, rows print and are kept; nothing else takes these numbers."""
    code = (
        "import os, sys\n"
        "for n in (1, 2): os.close(n)\n"
        "sys.stdout = sys.stderr = None\n"
        "from orcapod_dagster.core.executors.capture import Capture\n"
        "from orcapod_dagster.core.executors.slices import run_slice\n"
        "found = run_slice(print, ([1, 2],), {}, 0, 2, 9.0, None, Capture(100)).logs\n"
        "assert all(os.path.sameopenfile(n, os.open(os.devnull, os.O_WRONLY)) for n in (1, 2))\n"
        "os._exit(len(found))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 2


def test_a_long_row_can_be_read_while_it_runs() -> None:
    """What a row prints is passed on within two seconds, not when the row has ended."""
    code = (
        "import time\n"
        "from orcapod_dagster.core.executors.call_options import CallOptions\n"
        "from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor\n"
        "from orcapod_dagster.testing.executors import make_batches\n"
        "def work(x):\n"
        "    print(time.time())\n"
        "    time.sleep(600)\n"
        "list(LocalPythonFunctionExecutor().run_rows(work, make_batches([1]), call_options=CallOptions(capture=100)))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    printed = float(process.stdout.readline())
    assert time.time() - printed < 2
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_flood_does_not_stay_on_the_disk() -> None:
    """Of 30 MB that a child process writes, the spool holds little when the row has ended, and all of it was passed on."""
    file, other = open_spool(), open_spool()
    capture = Capture(1000, files=(file, other))
    sizes: list[int] = []

    def work(x: int) -> None:
        if x == 0:
            code = "import sys, time\nfor _ in range(30): sys.stdout.buffer.write(b'x' * 1_000_000); time.sleep(0.03)"
            subprocess.run([sys.executable, "-c", code], check=True)
            sizes.append(os.fstat(file).st_blocks * 512)

    (entry,) = logs_of(capture, work, 2)
    assert "bytes cut" in entry.text
    assert len(entry.text) < 1_100
    assert sizes[0] < 25_000_000
    assert os.fstat(file).st_blocks * 512 < 2_000_000
    capture.close()


def test_a_row_that_cuts_its_stdout(capture: Capture) -> None:
    """After `sys.stdout.truncate(0)` the packet has what it wrote since, and the next ones are whole."""

    def work(x: int) -> None:
        print("before", x)
        if x == 1:
            time.sleep(0.6)  # until it was passed on
            sys.stdout.truncate(0)
        print("after", x)

    assert [e.text for e in logs_of(capture, work, 3)] == ["before 0\nafter 0\n", "after 1\n", "before 2\nafter 2\n"]


def test_a_slice_ends_when_much_was_kept(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that all print a lot come in small slices, so that their logs never fill the memory."""
    monkeypatch.setattr(capture_module, "_KEPT_BYTES", 2_500)
    result = run_slice(lambda x: print("x" * 900), (list(range(9)),), {}, 0, 9, 60.0, None, capture)
    assert len(result.outputs) == len(result.logs) == 3


def test_a_full_disk_fails_no_packet() -> None:
    """What the spool cannot take is passed on and not kept; the packet goes on."""
    code = (
        "import os, resource, sys\n"
        "from orcapod_dagster.core.executors.capture import Capture\n"
        "from orcapod_dagster.core.executors.slices import run_slice\n"
        "capture = Capture(1000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))\n"
        "found = run_slice(lambda x: print('x' * 25), (list(range(4)),), {}, 0, 4, 9.0, None, capture)\n"
        "print(len(found.failures), len(found.logs), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count("x" * 25) == 4
    assert done.stderr.startswith("0 ")


def test_without_inotify(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no more watches to give, or is another one, the same is found by asking twice."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "eventfd", refuse)
    capture = Capture(1000)
    assert type(capture.heard).__name__ == "function"

    def work(x: int) -> None:
        if x == 1:
            os.write(2, b"one")
        if x == 3:
            logging.getLogger("capture.tests").warning("three")

    assert [(e.row, e.stream, e.text) for e in logs_of(capture, work, 5)] == [
        (1, "stderr", "one"),
        (3, "log", "three"),
    ]
    capture.close()


def test_two_runs_in_threads_of_one_process() -> None:
    """While the rows of one run are captured, what another run's rows print, and log, is not taken for theirs."""
    found: dict[str, list[BatchResult]] = {}
    both = threading.Barrier(2, timeout=120)

    def work(x: tuple[str, int]) -> None:
        if x[1] == 0:
            both.wait()
        for _ in range(20):
            print(x[0])
            logging.getLogger("capture.tests").warning(x[0])
            time.sleep(0.005)

    def run(name: str) -> None:
        rows = make_batches([(name, x) for x in range(4)])
        found[name] = list(
            LocalPythonFunctionExecutor().run_rows(
                work, rows, call_options=CallOptions(capture=10_000, slice_seconds=30.0)
            )
        )

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = {name: {e.text.replace("\n", "") for r in results for e in r.logs} for name, results in found.items()}
    assert sum(map(bool, said.values())) >= 1
    assert all(set(text) == {name} for name, texts in said.items() for text in texts)


def test_a_run_within_a_packet_is_the_packets() -> None:
    """What rows print that a packet runs by itself counts as that packet's, once."""

    def work(x: int) -> None:
        print("outer", x)
        inner = list(
            LocalPythonFunctionExecutor().run_rows(
                lambda y: print("inner", y), make_batches([x]), call_options=CallOptions(capture=99)
            )
        )
        assert texts_of(inner) == {}

    found = texts_of(
        list(LocalPythonFunctionExecutor().run_rows(work, make_batches([5, 6]), call_options=CallOptions(capture=1000)))
    )
    assert found == {0: "outer 5\ninner 5\n", 1: "outer 6\ninner 6\n"}


def test_record_factories_of_others_stay(capture: Capture) -> None:
    """A record factory that a row puts in place stays; each record is kept once, and changed as that factory does it."""
    before = logging.getLogRecordFactory()

    def work(x: int) -> None:
        if x == 0:
            inner = logging.getLogRecordFactory()

            def shout(*args: Any, **kwargs: Any) -> logging.LogRecord:
                record = inner(*args, **kwargs)
                record.msg = record.msg.replace("hey", "HEY")
                return record

            logging.setLogRecordFactory(shout)
        logging.getLogger("capture.tests").warning("hey %s", x)
        logging.getLogger("capture.tests").handle(logging.makeLogRecord({"name": "capture.tests", "msg": "elsewhere"}))

    try:
        first = [e.text for e in logs_of(capture, work, 2)]
        second = [e.text for e in logs_of(capture, lambda x: work(x + 1), 2)]
        assert logging.getLogRecordFactory() is not before
    finally:
        logging.setLogRecordFactory(before)
    assert first == ["hey 0", "hey 1"]
    assert second == ["HEY 1", "HEY 2"]


def test_a_record_that_cannot_be_formatted_is_kept(capture: Capture) -> None:
    """Arguments whose text raises, or that do not fit the message, leave a record that says so."""

    class Broken:
        def __str__(self) -> str:
            raise ValueError("no text")

    def work(x: int) -> None:
        logger = logging.getLogger("capture.tests")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        logger.warning("%s", Broken())
        logger.warning("%d %d", *[1])

    found = [e.text for e in logs_of(capture, work, 1)]
    assert found == ["'%s' (ValueError while it was formatted)", "'%d %d' (TypeError while it was formatted)"]
    logging.getLogger("capture.tests").propagate = True


def test_strange_records_are_kept(capture: Capture) -> None:
    """Messages without a `repr`, times that are none, and levels that are no text fail no packet; their text says so."""

    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no text")

    previous = logging.getLogRecordFactory()
    times: list[Any] = [dt.datetime(2024, 1, 1, tzinfo=dt.UTC), 1e18, math.nan, "now", 5]

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = previous(*args, **kwargs)
        record.__dict__.update(created=times[args[5][0]], levelname=30)
        return record

    def work(x: int) -> None:
        if x == 5:
            logger.warning(Broken())
        elif x < 5:
            logger.warning("%d", x)

    logger = logging.getLogger("capture.tests")
    quiet: list[logging.Handler] = [logging.NullHandler()]
    handlers, logger.handlers, logger.propagate = logger.handlers, quiet, False
    try:
        logging.setLogRecordFactory(make)
        results = run_slice(work, (list(range(5)),), {}, 0, 5, 60.0, None, capture)
        logging.setLogRecordFactory(previous)
        broken = run_slice(work, ([5],), {}, 0, 1, 60.0, None, capture)
    finally:
        logging.setLogRecordFactory(previous)
        logger.handlers, logger.propagate = handlers, True
    assert not results.failures
    assert not broken.failures
    texts = [entry.text for entry in results.logs]
    assert texts[0] == "0\n(created=datetime.datetime(2024, 1, 1, 0, 0, tzinfo=datetime.timezone.utc) is no time)"
    assert texts[1:] == [
        "1\n(created=1e+18 is no time)",
        "2\n(created=nan is no time)",
        "3\n(created='now' is no time)",
        "4",
    ]
    assert {entry.level for entry in results.logs} == {"30"}
    assert results.logs[4].time == 5.0
    assert [entry.text for entry in broken.logs] == [f"<{Broken.__qualname__}> (ValueError while it was formatted)"]


def test_a_handler_that_raises_fails_no_step(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A filter of this process that raises at a record of a worker is shown as `logging` shows such errors."""

    def refuse(record: logging.LogRecord) -> bool:
        raise ValueError("a broken filter")

    logger = logging.getLogger("capture.tests")
    logger.addFilter(refuse)
    try:
        work = logging.LoggerAdapter(logger).warning
        results = list(
            ProcessPoolExecutor(1).run_rows(
                lambda x: work("row %d", x), make_batches(range(2)), call_options=CallOptions(capture=1000)
            )
        )
    finally:
        logger.removeFilter(refuse)
    assert sum(len(r.outputs) for r in results) == 2
    assert "a broken filter" in capfd.readouterr().err


def test_records_of_workers_go_to_the_handlers_of_this_process(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A record of a row in the pool reaches handlers here once, with level and time, and the worker shows it nowhere."""

    def work(x: int) -> None:
        logging.getLogger("capture.tests").warning("row %d", x)

    list(ProcessPoolExecutor(1).run_rows(work, make_batches(range(2)), call_options=CallOptions(capture=1000)))
    found = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "capture.tests"]
    assert found == [("WARNING", "row 0"), ("WARNING", "row 1")]
    assert capfd.readouterr().err == ""


def test_the_last_words_of_a_worker(capfd: pytest.CaptureFixture[str]) -> None:
    """What a packet wrote before its worker died stands in its logs, and was shown; C code's too."""

    def work(x: int) -> int:
        print("working on", x)
        if x == 2:
            os.write(2, b"out of luck\n")
            os.abort()
        return x

    results = list(
        ProcessPoolExecutor(1).run_rows(work, make_batches(range(4)), call_options=CallOptions(capture=1000))
    )
    found = sorted((e.row, e.stream, e.text) for r in results for e in r.logs if e.row == 2)
    assert found == [(2, "stderr", "out of luck\n"), (2, "stdout", "working on 2\n")]
    shown = capfd.readouterr()
    assert shown.err.count("out of luck\n") == 2  # it is tried twice
    assert {f"working on {x}" for x in range(4)} <= set(shown.out.splitlines())


@pytest.mark.parametrize("how", ["os.abort()", "os.kill(os.getpid(), 9)"])
def test_the_last_words_of_a_process_that_runs_packets_itself(how: str) -> None:
    """What a row wrote right before its process died is shown, once and whole, and nothing stays behind."""
    code = (
        "import os, sys\n"
        "from orcapod_dagster.core.executors.call_options import CallOptions\n"
        "from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor\n"
        "from orcapod_dagster.testing.executors import make_batches\n"
        "def work(x):\n"
        "    print('row', x)\n"
        "    if x == 1:\n"
        "        os.write(2, b'out of luck\\n')\n"
        f"        {how}\n"
        "list(LocalPythonFunctionExecutor().run_rows(work, make_batches(range(3)), call_options=CallOptions(capture=100)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode < 0
    assert done.stdout == "row 0\nrow 1\n"
    assert done.stderr == "out of luck\n"


def test_no_place_for_spools_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without room for temporary files the run ends before its first row, and the error says what to do."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ExecutorError, match=r"missing.*capture=False"):
        list(
            LocalPythonFunctionExecutor().run_rows(print, make_batches(range(3)), call_options=CallOptions(capture=100))
        )


def test_a_child_that_the_function_forked_does_not_answer_for_it(tmp_path: Path) -> None:
    """A forked child that goes on running rows neither hangs nor writes into the logs of its parent's."""
    code = (
        "import os, sys\n"
        "from orcapod_dagster.core.executors.call_options import CallOptions\n"
        "from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor\n"
        "from orcapod_dagster.testing.executors import make_batches\n"
        "def work(x):\n"
        "    print('row', x)\n"
        "    if x == 1 and os.fork() == 0:\n"
        "        work.child = True\n"
        "found = [e for r in LocalPythonFunctionExecutor().run_rows(work, make_batches(range(3)), call_options=CallOptions(capture=100)) for e in r.logs]\n"
        "if getattr(work, 'child', False): os._exit(0)\n"
        "os.wait()\n"
        "print([e.row for e in found], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == "[0, 1, 2]\n"


def test_a_forked_child_logs_while_the_parent_passes_on() -> None:
    """A child that was forked while output was passed on can log and print; what it says is kept once, and shown once."""
    code = (
        "import logging, os, sys, time\n"
        "from orcapod_dagster.core.executors.call_options import CallOptions\n"
        "from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor\n"
        "from orcapod_dagster.testing.executors import make_batches\n"
        "def work(x):\n"
        "    os.write(2, b'e' * 300_000)\n"
        "    time.sleep(0.8)\n"  # the pump waits for the reader now, and has the lock
        "    if os.fork() == 0:\n"
        "        logging.getLogger('child').warning('from child')\n"
        "        print('printed', flush=True)\n"
        "        os._exit(0)\n"
        "    for _ in range(100):\n"
        "        if os.waitpid(-1, os.WNOHANG)[0]: return True\n"
        "        time.sleep(0.1)\n"
        "results = list(LocalPythonFunctionExecutor().run_rows(work, make_batches([1]), call_options=CallOptions(capture=1_000_000)))\n"
        "assert [r.outputs for r in results] == [[True]]\n"
        "kept = {e.stream: e.text.lstrip('e') for r in results for e in r.logs}\n"
        "assert kept == {'stdout': 'printed\\n', 'stderr': 'from child\\n'}, kept\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.read(1) == "e"
    time.sleep(2)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err.lstrip("e")) == (0, "printed\n", "from child\n"), err[-2000:]


def test_ends_of_texts_and_records() -> None:
    """Of pieces of any size the beginning and the end are kept, and what is cut is counted; what fits is whole."""
    for size in (1, 3, 7, 50, 1000):
        ends = TextEnds(10)
        text = "".join(chr(33 + i % 90) for i in range(1000))
        for start in range(0, 1000, size):
            ends.add(text[start : start + size])
        assert ends.text() == f"{text[:5]}\n… (990 characters cut) …\n{text[-5:]}"
    whole = TextEnds(10)
    for piece in ("ab", "cdefgh", "ij"):
        whole.add(piece)
    assert whole.text() == "abcdefghij"
    records = RecordEnds(40)
    for number in range(100):
        records.add(Record("INFO", "a", 0.0, f"number {number}"))
    kept = [one.text for one in records.take()]
    assert kept == ["number 0", "number 1", "… (96 records cut) …", "number 98", "number 99"]
    assert not records.take()
    records.add(Record("INFO", "a", 0.0, "x" * 50))
    assert records.take()[0].text == f"{'x' * 20}… (30 characters cut) …"
