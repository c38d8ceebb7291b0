"""Campaign: a materialization of 10,000 rows is killed, at random moments and at each failpoint of a commit."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from campaigns import FULL, rounds

from faults import workers
from faults.harness import check_results, check_squares, finish, say, start, table_of
from orcapod_dagster.core.columns import INPUT_HASH

pytestmark = pytest.mark.slow


def check_interrupted(root: Path, rows: int) -> None:
    """After a kill: acknowledged results are there, none twice, and the asset's table is whole or not there."""
    check_results([root / "acknowledged"], one_writer=True)
    if table_of(root / "lake" / "square").num_rows:
        check_squares(root, rows)


def check_completed(root: Path, rows: int) -> None:
    """After a run that was not killed: every row, and one result per packet, made durable a few at a time."""
    check_results([root / "acknowledged"], one_writer=True)
    writes = (root / "acknowledged").read_text().splitlines()
    assert all(line.count(",") < workers.COMMITTED_ROWS for line in writes)
    check_squares(root, rows)
    (results,) = (root / "lake" / ".orcapod" / "results").glob("square/*/*/*")
    assert len(set(table_of(results)[INPUT_HASH].to_pylist())) == table_of(results).num_rows == rows


def test_sigkill_at_random_moments_of_a_materialization(processes: Any, tmp_path: Path) -> None:
    """SIGKILL at random moments of a 10,000-row materialization: acknowledged results stay, none twice, tables are whole."""
    pick = random.Random(1)
    seconds = complete(processes, tmp_path / "0")
    kills = lake = 0
    while kills < rounds(3, 200):
        root = tmp_path / str(lake + 1)
        process = start(processes, workers.materialize, str(root), workers.ROWS)
        process.join(pick.uniform(0, seconds))
        killed = process.is_alive()
        process.kill()
        process.join()
        kills += killed
        check_interrupted(root, workers.ROWS)
        if pick.random() < 0.2 or not killed:
            complete(processes, root)
            seconds = complete(processes, tmp_path / f"{lake}-undisturbed") if not killed else seconds
            lake += 1
        if kills % 20 == 0:
            say(f"{kills} kills in {lake + 1} lakes")


def complete(processes: Any, root: Path) -> float:
    """Materialize without a kill; return how many seconds that took."""
    began = time.monotonic()
    finish([start(processes, workers.materialize, str(root), workers.ROWS)])
    seconds = time.monotonic() - began
    check_completed(root, workers.ROWS)
    return seconds


PLACES = [("numbers", 1), (".orcapod/results", 1), (".orcapod/results", 3), ("square", 1)]
"""Table, and at which passage; only the first one creates it."""
POINTS = [
    (failpoint, *place)
    for failpoint in workers.FAILPOINTS
    for place in PLACES
    if place[1] == 1 or "created" not in failpoint
]


FEW_POINTS = [
    ("after the files", ".orcapod/results", 3),
    ("after the table is created", ".orcapod/results", 1),
    ("before the commit", "square", 1),
    ("after the commit", ".orcapod/results", 3),
    ("before the sync", ".orcapod/results", 1),
]


@pytest.mark.parametrize(("failpoint", "table", "passage"), POINTS if FULL else FEW_POINTS)
def test_sigkill_at_each_failpoint(processes: Any, tmp_path: Path, failpoint: str, table: str, passage: int) -> None:
    """Killed between data file, creation, commit and acknowledgement of any table: the next run completes."""
    die = (failpoint, table, passage, signal.SIGKILL)
    process = start(processes, workers.stop_at, *die, workers.materialize, str(tmp_path), 2_000)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    check_interrupted(tmp_path, 2_000)
    finish([start(processes, workers.materialize, str(tmp_path), 2_000)])
    check_completed(tmp_path, 2_000)
