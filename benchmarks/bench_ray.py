"""Rows on Ray, beside a plain loop and hand-written tasks.

What it prints: the overhead per row of a trivial function, as ratios to tasks of the same number of rows (the budget is 2) and of
twice as many, which suit the hand-written ones better; and how many times as fast as one core a CPU-bound function gets on two.

    python benchmarks/bench_ray.py [rows]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import ray
from side_by_side import burn, seconds_of, tell_load, tell_rows, tell_speed_up, trivial

from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.ray import RayExecutor
from orcapod_dagster.core.packet_logs import LOG_BYTES
from orcapod_dagster.testing.executors import make_batches

ROWS_PER_TASK = 8_192
WINDOW = 4
BURNS = 6_000
BURNS_PER_TASK = 125


@ray.remote
def task_of(function: Callable[..., Any], rows: list[int]) -> list[int]:
    """One hand-written task."""
    return [function(x) for x in rows]


def hand_written(function: Callable[..., Any], values: list[int], size: int) -> None:
    """Run tasks with the same window, as one writes them after Ray's own guide."""
    running: list[Any] = []
    total = 0
    for start in range(0, len(values), size):
        if len(running) == WINDOW:
            ready, running = ray.wait(running, num_returns=1)
            total += len(ray.get(ready[0]))
        running.append(task_of.remote(function, values[start : start + size]))
    assert total + sum(len(ray.get(reference)) for reference in running) == len(values)


def ours(function: Callable[..., Any], values: list[int], capture: int = 0) -> None:
    """Run rows as an asset does."""
    batches = make_batches(values, rows=ROWS_PER_TASK)
    options = CallOptions(capture=capture)
    assert sum(one.length for one in RayExecutor().run_rows(function, batches, call_options=options)) == len(values)


def main(rows: int) -> None:
    """Print all of it."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    tell_load()
    values = list(range(rows))
    same, double = f"hand-written, {ROWS_PER_TASK:,} rows a task", f"hand-written, {2 * ROWS_PER_TASK:,} rows a task"
    ours(trivial, values[:50_000])
    hand_written(trivial, values[:50_000], ROWS_PER_TASK)
    overhead = seconds_of(
        {
            "plain loop": lambda: [trivial(x) for x in values],
            same: lambda: hand_written(trivial, values, ROWS_PER_TASK),
            double: lambda: hand_written(trivial, values, 2 * ROWS_PER_TASK),
            "Ray executor": lambda: ours(trivial, values),
            "Ray executor with capture": lambda: ours(trivial, values, LOG_BYTES),
        }
    )
    tell_rows("trivial function", overhead, rows, [("Ray executor", same, 2.0), ("Ray executor", double, None)])
    burns = list(range(BURNS))
    fast = seconds_of(
        {
            "plain loop": lambda: [burn(x) for x in burns],
            "hand-written": lambda: hand_written(burn, burns, BURNS_PER_TASK),
            "Ray executor": lambda: ours(burn, burns),
        },
        repeats=3,
    )
    tell_speed_up("CPU-bound function, 2 cores", fast, "plain loop", {})
    tell_load()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
