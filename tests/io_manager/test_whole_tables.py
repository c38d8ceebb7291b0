"""Tables without partitions: replaced as a whole, described, refused by name; and where each lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from lakes import ROWS, Lake, make_asset, make_reader

from orcapod_dagster import DeltaLakeIOManager
from orcapod_dagster.core.errors import (
    LakeFormatError,
    SchemaMismatchError,
    StorageError,
    TableNotFoundError,
)


def shown_in_full(show: Callable[[Any], str]) -> Any:
    return pytest.param(show)


def test_a_second_write_replaces_the_first(lake: Lake) -> None:
    """The table holds the rows of the last materialization alone."""
    lake.write(ROWS)
    lake.write(ROWS.slice(2))
    assert lake.rows("source") == [{"id": 3, "site": "b"}]


def test_another_schema_is_refused_unless_allowed(lake: Lake) -> None:
    """Other columns are refused with the difference; the definition metadata allows them."""
    lake.write(ROWS)
    other = pa.table({"id": [1], "height": [2.5]})
    with pytest.raises(SchemaMismatchError, match=r"(?s)height.*site|site.*height"):
        lake.write(other)
    assert lake.rows("source") == ROWS.to_pylist()
    lake.write(other, metadata={"orcapod/schema_evolution": "overwrite"})
    assert lake.rows("source") == other.to_pylist()


def test_metadata_of_a_write(lake: Lake) -> None:
    """Row count, schema, names and the Delta version are shown; secrets are not."""
    lake.io_manager = DeltaLakeIOManager(
        root_uri=str(lake.root), storage_options={"aws_secret_access_key": "hidden-one"}
    )
    result = lake.write(ROWS, key_prefix=["raw"])
    (event,) = result.asset_materializations_for_node("raw__source")
    shown = {key: value.value for key, value in event.metadata.items()}
    assert shown["dagster/row_count"] == 3
    assert shown["dagster/table_name"] == "raw.source"
    assert shown["dagster/uri"] == lake.io_manager.table_uri(dg.AssetKey(["raw", "source"]))
    assert [c.name for c in shown["dagster/column_schema"].columns] == ["id", "site"]
    assert shown["orcapod/delta_version"] == DeltaTable(str(lake.root / "raw" / "source")).version()
    assert "hidden-one" not in str(event)


@pytest.mark.parametrize("show", [repr, shown_in_full(str), shown_in_full("{}".format)])
def test_secrets_are_not_shown(show: Callable[[Any], str]) -> None:
    """No text of the IO manager holds a value of its storage options."""
    manager = DeltaLakeIOManager(root_uri="s3://bucket", storage_options={"aws_secret_access_key": "hidden-one"})
    assert "hidden-one" not in show(manager)


def test_nothing_materialized_yet(lake: Lake) -> None:
    """Loading an asset without a table names the asset and says what to do."""
    with pytest.raises(TableNotFoundError, match=r"source.*[Mm]aterialize"):
        lake.run(make_asset(lambda _: ROWS), make_reader(pa.Table, [], name="down"), selection=["down"])


def test_an_unwritable_root(tmp_path: Path) -> None:
    """A file in the place of the root is a storage error."""
    (tmp_path / "file").write_text("x")
    lake = Lake(tmp_path / "file")
    with pytest.raises(StorageError, match="file"):
        lake.write(ROWS)


def test_another_format(lake: Lake) -> None:
    """A table of another format is refused, read and written."""
    DeltaTable.create(
        str(lake.root / "source"), ROWS.schema, configuration={"orcapod.format": "9"}, raise_if_key_not_exists=False
    )
    with pytest.raises(LakeFormatError, match="9"):
        lake.write(ROWS)


@pytest.mark.parametrize(
    "path",
    [
        ["..", "escaped"],
        [".orcapod", "results"],
        ["a/b"],
        ["a%2Fb"],
        ["%2E%2E"],
        ["é", "x y"],
        ["."],
        ["a", "..", "b"],
        ["x" * 300],
        ["_delta_log"],
    ],
)
def test_every_key_has_its_own_folder_below_the_root(path: list[str]) -> None:
    """No key leaves the root, takes the results' folder or holds a percent sign."""
    manager = DeltaLakeIOManager(root_uri="/lake")
    uri = manager.table_uri(dg.AssetKey(path))
    parts = uri.removeprefix("/lake/").split("/")
    assert uri.startswith("/lake/")
    assert len(parts) == len(path)
    assert not any(part.startswith(".") or not part or "%" in part or len(part) > 255 for part in parts)
    assert uri != manager.table_uri(dg.AssetKey(["a", "b"]))
    assert not uri.startswith(manager.results_root)
