"""Lines about the progress in the Dagster log, in real runs on every executor."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from campaigns import long_param
from desk_project import Project, source
from ray_clusters import small_cluster

from orcapod_dagster import (
    LocalExecutorResource,
    ProcessPoolExecutorResource,
    RayExecutorResource,
    packet_asset,
    read_logs,
)
from orcapod_dagster.resources import PacketExecutorResource

EXECUTORS = [
    long_param(LocalExecutorResource(), id="local"),
    pytest.param(ProcessPoolExecutorResource(max_workers=2), id="pool"),
    long_param(RayExecutorResource(), id="ray", marks=[pytest.mark.ray]),
]


@pytest.fixture
def ray_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """A small local cluster, where the test runs on Ray."""
    if "ray" not in request.node.callspec.id:
        yield
        return
    with small_cluster():
        yield


def run(
    root: Path, executor: PacketExecutorResource, function: Any, rows: int
) -> tuple[Project, list[tuple[float, str]]]:
    """Return the lines of the asset's step with their times, in order."""
    project = Project(root / "lake", executor)
    table = pa.table({"id": pa.array(range(rows)), "x": pa.array(range(rows))})
    made = packet_asset(
        function, inputs="numbers", tag_columns=["id"], output_keys=["y"], name="made", on_error="continue"
    )
    done = project.run(source("numbers", table), made)
    entries = project.instance.all_logs(done.run_id)
    own = [entry for entry in entries if entry.step_key == "made" and entry.dagster_event is None]
    return project, [(entry.timestamp, entry.user_message) for entry in own]


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.usefixtures("ray_cluster")
def test_slow_packets(tmp_path: Path, executor: PacketExecutorResource) -> None:
    """While packets of 12 s run, there is a line at least every 10 s, which says how many are under way; at the end a summary."""

    def slow(x: int) -> int:
        time.sleep(12)
        return 1 // (1 - x)

    project, lines = run(tmp_path, executor, slow, 2)
    told = [(at, text) for at, text in lines if "packets done" in text]
    assert len(told) >= 3
    assert all(later - earlier < 10 for (earlier, _), (later, _) in pairwise(told))
    assert re.fullmatch(
        r"made: 0 of 2 packets done \(0 %\): 0 computed, 0 failed, 0 skipped, 0 cached, [12] under way; "
        r"no packet has finished yet\.",
        told[0][1],
    )
    assert re.fullmatch(
        r"made: 2 of 2 packets done in .*: 1 computed, 1 failed, 0 skipped, 0 cached; .* packets/(s|minute)\.",
        told[-1][1],
    )
    project.instance.dispose()


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.usefixtures("ray_cluster")
def test_fast_packets(tmp_path: Path, executor: PacketExecutorResource) -> None:
    """However quickly packets finish, there is no more than a line every 5 s, and one at the end with all of them."""

    def fast(x: int) -> int:
        return x

    project, lines = run(tmp_path, executor, fast, 60_000)
    told = [at for at, text in lines if "packets done" in text]
    # The last of them is the summary, which comes when it comes.
    assert all(later - earlier > 4.5 for earlier, later in pairwise(told[:-1]))
    assert "made: 60,000 of 60,000 packets done in " in lines[-1][1]
    assert (
        "60,000 to compute (no earlier result: 60,000).\nHow far each of them is: python -m orcapod_dagster status"
        in lines[0][1]
    )
    project.instance.dispose()


def test_lines_are_no_packets_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A line that comes while a packet of this process prints is shown on stderr, and not kept as what the packet printed."""

    def prints(x: int) -> int:
        for number in range(8):
            print(number)
            time.sleep(1)
        return x

    project, lines = run(tmp_path, LocalExecutorResource(), prints, 1)
    assert len([text for _, text in lines if "1 under way" in text]) == 1
    made = packet_asset(prints, inputs="numbers", tag_columns=["id"], output_keys=["y"], name="made")
    kept = read_logs(made, str(project.root)).to_pylist()
    assert [(entry["stream"], entry["text"]) for entry in kept] == [("stdout", "0\n1\n2\n3\n4\n5\n6\n7\n")]
    assert re.search(r"dagster - INFO - .* - made - made: 0 of 1 packets done", capfd.readouterr().err)
    project.instance.dispose()


def test_a_quiet_log_level_has_no_lines(tmp_path: Path) -> None:
    """Where the instance wants warnings alone, no line is written."""
    overrides = {"python_logs": {"python_log_level": "WARNING"}}
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides=overrides) as instance:
        project = Project(tmp_path / "lake")
        project.instance.dispose()
        project.instance = instance

        def slow(x: int) -> int:
            time.sleep(6)
            return x

        made = packet_asset(slow, inputs="numbers", tag_columns=["id"], output_keys=["y"], name="made")
        done = project.run(source("numbers", pa.table({"id": [1], "x": [1]})), made)
        assert not [e for e in instance.all_logs(done.run_id) if "packets done" in e.user_message]
