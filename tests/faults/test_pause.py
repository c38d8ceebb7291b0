"""Campaign: a writer stands still in the middle of a write, another takes over, and the first one wakes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from campaigns import FULL, rounds

from faults import workers
from faults.harness import check_results, check_squares, finish, start, table_of
from orcapod_dagster.core.columns import INPUT_HASH
from orcapod_dagster.core.compaction import compact

pytestmark = pytest.mark.slow

POINTS = [(failpoint, table) for table in (".orcapod/results", "square") for failpoint in workers.FAILPOINTS]


def is_stopped(process: Any) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_paused_writer_wakes_after_another_took_over(processes: Any, tmp_path: Path) -> None:
    """Writers stopped at each step of a write for 60 s, while another run and a compaction finish, do no harm when they go on."""
    paused: dict[Path, Any] = {}
    for number, (failpoint, table) in enumerate(POINTS if FULL else POINTS[4:5]):
        root = tmp_path / str(number)
        stop = (failpoint, table, 1, signal.SIGSTOP)
        paused[root] = start(processes, workers.stop_at, *stop, workers.materialize, str(root), 2_000)
        while not is_stopped(paused[root]):
            assert paused[root].is_alive()
            time.sleep(0.01)
    began = time.monotonic()
    for root in paused:
        finish([start(processes, workers.materialize, str(root), 2_000)])
        check_squares(root, 2_000)
        for log in root.glob("lake/**/_delta_log"):
            compact(str(log.parent))
    time.sleep(max(0.0, rounds(1, 60) - (time.monotonic() - began)))
    for root, process in paused.items():
        os.kill(process.pid, signal.SIGCONT)
        finish([process])
        check_squares(root, 2_000)
        check_results([root / "acknowledged"])
        (results,) = (root / "lake" / ".orcapod" / "results").glob("square/*/*/*")
        assert len(set(table_of(results)[INPUT_HASH].to_pylist())) == 2_000
