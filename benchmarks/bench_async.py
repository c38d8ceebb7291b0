"""An async function that sleeps 50 ms, 100 at once, on each executor, beside the ideal: packets × 50 ms / 100 / processes.

Run: python benchmarks/bench_async.py [packets] [executor …]
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from orcapod_dagster.core.executors.base import RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor
from orcapod_dagster.core.executors.ray import RayExecutor

SECONDS = 0.05
AT_ONCE = 100
WARM_UP = 1_000


async def wait(x: int) -> int:
    await asyncio.sleep(SECONDS)
    return x


async def plain(packets: int) -> None:
    """The same by a semaphore alone, which is what a user would write."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(x: int) -> int:
        async with limit:
            return await wait(x)

    await asyncio.gather(*(one(x) for x in range(packets)))


def seconds_of(executor: Any, packets: int, capture: int) -> float:
    """Run packets after a warm-up in the same run, so that the start of workers is not in it."""
    rows = list(range(packets + WARM_UP))
    batches = [RowBatch((rows[:WARM_UP],), {}, 0, WARM_UP), RowBatch((rows[WARM_UP:],), {}, WARM_UP, packets)]
    options = CallOptions(capture=capture, max_concurrency=AT_ONCE)
    done, before, began = 0, 0, 0.0
    for result in executor.run_rows(wait, batches, call_options=options):
        done += result.length
        if not began and done >= WARM_UP:
            began, before = time.perf_counter(), done
    assert done == len(rows)
    return (time.perf_counter() - began) * packets / (done - before)


def main() -> None:
    packets = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    chosen = sys.argv[2:] or ["plain", "local", "pool", "ray"]
    executors = {
        "local": (LocalPythonFunctionExecutor(), 1),
        "pool": (ProcessPoolExecutor(2), 2),
        "ray": (RayExecutor(), 2),
    }
    ideal = packets * SECONDS / AT_ONCE
    print(f"{packets:,} packets of {SECONDS * 1000:.0f} ms, {AT_ONCE} at once in a process")
    if "plain" in chosen:
        began = time.perf_counter()
        asyncio.run(plain(packets))
        took = time.perf_counter() - began
        print(f"asyncio with a semaphore    {took:6.2f} s   ideal {ideal:6.2f} s   ratio {took / ideal:.2f}")
    for name, (executor, processes) in executors.items():
        for capture in (0, 65_536) if name in chosen else ():
            took = seconds_of(executor, packets, capture)
            label = f"{name}, {'captured' if capture else 'not captured'}"
            print(f"{label:27} {took:6.2f} s   ideal {ideal / processes:6.2f} s   ratio {took * processes / ideal:.2f}")


if __name__ == "__main__":
    main()
