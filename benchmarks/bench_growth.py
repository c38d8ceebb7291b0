"""Whether a materialization costs the same after many as after ten, in one process.

Run: python benchmarks/bench_growth.py [runs] [kinds]   (default 1,000 runs of all kinds)

The first and last runs are whole Dagster runs on an ephemeral instance; those between make the same commits through the engine
alone, which takes a tenth of the time. Beside each stands what the IO manager takes. Counted is the time of all processors that
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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import dagster as dg
import pyarrow as pa

from orcapod_dagster import DeltaLakeIOManager, packet_asset, packet_resources
from orcapod_dagster.core import delta
from orcapod_dagster.core.asset_write import PART
from orcapod_dagster.core.columns import INPUT_HASH, RECORD_ID
from orcapod_dagster.core.databases.delta import DeltaTableDatabase
from orcapod_dagster.core.paths import results_root
from orcapod_dagster.core.predicates import Equals

ROWS: Final = 100
FIRST: Final = 12  # whole runs at the beginning
LAST: Final = 12  # and at the end


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
            said = {k: v for k, v in delta.last_commit_metadata(table).items() if k in _SAID}
            if "results" in log.parent.relative_to(root).parts:
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


def measure(kind: str, runs: int) -> dict[int, tuple[float, float]]:
    """Return, of the first and last materializations, the processor seconds of each, and those within the IO manager."""
    seconds: dict[int, tuple[float, float]] = {}
    now = 0
    assets = KINDS[kind](lambda: now)
    with tempfile.TemporaryDirectory() as root, dg.DagsterInstance.ephemeral() as instance:
        resources = packet_resources(root_uri=root, as_default=True)
        timed = TimedIOManager(root_uri=root)
        resources = {key: timed if isinstance(one, DeltaLakeIOManager) else one for key, one in resources.items()}
        grown: Grown | None = None
        for now in range(1, runs + 1):
            key = f"key {now}" if "partitions" in kind else None
            if key is not None:
                instance.add_dynamic_partitions("grown", [key])
            if FIRST < now <= runs - LAST:
                grown = grown or Grown(root)
                grown.materialize(now, key)
                continue
            _spent.clear()
            began = time.process_time()
            dg.materialize(assets, resources=resources, instance=instance, partition_key=key)
            seconds[now] = time.process_time() - began, sum(_spent)
    return seconds


def typical(seconds: dict[int, tuple[float, float]], part: int, numbers: Iterable[int]) -> float:
    """Return the median of some materializations, in milliseconds; `part` 0 is the whole, 1 what the IO manager takes."""
    return statistics.median(seconds[number][part] for number in numbers) * 1e3


def main() -> None:
    """Print the cost of the tenth and the last materializations of each kind."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    logging.disable(logging.CRITICAL)
    print(f"{runs} materializations of {ROWS} rows, ms of processor time; medians of five")
    print(f"{'':24}{'the 10th':>10}{'the last':>10}{'last / 10th':>13}")
    for kind in sys.argv[2:] or KINDS:
        seconds = measure(kind, runs)
        for part, name in enumerate((kind, "  in the IO manager")):
            tenth = typical(seconds, part, range(8, 13))
            last = typical(seconds, part, range(runs - 4, runs + 1))
            print(f"{name:24}{tenth:10.1f}{last:10.1f}{last / tenth:13.2f}", flush=True)
        every = " ".join(f"{number}:{whole * 1e3:.0f}" for number, (whole, _) in seconds.items())
        print(f"  each: {every}", flush=True)


if __name__ == "__main__":
    main()
