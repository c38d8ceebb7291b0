"""What hashing and conversion cost beside what Arrow itself does with the same rows, in one process.

Run: python benchmarks/bench_types.py [rows]   (default 1000000)
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orcapod_dagster.core import PythonPacketFunction
from orcapod_dagster.core.hashing import hash_rows

SLICE = 65_536
REPEATS = 3
FLAT = {"i": int, "f": float, "s": str}
NESTED = {"l": list[float], "m": dict[str, int], "t": tuple[int, str]}


def flat(rows: int) -> pa.Table:
    """Return (int64, float64, short string), all different."""
    ids = pa.array(range(rows), pa.int64())
    return pa.table(
        {
            "i": ids,
            "f": pc.multiply(ids.cast(pa.float64()), 0.1),
            "s": pc.binary_join_element_wise("r", ids.cast(pa.string()), ""),
        }
    )


def nested(rows: int) -> pa.Table:
    """Return (list of 16 floats, map of 2 entries, struct of int and string)."""
    offsets = pa.array(range(0, 16 * rows + 1, 16), pa.int32())
    items = pc.multiply(pa.array(range(16 * rows), pa.int64()).cast(pa.float64()), 0.1)
    ids = pa.array(range(rows), pa.int64())
    keys = pa.DictionaryArray.from_arrays(pa.array([0, 1] * rows, pa.int8()), pa.array(["a", "b"])).dictionary_decode()
    entries = pa.MapArray.from_arrays(
        pa.array(range(0, 2 * rows + 1, 2), pa.int32()), keys, pa.array(range(2 * rows), pa.int64())
    )
    struct = pa.StructArray.from_arrays([ids, ids.cast(pa.string())], names=["f0", "f1"])
    return pa.table({"l": pa.ListArray.from_arrays(offsets, items), "m": entries, "t": struct})


def seconds(work: Callable[[], Any]) -> float:
    """Return the median seconds of a call."""
    found: list[float] = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def hashed(table: pa.Table) -> None:
    """Hash all rows."""
    hash_rows({name: table[name] for name in table.column_names})


def copied(table: pa.Table) -> None:
    """Let Arrow copy all rows, as the plainest work on each value."""
    table.take(pa.array(range(table.num_rows - 1, -1, -1), pa.int64()))


def plain_rows(table: pa.Table) -> None:
    """Rows to Python values and back, by Arrow alone."""
    for start in range(0, table.num_rows, SLICE):
        piece = table.slice(start, SLICE)
        columns = [column.to_pylist() for column in piece.columns]
        pa.table([pa.array(v, f.type) for v, f in zip(columns, table.schema, strict=True)], schema=table.schema)


def make_function(types: dict[str, Any]) -> PythonPacketFunction:
    """Return the function that gives back what it takes, as a packet function of these columns."""

    def same(a: Any, b: Any, c: Any) -> Any:
        return a, b, c

    names = dict(zip("abc", types.values(), strict=True))
    return PythonPacketFunction(
        same, list("xyz"), input_schema=names, output_schema=dict(zip("xyz", types.values(), strict=True))
    )


def converted(function: PythonPacketFunction, table: pa.Table) -> None:
    """Rows to the arguments of calls, checked against declared types, and the results back to columns."""
    table = table.rename_columns(list("abc"))
    for start in range(0, table.num_rows, SLICE):
        piece = table.slice(start, SLICE)
        bound = function.bind_columns({n: piece[n] for n in piece.column_names}, piece.num_rows)
        positional, _ = function.argument_columns(bound)
        function.outputs_to_batch(list(zip(*positional, strict=True)))


def main() -> None:
    """Print one table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(f"{rows:,} rows, µs per row (median of {REPEATS})")
    print(f"{'columns':38s} {'hash':>8s} {'Arrow take':>11s} {'convert':>9s} {'Arrow only':>11s}")
    for title, table, types in (
        ("int64, float64, short string", flat(rows), FLAT),
        ("list of 16 floats, map of 2, struct", nested(rows), NESTED),
    ):
        function = make_function(types)
        works = (
            lambda t=table: hashed(t),
            lambda t=table: copied(t),
            lambda t=table, f=function: converted(f, t),
            lambda t=table: plain_rows(t),
        )
        figures = [1e6 * seconds(work) / rows for work in works]
        print(f"{title:38s} {figures[0]:8.3f} {figures[1]:11.3f} {figures[2]:9.3f} {figures[3]:11.3f}", flush=True)


if __name__ == "__main__":
    main()
