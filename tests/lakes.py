"""A lake in a temporary folder, with a Dagster instance, and assets that read and write tables in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable

from orcapod_dagster import DeltaLakeIOManager

ROWS = pa.table({"id": [1, 2, 3], "site": ["a", "b", "b"]})


class Lake:
    """A temporary lake with a Dagster instance, and a shorthand to materialize."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.instance = dg.DagsterInstance.ephemeral()
        self.io_manager = DeltaLakeIOManager(root_uri=str(root))

    def run(self, *assets: Any, **options: Any) -> dg.ExecuteInProcessResult:
        resources = {"io_manager": self.io_manager}
        return dg.materialize(list(assets), instance=self.instance, resources=resources, **options)

    def write(self, value: Any, name: str = "source", **options: Any) -> dg.ExecuteInProcessResult:
        return self.run(make_asset(lambda _: value, name, **options))

    def rows(self, *path: str) -> list[dict[str, Any]]:
        return sorted(DeltaTable(str(self.root.joinpath(*path))).to_pyarrow_table().to_pylist(), key=str)

    def version(self, name: str = "source") -> int:
        return DeltaTable(str(self.root / name)).version()


def make_asset(
    give: Callable[[dg.AssetExecutionContext], Any], name: str = "source", **options: Any
) -> dg.AssetsDefinition:
    @dg.asset(name=name, **options)
    def made(context) -> Any:
        return give(context)

    return made


def make_reader(annotation: Any, seen: list[Any], **options: Any) -> dg.AssetsDefinition:
    metadata = options.pop("input_metadata", None)

    def read(source: Any) -> None:
        seen.append(source)

    read.__annotations__ = {"source": annotation, "return": None}
    return dg.asset(ins={"source": dg.AssetIn("source", metadata=metadata)}, **options)(read)
