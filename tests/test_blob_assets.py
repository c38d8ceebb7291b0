"""Assets with large values on a real Dagster instance and real Delta tables: each is stored once, beside the tables."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from orcapod_dagster import Blob, output_directory, packet_asset, packet_resources
from orcapod_dagster.core import BlobStore
from orcapod_dagster.core.errors import PacketFailuresError

MB = 1_000_000


def content(seed: int) -> bytes:
    return f"{seed:08d}".encode() * (5 * MB // 8)


@dg.asset(name="seeds")
def seeds_asset(context) -> pa.Table:
    """Give as many rows as the run's tag says."""
    count = int(context.run.tags["count"])
    return pa.table({"id": pa.array(range(count)), "seed": pa.array(range(count))})


@packet_asset(name="recordings", inputs=seeds_asset, tag_columns=["id"], output_keys=["recording", "length"])
def record(seed: int) -> tuple[Blob, int]:
    """Write a file of 5 MB, as an external program would."""
    path = output_directory() / "recording.wav"
    path.write_bytes(content(seed))
    return path, 5 * MB


@packet_asset(name="heads", inputs=record, output_keys=["head"])
def head(recording: Blob) -> bytes:
    """Read the first bytes."""
    with recording.open() as file:
        return file.read(8)


class Project:
    """A lake and a Dagster instance."""

    def __init__(self, root: Path) -> None:
        self.lake = root / "lake"
        self.instance = dg.DagsterInstance.ephemeral()

    def run(self, count: int, *assets: dg.AssetsDefinition, **options: Any) -> list[dict[str, Any]]:
        """Materialize assets with so many rows; what each of them says of it."""
        assets = assets or (record,)
        result = dg.materialize(
            [seeds_asset, *assets],
            instance=self.instance,
            resources=packet_resources(root_uri=str(self.lake)),
            tags={"count": str(count)},
            **options,
        )
        events = [result.asset_materializations_for_node(asset.op.name)[0] for asset in assets]
        found = [{key.removeprefix("orcapod/"): v.value for key, v in event.metadata.items()} for event in events]
        return [
            {**one, "version": event.tags["dagster/data_version"]} for one, event in zip(found, events, strict=True)
        ]

    def rows(self, table: str) -> list[dict[str, Any]]:
        return DeltaTable(str(self.lake / table)).to_pyarrow_table().to_pylist()

    def blobs(self) -> dict[Path, os.stat_result]:
        folder = self.lake / ".orcapod" / "blobs"
        return {path: path.stat() for path in folder.glob("??/*")}

    def bytes_on_disk(self) -> int:
        return sum(path.stat().st_size for path in self.lake.rglob("*") if path.is_file())


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    one = Project(tmp_path)
    yield one
    one.instance.dispose()


def test_a_new_row_writes_its_own_bytes(project: Project) -> None:
    """40 rows of 5 MB and one more write 5 MB, not 200; files are in place once, and no work folder is left."""
    project.run(40)
    before, blobs = project.bytes_on_disk(), project.blobs()
    assert len(blobs) == 40
    assert 200 * MB < before < 201 * MB
    (report,) = project.run(41)
    assert (report["packets_cached"], report["packets_computed"]) == (40, 1)
    assert 5 * MB < project.bytes_on_disk() - before < 5.2 * MB
    assert all(project.blobs()[path].st_ino == found.st_ino for path, found in blobs.items())
    assert not list((project.lake / ".orcapod" / "blobs" / "work").iterdir())


def test_downstream_reads_lazily_and_counts_content(project: Project) -> None:
    """A parameter opens its value; an upstream that computes equal values anew costs downstream nothing."""
    first = project.run(2, record, head)
    assert [row["head"] for row in project.rows("heads")] == [b"00000000", b"00000001"]
    again = project.run(2, record, head)
    assert [one["unchanged"] for one in again] == [True, True]
    forced = project.run(2, record, run_config={"ops": {"recordings": {"config": {"force": True}}}})
    (downstream,) = project.run(2, record, head)[1:]
    assert forced[0]["version"] == first[0]["version"]
    assert (downstream["packets_cached"], downstream["version"]) == (2, first[1]["version"])
    preview = first[0]["preview"]
    assert "5,000,000 bytes" in str(preview)


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_result_without_its_value_is_no_hit(project: Project, damage: str) -> None:
    """A value that is gone, or has another size, is computed again, also where the table stands as it should."""
    (first,) = project.run(3)
    (one, *others) = sorted(project.blobs())
    if damage == "gone":
        one.unlink()
    else:
        one.chmod(0o644)
        one.write_bytes(b"cut")
    (report,) = project.run(3)
    assert (report["packets_cached"], report["packets_computed"]) == (2, 1)
    assert report["computed_because"] == {"its large value is missing": 1}
    assert report["version"] == first["version"]
    assert one.stat().st_size == 5 * MB
    assert all(path.exists() for path in others)
    (third,) = project.run(3)
    assert third["packets_computed"] == 0
    for row in project.rows("recordings"):
        data = BlobStore(str(project.lake)).open(row["recording"]).read()
        assert len(data) == 5 * MB


def test_the_page_on_large_values_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of docs/blobs.md run as they stand there, in a project of their own."""
    text = (Path(__file__).parents[1] / "docs" / "blobs.md").read_text()
    project, reading = (block.partition("```")[0] for block in text.split("```python\n")[1:])
    (tmp_path / "page_on_blobs.py").write_text(project)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    page: Any = importlib.import_module("page_on_blobs")
    assert page.defs.resolve_implicit_global_asset_job_def().execute_in_process().success
    rows = DeltaTable("lake/first_byte").to_pyarrow_table().to_pylist()
    assert {row["trial"]: row["first"] for row in rows} == {"a": 1, "b": 2}
    exec(reading, {})


def test_failures_leave_no_files(project: Project) -> None:
    """A file that is no file fails its own packet with column and reason, and what the call wrote is removed."""

    def broken(seed: int) -> Blob:
        folder = output_directory()
        (folder / "left.bin").write_bytes(b"x" * MB)
        if seed == 0:
            return folder / "forgotten.bin"  # type: ignore[return-value]
        if seed == 1:
            raise OSError("no signal")
        return folder / "left.bin"  # type: ignore[return-value]

    asset = packet_asset(broken, inputs=seeds_asset, tag_columns=["id"], output_keys=["file"])
    with pytest.raises(PacketFailuresError, match=r"output 'file': the file .*forgotten.bin' does not exist"):
        project.run(3, asset)
    assert len(project.blobs()) == 1
    assert not list((project.lake / ".orcapod" / "blobs" / "work").iterdir())


def test_a_value_passes_through_without_being_written(project: Project) -> None:
    """A function that returns the value it received names the same file; nothing is written, nor touched in content."""

    def choose(recording: Blob, length: int) -> Blob | None:
        return recording if length else None

    asset = packet_asset(choose, inputs=record, output_keys=["chosen"])
    project.run(2, record, asset)
    assert len(project.blobs()) == 2
    paths = [{row["chosen"]["path"] for row in project.rows("choose")}]
    assert paths == [{row["recording"]["path"] for row in project.rows("recordings")}]
