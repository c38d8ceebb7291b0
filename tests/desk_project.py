"""A Dagster project over a temporary lake, for tests of the desk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from orcapod_dagster import packet_resources
from orcapod_dagster.resources import PacketExecutorResource

NUMBERS = pa.table({"id": ["a", "b", "c"], "x": pa.array([4, 0, 2], pa.int32())})


class Project:
    """Assets over a temporary lake, with an instance."""

    def __init__(self, root: Path, executor: PacketExecutorResource | None = None) -> None:
        self.root = root
        self.resources = packet_resources(str(root), executor, as_default=True)
        self.instance = dg.DagsterInstance.ephemeral()

    def run(self, *assets: Any, raises: bool = True, **options: Any) -> dg.ExecuteInProcessResult:
        """Materialize assets, and evaluate checks."""
        return dg.materialize(
            list(assets), instance=self.instance, resources=self.resources, raise_on_error=raises, **options
        )

    def definitions(self, *assets: dg.AssetsDefinition) -> dg.Definitions:
        """Return the assets with the resources of the lake."""
        return dg.Definitions(assets=list(assets), resources=self.resources)

    def files(self) -> dict[str, int]:
        """Return each file of the lake with the time of its last change."""
        return {str(p): p.stat().st_mtime_ns for p in self.root.rglob("*") if p.is_file()}


def source(name: str, table: Any, **options: Any) -> dg.AssetsDefinition:
    """Return an asset that gives a table, or what a function returns."""

    @dg.asset(name=name, **options)
    def asset() -> Any:
        return table() if callable(table) else table

    return asset
