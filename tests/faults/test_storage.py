"""Campaign: the storage is full, read-only, forbidden or broken, at each call that writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from campaigns import FULL, rounds

from faults import refusals, workers
from faults.harness import say, start, table_of
from orcapod_dagster.core import delta

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def refusal_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes calls fail, built from C, for those that write are made in Rust and C++."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler: calls of Rust and C++ can be refused only from a preloaded library")
    library = tmp_path_factory.mktemp("library") / "refusal.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(HERE / "refusal.c"), "-ldl"],
        check=True,
    )
    return library


@pytest.mark.parametrize("name", refusals.SCENARIOS)
def test_each_write_call_is_refused(refusal_library: Path, tmp_path: Path, name: str) -> None:
    """Whichever call fails, and how: a clear error or success, nothing lost, and the next run completes."""
    whole_run = name == "materialization"
    stride = rounds(120 if whole_run else 9, 1)
    errors = "each" if FULL and not whole_run else "in-turn"
    done = subprocess.run(
        [sys.executable, "-m", "faults.refusals", name, str(tmp_path), str(stride), errors],
        env={**os.environ, "LD_PRELOAD": str(refusal_library), "PYTHONPATH": f"{HERE.parent}:{HERE.parents[1]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    calls, refused, failed = map(int, re.findall(r"\d+", done.stdout.splitlines()[-1]))
    say(f"{name}: {calls} calls, {refused} times one was refused, {failed} times the work failed")
    assert calls > 5
    assert refused > 0
    assert failed > 0


@pytest.mark.parametrize("limit", [10, 600, 1_500, 20_000, 150_000] if FULL else [600, 20_000])
def test_files_that_cannot_grow(processes: Any, tmp_path: Path, limit: int) -> None:
    """When files cannot grow, the write ends in a clear error, what was there stays, and the next write completes."""
    uri = str(tmp_path / "t")
    before = pa.table({"id": pa.array([-1]), "text": ["kept"]})
    delta.append(uri, before.to_reader)
    process = start(processes, workers.write_with_little_space, uri, limit)
    process.join()
    assert table_of(uri).num_rows in (1, 1 + workers.ROWS)
    if process.exitcode == 3:
        assert (tmp_path / "t.error").read_text().startswith("StorageError: ")
        assert table_of(uri).num_rows == 1
    else:
        assert process.exitcode == 0
    delta.append(uri, before.to_reader)
    assert table_of(uri)["text"].to_pylist().count("kept") == 2
