"""Ray Client (`ray://`): the cluster is elsewhere, so nothing that it tells of nodes and processes is about this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = pytest.mark.ray

HEAD = """
import socket, sys, tempfile
import ray
from ray.util.client.server.server import serve
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False, configure_logging=False)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = serve("127.0.0.1", port)
print("at", port, flush=True)
sys.stdin.read()
server.stop(0)
"""

CLIENT = """
import os, sys, tempfile, time
from functools import partial
from pathlib import Path
from orcapod_dagster.core.executors.base import RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.ray import RayExecutor

folder = Path(tempfile.mkdtemp())

def hold(folder):
    yield folder
    (folder / "down").touch()

def work(x, *, folder):
    if x:
        (folder / "began").touch()
        time.sleep(60)
    return x

killed = []
os.kill = lambda *what: killed.append(what)
options = CallOptions(slice_seconds=0.0, state={"folder": partial(hold, folder)})
results = RayExecutor(f"ray://127.0.0.1:{sys.argv[1]}").run_rows(work, [RowBatch(([0, 1],), {}, 0, 2)], call_options=options)
next(results)
while not (folder / "began").exists():
    time.sleep(0.05)
began = time.monotonic()
results.close()
print("torn down:", (folder / "down").exists(), "in time:", time.monotonic() - began < 20, "killed here:", killed, flush=True)
os._exit(0)
"""


def test_an_interrupt_reaches_rows_through_ray_client_and_nothing_here() -> None:
    """A cancelled run has its row interrupted and its state torn down on the cluster; no process of this machine gets a signal for it."""
    # Its token would be known to the processes that it starts alone.
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(
        [sys.executable, "-c", HEAD], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as head:
        assert head.stdout is not None
        port = next(line.split()[1] for line in head.stdout if line.startswith("at "))
        told = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(CLIENT), port],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        head.communicate()
    assert "torn down: True in time: True killed here: []" in told.stdout, told.stdout + told.stderr[-3000:]
