"""What a packet asset costs beside plain Python and plain Delta: first run, cached run, 1 % new, in one process.

Run: python benchmarks/bench_engine.py [rows …]   (default 100000 1000000)
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from orcapod_dagster import packet_asset, packet_resources


def to_celsius(fahrenheit: float) -> float:
    """Trivial on purpose: everything else is overhead."""
    return (fahrenheit - 32) * 5 / 9


asset = packet_asset(to_celsius, inputs="readings", tag_columns=["reading_id"], output_keys=["celsius"])


def make_rows(rows: int) -> pa.Table:
    """Return `reading_id: int64`, `fahrenheit: float64`, all different."""
    ids = pa.array(range(rows), pa.int64())
    return pa.table({"reading_id": ids, "fahrenheit": pa.compute.multiply(ids.cast(pa.float64()), 0.001)})


def seconds(work: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Bench:
    """One lake of one size."""

    def __init__(self, root: Path, rows: int) -> None:
        self.root = root
        self.rows = rows
        self.instance = dg.DagsterInstance.ephemeral()
        self.resources = packet_resources(root_uri=str(root / "lake"))
        self.table = make_rows(rows)

    def put(self, table: pa.Table) -> None:
        """Write the input table, outside of any measured time."""
        uri = str(self.root / "lake" / "readings")
        shutil.rmtree(uri, ignore_errors=True)
        write_deltalake(uri, table.combine_chunks())

    def run(self) -> float:
        """Materialize the packet asset; return the seconds of its step."""
        source = dg.AssetSpec("readings")
        readings = dg.AssetsDefinition(specs=[source.with_io_manager_key("packet_io_manager")])
        result: list[Any] = []
        defs = dg.Definitions(assets=[readings, asset], resources=self.resources)
        job = defs.resolve_implicit_global_asset_job_def()
        took = seconds(
            lambda: result.append(job.execute_in_process(instance=self.instance, asset_selection=[asset.key]))
        )
        if not result[0].success:
            raise SystemExit("the run failed")
        return took

    def wide_tables(self) -> list[pa.Table]:
        """Return the two tables that the first run wrote: results and asset table."""
        (results,) = [p.parent for p in (self.root / "lake" / ".orcapod" / "results").rglob("_delta_log")]
        return [DeltaTable(str(p)).to_pyarrow_table() for p in (results, self.root / "lake" / "to_celsius")]

    def plain_loop(self) -> float:
        """Call the function on every row of `to_pylist()`."""
        return seconds(lambda: [to_celsius(row["fahrenheit"]) for row in self.table.to_pylist()])

    def plain_write(self, table: pa.Table) -> float:
        """Write a table with `write_deltalake`."""
        uri = str(self.root / "plain")
        shutil.rmtree(uri, ignore_errors=True)
        return seconds(lambda: write_deltalake(uri, table))


def read(uri: Path, columns: list[str] | None = None) -> float:
    """Return the seconds of a plain read."""
    return seconds(lambda: DeltaTable(str(uri)).to_pyarrow_table(columns=columns))


def measure(rows: int) -> None:
    """Print the figures of one size."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), rows)
        bench.put(bench.table)
        first = bench.run()
        cached = min(bench.run(), bench.run())
        results, table = bench.wide_tables()
        loop, writes = bench.plain_loop(), [bench.plain_write(results), bench.plain_write(table)]
        (store,) = [p.parent for p in (bench.root / "lake" / ".orcapod" / "results").rglob("_delta_log")]
        lake = bench.root / "lake"
        keys = min(
            read(lake / "readings", ["reading_id", "fahrenheit"]) + read(store, ["__input_packet_hash"])
            for _ in range(3)
        )
        whole = read(lake / "to_celsius")
        del results, table
        bench.put(pa.concat_tables([bench.table, make_rows(rows + rows // 100).slice(rows)]))
        more = bench.run()
        plain_first = loop + sum(writes)
        plain_more = cached + 0.01 * first + 1.5 * (whole + writes[1])
        bytes_per_row = sum(f.stat().st_size for d in (store, lake / "to_celsius") for f in d.glob("*.parquet")) / rows
        print(f"\n{rows:,} rows                                   seconds   µs/row   ratio  budget")
        line("plain loop over to_pylist()", loop, rows)
        line("two plain writes of all columns", sum(writes), rows)
        line("first run", first, rows, first / plain_first, 1.5)
        line("plain read of input and keys", keys, rows)
        line("cached run", cached, rows, cached / keys, 4.0)
        line("1 % new (of cached + 1 % first + 1.5 read+write)", more, rows, more / plain_more, 1.0)
        print(f"disk, results and asset table, all versions: {bytes_per_row:.0f} bytes a row")


def line(name: str, took: float, rows: int, ratio: float | None = None, budget: float | None = None) -> None:
    """Print one figure, with its ratio and budget where it has them."""
    tail = "" if ratio is None else f"  {ratio:6.2f}  {budget:6.2f}"
    print(f"  {name:48s} {took:8.3f} {took / rows * 1e6:8.3f}{tail}")


if __name__ == "__main__":
    for size in [int(a) for a in sys.argv[1:]] or [100_000, 1_000_000]:
        measure(size)
