"""What the campaign of cancellations runs: a code location, and a process that materializes it; each is ended in the middle.

    python cancelled.py FOLDER

The folder says by environment variables what runs where; packets note their process and themselves when they begin and end.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import dagster as dg
import pyarrow as pa

from faults.workers import acknowledge_appends
from orcapod_dagster import (
    LocalExecutorResource,
    ProcessPoolExecutorResource,
    RayExecutorResource,
    packet_asset,
    packet_resources,
)
from orcapod_dagster.core import waiting

ROOT = Path(os.environ["CANCELLED_ROOT"])
ROWS = int(os.environ.get("CANCELLED_ROWS", "200"))
EXECUTORS = {
    "local": LocalExecutorResource,
    "pool": lambda: ProcessPoolExecutorResource(max_workers=2),
    "ray": lambda: RayExecutorResource(ray_address=os.environ["CANCELLED_RAY"]),
}

os.environ["ORCAPOD_GIT"] = "off"
waiting.FLUSH_SECONDS = 0.3  # type: ignore[misc]  # so that a short run has many commits
acknowledge_appends(ROOT / "acknowledged")


def square(x: int, log: str = "") -> int:
    """Take 20 ms, and say so."""
    with open(log, "a", buffering=1) as file:  # noqa: PTH123  # in a worker that has no more than this function
        file.write(f"{os.getpid()} begins {x}\n")
        time.sleep(0.02)
        file.write(f"{os.getpid()} ends {x}\n")
    return x * x


@dg.asset(io_manager_key="packet_io_manager")
def numbers() -> pa.Table:
    """The input."""
    return pa.table({"id": pa.array(range(ROWS)), "x": pa.array(range(ROWS))})


squares = packet_asset(
    square,
    inputs=numbers,
    tag_columns=["id"],
    output_keys=["y"],
    match="version",
    params={"log": str(ROOT / "calls")},
)
defs = dg.Definitions(
    assets=[numbers, squares],
    resources=packet_resources(str(ROOT / "lake"), EXECUTORS[os.environ["CANCELLED_ON"]]()),
)

if __name__ == "__main__":
    with dg.DagsterInstance.ephemeral() as instance:
        ended = dg.materialize([numbers, squares], instance=instance, resources=defs.resources, raise_on_error=False)
    sys.exit(0 if ended.success else 1)
