"""What `time_limit` costs a packet that stays within it: `run_slice` of a function with and without a limit, in one run.

Prints microseconds of processor time per packet: the median of runs that alternate.

    python benchmarks/bench_time_limit.py [packets]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from side_by_side import tell_load, trivial

from orcapod_dagster.core.executors.event_loop import EventLoopThread
from orcapod_dagster.core.executors.slices import run_slice
from orcapod_dagster.core.executors.time_limit import limited

REPEATS = 15


async def trivial_async(x: int) -> int:
    return x + 1


def medians(function: Callable[[int], Any], packets: int, loop: EventLoopThread | None) -> tuple[float, float]:
    """Return µs per packet without a limit and with one; of runs that alternate, the median of each."""
    values = list(range(packets))
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for times, called in zip(found, (function, limited(function, 600.0)), strict=True):
            began = time.process_time()
            run_slice(called, (values,), {}, 0, packets, 60.0, loop)
            times.append((time.process_time() - began) / packets * 1e6)
    return statistics.median(found[0]), statistics.median(found[1])


def main(packets: int) -> None:
    tell_load()
    with EventLoopThread() as loop:
        for name, function, where in (("sync", trivial, None), ("async", trivial_async, loop)):
            without, with_limit = medians(function, packets, where)
            print(f"{name:<6} {without:6.2f} µs without, {with_limit:6.2f} with, {with_limit - without:6.2f} more")
    tell_load()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
