"""Expected cost by recorded durations, over records in memory."""

from __future__ import annotations

import pyarrow as pa
import pytest

from orcapod_dagster.core import FunctionPod, InMemoryArrowDatabase, PythonPacketFunction, ResultCache, cost
from orcapod_dagster.core.contexts import VARIATION_SCHEMA
from orcapod_dagster.core.cost import Recomputation, expected_cost
from orcapod_dagster.core.datagrams import Datagram, Packet
from orcapod_dagster.core.outcomes import OutcomeLog
from orcapod_dagster.core.readable import readable_seconds
from orcapod_dagster.core.sources import MemorySource
from orcapod_dagster.core.streams import PacketStream, StreamInput


def double(x: int) -> int:
    return 2 * x


FUNCTION = PythonPacketFunction(double, "y")


@pytest.fixture
def pod() -> FunctionPod:
    database = InMemoryArrowDatabase()
    return FunctionPod(FUNCTION, ResultCache(database, ("r",)), OutcomeLog(database, ("o",)))


def store(pod: FunctionPod, x: int, seconds: float, content: str) -> None:
    """Store a result of some code as if it had taken so long."""
    variation = {**FUNCTION.get_function_variation_data(), "function_content_hash": content}
    execution = Datagram(FUNCTION.get_execution_data(), FUNCTION.get_execution_data_schema())
    pod.cache.store(
        Packet({"x": x}), Packet({"y": 2 * x}), Datagram(variation, VARIATION_SCHEMA), execution, duration=seconds
    )


def rows(*values: int) -> PacketStream:
    table = pa.table({"id": range(len(values)), "x": values})
    return PacketStream.open([StreamInput("in", MemorySource(table))], ("id",))


def test_the_mean_is_of_the_newest_results_that_were_measured(
    pod: FunctionPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old results and those without a duration do not count for the mean; a packet's own newest result counts for it alone."""
    monkeypatch.setattr(cost, "NEWEST_ROWS", 2)
    for x, seconds in ((1, 100.0), (2, 1.0), (3, 3.0), (4, 0.0)):
        store(pod, x, seconds, "other code")
    plan = pod.plan(rows(1, 2, 4, 9, 9))
    found = expected_cost(plan, pod.cache, 2)
    assert (found.recorded, found.estimated, found.mean_of) == (2, 2, 2)
    assert found.seconds == 100.0 + 1.0 + 2.0 + 2.0
    assert found.wall_seconds == 100.0
    assert found.by_reason == (("the code changed", 3, 103.0), ("no earlier result", 1, 2.0))
    assert Recomputation.of(plan) == Recomputation(3, 101.0, {"the code changed": 3})


def test_nothing_on_record_is_unknown(pod: FunctionPod) -> None:
    """Without any result, or with none that was measured, seconds are unknown; without packets they are 0 and nothing is read."""
    assert expected_cost(pod.plan(rows(1)), pod.cache, 1).seconds is None
    store(pod, 5, 0.0, "other code")
    found = expected_cost(pod.plan(rows(1)), pod.cache, None)
    assert (found.seconds, found.wall_seconds, found.by_reason) == (None, None, (("no earlier result", 1, None),))
    assert expected_cost(pod.plan(rows()), pod.cache, 1).seconds == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (1e-6, "below 1 ms"), (0.25, "0.25 s"), (89, "89 s"), (720, "12 minutes"), (5400, "1.5 hours"),
     (99.6 * 3600, "4.2 days"), (99.6 * 86400, "100 days"), (1e9, "11,574 days")],
)  # fmt: skip
def test_seconds_are_told_in_units_that_people_use(seconds: float, text: str) -> None:
    """No duration is shown in powers of ten, or with more digits than anybody reads."""
    assert readable_seconds(seconds) == text
