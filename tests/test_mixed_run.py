"""One run with everything that goes wrong in it: 10,000 packets, of which some raise, kill their worker, hang, or are skipped."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from campaigns import long_form
from deltalake import DeltaTable
from ray_clusters import small_cluster

from orcapod_dagster import (
    PacketExecutorResource,
    ProcessPoolExecutorResource,
    RayExecutorResource,
    SkipPacket,
    packet_asset,
    packet_resources,
)

pytestmark = pytest.mark.slow

ROWS = 10_000
RAISE = {1, 17, 1_000, 4_999, 5_000, 8_191, 9_999}
KILL = {40, 3_333, 8_192}
HANG = {77, 6_400}
SKIP = {2, 500, 501, 7_777, 9_998}
FAIL = {
    **dict.fromkeys(RAISE, "ValueError"),
    **dict.fromkeys(KILL, "WorkerDeathError"),
    **dict.fromkeys(HANG, "PacketTimeoutError"),
}


def trouble(x: int, log: str = "") -> int:
    """Square a number, but for those that make trouble; all calls of these, and some others, are noted."""
    if x in FAIL or x in SKIP or x % 100 == 3:
        with Path(log).open("a") as file:
            file.write(f"{x}\n")
    if x in RAISE:
        raise ValueError(f"not {x}")
    if x in KILL:
        ctypes.string_at(0) if x == 40 else os._exit(3)
    if x in HANG:
        time.sleep(60)
    if x in SKIP:
        raise SkipPacket(f"no need of {x}")
    return x * x


@pytest.fixture
def ray_cluster() -> Iterator[PacketExecutorResource]:
    with small_cluster():
        yield RayExecutorResource()


def run(root: Path, executor: PacketExecutorResource) -> tuple[dg.ExecuteInProcessResult, list[int]]:
    """Materialize, and return the result and which packets were called of those that note it."""
    log = root / "called"
    log.write_text("")

    @dg.asset(io_manager_key="packet_io_manager")
    def numbers() -> pa.Table:
        return pa.table({"id": pa.array(range(ROWS)), "x": pa.array(range(ROWS))})

    asset = packet_asset(
        trouble,
        inputs=numbers,
        tag_columns=["id"],
        output_keys=["y"],
        params={"log": str(log)},
        on_error="continue",
        time_limit=1.0,
        capture=False,
    )
    with dg.DagsterInstance.ephemeral() as instance:
        resources = packet_resources(str(root / "lake"), executor)
        result = dg.materialize([numbers, asset], instance=instance, resources=resources)
    return result, sorted(int(line) for line in log.read_text().split())


def check(root: Path, executor: PacketExecutorResource) -> None:
    """Run twice: failures and skips are on record, all else is stored; the second run calls the failures alone."""
    counts = []
    for number in range(2):
        result, called = run(root, executor)
        assert set(called) == set(FAIL) | (set() if number else SKIP | set(range(3, ROWS, 100)))
        (event,) = result.asset_materializations_for_node("trouble")
        counts.append(
            {
                name: event.metadata[f"orcapod/packets_{name}"].value
                for name in ("computed", "failed", "skipped", "cached")
            }
        )
        table = DeltaTable(str(root / "lake" / "trouble")).to_pyarrow_table(columns=["id", "y"])
        assert table["id"].to_pylist() == [x for x in range(ROWS) if x not in FAIL.keys() | SKIP]
        assert table["y"].equals(pc.multiply(table["id"], table["id"]))
        (outcomes,) = (root / "lake" / ".orcapod" / "outcomes").glob("*/*/*/*")
        found = DeltaTable(str(outcomes)).to_pyarrow_table()
        failed = found.filter(pc.equal(found["state"], "FAILED"))
        kinds = failed["error_type"].to_pylist()
        assert sorted(kinds) == sorted(list(FAIL.values()) * (number + 1))
        assert sum(state == "SKIPPED" for state in found["state"].to_pylist()) == len(SKIP)
    stored = ROWS - len(FAIL) - len(SKIP)
    assert counts == [
        {"computed": stored, "failed": 12, "skipped": 5, "cached": 0},
        {"computed": 0, "failed": 12, "skipped": 5, "cached": stored},
    ]


def test_pool(tmp_path: Path) -> None:
    """On the process pool, 12 failures and 5 skips of 10,000 are on record, everything else is stored."""
    check(tmp_path, ProcessPoolExecutorResource(max_workers=2))


@pytest.mark.ray
@long_form
def test_ray(tmp_path: Path, ray_cluster: PacketExecutorResource) -> None:
    """The same on Ray."""
    check(tmp_path, ray_cluster)
