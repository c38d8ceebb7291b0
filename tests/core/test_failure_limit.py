"""Runs that stop, because too many packets fail or the first ones all alike."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from failing import MyExecutor, computed, pod_of, records, stream_of

from orcapod_dagster.core.errors import DefinitionError, TooManyFailuresError
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor
from orcapod_dagster.core.failure_limit import FIRST_PACKETS, checked_max_failures
from orcapod_dagster.core.failure_policy import FailurePolicy
from orcapod_dagster.core.packet_retry import PacketRetry
from orcapod_dagster.core.skip import SkipPacket

ONE_BY_ONE: dict[str, Any] = {"executor": MyExecutor(slice_seconds=0.0)}


def test_the_first_packets_fail_alike() -> None:
    """Where the first packets all fail with one class, the run stops; it says how many, with what, and the rest is not tried."""

    def work(x: int) -> int:
        raise ConnectionRefusedError("no service")

    pod = pod_of(work, **ONE_BY_ONE)
    with pytest.raises(
        TooManyFailuresError, match=r"(?s)first 20 of 300 .*ConnectionRefusedError.*max_failures=1.0"
    ) as found:
        computed(pod, 300)
    assert "Traceback" in str(found.value)
    assert "20 failed with ConnectionRefusedError, so the run stopped. 280 packets were not called, or not to" in str(
        found.value
    )
    assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)
    assert len(records(pod, "outcomes")) == FIRST_PACKETS
    assert pod.plan(stream_of(300)).reasons.counts() == {"no earlier result": 280, "an earlier failure": 20}


@pytest.mark.parametrize("executor", [LocalPythonFunctionExecutor(), ProcessPoolExecutor(2)], ids=["local", "pool"])
def test_executors_stop(executor: Any, tmp_path: Path) -> None:
    """On each executor, far fewer packets are called than there are."""

    def work(x: int) -> int:
        (tmp_path / str(x)).touch()
        time.sleep(0.02)
        raise ValueError(x)

    with pytest.raises(TooManyFailuresError):
        computed(pod_of(work, executor=executor), 1000)
    assert 20 <= len(list(tmp_path.iterdir())) < 300


@pytest.mark.parametrize("how", ["another class", "a result", "a skip", "few"])
def test_what_is_no_reason_to_stop(how: str) -> None:
    """One result, one skip or one error of another class among the first, or nothing left to try: all packets are called."""

    def work(x: int) -> int:
        if x == 7 and how == "another class":
            raise KeyError(x)
        if x == 7 and how == "a result":
            return x
        if x == 7 and how == "a skip":
            raise SkipPacket
        raise ValueError(x)

    count = 20 if how == "few" else 60
    report = computed(pod_of(work, **ONE_BY_ONE), count)
    assert report.done == count


def test_failures_of_an_earlier_run_are_expected() -> None:
    """Packets that failed before, and do so again, stop no run where others have results; where none has, they do."""

    def work(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x

    pod = pod_of(work, **ONE_BY_ONE)
    assert computed(pod, 100).failed == 50
    again = computed(pod, 100)
    assert (again.computed, again.failed) == (0, 50)
    more = computed(pod, 110)
    assert (more.computed, more.failed) == (5, 55)

    def hopeless(x: int) -> int:
        raise ValueError(x)

    policy = FailurePolicy(max_failures=1.0)
    pod = pod_of(hopeless, failures=policy, **ONE_BY_ONE)
    assert computed(pod, 50).failed == 50
    pod = pod_of(hopeless, pod.cache.database, **ONE_BY_ONE)
    with pytest.raises(TooManyFailuresError, match="first 20 of 50"):
        computed(pod, 50)


@pytest.mark.parametrize(("most", "failed"), [(0, 1), (4, 5), (0.05, 6), (1.0, None)])
def test_a_number_or_a_part(most: float, failed: int | None) -> None:
    """`max_failures` takes the place of the rule for the first packets: with more failures than it allows, the run stops."""

    def work(x: int) -> int:
        raise ValueError(x)

    pod = pod_of(work, failures=FailurePolicy(max_failures=most), **ONE_BY_ONE)
    if failed is None:
        assert computed(pod, 100).failed == 100
        return
    with pytest.raises(TooManyFailuresError, match=f"{failed} of the {failed} packets that were called failed"):
        computed(pod, 100)
    assert len(records(pod, "outcomes")) == failed


@pytest.mark.parametrize(
    ("is_hopeless", "says"),
    [
        (
            True,
            r"2 of the 7 packets that were called failed.* 93 packets were not called.*, and 5 that had failed were",
        ),
        (
            False,
            r"2 of the 100 packets that were called failed.* 0 packets were not called.*, and 3 that had failed were",
        ),
    ],
    ids=["in the first round", "in a later one"],
)
def test_packets_that_wait_for_another_attempt_were_called(is_hopeless: bool, says: str) -> None:
    """A run that stops counts the packets whose failure was to be tried again among those that were called, and says how many."""

    def work(x: int) -> int:
        if x < 5:
            raise ConnectionError(x)
        if is_hopeless:
            raise ValueError(x)
        return x

    policy = FailurePolicy(PacketRetry(attempts=2, delay=0.01, exceptions=[ConnectionError]), max_failures=1)
    with pytest.raises(TooManyFailuresError, match=says):
        computed(pod_of(work, failures=policy, **ONE_BY_ONE), 100)


@pytest.mark.parametrize("back_after", [2, 9])
def test_a_service_that_is_away_when_the_run_begins(back_after: int) -> None:
    """With a retry policy, the others wait for the first packets' further attempts: they go on when those succeed, else it stops."""
    calls: list[int] = []

    def work(x: int) -> int:
        calls.append(x)
        if calls.count(x) <= back_after and x < 20:
            raise ConnectionError(x)
        return x

    policy = FailurePolicy(PacketRetry(attempts=3, delay=0.01))
    pod = pod_of(work, failures=policy, **ONE_BY_ONE)
    if back_after == 2:
        report = computed(pod, 100)
        assert (report.computed, report.failed, report.tried_again) == (100, 0, 40)
        assert sorted(calls) == sorted([*range(100), *range(20), *range(20)])
        return
    with pytest.raises(TooManyFailuresError, match="first 20 of 100"):
        computed(pod, 100)
    assert sorted(calls) == sorted([*range(20)] * 3)
    assert {row["attempts"] for row in records(pod, "outcomes")} == {3}


@pytest.mark.parametrize("value", [-1, True, 0.0, 1.5, "3"])
def test_a_limit_that_is_none(value: Any) -> None:
    """What is neither a number nor a part is refused by name."""
    with pytest.raises(DefinitionError, match="asset a: max_failures="):
        checked_max_failures(value, "asset a")
