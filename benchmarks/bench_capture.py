"""What capture costs a packet that prints nothing, and one that prints a line: `run_slice` with and without it, in one run.

Prints microseconds of processor time per packet: the quickest of runs that alternate. The budget is 0.5 µs for a packet that
prints nothing.

    python benchmarks/bench_capture.py [packets]
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable

from orcapod_dagster.core.executors.capture import Capture
from orcapod_dagster.core.executors.slices import run_slice

REPEATS = 21
BUDGET = 0.5


def trivial(x: int) -> int:
    return x + 1


def short(x: int) -> int:
    return sum(range(100)) + x


def longer(x: int) -> int:
    return sum(range(2_000)) + x


def prints(x: int) -> int:
    print("line", x)
    return x


def cost(function: Callable[[int], int], packets: int, capture: Capture) -> tuple[float, float]:
    """Return µs per packet without capture, and how many more with it; of runs that alternate, the quickest of each."""
    values = list(range(packets))
    best = [math.inf, math.inf]
    for _ in range(REPEATS):
        for place, one in enumerate((None, capture)):
            began = time.process_time()
            run_slice(function, (values,), {}, 0, packets, 60.0, None, one)
            best[place] = min(best[place], (time.process_time() - began) / packets * 1e6)
    return best[0], best[1] - best[0]


def flood(x: int) -> int:
    subprocess.run([sys.executable, "-c", "import sys; sys.stdout.buffer.write(b'x' * 10_000_000)"], check=True)
    return x


def main(packets: int) -> None:
    # What functions print goes to nowhere here, so that the table alone is seen.
    shown = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    capture = Capture(64 * 1024)
    shown.write(f"packets that took less than {capture.quick * 1e6:.2f} µs are not looked at\n")
    for function, rows in ((trivial, packets), (short, packets), (longer, packets // 10), (prints, packets // 50)):
        before, more = cost(function, rows, capture)
        verdict = "" if function is prints else f" (budget {BUDGET}: {'kept' if more < BUDGET else 'MISSED'})"
        shown.write(f"{function.__name__:<8} {before:7.2f} µs without, {more:6.3f} more with capture{verdict}\n")
        shown.flush()
    before, more = cost(flood, 1, capture)
    shown.write(f"a child process that writes 10 MB: {before / 1e3:.1f} ms without, {more / 1e3:.1f} more\n")
    capture.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
