"""Whether a materialization costs the same after many as after ten, in one process.

Run: python benchmarks/bench_growth.py [runs] [kinds]   (default 60 runs; kinds: replaced, packets, partitions)

Each run is a whole Dagster run on an ephemeral instance; beside it stands what the IO manager takes. Counted is the time of
all processors that the process uses, so that a busy machine says the same.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, Final

import dagster as dg
import pyarrow as pa

from orcapod_dagster import DeltaLakeIOManager, packet_asset, packet_resources

ROWS: Final = 100
AROUND: Final = 5  # materializations on each side, of which the median counts


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
    options: dict[str, Any] = {"partitions_def": PARTITIONS, "metadata": {"partition_expr": "key"}}

    @dg.asset(**options)
    def source(context) -> pa.Table:  # dagster takes no annotation that is text
        return rows_of(run(), context.partition_key)

    @dg.asset(**options)
    def copied(source: pa.Table) -> pa.Table:
        return source

    return [source, copied]


PARTITIONS: Final = dg.DynamicPartitionsDefinition(name="grown")
KINDS: Final[dict[str, Callable[[Callable[[], int]], list[dg.AssetsDefinition]]]] = {
    "replaced": replaced,
    "packets": packets,
    "partitions": partitions,
}


def measure(kind: str, runs: int) -> list[tuple[float, float]]:
    """Return the processor seconds of each materialization, and those within the IO manager."""
    seconds: list[tuple[float, float]] = []
    assets = KINDS[kind](lambda: len(seconds))
    with tempfile.TemporaryDirectory() as root, dg.DagsterInstance.ephemeral() as instance:
        resources = packet_resources(root_uri=root, as_default=True)
        timed = TimedIOManager(root_uri=root)
        resources = {key: timed if isinstance(one, DeltaLakeIOManager) else one for key, one in resources.items()}
        for number in range(runs):
            key = f"key {number}" if kind == "partitions" else None
            if key is not None:
                instance.add_dynamic_partitions("grown", [key])
            _spent.clear()
            began = time.process_time()
            dg.materialize(assets, resources=resources, instance=instance, partition_key=key)
            seconds.append((time.process_time() - began, sum(_spent)))
    return seconds


def typical(seconds: list[float], at: int) -> float:
    """Return the median of the materializations around one, in milliseconds."""
    return statistics.median(seconds[max(1, at - AROUND) : at + AROUND]) * 1e3


def main() -> None:
    """Print the cost of the tenth and the last materializations of each kind."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    logging.disable(logging.CRITICAL)
    print(f"{runs} materializations of {ROWS} rows, ms of processor time")
    print(f"{'':24}{'the 10th':>10}{'the middle':>12}{'the last':>10}{'last / 10th':>13}")
    for kind in sys.argv[2:] or KINDS:
        whole, inside = zip(*measure(kind, runs), strict=True)
        for name, seconds in ((kind, list(whole)), ("  in the IO manager", list(inside))):
            tenth, middle, last = (typical(seconds, at) for at in (10, runs // 2, runs - AROUND))
            print(f"{name:24}{tenth:10.1f}{middle:12.1f}{last:10.1f}{last / tenth:13.2f}", flush=True)


if __name__ == "__main__":
    main()
