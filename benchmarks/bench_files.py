"""What a column of files costs beside `os.stat` and a plain read, in one process.

Run: python benchmarks/bench_files.py [files]   (default 10000, of 1 kB each)
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from orcapod_dagster.core import DeltaTableDatabase, Directory, File
from orcapod_dagster.core.files import FileMemory, FileReader

LARGE_MEBIBYTES = 256


def micros(work: Callable[[], Any], files: int, tries: int = 3) -> float:
    """Return the microseconds per file of the best of some tries."""
    best = float("inf")
    for _ in range(tries):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best * 1e6 / files


def digest_plainly(path: bytes) -> None:
    """Read a file at once and hash it."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # as a plain loop would
        hashlib.blake2b(file.read(), digest_size=32).digest()


def small(top: Path, files: int) -> None:
    """Print what many small files cost, and one directory of them."""
    data = top / "data"
    data.mkdir()
    for i in range(files):
        (data / f"{i:06}").write_bytes(os.urandom(1000))
    time.sleep(2.1)  # files that were touched just now are not remembered
    columns = {"p": pa.array([str(data / f"{i:06}") for i in range(files)])}
    paths = [os.fsencode(path) for path in columns["p"].to_pylist()]
    database = DeltaTableDatabase(str(top / "lake"))

    def contents(hint: Any = File, column: pa.Array | None = None, memory: bool = True) -> None:
        reader = FileReader({"p": hint}, memory=FileMemory(database) if memory else None)
        reader.contents({"p": columns["p"] if column is None else column})
        reader.flush()

    print(f"{files:,} files of 1 kB, µs per file")
    print(f"  os.stat, plain loop            {micros(lambda: list(map(os.stat, paths)), files):8.2f}")
    print(f"  read and hash, plain loop      {micros(lambda: list(map(digest_plainly, paths)), files):8.2f}")
    print(f"  read, nothing remembered       {micros(lambda: contents(memory=False), files):8.2f}")
    print(f"  first run, all remembered      {micros(contents, files, tries=1):8.2f}")
    print(f"  later run, none read           {micros(contents, files):8.2f}")
    one = pa.array([str(data)])
    print(f"  later run, as one directory    {micros(lambda: contents(Directory, one), files):8.2f}")
    reader = FileReader({"p": File}, memory=FileMemory(database))
    looks = reader.contents(columns).looks
    print(f"  check after the call           {micros(lambda: reader.changed(columns, looks), files):8.2f}")


def large(top: Path) -> None:
    """Print how fast large files are read, from the page cache, one and two at once."""
    paths = [top / "large0", top / "large1"]
    for path in paths:
        path.write_bytes(os.urandom(1 << 20) * LARGE_MEBIBYTES)
    for count in (1, 2):
        column = {"p": pa.array([str(path) for path in paths[:count]])}
        took = micros(lambda column=column: FileReader({"p": File}).contents(column), 1) / 1e6
        print(f"{count} × {LARGE_MEBIBYTES} MiB: {count * LARGE_MEBIBYTES / 1024 / took:.2f} GiB/s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        small(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
        large(Path(folder))
