"""What it costs to look up 100 packets among many stored results, beside a plain query of the same Delta table.

Each figure comes from a fresh process, which opens the table; imports count in its memory, not in its seconds. The
stores have all record columns, in 1,000 commits; "compacted" is what a run leaves behind, "as written" never happens to be
left by one, for a run compacts 64 small files. On a busy machine read the processor seconds.

Run: python benchmarks/bench_lookup.py [--commits 1000] [--folder kept-for-the-next-time] [rows …]
     (default 100000 1000000 in 100 commits; the budget speaks of 1000000 10000000 in 1000)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

from orcapod_dagster.core import Datagram, DeltaTableDatabase, ResultCache
from orcapod_dagster.core.contexts import CONTEXT_NAMES, VARIATION_SCHEMA, Context
from orcapod_dagster.core.execution_data import EXECUTION_DATA_SCHEMA
from orcapod_dagster.core.hashing import hash_rows

PACKETS = 100
PATH = ("f",)
SIGNATURE, CONTENT = "sha256:" + "a" * 64, "sha256:" + "b" * 64
CONSTRAINTS = {
    "__pf_var_function_signature_hash": SIGNATURE,
    "__pf_var_function_content_hash": CONTENT,
}


def open_cache(root: Path) -> ResultCache:
    """Return the store below a folder."""
    return ResultCache(DeltaTableDatabase(str(root), durable=False), PATH)


def build(root: Path, rows: int, commits: int) -> None:
    """Store results of the numbers 0, 1, 2, … in so many commits, none of them compacted."""
    variation = {
        "function_name": "to_celsius",
        "function_signature_hash": SIGNATURE,
        "function_content_hash": CONTENT,
        "git_hash": "c" * 40,
    }
    extra = {f"key_{i}": f"some value {i}" for i in range(11)}
    execution = {"executor_type": "local", "executor_info": {}, "python_version": "3.11.4", "extra_info": extra}
    context = Context.of(Datagram(variation, VARIATION_SCHEMA), Datagram(execution, EXECUTION_DATA_SCHEMA))
    cache, size = open_cache(root), rows // commits
    durations = [0.00001 * (i % 977) for i in range(size)]
    for start in range(0, rows, size):
        numbers = pa.array(range(start, start + size), pa.int64())
        outputs = pa.record_batch({"celsius": pa.compute.multiply(numbers.cast(pa.float64()), 0.001)})
        cache.store_batch(hash_rows({"x": numbers}), outputs, context, durations)


def plan(cache: ResultCache, keys: pa.Array) -> list[float]:
    """Look up as a run does: which packets have a result, then the columns of these that an asset table takes."""
    snapshot = cache.snapshot(CONSTRAINTS, keys)
    assert snapshot is not None
    found = snapshot.find(keys).drop_null()
    columns = [name for name in snapshot.source.schema.names if name not in CONTEXT_NAMES]
    return snapshot.source.take(found, columns)["celsius"].to_pylist()


def records(cache: ResultCache, keys: pa.Array) -> list[float]:
    """Look up whole records, with every column."""
    found = cache.lookup_batch(keys, CONSTRAINTS)
    assert found is not None
    return found["celsius"].to_pylist()


def scan(cache: ResultCache, keys: pa.Array) -> list[float]:
    """Look up by the keys of all records, as for many packets."""
    snapshot = cache.snapshot(CONSTRAINTS)
    assert snapshot is not None
    return snapshot.source.take(snapshot.find(keys).drop_null(), ["celsius"])["celsius"].to_pylist()


def query(cache: ResultCache, keys: pa.Array) -> list[float]:
    """Ask deltalake's query engine for whole records."""
    database: Any = cache.database
    literals = ", ".join(f"X'{key.hex()}'" for key in keys.to_pylist())
    table = DeltaTable(database.uri(PATH))
    text = f'SELECT * FROM records WHERE "__input_packet_hash" IN ({literals})'  # hexadecimal keys
    return pa.table(QueryBuilder().register("records", table).execute(text).read_all())["celsius"].to_pylist()


WAYS: dict[str, Callable[[ResultCache, pa.Array], list[float]]] = {
    "plan and rows": plan,
    "whole records": records,
    "by reading all keys": scan,
    "plain query, whole records": query,
}


def look_up(root: Path, rows: int, way: str) -> None:
    """Print what one look-up took in this process: seconds, processor seconds, peak memory in MB."""
    numbers = random.Random(rows).sample(range(rows), PACKETS - 1)
    keys = hash_rows({"x": pa.array([*numbers, -1], pa.int64())})
    cache = open_cache(root)
    began, processor = time.perf_counter(), time.process_time()
    got = WAYS[way](cache, keys)
    took = [time.perf_counter() - began, time.process_time() - processor]
    if sorted(got) != sorted(number * 0.001 for number in numbers):
        raise SystemExit(f"{way}: found {len(got)} of {PACKETS - 1} results")
    print(json.dumps([*took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def measure(root: Path, rows: int, way: str, tries: int = 3) -> list[float]:
    """Return the least of several look-ups, each in a process of its own."""
    command = [sys.executable, __file__, "--look-up", way, "--folder", str(root), str(rows)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(tries)]
    return [min(run[i] for run in runs) for i in range(3)]


def prepare(folder: Path, rows: int, commits: int) -> dict[str, Path]:
    """Build the stores of one size where they are not there yet."""
    written, compacted = folder / f"{rows}-{commits}-written", folder / f"{rows}-{commits}-compacted"
    if not written.exists():
        build(folder / "unfinished", rows, commits)
        (folder / "unfinished").rename(written)
    if not compacted.exists():
        shutil.copytree(written, folder / "copy", dirs_exist_ok=True)
        open_cache(folder / "copy").compact()
        (folder / "copy").rename(compacted)
    return {"as written": written, "compacted": compacted}


def main() -> None:
    """Build what is missing, and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--commits", type=int, default=100)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--look-up", choices=list(WAYS))
    asked = parser.parse_args()
    if asked.look_up:
        look_up(asked.folder, asked.rows[0], asked.look_up)
        return
    with tempfile.TemporaryDirectory() as temporary:
        stores = {rows: prepare(asked.folder or Path(temporary), rows, asked.commits) for rows in asked.rows}
        print(f"{PACKETS} packets, {asked.commits:,} commits, load {os.getloadavg()[0]:.1f}")
        print(
            "store, way                                        rows        s   cpu s  peak MB  of the size before (cpu)"
        )
        for state in ("as written", "compacted"):
            for way in WAYS:
                before: list[float] | None = None
                for rows in asked.rows:
                    took = measure(stores[rows][state], rows, way)
                    ratio = "" if before is None else f"  {took[0] / before[0]:.2f} ({took[1] / before[1]:.2f})"
                    name = f"{state}, {way}"
                    print(f"{name:42s} {rows:12,d} {took[0]:8.3f} {took[1]:7.3f} {took[2]:8.0f}{ratio}", flush=True)
                    before = took


if __name__ == "__main__":
    main()
