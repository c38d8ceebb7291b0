"""The process pool beside a plain loop and a plain `ProcessPoolExecutor.map` with the same chunks."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor as PlainPool
from multiprocessing import get_context

from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor
from orcapod_dagster.testing.executors import double, make_batches

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 500_000
CHUNK = 16_384


def burn(x: int) -> int:
    total = 0
    for i in range(40_000):
        total += i * x
    return total


def timed(run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def ours(function, rows: int, workers: int = 2, batch: int = CHUNK) -> None:
    for _ in ProcessPoolExecutor(workers).run_rows(function, make_batches(list(range(rows)), rows=batch)):
        pass


def plain(function, rows: int, chunk: int) -> None:
    with PlainPool(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(function, range(rows), chunksize=chunk))


def main() -> None:
    loop = timed(lambda: [double(x) for x in range(ROWS)])
    pool = timed(lambda: plain(double, ROWS, CHUNK))
    mine = timed(lambda: ours(double, ROWS))
    print(f"trivial function, {ROWS:,} rows, 2 workers, starting them included; µs per row:")
    print(
        f"  plain loop {1e6 * loop / ROWS:.2f}, plain pool {1e6 * pool / ROWS:.2f}, ours {1e6 * mine / ROWS:.2f}, ours of the plain pool {mine / pool:.2f}"
    )
    rows = 4_000
    one, two = timed(lambda: ours(burn, rows, 1)), timed(lambda: ours(burn, rows, 2))
    single = timed(lambda: [burn(x) for x in range(rows)])
    print(
        f"CPU-bound function, {rows:,} rows: loop {single:.1f} s, 1 worker {one:.1f} s, 2 workers {two:.1f} s; 2 workers are {single / two:.2f} × the loop"
    )


if __name__ == "__main__":
    main()
