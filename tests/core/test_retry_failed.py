"""Which failures of earlier runs are tried again, and what is said of those that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from failing import computed, pod_of, stream_of

from orcapod_dagster import Blob
from orcapod_dagster.core import InMemoryArrowDatabase
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.databases.delta import DeltaTableDatabase
from orcapod_dagster.core.failure_policy import FailurePolicy, RetryFailed
from orcapod_dagster.core.packet_retry import PacketRetry
from orcapod_dagster.core.plan_report import PlanReport
from orcapod_dagster.core.skip import SkipPacket

CALLS: list[int] = []


def work(x: int) -> int:
    CALLS.append(x)
    if x in (1, 2, 3):
        raise [ValueError, ConnectionResetError, KeyError][x - 1](f"call {x}")
    return x


def mended(x: int) -> int:
    CALLS.append(x)
    return x


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


@pytest.mark.parametrize(
    ("policy", "again"),
    [
        (FailurePolicy(), [1, 2, 3]),
        (FailurePolicy(retry_failed="transient"), [2]),
        (FailurePolicy(PacketRetry(1, exceptions=[KeyError]), "transient"), [2, 3]),
        (FailurePolicy(PacketRetry(1), "transient"), [2]),
        (FailurePolicy(retry_failed="changed"), []),
    ],
    ids=["all", "transient", "named", "unnamed", "changed"],
)
def test_which_are_tried_again(policy: FailurePolicy, again: list[int]) -> None:
    """The policy says which failures the next run calls again; the others count as failed, with what is on record."""
    database = InMemoryArrowDatabase()
    computed(pod_of(work, database), 5)
    CALLS.clear()
    pod = pod_of(work, database, failures=policy)
    plan = pod.plan(stream_of(6))
    stay = [x for x in (1, 2, 3) if x not in again]
    assert plan.failed.to_pylist() == stay
    report = pod.compute(plan)
    assert [*again, 5] == CALLS
    assert (report.computed, report.failed, report.done) == (1, 3, 1 + len(again))
    assert sorted((one.row, one.message.strip("'")) for one in report.failures) == [(x, f"call {x}") for x in (1, 2, 3)]
    assert all(one.traceback for one in report.failures)
    pod.assemble(plan, report)
    assert (report.cached, report.failed) == (2, 3)


@pytest.mark.parametrize("retry_failed", ["transient", "changed"])
@pytest.mark.parametrize("match", ["content", "version"])
def test_changed_code_is_tried(retry_failed: RetryFailed, match: Any) -> None:
    """After an edit all failures are tried again, also where the match policy does not ask for the code."""
    database = InMemoryArrowDatabase()
    computed(pod_of(work, database, match=match), 4)
    CALLS.clear()
    edited = mended
    edited.__name__ = edited.__qualname__ = "work"
    pod = pod_of(edited, database, match=match, failures=FailurePolicy(retry_failed=retry_failed))
    report = computed(pod, 4)
    assert report.failed == 0
    assert set(CALLS) >= {1, 2, 3}


def test_a_plan_says_so() -> None:
    """A plan counts those that stay failed, and `force` tries them."""
    database = InMemoryArrowDatabase()
    computed(pod_of(work, database), 4)
    pod = pod_of(work, database, failures=FailurePolicy(retry_failed="changed"))
    report = PlanReport.of(pod.plan(stream_of(4)), pod)
    assert (report.would_compute, report.failed_before, report.stays_failed) == (0, 0, 3)
    forced = pod.plan(stream_of(4), force=True)
    assert (len(forced.to_compute), len(forced.failed)) == (4, 0)


MODES: dict[int, type[Exception]] = {}


def changing(x: int) -> int:
    if x in MODES:
        raise MODES[x](f"call {x}")
    return x


@pytest.mark.parametrize("skipped", [False, True])
def test_forced_packets_that_fail_count(skipped: bool) -> None:
    """A forced packet that fails counts as failed though an earlier run has its result, whatever becomes of others."""
    database = InMemoryArrowDatabase()
    MODES.clear()
    if skipped:
        MODES[3] = SkipPacket
    computed(pod_of(changing, database, ignore=["MODES"]), 4)
    MODES[1] = ValueError
    pod = pod_of(changing, database, ignore=["MODES"])
    plan = pod.plan(stream_of(4), force=True)
    report = pod.compute(plan)
    rows, _, _ = pod.assemble(plan, report)
    counts = (report.cached, report.computed, report.failed, report.skipped)
    assert counts == (0, 3 - skipped, 1, int(skipped))
    assert rows.num_rows == 4 - skipped, "the row keeps its earlier result"


def large(x: int) -> Blob:
    if x in MODES:
        raise MODES[x](f"call {x}")
    return Blob(bytes([x]) * 1000)


@pytest.mark.parametrize("error", [ValueError, SkipPacket])
def test_a_lost_value_is_made_again_whatever_was_before(tmp_path: Path, error: type[Exception]) -> None:
    """A packet that failed or was skipped, then was computed, and lost its large value, is computed, as any other that lost it."""
    database = InMemoryArrowDatabase()
    options: dict[str, Any] = {"blobs": BlobStore(str(tmp_path), inline_bytes=10), "ignore": ["MODES"]}
    MODES.clear()
    MODES[1] = error
    computed(pod_of(large, database, **options), 3)
    MODES.clear()
    pod = pod_of(large, database, **options)
    pod.compute(pod.plan(stream_of(3), force=True))
    blobs = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(blobs) == 3
    for path in blobs:
        path.unlink()
    pod = pod_of(large, database, failures=FailurePolicy(retry_failed="changed"), **options)
    plan = pod.plan(stream_of(3))
    assert plan.reasons.counts() == {"its large value is missing": 3}
    report = pod.compute(plan)
    rows, _, _ = pod.assemble(plan, report)
    assert (report.computed, report.failed, report.skipped, rows.num_rows) == (3, 0, 0, 3)


def test_transient_failures_of_an_earlier_release(tmp_path: Path) -> None:
    """Of a failure that an earlier release stored, the class alone is known; those of Python count as what they are derived from."""
    MODES.clear()
    MODES.update({1: ConnectionResetError, 2: ValueError, 3: TimeoutError})
    pod = pod_of(changing, ignore=["MODES"])
    computed(pod, 4)
    source = pod.outcomes.database.source(("outcomes",))
    assert source is not None
    earlier = [name for name in source.schema.names if name not in ("attempts", "error_kinds", "tag")]
    schema = pa.schema([source.schema.field(name) for name in earlier])
    database = DeltaTableDatabase(str(tmp_path))
    database.append(("outcomes",), pa.Table.from_batches(source.scan(earlier), schema).to_reader)
    pod = pod_of(changing, database, ignore=["MODES"], failures=FailurePolicy(retry_failed="transient"))
    assert pod.plan(stream_of(4)).failed.to_pylist() == [2]
