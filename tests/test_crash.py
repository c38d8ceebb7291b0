"""A process that is killed loses at most a few seconds of finished work, and the next run ends as an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from campaigns import long_param
from deltalake import DeltaTable

SCRIPT = textwrap.dedent(
    """
    import os, sys, time
    import dagster as dg
    import pyarrow as pa
    from orcapod_dagster import packet_asset, packet_resources

    root, rows, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    calls = os.open(root + "/calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @dg.asset(io_manager_key="packet_io_manager")
    def numbers() -> pa.Table:
        return pa.table({"id": pa.array(range(rows)), "x": pa.array(range(rows))})

    def square(x: int) -> int:
        if pause:
            time.sleep(pause)
        os.write(calls, b".")
        return x * x

    asset = packet_asset(square, inputs=numbers, tag_columns=["id"], output_keys=["y"], match="version")
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([numbers, asset], instance=instance, resources=packet_resources(root + "/lake"))
        sys.exit(not result.success)
    """
)


def start(root: Path, rows: int, pause: float) -> subprocess.Popen[bytes]:
    script = root / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(root), str(rows), str(pause)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "ORCAPOD_GIT": "off"}
    )


def calls(root: Path) -> int:
    path = root / "calls"
    return path.stat().st_size if path.exists() else 0


def wait_for(root: Path, wanted: int, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while calls(root) < wanted and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("rows", "pause", "kill_after", "most_again"),
    [
        long_param(12, 1.0, 8, 6, id="slow rows"),
        long_param(400_000, 0.0, 250_000, 270_000, id="fast rows"),
        pytest.param(3_000, 0.002, 2_000, 2_000, id="millisecond rows"),
    ],
)
def test_sigkill_costs_at_most_five_seconds_of_work(
    tmp_path: Path, rows: int, pause: float, kill_after: int, most_again: int
) -> None:
    """After SIGKILL the next run computes again at most 5 s of finished work, and the table is whole."""
    process = start(tmp_path, rows, pause)
    wait_for(tmp_path, kill_after, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert calls(tmp_path) < rows
    assert start(tmp_path, rows, pause).wait(180) == 0
    again = calls(tmp_path) - rows
    assert 0 <= again <= most_again
    assert again * max(pause, 2e-5) <= 6
    table = DeltaTable(str(tmp_path / "lake" / "square")).to_pyarrow_table(columns=["id", "y"])
    assert table["id"].to_pylist() == list(range(rows))
    assert table["y"].to_pylist() == [i * i for i in range(rows)]
