"""A cached run under each match policy, beside one under "version", in one process.

Run: python benchmarks/bench_match.py [rows] [repetitions]   (default 1,000,000 rows, 5 repetitions)

Four packet assets of one function, one per policy, share their results; each has a table of its own. Whole Dagster runs, in turn:
first with the input as it stands, where a run compares keys and tags and is done; then with its rows in another order, where each
run plans. Counted is the time of all processors that the process uses; each repetition is compared with "version" in the same one.
"""

from __future__ import annotations

import gc
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from typing import Any, Final

import dagster as dg
import pyarrow as pa

from orcapod_dagster import packet_asset, packet_resources
from orcapod_dagster.core.matching import MATCH_POLICIES

OFFSET: Final = 32


def scaled(x: float) -> float:
    """Return a helper's result, which the content hash follows."""
    return (x - OFFSET) * 5 / 9


def measured(x: float) -> str:
    """Refer to a helper, a constant and a library."""
    return json.dumps(scaled(x))


class Project:
    """A source, and a packet asset per policy over it."""

    def __init__(self, root: str, rows: int, instance: dg.DagsterInstance) -> None:
        self._resources = packet_resources(root_uri=root, as_default=True)
        self._instance = instance
        count = pa.array(range(rows), pa.int64())
        self._rows = pa.table({"id": count, "x": count.cast(pa.float64())})
        self._assets: dict[str, Any] = {
            match: packet_asset(
                measured, inputs="source", tag_columns=["id"], output_keys=["y"], name=f"by_{match}", match=match
            )
            for match in MATCH_POLICIES
        }

    def write_source(self, *, turned: bool) -> None:
        """Materialize the source, its rows as they are or turned around."""
        rows = self._rows.take(pa.array(range(self._rows.num_rows - 1, -1, -1))) if turned else self._rows

        @dg.asset
        def source() -> pa.Table:
            return rows

        self._source = source
        self._materialize("source")

    def seconds(self, match: str) -> float:
        """Materialize one packet asset; return the processor seconds of the run."""
        gc.collect()
        began = time.process_time()
        done = self._materialize(f"by_{match}")
        spent = time.process_time() - began
        (event,) = done.asset_materializations_for_node(f"by_{match}")
        self.computed = event.metadata["orcapod/packets_computed"].value
        return spent

    def _materialize(self, name: str) -> dg.ExecuteInProcessResult:
        assets = [self._source, *self._assets.values()]
        return dg.materialize(assets, selection=[name], instance=self._instance, resources=self._resources)


def measure(project: Project, repetitions: int) -> dict[str, list[float]]:
    """Return the processor seconds of cached runs by policy, repetition by repetition."""
    spent: dict[str, list[float]] = {match: [] for match in MATCH_POLICIES}
    chance = random.Random(0)
    for _ in range(repetitions):
        # In an order of chance: in turns, each would always come after the same one, and meet what that left in the caches.
        for match in chance.sample(MATCH_POLICIES, len(MATCH_POLICIES)):
            spent[match].append(project.seconds(match))
            if project.computed:
                raise SystemExit(f"{project.computed} packets were computed under {match!r}; all should be cached.")
    return spent


def show(title: str, spent: dict[str, list[float]]) -> None:
    """Print the median, the least and the most of each policy, and the median beside that of "version"."""
    print(title)
    base = statistics.median(spent["version"])
    for match, seconds in spent.items():
        median = statistics.median(seconds)
        print(
            f"  {match:12} {median:8.3f} s   {median / base:6.3f}   ({min(seconds):.3f} to {max(seconds):.3f} s)",
            flush=True,
        )


def main() -> None:
    """Print what a cached run costs under each policy."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    repetitions = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    logging.disable(logging.CRITICAL)
    print(f"{rows:,} cached packets, processor seconds of a run; median; its ratio to that of version; least and most")
    with tempfile.TemporaryDirectory() as root, dg.DagsterInstance.ephemeral() as instance:
        project = Project(root, rows, instance)
        project.write_source(turned=False)
        for match in MATCH_POLICIES:
            project.seconds(match)
        project.seconds("version")
        show("the input as it stands", measure(project, repetitions))
        project.write_source(turned=True)
        project.seconds("version")
        show("the rows in another order", measure(project, repetitions))


if __name__ == "__main__":
    main()
