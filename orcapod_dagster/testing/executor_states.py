"""The part of the conformance suite of executors that is about worker state: built once per worker, and torn down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orcapod_dagster.core.errors import ExecutorError, WorkerStateError
from orcapod_dagster.core.executors.base import PythonFunctionExecutorProtocol, RowBatch
from orcapod_dagster.core.executors.batch_rows import with_rows
from orcapod_dagster.core.executors.call_options import CallOptions


def note(folder: Path, what: str) -> None:
    """Make a file that says that something happened in this process; whoever counts needs no shared memory."""
    (folder / f"{what}.{os.getpid()}.{uuid.uuid4().hex}").touch()


def noted(folder: Path, what: str) -> list[int]:
    """Return the processes in which it happened, one entry each time."""
    return sorted(int(path.name.split(".")[1]) for path in folder.glob(f"{what}.*"))


class Machine:
    """What a factory makes: an object that knows in which process it was made."""

    def __init__(self, folder: Path) -> None:
        note(folder, "up")
        self.folder = folder
        self.process = os.getpid()

    def double(self, x: int) -> int:
        """Return twice the value, if this is where it was made."""
        assert self.process == os.getpid()
        return 2 * x

    def close(self) -> None:
        """Note the end."""
        note(self.folder, "down")


class Door:
    """A context manager that gives another object than itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Machine:
        return Machine(self.folder)

    def __exit__(self, *_: object) -> None:
        note(self.folder, "down")


class AsyncMachine(Machine):
    """An object that is closed in the loop in which it was made, and gives its value there alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.loop = asyncio.get_running_loop()

    async def double_later(self, x: int) -> int:
        """Return twice the value after a turn of the loop."""
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)
        return self.double(x)

    async def aclose(self) -> None:
        """Note the end."""
        assert asyncio.get_running_loop() is self.loop
        note(self.folder, "down")


def generate(folder: Path) -> Generator[Machine, None, None]:
    """Make one, and note the end after the yield."""
    yield Machine(folder)
    note(folder, "down")


@contextlib.contextmanager
def open_machine(folder: Path) -> Generator[Machine, None, None]:
    """Do the same in a context manager."""
    try:
        yield Machine(folder)
    finally:
        note(folder, "down")


@contextlib.asynccontextmanager
async def open_async(folder: Path) -> AsyncGenerator[AsyncMachine, None]:
    """Do the same in an async one."""
    await asyncio.sleep(0)
    machine = AsyncMachine(folder)
    yield machine
    await machine.aclose()


async def make_async(folder: Path) -> AsyncMachine:
    """Make one in the loop; it is closed by `aclose`."""
    await asyncio.sleep(0)
    return AsyncMachine(folder)


def use(x: int, *, machine: Machine) -> int:
    """Have the state double a value."""
    return machine.double(x)


def use_and_interrupt(x: int, *, machine: Machine) -> int:
    """Do so, and end as Ctrl-C does."""
    machine.double(x)
    raise KeyboardInterrupt


def use_slowly(x: int, *, machine: Machine) -> int:
    """Do the same in 10 ms, so that every worker gets rows."""
    time.sleep(0.01)
    return machine.double(x)


async def use_async(x: int, *, machine: AsyncMachine) -> int:
    """Do the same in the loop of the state."""
    return await machine.double_later(x)


def use_all(xs: list[int], *, machine: Machine) -> list[int]:
    """Have the state double many values in one call."""
    return [machine.double(x) for x in xs]


def use_or_die(x: int, *, machine: Machine) -> int:
    """End the worker process at 30."""
    if x == 30:
        os._exit(3)
    return use_slowly(x, machine=machine)


def use_until_stopped(x: int, *, machine: Machine) -> int:
    """Take a minute, but for the first row."""
    if x > 0:
        note(machine.folder, "began")
        time.sleep(60)
    return machine.double(x)


def fail_to_make() -> Machine:
    """Fail, as a model does whose file is not there."""
    raise FileNotFoundError("no such model: /models/large.bin")


def die_while_made(folder: Path) -> Machine:
    """End the worker process, as an allocation beyond its memory does."""
    note(folder, "up")
    os._exit(3)


def fail_after(folder: Path, after: float) -> Machine:
    """Make the first one of this folder, and fail for all others, a while later."""
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        time.sleep(after)
        raise ConnectionError("the second one is refused") from None
    return Machine(folder)


class ExecutorStatesConformance(ABC):
    """What every executor does with the state of a function."""

    has_worker_processes: bool = True
    """Whether rows run in other processes than this one."""
    workers: int = 1
    """How many workers there are at most."""

    @abstractmethod
    def make_executor(self) -> PythonFunctionExecutorProtocol:
        """Return the executor to test."""

    def run_with(self, function: Callable[..., Any], factory: Callable[[], Any], rows: int, **calls: Any) -> list[Any]:
        """Run values from 0 with a state `machine`, in batches of 100 rows, and return the outputs in their order."""
        batches = [
            RowBatch((list(range(start, min(start + 100, rows))),), {}, start, min(100, rows - start))
            for start in range(0, rows, 100)
        ]
        options = CallOptions(slice_seconds=0.2, state={"machine": factory}, **calls)
        outputs: dict[int, Any] = {}
        for result in self.make_executor().run_rows(function, batches, call_options=options):
            failed = {failure.row for failure in result.failures}
            for row, output in enumerate(result.outputs, result.start):
                assert row not in outputs, f"row {row} came twice"
                outputs[row] = "failed" if row in failed else output
        assert sorted(outputs) == list(range(rows))
        return [outputs[row] for row in range(rows)]

    @pytest.mark.parametrize("make", [Machine, Door, generate, open_machine])
    def test_state_is_built_once_per_worker(self, make: Callable[..., Any], tmp_path: Path) -> None:
        """Each worker builds the state once and tears it down once, in its own process, in every form of a factory."""
        assert self.run_with(use_slowly, partial(make, tmp_path), 300) == [2 * x for x in range(300)]
        up = noted(tmp_path, "up")
        assert 1 <= len(up) <= self.workers
        assert len(set(up)) == len(up)
        assert noted(tmp_path, "down") == up
        assert (os.getpid() in up) != self.has_worker_processes

    @pytest.mark.parametrize("make", [open_async, make_async])
    def test_async_state_lives_in_the_loop_of_the_rows(self, make: Callable[..., Any], tmp_path: Path) -> None:
        """An async factory, its value and its tear-down run in one loop with the async function."""
        assert self.run_with(use_async, partial(make, tmp_path), 300) == [2 * x for x in range(300)]
        up = noted(tmp_path, "up")
        assert len(set(up)) == len(up) >= 1
        assert noted(tmp_path, "down") == up

    def test_state_of_rows_at_once(self, tmp_path: Path) -> None:
        """Rows of an async function that are under way at a time share the state of their worker."""
        outputs = self.run_with(use_async, partial(open_async, tmp_path), 300, max_concurrency=8)
        assert outputs == [2 * x for x in range(300)]
        up = noted(tmp_path, "up")
        assert len(set(up)) == len(up) >= 1
        assert noted(tmp_path, "down") == up

    def test_state_of_batches(self, tmp_path: Path) -> None:
        """A function that takes many rows in one call gets the state beside them, once."""
        function = with_rows(use_all, ["y"], "function 'use_all'", "xs")
        assert self.run_with(function, partial(generate, tmp_path), 300, batch_size=16) == [2 * x for x in range(300)]
        up = noted(tmp_path, "up")
        assert len(set(up)) == len(up) >= 1
        assert noted(tmp_path, "down") == up

    def test_no_rows_build_nothing(self, tmp_path: Path) -> None:
        """Without rows, no state is built."""
        options = CallOptions(state={"machine": partial(Machine, tmp_path)})
        empty = [RowBatch(([],), {}, 0, 0)]
        assert list(self.make_executor().run_rows(use, empty, call_options=options)) == []
        assert not noted(tmp_path, "up")

    def test_few_rows_build_few(self, tmp_path: Path) -> None:
        """One row builds one state."""
        assert self.run_with(use, partial(Machine, tmp_path), 1) == [0]
        assert len(noted(tmp_path, "up")) == len(noted(tmp_path, "down")) == 1

    def test_several_states(self, tmp_path: Path) -> None:
        """Every state is given under its own keyword, and torn down in the opposite order."""

        def both(x: int, *, first: Machine, second: Machine) -> int:
            return first.double(x) + second.double(x)

        folders = [tmp_path / "first", tmp_path / "second"]
        for folder in folders:
            folder.mkdir()
        state = {folder.name: partial(Machine, folder) for folder in folders}
        (result,) = self.make_executor().run_rows(
            both, [RowBatch(([5],), {}, 0, 1)], call_options=CallOptions(state=state)
        )
        assert result.outputs == [20]
        assert [len(noted(folder, what)) for folder in folders for what in ("up", "down")] == [1, 1, 1, 1]
        ends = [next(folder.glob("down.*")).stat().st_mtime_ns for folder in folders]
        assert ends[1] <= ends[0]

    def test_a_set_up_that_fails_is_no_packets_failure(self) -> None:
        """It ends the run with an error that names the parameter, the factory, the worker and the cause."""
        with pytest.raises(WorkerStateError) as caught:
            self.run_with(use, fail_to_make, 300)
        text = str(caught.value)
        assert "'machine'" in text
        assert "fail_to_make" in text
        assert "no such model: /models/large.bin" in text
        assert "process " in text
        assert "Traceback" in text
        assert isinstance(caught.value, ExecutorError)

    def test_what_was_finished_before_a_failing_set_up_is_kept(self, tmp_path: Path) -> None:
        """Rows of a worker that could be set up come before the error of one that could not."""
        if self.workers < 2:
            pytest.skip("one worker sets up once")
        options = CallOptions(slice_seconds=0.05, state={"machine": partial(fail_after, tmp_path, 2.0)})
        batch = RowBatch((list(range(3000)),), {}, 0, 3000)
        done: list[int] = []

        def run() -> None:
            results = self.make_executor().run_rows(use_slowly, [batch], call_options=options)
            done.extend(result.length for result in results)

        with pytest.raises(WorkerStateError, match="the second one is refused"):
            run()
        assert sum(done) > 0
        assert noted(tmp_path, "down") == noted(tmp_path, "up")

    def test_a_tear_down_that_fails_loses_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The rows are all there, and a warning tells what failed."""

        def leave(folder: Path) -> Generator[Machine, None, None]:
            yield Machine(folder)
            raise TimeoutError("the server does not answer")

        assert self.run_with(use, partial(leave, tmp_path), 10) == [2 * x for x in range(10)]
        told = [record.getMessage() for record in caplog.records if record.name == "orcapod_dagster"]
        assert len(told) == len(noted(tmp_path, "up"))
        assert all("'machine'" in text and "the server does not answer" in text for text in told)

    def test_state_is_torn_down_on_cancellation(self, tmp_path: Path) -> None:
        """Closing the results interrupts rows that run, tears down in every worker that was set up, and takes seconds."""
        options = CallOptions(slice_seconds=0.0, state={"machine": partial(Machine, tmp_path)})
        batch = RowBatch((list(range(50)),), {}, 0, 50)
        results = self.make_executor().run_rows(use_until_stopped, [batch], call_options=options)
        next(results)
        if self.has_worker_processes:
            deadline = time.monotonic() + 30
            while not noted(tmp_path, "began"):
                assert time.monotonic() < deadline, "no row begins"
                time.sleep(0.05)
            time.sleep(1.0)  # for workers that are still being set up
        began = time.monotonic()
        results.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # it is a generator
        assert time.monotonic() - began < 9
        assert noted(tmp_path, "down") == noted(tmp_path, "up") != []

    def test_an_interrupt_is_told_before_state_is_torn_down(self, tmp_path: Path) -> None:
        """Who takes the results is told when the last has come, before the tear-down, which may take long; once, and then it happens."""
        torn_down_before = list[list[int]]()
        options = CallOptions(
            state={"machine": partial(Machine, tmp_path)},
            leaving=lambda: torn_down_before.append(noted(tmp_path, "down")),
        )
        with pytest.raises(KeyboardInterrupt):
            list(self.make_executor().run_rows(use_and_interrupt, [RowBatch(([1],), {}, 0, 1)], call_options=options))
        assert torn_down_before == [[]]
        assert noted(tmp_path, "down") == noted(tmp_path, "up") != []

    def test_state_is_rebuilt_after_a_workers_death(self, tmp_path: Path) -> None:
        """A worker that a row ended leaves no tear-down; the one in its place builds anew, and the others go on."""
        if not self.has_worker_processes:
            pytest.skip("rows run in this process")
        outputs = self.run_with(use_or_die, partial(Machine, tmp_path), 100)
        assert outputs == ["failed" if x == 30 else 2 * x for x in range(100)]
        up, down = noted(tmp_path, "up"), noted(tmp_path, "down")
        assert len(set(up)) == len(up)
        assert len(up) >= len(down) + 2  # alone, the row ended a second worker
        assert set(down) < set(up)

    def test_a_set_up_that_ends_its_worker_is_no_packets_failure(self, tmp_path: Path) -> None:
        """It is the executor's error, after few tries."""
        if not self.has_worker_processes:
            pytest.skip("rows run in this process")
        with pytest.raises(ExecutorError):
            self.run_with(use, partial(die_while_made, tmp_path), 300)
        assert len(noted(tmp_path, "up")) <= 4 * self.workers

    def test_state_and_function_share_their_modules(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a factory puts into a global of its module, the function of that module finds there."""
        (tmp_path / "orcapod_shared_state.py").write_text(
            "LOADED = {}\ndef load():\n    LOADED['model'] = 7\n    return LOADED\n"
            "def use(x, *, machine):\n    assert machine is LOADED\n    return x + LOADED['model']\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        try:
            module = __import__("orcapod_shared_state")
            assert self.run_with(module.use, module.load, 3) == [7, 8, 9]
        finally:
            sys.modules.pop("orcapod_shared_state", None)
