"""Assets of files on a real Dagster instance: content decides what is computed, from run to run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from orcapod_dagster import Directory, File, packet_asset, packet_resources
from orcapod_dagster.core.errors import PacketFailuresError


@dg.asset(name="recordings")
def recordings_asset(context) -> pa.Table:
    """Name whatever lies in the folder that the run's tag gives."""
    folder = Path(context.run.tags["folder"])
    paths = sorted(str(path) for path in folder.iterdir())
    return pa.table({"subject": [Path(path).name for path in paths], "recording": paths})


@packet_asset(
    name="lengths", inputs=recordings_asset, tag_columns=["subject"], output_keys=["length"], carry=["recording"]
)
def length_of(recording: File) -> int:
    """Return the number of bytes."""
    return len(recording.read_bytes())


class Project:
    """A lake, a folder of recordings, and a Dagster instance."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "data"
        self.folder.mkdir()
        self.lake = root / "lake"
        self.instance = dg.DagsterInstance.ephemeral()

    def run(self, asset: dg.AssetsDefinition = length_of, **options: Any) -> dict[str, Any]:
        result = dg.materialize(
            [recordings_asset, asset],
            instance=self.instance,
            resources=packet_resources(root_uri=str(self.lake)),
            tags={"folder": str(self.folder)},
            **options,
        )
        (event,) = result.asset_materializations_for_node(asset.op.name)
        return {key.removeprefix("orcapod/"): value.value for key, value in event.metadata.items()}

    def rows(self) -> dict[str, int]:
        table = DeltaTable(str(self.lake / "lengths")).to_pyarrow_table()
        return dict(zip(table["subject"].to_pylist(), table["length"].to_pylist(), strict=True))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    one = Project(tmp_path)
    yield one
    one.instance.dispose()


def test_content_decides_what_is_computed(project: Project) -> None:
    """A changed file is computed again, its table row with it; an unchanged, a copied and a moved one are not."""
    (project.folder / "m1").write_bytes(b"1")
    (project.folder / "m2").write_bytes(b"22")
    assert project.run()["packets_computed"] == 2
    again = project.run()
    assert (again["packets_computed"], again["unchanged"]) == (0, True)
    (project.folder / "m1").rename(project.folder / "m3")
    (project.folder / "m4").write_bytes(b"22")
    (project.folder / "m2").write_bytes(b"333")
    third = project.run()
    assert (third["packets_total"], third["packets_cached"], third["packets_computed"]) == (3, 2, 1)
    assert third["computed_because"] == {"the input changed": 1}
    assert project.rows() == {"m2": 3, "m3": 1, "m4": 2}


def test_a_directory_where_a_file_is_declared_fails_its_row(project: Project) -> None:
    """The step fails with tag, column and reason; the other row is stored and not computed again."""
    (project.folder / "m1").write_bytes(b"1")
    (project.folder / "m2").mkdir()
    with pytest.raises(
        PacketFailuresError, match=r"'subject': 'm2'.*column 'recording'.*is a directory, but declared File"
    ):
        project.run()
    (project.folder / "m2").rmdir()
    (project.folder / "m2").write_bytes(b"22")
    repaired = project.run()
    assert (repaired["packets_cached"], repaired["packets_computed"]) == (1, 1)


def test_a_directory_is_one_value(project: Project) -> None:
    """A function of a `Directory` is computed again when any name or content below changes."""

    def names(recording: Directory) -> list[str]:
        return sorted(path.name for path in recording.rglob("*"))

    asset = packet_asset(names, inputs="recordings", tag_columns=["subject"], output_keys=["names"], match="version")
    (project.folder / "m1" / "day").mkdir(parents=True)
    (project.folder / "m1" / "day" / "a").write_bytes(b"1")
    assert project.run(asset)["packets_computed"] == 1
    assert project.run(asset)["packets_computed"] == 0
    (project.folder / "m1" / "day" / "b").write_bytes(b"")
    assert project.run(asset)["packets_computed"] == 1
    (project.folder / "m1" / "day" / "a").write_bytes(b"2")
    assert project.run(asset)["packets_computed"] == 1
