"""Rows on the local executor and in the process pool, beside a plain loop and a plain `ProcessPoolExecutor.map` with the same chunks.

What it prints: the overhead per row of a trivial function, what it takes to start the workers, and how many times as fast as one
core a CPU-bound function gets on two.

    python benchmarks/bench_process_pool.py [rows]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor as PlainPool
from multiprocessing import get_context
from typing import Any

from side_by_side import burn, seconds_of, tell_load, tell_rows, tell_speed_up, trivial

CHUNK = 16_384
BURNS = 6_000
BURN_CHUNK = 250


def ours(executor: Any, function: Callable[..., Any], rows: int, capture: int = 0) -> None:
    """Run rows as an asset does, in batches of as many rows."""
    # Imported here, for each worker of the plain pool imports this script again.
    from orcapod_dagster.core.executors.call_options import CallOptions
    from orcapod_dagster.testing.executors import make_batches

    batches = make_batches(list(range(rows)), rows=CHUNK)
    done = sum(one.length for one in executor.run_rows(function, batches, call_options=CallOptions(capture=capture)))
    assert done == rows


def plain_pool(function: Callable[..., Any], rows: int, chunk: int) -> None:
    """Run rows as one writes it after Python's own documentation."""
    with PlainPool(2, mp_context=get_context("spawn")) as pool:
        assert len(list(pool.map(function, range(rows), chunksize=chunk))) == rows


def main(rows: int) -> None:
    """Print all of it."""
    from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
    from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor
    from orcapod_dagster.core.packet_logs import LOG_BYTES

    tell_load()
    pool, local = ProcessPoolExecutor(2), LocalPythonFunctionExecutor()
    overhead = seconds_of(
        {
            "plain loop": lambda: [trivial(x) for x in range(rows)],
            "local executor": lambda: ours(local, trivial, rows),
            "local executor with capture": lambda: ours(local, trivial, rows, LOG_BYTES),
            "plain pool": lambda: plain_pool(trivial, rows, CHUNK),
            "process pool": lambda: ours(pool, trivial, rows),
            "process pool with capture": lambda: ours(pool, trivial, rows, LOG_BYTES),
        }
    )
    against = [("process pool", "plain pool", None), ("local executor", "plain loop", None)]
    tell_rows("trivial function, 2 workers, starting them included", overhead, rows, against)
    start = seconds_of(
        {"plain pool": lambda: plain_pool(trivial, 2, 1), "process pool": lambda: ours(pool, trivial, 2)}
    )
    print(
        f"\nstarting and ending 2 workers: plain pool {start['plain pool']:.2f} s, process pool {start['process pool']:.2f} s"
    )
    fast = seconds_of(
        {
            "plain loop": lambda: [burn(x) for x in range(BURNS)],
            "plain pool": lambda: plain_pool(burn, BURNS, BURN_CHUNK),
            "process pool, 1 worker": lambda: ours(ProcessPoolExecutor(1), burn, BURNS),
            "process pool": lambda: ours(pool, burn, BURNS),
        },
        repeats=3,
    )
    tell_speed_up("CPU-bound function, 2 workers", fast, "plain loop", {"process pool": 1.8})
    tell_load()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500_000)
