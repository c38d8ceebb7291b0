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
import statistics
import sys
import tempfile
import time
from typing import Any, Final

import dagster as dg
import pyarrow as pa

from orcapod_dagster import packet_asset, packet_resources
from orcapod_dagster.core.result_cache import MATCH_POLICIES

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
    for repetition in range(repetitions):
        # Who comes first in a repetition takes turns.
        for at in range(len(MATCH_POLICIES)):
            match = MATCH_POLICIES[(at + repetition) % len(MATCH_POLICIES)]
            spent[match].append(project.seconds(match))
            if project.computed:
                raise SystemExit(f"{project.computed} packets were computed under {match!r}; all should be cached.")
    return spent


def show(title: str, spent: dict[str, list[float]]) -> None:
    """Print medians, and the median of the ratios to "version" within a repetition, with the least and the most."""
    print(title)
    for match, seconds in spent.items():
        ratios = [one / base for one, base in zip(seconds, spent["version"], strict=True)]
        median, least, most = statistics.median(ratios), min(ratios), max(ratios)
        print(
            f"  {match:12} {statistics.median(seconds):8.3f} s   {median:6.3f}   ({least:.3f} to {most:.3f})",
            flush=True,
        )


def main() -> None:
    """Print what a cached run costs under each policy."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    repetitions = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    logging.disable(logging.CRITICAL)
    print(
        f"{rows:,} cached packets, processor seconds of a run; beside it the ratio to version, median, least and most"
    )
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
