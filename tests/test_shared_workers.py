"""Three packet assets side by side share the machine's workers, and one local Ray cluster, which goes when the last of them ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from campaigns import long_form
from deltalake import DeltaTable

from orcapod_dagster import ProcessPoolExecutorResource, RayExecutorResource, packet_asset, packet_resources
from orcapod_dagster.resources import PacketExecutorResource

ASSETS = ("one", "two", "three")
ROWS = 12
WAIT_SECONDS = 120.0
SIDE_BY_SIDE = dg.multiprocess_executor.configured({"max_concurrent": len(ASSETS)})


@dg.asset
def numbers() -> pa.Table:
    return pa.table({"id": pa.array(range(ROWS)), "x": pa.array(range(ROWS))})


def timed(x: int, asset: str, lake: str) -> tuple[float, float, int, str]:
    """Take half a second, the first row until all assets have begun; tell when, in which process, and on which Ray cluster."""
    began = time.time()
    Path(lake, f"begun {asset}").touch()
    while x == 0 and len(list(Path(lake).glob("begun *"))) < len(ASSETS) and time.time() - began < WAIT_SECONDS:
        time.sleep(0.1)
    time.sleep(0.5)
    ray: Any = sys.modules.get("ray")
    cluster = ray.get_runtime_context().gcs_address if ray is not None and ray.is_initialized() else ""
    return began, time.time(), os.getpid(), cluster


def job_of(executor: PacketExecutorResource, step_executor: dg.ExecutorDefinition, **options: Any) -> dg.JobDefinition:
    """Return a job of three assets of one function over `numbers`."""
    assets = [
        packet_asset(
            timed, inputs=numbers, tag_columns=["id"], name=name, output_keys=["began", "ended", "pid", "cluster"],
            params={"asset": name, "lake": os.environ["SHARED_WORKERS_LAKE"]}, executor_options=options,
            ignore=["os.getpid", "time.time"],
        )
        for name in ASSETS
    ]  # fmt: skip
    resources = packet_resources(os.environ["SHARED_WORKERS_LAKE"], executor, as_default=True)
    jobs = [dg.define_asset_job("all", executor_def=step_executor)]
    return dg.Definitions([numbers, *assets], jobs=jobs, resources=resources).resolve_job_def("all")


def pool_job() -> dg.JobDefinition:
    return job_of(ProcessPoolExecutorResource(max_workers=2), SIDE_BY_SIDE)


def pool_job_in_process() -> dg.JobDefinition:
    return job_of(ProcessPoolExecutorResource(max_workers=2), dg.in_process_executor)


def ray_job() -> dg.JobDefinition:
    return job_of(RayExecutorResource(), SIDE_BY_SIDE, num_cpus=0.5)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lake that the processes of steps know by the environment; they look for this module in the working directory."""
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.setenv("SHARED_WORKERS_LAKE", str(tmp_path / "lake"))
    (tmp_path / "lake").mkdir()
    return tmp_path / "lake"


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files of its own, for what processes share lies there; short, for Ray's sockets lie there, too."""
    folder = Path(tempfile.mkdtemp(prefix="ow-", dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run(job: Any) -> None:
    """Run a job as Dagster does, its steps in processes of their own where its executor says so."""
    with dg.instance_for_test() as instance, dg.execute_job(dg.reconstructable(job), instance=instance) as done:
        assert done.success


def calls(lake: Path) -> dict[str, pa.Table]:
    """Return when each call of each asset was."""
    return {name: DeltaTable(str(lake / name)).to_pyarrow_table() for name in ASSETS}


def most_at_once(tables: dict[str, pa.Table]) -> int:
    """Return how many calls there were at a time, at most."""
    events = [(row["began"], 1) for table in tables.values() for row in table.to_pylist()]
    events += [(row["ended"], -1) for table in tables.values() for row in table.to_pylist()]
    running, most = 0, 0
    for _, step in sorted(events):
        running += step
        most = max(most, running)
    return most


def overlap(tables: dict[str, pa.Table]) -> float:
    """Return for how many seconds calls of all assets went on."""
    began = max(min(table["began"].to_pylist()) for table in tables.values())
    return min(max(table["ended"].to_pylist()) for table in tables.values()) - began


@long_form
def test_steps_in_processes_share_the_pool(lake: Path, short_folder: Path) -> None:
    """With max_workers=2 and three steps at once, there are never more than 2 workers and one per step, and each step goes on."""
    run(pool_job)
    tables = calls(lake)
    assert most_at_once(tables) <= 2 + len(ASSETS)
    assert all(table.num_rows == ROWS for table in tables.values())
    assert overlap(tables) > 0
    assert not list((short_folder / f"orcapod-workers-{os.getuid()}").iterdir())


def test_steps_in_one_process_have_the_pool_in_turn(lake: Path, short_folder: Path) -> None:
    """Steps of the in-process executor follow one another, each with all the workers, and leave no process behind."""
    for name in ASSETS:
        (lake / f"begun {name}").touch()
    run(pool_job_in_process)
    tables = calls(lake)
    assert most_at_once(tables) == 2
    pids = {pid for table in tables.values() for pid in table["pid"].to_pylist()}
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not list((short_folder / f"orcapod-workers-{os.getuid()}").iterdir())


def is_open(address: str) -> bool:
    """Tell whether anybody listens there."""
    host, _, port = address.rpartition(":")
    with socket.socket() as one:
        one.settimeout(1)
        return one.connect_ex((host, int(port))) == 0


def gone(address: str, seconds: float = 60.0) -> bool:
    """Tell whether a cluster ends within some seconds."""
    until = time.monotonic() + seconds
    while is_open(address) and time.monotonic() < until:
        time.sleep(0.5)
    return not is_open(address)


@pytest.mark.ray
@long_form
@pytest.mark.usefixtures("short_folder")
def test_steps_in_processes_share_one_ray_cluster(lake: Path) -> None:
    """Three steps at once run on one local cluster, and nothing of it is left some seconds after the last of them."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    run(ray_job)
    tables = calls(lake)
    (address,) = {cluster for table in tables.values() for cluster in table["cluster"].to_pylist()}
    assert all(table.num_rows == ROWS for table in tables.values())
    assert overlap(tables) > 0
    cores = len(os.sched_getaffinity(0))
    assert most_at_once(tables) <= 2 * cores
    assert gone(address)


MEMBER = """
import sys
import ray
from orcapod_dagster.core.executors.ray import RayExecutor
RayExecutor().connect()
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


def member() -> tuple[subprocess.Popen[str], str]:
    """Start a process that shares the cluster; return it with the address that it has."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(MEMBER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.ray
@long_form
def test_a_cluster_outlives_who_started_it(short_folder: Path) -> None:
    """When the first member is killed, others go on with the cluster; when its keeper is, all of it goes, and who comes has a new one."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    first, address = member()
    second, same = member()
    assert same == address
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(12)  # longer than a cluster without members goes on
    third, still = member()
    assert still == address
    (keeper,) = _keepers(short_folder)
    os.kill(keeper, signal.SIGKILL)
    assert gone(address)
    fourth, other = member()
    assert other != address
    for process in (second, third, fourth):
        process.kill()
        process.wait()
    assert gone(other)
    until = time.monotonic() + 60
    while _keepers(short_folder) and time.monotonic() < until:
        time.sleep(0.5)
    assert not _keepers(short_folder)


def _keepers(folder: Path) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(w.endswith(b"ray_keeper.py") for w in words) and any(w.startswith(bytes(folder)) for w in words):
                found.append(int(entry.name))
    return found
