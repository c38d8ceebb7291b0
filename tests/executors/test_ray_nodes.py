"""Ray clusters of several nodes, one of which is lost: no packet is to blame, and every row has its value."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from campaigns import long_form, long_param

pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow]

# In a process of its own: the cluster's nodes are processes of it, and a process has one connection to Ray.
CLUSTER = """
import os, sys, threading, time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from orcapod_dagster.core.errors import ExecutorError
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.ray import RayExecutor
from orcapod_dagster.testing.executors import gather, make_batches

MEMORY = {"object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **MEMORY})
ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
CALLS = CallOptions(slice_seconds=0.3)

def node(x):
    return ray.get_runtime_context().get_node_id()

def slow(x):
    time.sleep(0.05)
    return x, ray.get_runtime_context().get_node_id(), bytes(100_000 if x % 2 else 1)

def rows(number):
    return make_batches(range(number), rows=20)
"""

LOST = """
second = cluster.add_node(num_cpus=2, resources={"site": 2.0}, **MEMORY)
third = cluster.add_node(num_cpus=2, **MEMORY)
placed, _ = gather(RayExecutor(resources={"site": 0.5}).run_rows(node, rows(40)), 40)
assert set(placed) == {second.node_id}, placed

found, lost = [], False
for result in RayExecutor().run_rows(slow, rows(600), call_options=CALLS):
    found.append(result)
    if not lost and any(output[1] == third.node_id for output in result.outputs):
        lost = True
        HOW
outputs, slices = gather(iter(found), 600)
assert [x for x, _, _ in outputs] == list(range(600))
assert not any(result.failures for result in found)
nodes = {where for _, where, _ in outputs}
assert len(nodes) == 3, nodes
print("ok", flush=True)
"""

GONE = """
began = time.monotonic()
try:
    for result in RayExecutor().run_rows(slow, rows(600), call_options=CALLS):
        cluster.head_node.kill_all_processes(check_alive=False)
except ExecutorError as error:
    print(error, flush=True)
    print(repr(error.__cause__), flush=True)
print("ok" if time.monotonic() - began < 45 else f"late: {time.monotonic() - began}", flush=True)
# Ray ends a process that is connected to a cluster whose head is gone; this one goes on.
assert not ray.is_initialized()
os._exit(0)
"""


def run(tmp_path_factory: pytest.TempPathFactory, text: str) -> list[str]:
    """Run a script with a cluster, and return the lines that it printed; Ray prints some, too."""
    folder = tmp_path_factory.mktemp("ray")
    script = folder / "script.py"
    script.write_text(textwrap.dedent(CLUSTER + text))
    # A folder of its own, for Ray notes there which cluster is this machine's; a short path, for sockets lie in it.
    short = Path("/tmp") / f"orcapod-{folder.parent.name[-6:]}-{folder.name}"
    found = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "RAY_TMPDIR": str(short)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    shutil.rmtree(short, ignore_errors=True)
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-4000:]
    return found.stdout.splitlines()


@pytest.mark.parametrize(
    "how",
    [
        long_param("third.kill_all_processes(check_alive=False, allow_graceful=False)", id="killed"),
        long_param("cluster.remove_node(third, allow_graceful=True)", id="drained"),
    ],
)
def test_a_node_that_is_lost_costs_no_packet(tmp_path_factory: pytest.TempPathFactory, how: str) -> None:
    """Tasks are placed by resources; when one of three nodes goes, in the middle, all rows have their value, and none fails."""
    assert "ok" in run(tmp_path_factory, LOST.replace("HOW", how))


@long_form
def test_a_cluster_that_is_gone_is_an_executor_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    """When the head goes, the run ends at once with an error of its own, and its process lives on."""
    said = run(tmp_path_factory, GONE)
    assert any(line.startswith("The Ray cluster is gone") for line in said)
    assert "ok" in said
