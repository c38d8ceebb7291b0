"""A process that is killed loses at most a few seconds of finished work, and the next run ends as an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from campaigns import long_param
from deltalake import DeltaTable

SCRIPT = textwrap.dedent(
    """
    import os, signal, sys, time
    import dagster as dg
    import pyarrow as pa
    from orcapod_dagster import packet_asset, packet_resources

    root, rows, pause, dies_after = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    calls = os.open(root + "/calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    left = [dies_after]

    @dg.asset(io_manager_key="packet_io_manager")
    def numbers() -> pa.Table:
        return pa.table({"id": pa.array(range(rows)), "x": pa.array(range(rows))})

    def square(x: int) -> int:
        if pause:
            time.sleep(pause)
        os.write(calls, b".")
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return x * x

    asset = packet_asset(square, inputs=numbers, tag_columns=["id"], output_keys=["y"], match="version")
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([numbers, asset], instance=instance, resources=packet_resources(root + "/lake"))
        sys.exit(not result.success)
    """
)


def run(root: Path, rows: int, pause: float, dies_after: int = 0) -> int:
    """Materialize in a process, which is killed at the end of a call if it is to be, and return its exit code."""
    script = root / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(root), str(rows), str(pause), str(dies_after)]
    environment = {**os.environ, "ORCAPOD_GIT": "off"}
    return subprocess.run(command, capture_output=True, env=environment, timeout=300, check=False).returncode


def calls(root: Path) -> int:
    return (root / "calls").stat().st_size


@pytest.mark.parametrize(
    ("rows", "pause", "dies_after", "most_again"),
    [
        long_param(12, 1.0, 8, 5, id="slow rows"),
        long_param(400_000, 0.0, 250_000, 170_000, id="fast rows"),
        pytest.param(3_700, 0.002, 3_600, 2_500, id="millisecond rows"),
    ],
)
def test_sigkill_costs_at_most_five_seconds_of_work(
    tmp_path: Path, rows: int, pause: float, dies_after: int, most_again: int
) -> None:
    """After SIGKILL the next run computes again at most 5 s, or some 131,072 rows, of finished work, and the table is whole."""
    assert run(tmp_path, rows, pause, dies_after) == -signal.SIGKILL
    assert calls(tmp_path) == dies_after
    assert run(tmp_path, rows, pause) == 0
    assert 0 <= calls(tmp_path) - rows <= most_again
    table = DeltaTable(str(tmp_path / "lake" / "square")).to_pyarrow_table(columns=["id", "y"])
    assert table["id"].to_pylist() == list(range(rows))
    assert table["y"].to_pylist() == [i * i for i in range(rows)]
