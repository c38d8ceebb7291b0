"""Cost: how long the packets of a plan will take, by the durations on record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.planning import Plan
from orcapod_dagster.core.reasons import Reasons
from orcapod_dagster.core.result_cache import ResultCache
from orcapod_dagster.core.sources import TableSource

NEWEST_ROWS: Final = 10_000
"""A mean is of so many results, the newest: code and data of long ago say little of what comes."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a plan will take. A packet takes what its newest result took, whoever made it; one without a result, the mean.

    Attributes:
        seconds: of the user's function, all packets together; None where nothing is on record.
        wall_seconds: until all are done; None also where nobody knows how many packets run at a time.
        recorded: packets that have a duration of their own. estimated: packets that are taken for the mean.
        mean_of: how many results the mean is of, the newest; 0 where it was not needed or there are none.
        by_reason: reason, packets, seconds (None as above), the most packets first.
    """

    seconds: float | None
    wall_seconds: float | None
    recorded: int
    estimated: int
    mean_of: int
    by_reason: tuple[tuple[str, int, float | None], ...]

    def basis(self) -> str:
        """Return from what the seconds are known, as a sentence's part."""
        if not self.recorded and not self.estimated:
            return "nothing to compute"
        if self.seconds is None:
            return "unknown: no duration of this function is on record"
        parts: list[str] = []
        if self.recorded:
            parts.append(f"{self.recorded:,} packets by what their own results took")
        if self.estimated:
            parts.append(f"{self.estimated:,} by the mean of the newest {self.mean_of:,} results of this function")
        return ", ".join(parts)


def expected_cost(plan: Plan, cache: ResultCache, concurrency: int | None) -> Cost:
    """Say how long a plan will take. Where there is nothing to compute, nothing is read.

    Args:
        plan: what is to be computed.
        cache: the results of its function.
        concurrency: how many packets run at a time; None where that is not known.
    """
    count = len(plan.to_compute)
    if not count:
        return Cost(0.0, 0.0, 0, 0, 0, ())
    recorded, source = _recorded_seconds(cache, plan.hashes.take(plan.to_compute))
    own = _measured(one_array(pc.coalesce(recorded, plan.recomputed)))
    estimated, mean, mean_of = own.null_count, None, 0
    if estimated and source is not None:
        mean, mean_of = _mean_of_newest(source)
    if mean is None and estimated < count:  # results that lie elsewhere
        mean, mean_of = pc.mean(own).as_py(), count - estimated
    each = own if mean is None else pc.fill_null(own, mean)
    by_reason = _by_reason(plan.reasons, each)
    if each.null_count:
        return Cost(None, None, count - estimated, estimated, 0, by_reason)
    seconds, longest = pc.sum(each).as_py(), pc.max(each).as_py()
    wall = None if concurrency is None else max(longest, seconds / min(concurrency, count))
    return Cost(seconds, wall, count - estimated, estimated, mean_of, by_reason)


def _recorded_seconds(cache: ResultCache, hashes: pa.Array) -> tuple[pa.Array, TableSource | None]:
    """Return what the newest result of each input hash took, whatever code made it, null without one; and all results."""
    seconds = pa.nulls(len(hashes), pa.float64())
    snapshot = cache.snapshot({}, hashes)
    if snapshot is None:
        return seconds, None
    found = snapshot.find(hashes)
    there = found.is_valid()
    took = snapshot.source.take(found.filter(there), [names.DURATION])[names.DURATION]
    return one_array(pc.replace_with_mask(seconds, there, one_array(took))), snapshot.source


def _measured(durations: pa.Array) -> pa.Array:
    """Return durations, null where none was measured: results that were stored one by one say 0."""
    return one_array(pc.if_else(pc.greater(durations, 0.0), durations, pa.scalar(None, pa.float64())))


def _mean_of_newest(source: TableSource) -> tuple[float | None, int]:
    """Return the mean duration of the newest results, and of how many; never all of them are in memory."""
    newest: Any = None
    for batch in source.scan([names.TIMESTAMP, names.DURATION]):
        piece = pa.table({"ts": batch.column(0), "took": batch.column(1)})
        piece = piece.filter(pc.greater(piece["took"], 0.0))
        newest = piece if newest is None else pa.concat_tables([newest, piece])
        if newest.num_rows > NEWEST_ROWS:
            newest = newest.take(pc.select_k_unstable(newest, NEWEST_ROWS, [("ts", "descending")])).combine_chunks()
    if newest is None or not newest.num_rows:
        return None, 0
    return pc.mean(newest["took"]).as_py(), newest.num_rows


def _by_reason(reasons: Reasons, seconds: pa.Array) -> tuple[tuple[str, int, float | None], ...]:
    table = pa.table({"reason": reasons.texts, "seconds": seconds})
    grouped = table.group_by("reason").aggregate([("seconds", "sum"), ("seconds", "count"), ([], "count_all")])
    found = [
        (row["reason"], row["count_all"], row["seconds_sum"] if row["seconds_count"] == row["count_all"] else None)
        for row in grouped.to_pylist()
    ]
    return tuple(sorted(found, key=lambda one: (-one[1], one[0])))


@dataclass(frozen=True, slots=True)
class Recomputation:
    """Packets of a plan whose result does not count any more.

    Attributes:
        packets: how many. seconds: what their results took together, as recorded.
        reasons: why they do not count → packets, the most frequent first.
    """

    packets: int
    seconds: float
    reasons: dict[str, int]

    @classmethod
    def of(cls, plan: Plan) -> Recomputation:
        """Return those of a plan; new packets, failures and what is forced are not among them."""
        again = plan.recomputed.is_valid()
        reasons = Reasons(plan.reasons.texts.filter(again)).counts()
        return cls(sum(reasons.values()), pc.sum(plan.recomputed).as_py() or 0.0, reasons)
