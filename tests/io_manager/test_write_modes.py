"""Settings of how a table is written: rows are added, once; a write that would change nothing is saved."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from lakes import ROWS, Lake, make_asset

from orcapod_dagster import DeltaLakeIOManager
from orcapod_dagster.core import delta
from orcapod_dagster.core.compaction import MANY_FILES
from orcapod_dagster.core.errors import (
    InputError,
    PartitionError,
)


def test_an_appending_asset_adds_rows(lake: Lake) -> None:
    """With write mode "append" each run adds its rows to those that are there."""
    for _ in range(2):
        lake.write(ROWS, metadata={"orcapod/write_mode": "append"})
    assert len(lake.rows("source")) == 6


def test_many_appends_are_compacted(lake: Lake) -> None:
    """The append that makes too many small files brings them together, and every row stays."""
    for n in range(MANY_FILES - 1):
        delta.append(str(lake.root / "source"), pa.table({"n": [n]}).to_reader)
    lake.write(pa.table({"n": [MANY_FILES - 1]}), metadata={"orcapod/write_mode": "append"})
    table = DeltaTable(str(lake.root / "source"))
    assert len(table.file_uris()) == 1
    assert sorted(table.to_pyarrow_table()["n"].to_pylist()) == list(range(MANY_FILES))


def test_a_retried_step_appends_once(lake: Lake) -> None:
    """A step that is tried again after its commit, by Dagster's retry policy, does not append its rows twice."""

    class Forgetful(DeltaLakeIOManager):
        def _add_metadata(self, context: Any, *rest: Any) -> None:
            if context.step_context.previous_attempt_count == 0:
                raise dg.RetryRequested
            super()._add_metadata(context, *rest)

    io_manager = Forgetful(root_uri=str(lake.root))
    source = make_asset(lambda _: ROWS, metadata={"orcapod/write_mode": "append"})
    for expected in (3, 6):
        result = dg.materialize([source], instance=lake.instance, resources={"io_manager": io_manager})
        assert result.success
        assert any(event.is_step_restarted for event in result.all_events)
        assert len(lake.rows("source")) == expected


def test_a_step_retried_after_many_commits_appends_once(lake: Lake) -> None:
    """A step that is tried again when others have committed 70 times since does not append its rows twice."""

    class Overtaken(DeltaLakeIOManager):
        def _add_metadata(self, context: Any, *rest: Any) -> None:
            if context.step_context.previous_attempt_count == 0:
                for n in range(70):
                    delta.append(str(lake.root / "source"), ROWS.slice(0, 1).to_reader, commit_id=f"other {n}")
                raise dg.RetryRequested
            super()._add_metadata(context, *rest)

    io_manager = Overtaken(root_uri=str(lake.root))
    source = make_asset(lambda _: ROWS, metadata={"orcapod/write_mode": "append"})
    result = dg.materialize([source], instance=lake.instance, resources={"io_manager": io_manager})
    assert result.success
    assert any(event.is_step_restarted for event in result.all_events)
    assert len(lake.rows("source")) == 70 + 3


def test_append_is_refused_for_partitions_and_unknown_modes(lake: Lake) -> None:
    """A partitioned asset cannot append, and an unknown write mode is named; nothing is written."""
    metadata = {"orcapod/write_mode": "append", "partition_expr": "site"}
    partitioned = make_asset(lambda _: ROWS, partitions_def=dg.StaticPartitionsDefinition(["a"]), metadata=metadata)
    with pytest.raises(PartitionError, match="'append' would keep old rows"):
        lake.run(partitioned, partition_key="a")
    with pytest.raises(InputError, match="'replace' or 'append'"):
        lake.write(ROWS, metadata={"orcapod/write_mode": "add"})
    assert not (lake.root / "source").exists()


@pytest.mark.parametrize("partitioned", [False, True])
def test_a_data_version_that_stands_makes_no_commit(lake: Lake, partitioned: bool) -> None:
    """An ordinary asset that sets the data version of the rows which are there writes nothing; after any other write it does."""
    keys = dg.StaticPartitionsDefinition(["a", "b"])
    options: dict[str, Any] = {"partitions_def": keys, "metadata": {"partition_expr": "site"}} if partitioned else {}

    def materialize(version: str | None, key: str = "a") -> int:
        @dg.asset(name="source", **options)
        def source(context) -> pa.Table:
            if version is not None:
                context.set_data_version(context.asset_key, dg.DataVersion(version))
            return pa.table({"site": [key], "value": [version or "none"]})

        lake.run(source, **({"partition_key": key} if partitioned else {}))
        return lake.version()

    first = materialize("1")
    assert materialize("1") == first
    assert materialize("2") == first + 1
    assert materialize("2") == first + 1
    if partitioned:
        assert materialize("2", "b") == first + 2
        assert materialize("2") == first + 2
        assert materialize("2", "b") == first + 2
    standing = lake.version()
    DeltaTable(str(lake.root / "source")).delete("value = '2'")
    assert materialize("2") == standing + 2
    assert materialize(None) == standing + 3
    assert materialize("2") == standing + 4


@pytest.mark.parametrize("key", ["orcapod/schema_evolution", "orcapod/write_mode"])
def test_settings_that_mean_nothing_are_refused(lake: Lake, key: str) -> None:
    """A setting with a value that there is not is named, with those that there are, and nothing is written."""
    with pytest.raises(InputError, match=rf"asset source: '{key}' is 'ad'. Give '"):
        lake.write(ROWS, metadata={key: "ad"})
    assert not (lake.root / "source").exists()
