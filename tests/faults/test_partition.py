"""Campaign: 4 runs materialize the same partition at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from campaigns import rounds

from faults import workers
from faults.harness import finish, start, table_of

pytestmark = pytest.mark.slow


def check_partition(uri: Path, column: str, versions: list[list[int]]) -> None:
    """Partition "a" holds one of these versions, and "b" what it held in the beginning."""
    found = table_of(uri)
    assert found.num_rows == 40
    for site in "ab":
        mine = found.filter(pc.equal(found["site"], site))
        assert mine["id"].to_pylist() == list(range(20))
        held = mine[column].to_pylist()
        assert held in versions if site == "a" else held == [x ** (2 if column == "y" else 1) for x in range(20)]


def test_one_partition_by_four_runs_at_once(processes: Any, tmp_path: Path) -> None:
    """4 runs of one partition at once: it holds exactly one run's rows, in both assets; the other partition is untouched."""
    count = rounds(1, 100)
    finish([start(processes, workers.materialize_partition, str(tmp_path), 0, "b")])
    begin, end = processes.Barrier(5, timeout=600), processes.Barrier(5, timeout=600)
    running = [
        start(processes, workers.materialize_together, str(tmp_path), number, count, begin, end) for number in range(4)
    ]
    for round_ in range(count):
        begin.wait()
        end.wait()
        runs = range(4 * round_ + 1, 4 * round_ + 5)
        check_partition(
            tmp_path / "lake" / "numbers", "x", [list(range(run * 1_000, run * 1_000 + 20)) for run in runs]
        )
        check_partition(
            tmp_path / "lake" / "square", "y", [[x * x for x in range(run * 1_000, run * 1_000 + 20)] for run in runs]
        )
    finish(running)
