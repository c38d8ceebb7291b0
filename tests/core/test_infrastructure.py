"""Errors that are nobody's but the machine's: the run ends with them, no packet fails, and what was finished is kept."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from failing import pod_of, records, stream_of

from orcapod_dagster.core.blobs.handle import Blob
from orcapod_dagster.core.blobs.keeper import output_directory
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.databases.delta import DeltaTableDatabase
from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor
from orcapod_dagster.core.failure_policy import FailurePolicy
from orcapod_dagster.core.files import File, FileReader, reader
from orcapod_dagster.core.packet_retry import PacketRetry


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def more_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)


@pytest.mark.parametrize("executor", [LocalPythonFunctionExecutor(), ProcessPoolExecutor(2)], ids=["local", "pool"])
@pytest.mark.parametrize("how", ["bytes", "file"])
def test_a_full_lake_where_large_values_are_stored(small_disk: Path, executor: Any, how: str, tmp_path: Path) -> None:
    """Where a large value does not fit into the lake, the run ends with that; earlier results stay, and no packet is failed."""

    def work(x: int) -> Blob:
        data = bytes([x]) * 400_000
        if how == "bytes":
            return Blob(data)
        path = tmp_path / f"out-{x}"
        path.write_bytes(data)
        return Blob(path)

    def pod() -> Any:
        return pod_of(
            work,
            DeltaTableDatabase(str(small_disk / ".orcapod")),
            executor,
            blobs=BlobStore(str(small_disk)),
            failures=FailurePolicy(PacketRetry(3, delay=60), max_failures=0),
        )

    first = pod()
    with pytest.raises(StorageError, match=r"(?s)function 'work': .*large value.*[Nn]o space left"):
        first.compute(first.plan(stream_of(20)))
    assert records(first, "outcomes") == []
    kept = len(records(first, "results"))
    more_room(small_disk)
    again = pod()
    plan = again.plan(stream_of(20))
    assert len(plan.to_compute) == 20 - kept
    assert again.compute(plan).failed == 0


def test_a_full_lake_where_results_are_stored(small_disk: Path) -> None:
    """Where results do not fit, the run ends with that; what was stored before stays, and the next run computes the rest."""

    def work(x: int) -> bytes:
        return os.urandom(400_000)

    def pod() -> Any:
        return pod_of(work, DeltaTableDatabase(str(small_disk)), LocalPythonFunctionExecutor())

    first = pod()
    first.compute(first.plan(stream_of(2)))
    with pytest.raises(StorageError, match=r"[Nn]o space left"):
        first.compute(first.plan(stream_of(20)))
    more_room(small_disk)
    again = pod()
    plan = again.plan(stream_of(20))
    assert plan.reasons.counts() == {"no earlier result": 18}
    assert again.compute(plan).computed == 18


def test_a_full_disk_in_the_function_is_the_packets(small_disk: Path) -> None:
    """What the user's own code raises is the packet's failure, whatever it says."""

    def work(x: int) -> int:
        with (small_disk / str(x)).open("wb") as file:
            file.write(bytes(2_000_000))
        return x

    pod = pod_of(work)
    assert pod.compute(pod.plan(stream_of(3))).failed == 2
    assert {row["error_type"] for row in records(pod, "outcomes")} == {"OSError"}


def test_output_directory_of_a_full_lake(small_disk: Path) -> None:
    """A function that cannot be given its output directory did not fail."""
    (small_disk / "fill").write_bytes(bytes(2_900_000))

    def work(x: int) -> Blob:
        return Blob(output_directory() / "x")

    store = BlobStore(str(small_disk / "no" / "room"))
    subprocess.run(["mount", "-o", "remount,nr_inodes=4", str(small_disk)], check=False)
    pod = pod_of(work, blobs=store)
    with pytest.raises(StorageError, match="large value"):
        pod.compute(pod.plan(stream_of(1)))


def test_a_mount_that_died_is_no_rows_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a file system that does not answer end the run; a file that is missing, or of a bad block, is its row's failure."""
    (tmp_path / "a").write_text("a")
    files = FileReader({"file": File})
    columns = {"file": pa.array([str(tmp_path / "a")])}

    def refuse(number: int) -> None:
        def look(path: str, kind: str) -> None:
            raise OSError(number, os.strerror(number), path)

        monkeypatch.setattr(reader, "look", look)

    before = files.contents(columns).looks
    refuse(errno.EIO)
    assert len(files.contents(columns).problems) == 1
    refuse(errno.ENOTCONN)
    with pytest.raises(StorageError, match="does not answer"):
        files.contents(columns)
    with pytest.raises(StorageError, match="does not answer"):
        files.changed(columns, before)


class InfrastructureError(Exception):
    """A user's own, of the name that ours has."""


@pytest.mark.parametrize("executor", [LocalPythonFunctionExecutor(), ProcessPoolExecutor(2)], ids=["local", "pool"])
def test_a_users_class_of_that_name_is_a_failure_of_the_packet(executor: Any) -> None:
    """A packet that raises an `InfrastructureError` of the user's own fails as any other, and the run goes on."""

    def work(x: int) -> int:
        if x == 1:
            raise InfrastructureError("no pump")
        return x

    pod = pod_of(work, executor=executor)
    report = pod.compute(pod.plan(stream_of(3)))
    assert (report.computed, report.failed) == (2, 1)
    assert [row["message"] for row in records(pod, "outcomes")] == ["no pump"]
