"""A trivial function on Ray: `RayExecutor.run_rows` beside hand-written tasks.

Prints microseconds per row, and two ratios: to tasks of the same number of rows (the budget is 2), and to tasks of twice
as many, which suit the hand-written ones better. Runs alternate, and the best of each counts.

    python benchmarks/bench_ray.py [rows]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import ray

from orcapod_dagster.core.executors.base import RowBatch
from orcapod_dagster.core.executors.ray import RayExecutor

ROWS_PER_TASK = 8_192
WINDOW = 4
REPEATS = 5
BUDGET = 2.0


def trivial(x: int) -> int:
    return x + 1


@ray.remote
def trivial_task(rows: list[int]) -> list[int]:
    return [trivial(x) for x in rows]


def hand_written(values: list[int], size: int = ROWS_PER_TASK) -> int:
    """Tasks with the same window, as one writes them after Ray's own guide."""
    running, total = [], 0
    for start in range(0, len(values), size):
        if len(running) == WINDOW:
            ready, running = ray.wait(running, num_returns=1)
            total += len(ray.get(ready[0]))
        running.append(trivial_task.remote(values[start : start + size]))
    return total + sum(len(ray.get(reference)) for reference in running)


def ours(values: list[int]) -> int:
    batches = (
        RowBatch((piece,), {}, start, len(piece))
        for start in range(0, len(values), ROWS_PER_TASK)
        for piece in [values[start : start + ROWS_PER_TASK]]
    )
    return sum(result.length for result in RayExecutor().run_rows(trivial, batches))


def microseconds_per_row(run: Callable[[list[int]], int], values: list[int]) -> float:
    began = time.perf_counter()
    assert run(values) == len(values)
    return (time.perf_counter() - began) / len(values) * 1e6


def main(rows: int) -> None:
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    values = list(range(rows))
    runs: dict[str, Callable[[list[int]], int]] = {
        f"hand-written, {ROWS_PER_TASK} rows": hand_written,
        f"hand-written, {2 * ROWS_PER_TASK} rows": lambda values: hand_written(values, 2 * ROWS_PER_TASK),
        "RayExecutor.run_rows": ours,
    }
    for run in runs.values():
        run(values[:50_000])
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            times[name].append(microseconds_per_row(run, values))
    for name, measured in times.items():
        print(f"{name:<26} {min(measured):.3f} µs/row")
    same, double, executor = (min(measured) for measured in times.values())
    print(
        f"ratio at the same size {executor / same:.2f} (budget {BUDGET}), to tasks of twice the size {executor / double:.2f}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
