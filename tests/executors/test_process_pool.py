"""The process pool: the conformance suite, packets that kill their worker, and processes that must not stay behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import linecache
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from orcapod_dagster.core.errors import ExecutorError, WorkerDeathError
from orcapod_dagster.core.executors import process_pool
from orcapod_dagster.core.executors.batch_rows import with_rows
from orcapod_dagster.core.executors.budget import WorkerBudget
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.pool_process import PoolProcess
from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor
from orcapod_dagster.core.executors.tasks import TaskRun
from orcapod_dagster.testing.executor_states import Machine, noted, use
from orcapod_dagster.testing.executors import ExecutorConformance, gather, make_batches

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _cores_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of other tests, which may run at the same time, take no worker from those of these."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


class TestProcessPool(ExecutorConformance):
    start_seconds = 10.0
    workers = 2

    def make_executor(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(2)


def die(how: str) -> None:
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "says"),
    [("segfault", "SIGSEGV"), ("exit", "exit code 3"), ("kill", "SIGKILL")],
    ids=["segfault", "exit", "kill"],
)
def test_a_packet_that_kills_its_worker_fails_alone(how: str, says: str) -> None:
    """Of many packets, only those at which their worker dies fail, by how it died; all others have their value."""
    guilty = {7, 8, 150, 299}

    def work(x: int) -> int:
        if x in guilty:
            die(how)
        return 2 * x

    outputs, slices = gather(ProcessPoolExecutor(2).run_rows(work, make_batches(range(300), rows=100)), 300)
    assert outputs == [None if x in guilty else 2 * x for x in range(300)]
    failures = {failure.row: failure for result in slices.values() for failure in result.failures}
    assert set(failures) == guilty
    assert all(isinstance(f.error, WorkerDeathError) and says in f.message for f in failures.values())


def test_a_packet_that_died_by_accident_is_tried_again(tmp_path: Path) -> None:
    """A packet whose worker was killed from outside once is computed after all."""
    mark = tmp_path / "died"

    def work(x: int) -> int:
        if x == 5 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    assert gather(ProcessPoolExecutor(1).run_rows(work, make_batches(range(20))), 20)[0] == list(range(20))


def test_a_packet_whose_result_kills_the_worker_fails_alone() -> None:
    """A result at whose pickling the worker dies costs its packet, and no other."""

    class Deadly:
        def __reduce__(self) -> tuple[type, tuple[object, ...]]:
            os._exit(4)

    def work(x: int) -> object:
        return Deadly() if x == 3 else x

    outputs, slices = gather(ProcessPoolExecutor(1).run_rows(work, make_batches(range(9))), 9)
    assert outputs == [None if x == 3 else x for x in range(9)]
    assert [f.row for f in slices[3].failures] == [3]


def test_a_child_that_the_function_forked_never_answers() -> None:
    """A forked child that returns into the worker ends there; every row has its own value, once."""

    def work(x: int) -> int:
        if x < 8:
            os.fork()
        return x

    batches = make_batches(range(40), rows=5)
    assert gather(ProcessPoolExecutor(2).run_rows(work, batches, call_options=CallOptions(slice_seconds=0.0)), 40)[
        0
    ] == list(range(40))


def test_a_worker_that_leaves_its_group_is_ended_alone(script: Path) -> None:
    """A function that moves its worker to the parent's group hangs nobody, and the parent's group lives on."""
    script.write_text(
        script.read_text().replace("return helper(x)", "os.setpgid(0, os.getpgid(os.getppid())); return x")
    )
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=30, process_group=0, check=False
    )
    assert (found.returncode, found.stdout) == (0, "45\n")


def test_nothing_of_the_terminal_or_the_current_directory_reaches_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of the current directory takes no part in a worker's start, and the standard input is at its end."""
    (tmp_path / "random.py").write_text("raise RuntimeError('not the one of the standard library')")
    monkeypatch.chdir(tmp_path)
    outputs, _ = gather(ProcessPoolExecutor(1).run_rows(lambda x: sys.stdin.read() + x, make_batches("ab")), 2)
    assert outputs == ["a", "b"]


def test_values_that_cannot_be_sent_leave_no_worker_and_no_descriptor() -> None:
    """A run whose values cannot be pickled raises, and its process has no child and no more descriptors than before."""

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd").iterdir()))

    gc.collect()  # what tests before this one left to the collector would be closed in its midst
    before = descriptors()
    for _ in range(3):
        with pytest.raises(TypeError, match="pickle"):
            list(ProcessPoolExecutor(1).run_rows(lambda x: 1, make_batches([1, 2, (n for n in [1])], rows=1)))
    assert descriptors() == before


def test_a_budget_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    """A folder of the budget that is none is an error of this package, with the path and the way out."""
    (tmp_path / "taken").touch()
    with pytest.raises(ExecutorError, match=r"taken.*TMPDIR"):
        WorkerBudget(2, tmp_path / "taken")


def test_a_worker_that_cannot_start_is_no_packets_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that ends before its first row is an infrastructure error, which says so."""

    class Deadly:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return os._exit, (5,)

    deadly = Deadly()

    def work(x: int) -> int:
        return x if deadly else 0

    with pytest.raises(ExecutorError, match="exit code 5 before its first row"):
        list(ProcessPoolExecutor(1).run_rows(work, make_batches(range(3))))


def test_workers_run_at_once() -> None:
    """Two workers sleep at the same time."""

    def work(x: int) -> tuple[int, float, float]:
        began = time.monotonic()
        time.sleep(0.2)
        return os.getpid(), began, time.monotonic()

    spans, _ = gather(
        ProcessPoolExecutor(2).run_rows(work, make_batches(range(12)), call_options=CallOptions(slice_seconds=0.1)), 12
    )
    assert len({worker for worker, _, _ in spans}) == 2
    assert any(a[0] != b[0] and a[1] < b[1] < a[2] for a in spans for b in spans)


def test_an_interrupt_while_an_answer_is_read_leaves_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between the answer of a worker and its next task still has that worker torn down, and it is gone."""

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(process_pool, "pass_on", interrupt)
    calls = CallOptions(state={"machine": partial(Machine, tmp_path)})
    with pytest.raises(KeyboardInterrupt):
        list(ProcessPoolExecutor(1).run_rows(use, make_batches(range(5)), call_options=calls))
    (worker,) = noted(tmp_path, "up")
    assert noted(tmp_path, "down") == [worker]
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


LOOP = [
    function.__code__
    for function in (
        TaskRun.results,
        TaskRun._fill,
        TaskRun._last_results,
        process_pool._Run._submit,
        process_pool._Run._new_worker,
    )
]
"""The loop over tasks, as the process runs it that sends them."""


def hold(folder: Path) -> Iterator[int]:
    """Make a state that notes its process when it is made and torn down; it needs nothing that takes long to import."""
    (folder / f"up.{os.getpid()}.").touch()
    yield 1
    (folder / f"down.{os.getpid()}.").touch()


def add_or_interrupt(x: int, *, one: int) -> int:
    """Interrupt the worker in row 2, while the other has the next one; then the loop waits for that one's last results."""
    if x == 2:
        raise KeyboardInterrupt
    time.sleep(0.1 * (x == 3))
    return x + one


def interrupted_before(code: CodeType, line: int, folder: Path) -> tuple[bool, float]:
    """Run some rows, interrupted once before a line; tell whether it came to that, and how many seconds it took from there."""
    came: list[float] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and frame.f_lineno == line and not came:
            came.append(time.monotonic())
            raise KeyboardInterrupt
        return trace if frame.f_code is code else None

    calls = CallOptions(slice_seconds=0.0, turn_seconds=0.01, state={"one": partial(hold, folder)})
    rows, tracer = list[int](), sys.gettrace()
    sys.settrace(trace)
    try:
        results = ProcessPoolExecutor(2).run_rows(add_or_interrupt, make_batches(range(4), rows=1), call_options=calls)
        with contextlib.suppress(KeyboardInterrupt):
            for result in results:
                rows += range(result.start, result.start + result.length)
    finally:
        sys.settrace(tracer)
    assert len(set(rows)) == len(rows)
    return bool(came), time.monotonic() - came[0] if came else 0.0


@pytest.mark.parametrize("code", LOOP, ids=lambda code: code.co_name)
def test_an_interrupt_anywhere_in_the_loop_leaves_no_worker(code: CodeType, tmp_path: Path) -> None:
    """Before whichever line about tasks or workers Ctrl-C comes, no result comes twice, each worker is torn down and gone, and nobody waits for it."""
    texts = {line: linecache.getline(code.co_filename, line).strip() for *_, line in code.co_lines() if line}
    lines = [
        line for line, text in sorted(texts.items()) if any(word in text for word in ("running", "worker", "collect"))
    ]
    reached, told = 0, list[str]()
    for line in lines:
        folder = tmp_path / str(line)
        folder.mkdir()
        came, seconds = interrupted_before(code, line, folder)
        reached += came
        up, down = noted(folder, "up"), noted(folder, "down")
        alive = [worker for worker in up if Path(f"/proc/{worker}").exists()]
        if down != up or alive or seconds > 30:
            told.append(f"{texts[line]}: {up=} {down=} {alive=} {seconds:.1f} s")
    assert not told, "\n".join(told)
    assert reached > len(lines) / 2


def test_what_the_function_holds_is_loaded_once_per_worker() -> None:
    """A module-level cache of the function's own is filled once in each worker, not once per task."""
    seen: list[int] = []

    def work(x: int) -> int:
        seen.append(x)
        return len(seen)

    outputs, _ = gather(ProcessPoolExecutor(1).run_rows(work, make_batches(range(50), rows=10)), 50)
    assert max(outputs) == 50


SCRIPT = """
import os, sys, time
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.pool_process import PoolProcess
from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor
from orcapod_dagster.testing.executors import make_batches

HANG = len(sys.argv) > 1

def helper(x):
    return x + 1

def work(x):
    if x and HANG:
        print(os.getpid(), flush=True)
        time.sleep(60)
    return helper(x)

if HANG:
    list(ProcessPoolExecutor(2).run_rows(work, make_batches(range(10)), call_options=CallOptions(slice_seconds=0.0)))
print(sum(sum(r.outputs) for r in ProcessPoolExecutor(2).run_rows(work, make_batches(range(10)))))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def test_functions_of_main_without_a_guard(script: Path) -> None:
    """A script without `if __name__ == "__main__"` runs its own functions in workers, which do not run the script again."""
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert found.stdout == "55\n"


def alive(pids: list[int]) -> list[int]:
    """Return which of these processes are there, and no zombies; one may go while it is looked at."""
    found: list[int] = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


def pids_of(process: subprocess.Popen[str]) -> Iterator[int]:
    assert process.stdout is not None
    for _ in range(2):
        yield int(process.stdout.readline())


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_stays_behind(script: Path, by: signal.Signals) -> None:
    """However the parent ends, its workers end within seconds, in the middle of a row."""
    process = subprocess.Popen(
        [sys.executable, str(script), "hang"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pids = list(pids_of(process))
    assert alive(pids) == pids
    process.send_signal(by)
    process.wait(20)
    deadline = time.monotonic() + 10
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(pids) == []


def test_steps_share_the_workers(tmp_path: Path) -> None:
    """Members of a budget get equal shares, at least one worker each, and more again when others leave or die."""
    with WorkerBudget(4, tmp_path) as one:
        assert one.share() == 4
        script = f"from pathlib import Path; from orcapod_dagster.core.executors.budget import WorkerBudget; b = WorkerBudget(4, Path({str(tmp_path)!r})); print(b.share(), flush=True); import time; time.sleep(60)"
        other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "2\n"
        one._until = 0.0
        assert one.share() == 2
        other.kill()
        other.wait()
        other.stdout.close()
        one._until = 0.0
        assert one.share() == 4
    assert list(tmp_path.iterdir()) == []


def test_options() -> None:
    """`max_workers` is the one option; another, or none of it, is refused by name."""
    assert ProcessPoolExecutor().with_options(max_workers=3).get_executor_data()["max_workers"] == 3
    with pytest.raises(TypeError, match="num_cpus"):
        ProcessPoolExecutor().with_options(num_cpus=1)
    with pytest.raises(ValueError, match="max_workers is 0"):
        ProcessPoolExecutor(0)


async def crash_one(x: int) -> int:
    """End the process at row 13, while others are under way."""
    await asyncio.sleep(0.01 * (x % 5))
    if x == 13:
        os.kill(os.getpid(), signal.SIGSEGV)
    await asyncio.sleep(0.01)
    return x


async def crash_in_a_thread(x: int) -> int:
    """Do it from a thread, while the rows of the loop go on."""
    await asyncio.sleep(0.01)
    if x == 13:
        await asyncio.to_thread(lambda: (time.sleep(0.05), os.kill(os.getpid(), signal.SIGKILL)))
    for _ in range(20):
        await asyncio.sleep(0.01)
    return x


@pytest.mark.parametrize("function", [crash_one, crash_in_a_thread])
def test_the_row_that_kills_is_found_among_those_at_once(function: Callable[..., Any]) -> None:
    """Of rows that are under way in a process that dies, the guilty one alone fails, and no result comes twice."""
    options = CallOptions(slice_seconds=0.05, max_concurrency=16)
    results = ProcessPoolExecutor(2).run_rows(function, make_batches(range(60)), call_options=options)
    outputs, slices = gather(results, 60)
    assert outputs == [None if x == 13 else x for x in range(60)]
    failures = {failure.row: failure for result in slices.values() for failure in result.failures}
    assert list(failures) == [13]
    assert failures[13].error_type == "WorkerDeathError"


async def block_in_a_task(x: int) -> int:
    """Block the loop of all rows from a task that row 1 started, so that the code of another row ran last."""

    async def block() -> None:
        time.sleep(60)  # noqa: ASYNC251  # as users do

    if x == 1:
        await asyncio.gather(block())
    await asyncio.sleep(0.05)
    return x


def test_of_rows_at_once_the_one_that_blocks_is_late() -> None:
    """Of rows that are under way where one blocks them all, that one alone has taken too long, whoever's code ran last."""
    options = CallOptions(max_concurrency=4, time_limit=0.5)
    results = ProcessPoolExecutor(2).run_rows(block_in_a_task, make_batches(range(5)), call_options=options)
    outputs, slices = gather(results, 5)
    assert {f.row: f.error_type for one in slices.values() for f in one.failures} == {1: "PacketTimeoutError"}
    assert outputs == [None if x == 1 else x for x in range(5)]


def end_late(x: int) -> int:
    """Come to an end in row 0 long after it was stopped; the others take a moment."""
    if x == 0:
        with contextlib.suppress(BaseException):
            time.sleep(60)
        time.sleep(3)
    time.sleep(0.3)
    return x


def test_an_answer_at_the_moment_of_being_late_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that answers just when its row is found to be late is not ended for it at the next row, which is not to blame."""
    is_late, found = PoolProcess.is_late, list[int]()

    def wait_once(worker: Any, seconds: float) -> bool:
        late = is_late(worker, seconds)
        if late and not found:
            found.append(worker.late_row)
            assert worker.connection.poll(20)
        return late

    monkeypatch.setattr(PoolProcess, "is_late", wait_once)
    options = CallOptions(slice_seconds=0.1, time_limit=0.5)
    outputs, slices = gather(ProcessPoolExecutor(1).run_rows(end_late, make_batches(range(3)), call_options=options), 3)
    assert found == [1]
    assert outputs == [None, 1, 2]
    assert [f.row for one in slices.values() for f in one.failures] == [0]


class Unreadable:
    """Can be pickled, but not read again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def give_unreadable(x: int) -> Any:
    """Return such a value for some rows."""
    return Unreadable() if x in (3, 40) else x


async def give_unreadable_async(x: int) -> Any:
    """Do the same."""
    return give_unreadable(x)


@pytest.mark.parametrize("function", [give_unreadable, give_unreadable_async])
def test_an_output_that_cannot_be_read_back_fails_alone(function: Callable[..., Any]) -> None:
    """Of rows that came back together, those whose output cannot be unpickled fail; the others have their values."""
    options = CallOptions(max_concurrency=8)
    results = ProcessPoolExecutor(2).run_rows(function, make_batches(range(60)), call_options=options)
    outputs, slices = gather(results, 60)
    assert outputs == [None if x in (3, 40) else x for x in range(60)]
    failures = {f.row: f for one in slices.values() for f in one.failures}
    assert sorted(failures) == [3, 40]
    assert failures[3].message.endswith("ValueError: invalid literal for int() with base 10: 'no number'")


def crash_batch(x: list[int]) -> list[int]:
    """End the process where 13 is among the values."""
    if 13 in x:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def test_the_row_that_kills_is_found_in_a_batch() -> None:
    """Of a batch whose call ends the process, the guilty row alone fails; the others have their values, each once."""
    listing = with_rows(crash_batch, ["y"], "the function")
    options = CallOptions(batch_size=16)
    results = ProcessPoolExecutor(2).run_rows(listing, make_batches(range(60)), call_options=options)
    outputs, slices = gather(results, 60)
    assert outputs == [None if x == 13 else x for x in range(60)]
    assert {f.row: f.error_type for one in slices.values() for f in one.failures} == {13: "WorkerDeathError"}
