"""Functions with worker state on Ray: steps that run at once share the cluster, and none holds all of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from campaigns import long_param
from ray_clusters import small_cluster

from orcapod_dagster.core.executors import ray_shares
from orcapod_dagster.core.executors.base import RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.ray import RayExecutor
from orcapod_dagster.core.executors.ray_cluster import RayCluster
from orcapod_dagster.core.executors.ray_shares import RayShare

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
internal_kv: Any = pytest.importorskip("ray.experimental.internal_kv")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with small_cluster():
        yield


def note(folder: str, what: str) -> int:
    import os
    import uuid

    (Path(folder) / f"{what}.{os.getpid()}.{uuid.uuid4().hex}").touch()
    return os.getpid()


def noted(folder: Path, what: str) -> list[str]:
    """Return the processes in which it happened, one entry each time."""
    return sorted(path.name.split(".")[1] for path in folder.glob(f"{what}.*"))


class Step(threading.Thread):
    """A run of rows that goes on in a thread, until it is done or stopped.

    Args:
        rows: of 50 ms each. state: whether the function has a state. folder: for notes.
    """

    def __init__(self, rows: int, folder: Path, *, state: bool = True) -> None:
        super().__init__(daemon=True)
        self.done: list[int] = []
        self.stopped = False
        self.finished_at = 0.0
        self.error: BaseException | None = None
        self._rows = rows
        self._folder = str(folder)
        self._state = state
        folder.mkdir(exist_ok=True)
        self.start()

    def run(self) -> None:
        """Run, and keep what is done and what went wrong."""
        try:
            self._run()
        except BaseException as error:  # for the test's own thread
            self.error = error
        self.finished_at = time.monotonic()

    def _run(self) -> None:
        function, state = _with_state(self._folder) if self._state else (_sleep, {})
        batch = RowBatch((list(range(self._rows)),), {}, 0, self._rows)
        options = CallOptions(slice_seconds=0.2, turn_seconds=0.5, state=state)
        results = RayExecutor(num_cpus=1).run_rows(function, [batch], call_options=options)
        for result in results:
            assert not result.failures
            self.done.extend(result.outputs)
            if self.stopped:
                results.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # it is a generator
                return

    def join_well(self) -> None:
        """Wait for the end, which must be a good one."""
        self.join(120)
        assert not self.is_alive()
        assert self.error is None


def _sleep(x: int) -> int:
    time.sleep(0.05)
    return x


def _with_state(folder: str) -> tuple[Callable[..., int], dict[str, Any]]:
    def load() -> Iterator[int]:
        yield note(folder, "up")
        note(folder, "down")

    def work(x: int, *, process: int) -> int:
        assert process
        time.sleep(0.05)
        return x

    return work, {"process": load}


def wait_for(what: Callable[[], Any], seconds: float = 90) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.1)


@pytest.mark.parametrize("state", [pytest.param(True, id="actors"), long_param(False, id="tasks")])
def test_a_second_step_gets_its_share(state: bool, tmp_path: Path) -> None:
    """A step that holds the whole cluster gives part of it to another that comes, and takes it back when that has gone."""
    long = Step(100_000, tmp_path / "long")
    wait_for(lambda: len(noted(tmp_path / "long", "up")) == 2 and len(long.done) > 20)
    short = Step(20, tmp_path / "short", state=state)
    short.join_well()
    assert sorted(short.done) == list(range(20))
    assert long.is_alive()
    assert len(noted(tmp_path / "long", "down")) >= 1
    wait_for(lambda: len(noted(tmp_path / "long", "up")) >= 3)
    long.stopped = True
    long.join_well()
    assert len(set(long.done)) == len(long.done)
    wait_for(lambda: noted(tmp_path / "long", "down") == noted(tmp_path / "long", "up"), 10)


def test_a_step_runs_with_less_than_its_share(tmp_path: Path) -> None:
    """Where others, who know nothing of shares, hold a slot, a step runs all its rows in the other."""

    @ray.remote(num_cpus=1)
    class Other:
        def here(self) -> bool:
            return True

    other = Other.remote()
    assert ray.get(other.here.remote())
    step = Step(100, tmp_path / "step")
    step.join_well()
    ray.kill(other)
    assert sorted(step.done) == list(range(100))
    assert len(noted(tmp_path / "step", "up")) == 1
    assert noted(tmp_path / "step", "down") == noted(tmp_path / "step", "up")


def test_shares_of_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only steps that want the same resource share it, and one whose mark is not renewed is not counted for long."""
    monkeypatch.setattr(ray_shares, "_GONE_SECONDS", 3.0)

    def member(**options: Any) -> RayShare:
        return RayShare(RayCluster(ray, options), options)

    with member(num_cpus=1) as one:
        wait_for(lambda: one.share() == 2, 20)  # members of the test before leave in their own time
        mark = json.dumps({"wants": ["CPU"], "beat": 1})
        internal_kv._internal_kv_put(
            "step:gone", mark, namespace="orcapod_dagster"
        )  # as a process that was killed left it
        wait_for(lambda: one.share() == 1, 10)
        wait_for(lambda: one.share() == 2, 20)
        with member(num_cpus=1, resources={"lamp": 1}):
            time.sleep(2.5)
            assert one.share() == 2
        with member():
            wait_for(lambda: one.share() == 1, 10)
        wait_for(lambda: one.share() == 2, 10)


def test_a_beat_that_fails_is_not_the_last() -> None:
    """A member that once could not read what stands in the store still renews its mark, and counts the others later."""
    options = {"num_cpus": 1}
    internal_kv._internal_kv_put("step:torn", b"{", namespace="orcapod_dagster")
    with RayShare(RayCluster(ray, options), options) as one:
        wait_for(lambda: one.share() == 2, 20)
        internal_kv._internal_kv_del("step:torn", namespace="orcapod_dagster")
        with RayShare(RayCluster(ray, options), options):
            wait_for(lambda: one.share() == 1, 10)
