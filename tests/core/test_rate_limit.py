"""Rates of packets: how many begin per second, by all workers, and what is stored while none may begin."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from failing import MyExecutor, computed, pod_of, records, stream_of

from orcapod_dagster.core.databases.delta import DeltaTableDatabase
from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor
from orcapod_dagster.core.failure_policy import FailurePolicy
from orcapod_dagster.core.packet_retry import PacketRetry
from orcapod_dagster.core.rate_limit import RateLimit


def begins(pod_options: dict[str, Any], count: int, seconds: float, folder: Path) -> list[float]:
    """Run packets that take some seconds and say when they begin; return the moments in order, from the first."""

    def work(x: int) -> int:
        with (folder / str(x)).open("a") as file:
            file.write(f"{time.time()}\n")
        time.sleep(seconds)
        if x == 3 and (folder / str(x)).read_text().count("\n") == 1:
            raise ConnectionError(x)
        return x

    policy = FailurePolicy(PacketRetry(2, delay=0))
    report = computed(pod_of(work, ignore=["time.time"], failures=policy, **pod_options), count)
    assert (report.computed, report.tried_again) == (count, 1)
    found = sorted(float(line) for file in folder.iterdir() for line in file.read_text().split())
    assert len(found) == count + 1
    return [moment - found[0] for moment in found]


@pytest.mark.parametrize(
    ("executor", "slots"),
    [(LocalPythonFunctionExecutor(), 1), (ProcessPoolExecutor(2), 2), (MyExecutor(), 1)],
    ids=["local", "pool", "mine"],
)
def test_the_rate_is_kept(executor: Any, slots: int, tmp_path: Path) -> None:
    """In no span begin more packets than the rate allows, but for those that all workers may take at once; none waits for longer."""
    rate = 10.0
    found = begins({"executor": executor, "rate_limit": RateLimit(rate)}, 30, 0.02, tmp_path)
    for i, first in enumerate(found):
        for j in range(i + 1, len(found)):
            assert j - i <= rate * (found[j] - first) + slots + 0.5
    assert found[-1] >= (len(found) - 1 - slots) / rate
    assert found[-1] < 3 * len(found) / rate  # whatever else this machine does


def test_packets_run_at_once_within_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets that take longer than the span between two of them run side by side: finished ones are not waited for."""
    # Other runs on this machine would have their share of the two workers.
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "own"))
    (tmp_path / "calls").mkdir()
    options = {"executor": ProcessPoolExecutor(2), "rate_limit": RateLimit.of("4/s", "")}
    found = begins(options, 6, 1.0, tmp_path / "calls")
    assert min(later - one for one, later in itertools.pairwise(found)) < 1.0


@pytest.mark.parametrize("executor", [LocalPythonFunctionExecutor(), MyExecutor()], ids=["local", "mine"])
def test_what_is_finished_is_stored_while_none_may_begin(
    executor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one packet in ten seconds, a result is durable long before the next packet begins, on a user's executor, too."""

    def work(x: int) -> int:
        return x

    def look() -> None:
        flush()
        if not seen:
            seen.append((len(records(pod, "results")), time.monotonic() - began))
            raise KeyboardInterrupt

    began, seen = time.monotonic(), list[tuple[int, float]]()
    root = str(tmp_path)
    pod = pod_of(work, DeltaTableDatabase(root), executor, rate_limit=RateLimit.of("6/min", ""))
    flush = pod.cache.flush
    monkeypatch.setattr(pod.cache, "flush", look)
    with pytest.raises(KeyboardInterrupt):
        pod.compute(pod.plan(stream_of(3)))
    assert seen[0][0] == 1
    assert seen[0][1] < 8
    assert len(pod_of(work, DeltaTableDatabase(root)).plan(stream_of(3)).to_compute) == 2


def test_many_packets_in_a_short_time() -> None:
    """A high rate goes in batches, and a run of trivial packets takes about the time that it says."""

    def work(x: int) -> int:
        return x

    began = time.monotonic()
    assert computed(pod_of(work, rate_limit=RateLimit.of("5000/s", "")), 5000).computed == 5000
    assert 0.9 < time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("text", "per_second"),
    [("60/min", 1.0), ("10/s", 10.0), ("1800/h", 0.5), ("0.5 per second", 0.5), (" 90 / Minute ", 1.5), (None, None)],
)
def test_forms_of_a_rate(text: str | None, per_second: float | None) -> None:
    """A rate is a number of packets per second, minute or hour."""
    found = RateLimit.of(text, "")
    assert (None if found is None else found.per_second) == per_second


@pytest.mark.parametrize("text", ["60", "0/s", "-1/s", "10/day", "10/", 60, "many/s"])
def test_what_is_no_rate(text: Any) -> None:
    """What is no rate is refused by name."""
    with pytest.raises(DefinitionError, match="asset a: rate_limit="):
        RateLimit.of(text, "asset a")
