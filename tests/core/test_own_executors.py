"""Executors of users' own: what one does not do is refused, and not left out in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from failing import MyExecutor, computed, pod_of

from orcapod_dagster.core import InMemoryArrowDatabase, PythonPacketFunction
from orcapod_dagster.core.datagrams import Packet
from orcapod_dagster.core.executors.base import HONOURED, BatchResult
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.outcomes import OutcomeLog
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.result_cache import ResultCache
from orcapod_dagster.core.worker_state import per_worker


class Telling(MyExecutor):
    """Passes on what it is told, and says so."""

    honours = HONOURED

    def run_rows(self, fn: Callable[..., Any], batches: Any, **options: Any) -> Iterator[BatchResult]:
        yield from LocalPythonFunctionExecutor().run_rows(fn, batches, **options)


def same(x: int) -> int:
    return x


def many(x: list[int]) -> list[int]:
    return x


def with_state(x: int, states: list[int] = per_worker(list, identity="v1")) -> int:
    return x + len(states)


def _pod(function: Callable[..., Any], executor: Any, time_limit: float | None = None) -> FunctionPod:
    store = InMemoryArrowDatabase()
    packets = PythonPacketFunction(function, "y", batch=function is many)
    results, outcomes = ResultCache(store, ("results",)), OutcomeLog(store, ("outcomes",))
    return FunctionPod(packets, results, outcomes, executor=executor, time_limit=time_limit)


@pytest.mark.parametrize(
    ("function", "time_limit", "named"),
    [(same, 5.0, "time_limit"), (many, None, "batch_size"), (with_state, None, "state")],
)
def test_what_an_executor_does_not_do_is_refused(
    function: Callable[..., Any], time_limit: float | None, named: str
) -> None:
    """A function that needs what an executor does not say that it does is refused by name; one that says so gets it."""
    with pytest.raises(TypeError, match=rf"\['{named}'\], which executor 'mine' does not say"):
        _pod(function, MyExecutor(), time_limit)
    assert computed(_pod(function, Telling(), time_limit), 5).computed == 5


def test_one_packet_with_state_is_refused_as_well() -> None:
    """A call of one packet through such an executor is refused, too."""
    packets = PythonPacketFunction(with_state, "y", executor=MyExecutor())
    with pytest.raises(TypeError, match=r"\['state'\]"):
        packets.call(Packet({"x": 1}))


def test_what_needs_nothing_runs_anywhere() -> None:
    """A plain function runs on such an executor as before."""
    assert computed(pod_of(same, executor=MyExecutor()), 3).computed == 3
