"""What benchmarks of executors share: the functions that rows go through, runs that alternate, and the load that is told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping

REPEATS = 5


def trivial(x: int) -> int:
    """Everything else is overhead."""
    return x + 1


def burn(x: int) -> int:
    """Take some milliseconds of a processor."""
    total = 0
    for i in range(40_000):
        total += i * x
    return total


def seconds_of(runs: Mapping[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, float]:
    """Run all of them in turn, several times, and return the seconds of the quickest run of each."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: min(measured) for name, measured in times.items()}


def tell_load() -> None:
    """Print how busy the machine is: on a busy one, ratios of runs on several cores mean little."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{os.cpu_count()} cores, load of the last 1, 5 and 15 minutes: {load}")


def tell_rows(
    title: str, seconds: Mapping[str, float], rows: int, against: Iterable[tuple[str, str, float | None]]
) -> None:
    """Print microseconds per row, and ratios.

    Args:
        title: of the table. seconds: what was measured. rows: of each run.
        against: name, name of what it is held against, and the budget of the ratio or None.
    """
    print(f"\n{title}, {rows:,} rows, µs per row")
    for name, took in seconds.items():
        print(f"  {name:42s} {1e6 * took / rows:9.3f}")
    for name, other, budget in against:
        told = "" if budget is None else f"  (budget {budget})"
        print(f"  {name} : {other} = {seconds[name] / seconds[other]:.2f}{told}")


def tell_speed_up(title: str, seconds: Mapping[str, float], loop: str, budgets: Mapping[str, float]) -> None:
    """Print how many times as fast as the loop each of the others was."""
    print(f"\n{title}, times as fast as the {loop} ({seconds[loop]:.2f} s)")
    for name, took in seconds.items():
        if name != loop:
            told = f"  (budget {budgets[name]})" if name in budgets else ""
            print(f"  {name:42s} {seconds[loop] / took:9.2f}{told}")
