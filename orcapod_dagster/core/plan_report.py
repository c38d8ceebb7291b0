"""PlanReport: what a run would do, counted, and how long it would take; found without running or writing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from orcapod_dagster.core.cost import Cost, Recomputation, expected_cost
from orcapod_dagster.core.key_index import in_memory
from orcapod_dagster.core.planning import Plan
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.reasons import EARLIER_FAILURE
from orcapod_dagster.core.streams import PacketStream


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a run would do.

    Attributes:
        total: rows of the input. cached: rows with a result that counts.
        would_compute: packets; rows of equal packets are computed once.
        failed_before: those of them that failed in an earlier run. skipped: rows that the function skipped earlier.
        stays_failed: rows that failed in an earlier run and would not be tried again, as `retry_failed` says.
        invalid: rows that would fail without a call, for a value or file cannot be used: row → why.
        recomputation: those packets that have a result which does not count any more.
        cost: how long it would take.
    """

    total: int
    cached: int
    would_compute: int
    failed_before: int
    skipped: int
    stays_failed: int
    invalid: dict[int, str]
    recomputation: Recomputation
    cost: Cost

    @classmethod
    def of(cls, plan: Plan, pod: FunctionPod) -> Self:
        """Count a plan of a pod; reads what is recorded of durations where there is something to compute."""
        reasons = plan.reasons.counts()
        return cls(
            total=len(plan.hashes),
            cached=len(plan.found) - plan.found.null_count,
            would_compute=len(plan.to_compute),
            failed_before=sum(n for reason, n in reasons.items() if reason.startswith(EARLIER_FAILURE)),
            skipped=len(plan.skipped),
            stays_failed=len(plan.failed),
            invalid=dict(plan.invalid),
            recomputation=Recomputation.of(plan),
            cost=expected_cost(plan, pod.cache, pod.concurrency),
        )


def look_ahead(pod: FunctionPod, stream: PacketStream, *, force: bool = False, limit: int | None = None) -> PlanReport:
    """Plan a run of a pod, and count.

    Args:
        pod: over a database that stores nothing (`ReadOnlyDatabase`).
        stream, force, limit: as `FunctionPod.plan` takes them.

    Raises:
        InputError: as the run would.
    """
    with in_memory():
        return PlanReport.of(pod.plan(stream, force=force, limit=limit), pod)
