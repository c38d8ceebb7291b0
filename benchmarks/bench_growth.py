"""Whether a materialization costs the same after many as after ten, in one process.

Run: python benchmarks/bench_growth.py [runs] [kinds]   (default 1,000 runs of all kinds)

The runs that are measured are whole Dagster runs on ephemeral instances, in turn in a lake of ten and in one of many; before
those, the second gets the same commits from the engine alone, which takes a tenth of the time. Beside each stands what the IO manager takes. Counted is the time of all processors that
the process uses, for the machine may be busy.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import dagster as dg
import pyarrow as pa

from orcapod_dagster import DeltaLakeIOManager, packet_asset, packet_resources
from orcapod_dagster.core import delta
from orcapod_dagster.core.asset_write import PART
from orcapod_dagster.core.columns import INPUT_HASH, RECORD_ID
from orcapod_dagster.core.databases.delta import DeltaTableDatabase
from orcapod_dagster.core.paths import RESULTS_FOLDER, results_root
from orcapod_dagster.core.predicates import Equals

ROWS: Final = 100


class TimedIOManager(DeltaLakeIOManager):
    """Adds up the processor seconds that reading and writing take."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write, and take the time."""
        _timed(lambda: super(TimedIOManager, self).handle_output(context, obj))

    def load_input(self, context: dg.InputContext) -> Any:
        """Read, and take the time."""
        return _timed(lambda: super(TimedIOManager, self).load_input(context))


_spent: list[float] = []


def _timed(work: Callable[[], Any]) -> Any:
    began = time.process_time()
    try:
        return work()
    finally:
        _spent.append(time.process_time() - began)


def rows_of(run: int, key: str) -> pa.Table:
    """Return rows that no earlier run had."""
    return pa.table({"id": range(ROWS), "key": [key] * ROWS, "x": [float(run * ROWS + i) for i in range(ROWS)]})


def replaced(run: Callable[[], int]) -> list[dg.AssetsDefinition]:
    """Return an asset that is replaced each time."""

    @dg.asset
    def source() -> pa.Table:
        return rows_of(run(), "one")

    return [source]


def packets(run: Callable[[], int]) -> list[dg.AssetsDefinition]:
    """Return a packet asset whose input changes each time."""

    @packet_asset(inputs="source", tag_columns=["id"], output_keys=["y"])
    def doubled(x: float) -> float:
        return x * 2

    return [*replaced(run), doubled]


def partitions(run: Callable[[], int]) -> list[dg.AssetsDefinition]:
    """Return two assets that gain one partition each time, one of which reads the other."""

    @dg.asset(**PARTITIONED)
    def source(context) -> pa.Table:  # dagster takes no annotation that is text
        return rows_of(run(), context.partition_key)

    @dg.asset(**PARTITIONED)
    def copied(source: pa.Table) -> pa.Table:
        return source

    return [source, copied]


def packet_partitions(run: Callable[[], int]) -> list[dg.AssetsDefinition]:
    """Return an asset that gains a partition each time, and a packet asset beside it."""

    @packet_asset(inputs="source", tag_columns=["id"], carry=["key"], output_keys=["y"], **PARTITIONED)
    def doubled(x: float) -> float:
        return x * 2

    return [partitions(run)[0], doubled]


PARTITIONS: Final = dg.DynamicPartitionsDefinition(name="grown")
PARTITIONED: Final[dict[str, Any]] = {"partitions_def": PARTITIONS, "metadata": {"partition_expr": "key"}}
KINDS: Final[dict[str, Callable[[Callable[[], int]], list[dg.AssetsDefinition]]]] = {
    "replaced": replaced,
    "packets": packets,
    "partitions": partitions,
    "packet_partitions": packet_partitions,
}


class Grown:
    """A lake that is brought from some materializations to many by the engine alone: the same commits, without Dagster."""

    def __init__(self, root: str) -> None:
        self._tables: list[tuple[str, pa.Table, dict[str, str]]] = []
        self._results: list[tuple[tuple[str, ...], pa.Table]] = []
        self._database = DeltaTableDatabase(results_root(root))
        for log in sorted(Path(root).rglob("_delta_log")):
            table = delta.open_table(str(log.parent))
            if table is None:
                continue
            newest = max(log.parent.glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns).name
            (rows,) = [
                fragment.to_table()
                for fragment in delta.dataset(table).get_fragments()
                if fragment.path.endswith(newest)
            ]
            place = log.parent.relative_to(root).parts
            if place[0] == RESULTS_FOLDER and place[1] != "results":
                continue  # what the code was, say: it does not grow with each run
            said = {k: v for k, v in delta.last_commit_metadata(table).items() if k in _SAID}
            if place[0] == RESULTS_FOLDER:
                place = log.parent.relative_to(results_root(root)).parts
                self._results.append((place, rows))
            else:
                self._tables.append((str(log.parent), rows, said))

    def materialize(self, run: int, key: str | None) -> None:
        """Write what one more materialization would have written."""
        for uri, rows, said in self._tables:
            if key is None:
                delta.replace(uri, rows.to_reader, where=None, custom_metadata=said)
                continue
            at = rows.schema.get_field_index("key")
            part = rows.set_column(at, rows.schema.field(at), pa.array([key] * len(rows), rows.schema.field(at).type))
            delta.replace(
                uri, part.to_reader, where=Equals("key", (key,)), custom_metadata={**said, PART: json.dumps([key])}
            )
        for place, rows in self._results:
            for name in (INPUT_HASH, RECORD_ID):
                at = rows.schema.get_field_index(name)
                fresh = pa.array([os.urandom(16) for _ in range(len(rows))], pa.binary())
                rows = rows.set_column(at, rows.schema.field(at), fresh)  # noqa: PLW2901
            self._database.append(place, rows.to_reader)
            self._database.compact(place)


_SAID: Final = (PART, "orcapod.data_version", "orcapod.columns", "orcapod.tags", "orcapod.identity", "orcapod.run_id")


class Project:
    """A lake with an instance of its own, and the assets that are materialized in it."""

    def __init__(self, kind: str, root: str, instance: dg.DagsterInstance) -> None:
        self._root, self._instance, self._partitioned = root, instance, "partitions" in kind
        self._run = 0
        self._assets = KINDS[kind](lambda: self._run)
        resources = packet_resources(root_uri=root, as_default=True)
        timed = TimedIOManager(root_uri=root)
        self._resources = {key: timed if isinstance(one, DeltaLakeIOManager) else one for key, one in resources.items()}

    def materialize(self) -> tuple[float, float]:
        """Materialize once more; return the processor seconds of that, and those within the IO manager."""
        key = self._next_key()
        _spent.clear()
        began = time.process_time()
        dg.materialize(self._assets, resources=self._resources, instance=self._instance, partition_key=key)
        return time.process_time() - began, sum(_spent)

    def grow(self, runs: int) -> None:
        """Bring the lake to so many materializations."""
        grown = Grown(self._root)
        while self._run < runs:
            key = self._next_key()
            grown.materialize(self._run, key)

    def _next_key(self) -> str | None:
        self._run += 1
        if not self._partitioned:
            return None
        self._instance.add_dynamic_partitions("grown", [f"key {self._run}"])
        return f"key {self._run}"


def measure(kind: str, runs: int) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the seconds of five materializations around the tenth, and the last five, of two lakes in turn."""
    with (
        tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large,
        dg.DagsterInstance.ephemeral() as one, dg.DagsterInstance.ephemeral() as other,
    ):  # fmt: skip
        few, many = Project(kind, small, one), Project(kind, large, other)
        for _ in range(7):
            few.materialize()
        for _ in range(2):
            many.materialize()
        many.grow(runs - 6)
        many.materialize()
        return [(few.materialize(), many.materialize()) for _ in range(5)]


def main() -> None:
    """Print the cost of the tenth and the last materializations of each kind."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    logging.disable(logging.CRITICAL)
    print(f"{runs} materializations of {ROWS} rows, ms of processor time; medians of five")
    print(f"{'':24}{'the 10th':>10}{'the last':>10}{'last / 10th':>13}")
    for kind in sys.argv[2:] or KINDS:
        pairs = measure(kind, runs)
        for part, name in enumerate((kind, "  in the IO manager")):
            tenth, last = (statistics.median(pair[side][part] for pair in pairs) * 1e3 for side in (0, 1))
            print(f"{name:24}{tenth:10.1f}{last:10.1f}{last / tenth:13.2f}", flush=True)


if __name__ == "__main__":
    main()
