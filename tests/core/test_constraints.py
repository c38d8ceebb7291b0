"""Which stored results count, in files of one version of the code and of several."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orcapod_dagster.core import ResultCache, columns as names, delta
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.contexts import VARIATION_SCHEMA, Context
from orcapod_dagster.core.databases import DeltaTableDatabase, InMemoryArrowDatabase
from orcapod_dagster.core.databases.delta import compact_records
from orcapod_dagster.core.datagrams import Datagram
from orcapod_dagster.core.delta.scanning import one_text_columns
from orcapod_dagster.core.execution_data import EXECUTION_DATA_SCHEMA

EXECUTION = {"executor_type": "local", "executor_info": {}, "python_version": "3.11.7", "extra_info": {}}


def variation(content: str) -> dict[str, str]:
    """Return what a function is, of this content hash."""
    return {
        "function_name": "f", "function_signature_hash": "s" * 70, "function_content_hash": content, "git_hash": "g"
    }  # fmt: skip


def store(cache: ResultCache, content: str, environment: str | None, count: int = 700) -> pa.Array:
    """Store results of one version of the code; return the hashes of their inputs."""
    hashes = pa.Array.from_buffers(pa.binary(16), count, [None, pa.py_buffer(os.urandom(16 * count))])
    context = Context.of(
        Datagram(variation(content), VARIATION_SCHEMA), Datagram(EXECUTION, EXECUTION_DATA_SCHEMA), environment
    )
    cache.store_batch(hashes, pa.record_batch({"y": pa.array(range(count))}), context, [0.0] * count)
    return hashes


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("kind", ["memory", "delta"])
def test_each_version_finds_its_own_results(kind: str, compacted: bool, tmp_path: Path) -> None:
    """A version's results are found whether its files hold others, nulls or only its own; one of several counts, none else."""
    database: Any = InMemoryArrowDatabase() if kind == "memory" else DeltaTableDatabase(str(tmp_path))
    cache = ResultCache(database, ("r",))
    long = "c" * 200
    stored = {content: store(cache, content, environment) for content, environment in ((long, "e"), ("other", None))}
    mixed = pa.concat_arrays([stored[long], stored["other"]])
    if compacted and kind == "delta":
        compact_records(database.uri(("r",)))

    def found(**wanted: Any) -> pa.Array:
        snapshot = cache.snapshot({names.VARIATION_PREFIX + "function_content_hash": wanted.pop("content"), **wanted})
        assert snapshot is not None
        assert len(snapshot.all_keys) == len(mixed)
        positions = snapshot.find(mixed).drop_null()
        keys = snapshot.source.take(positions, [names.INPUT_HASH])[names.INPUT_HASH].cast(pa.binary(16))
        assert keys.combine_chunks().equals(mixed.filter(pc.is_in(mixed, value_set=snapshot.keys)))
        return snapshot.keys

    assert found(content=long).equals(stored[long])
    assert found(content="other").equals(stored["other"])
    assert set(found(content=[long, "other"]).to_pylist()) == set(mixed.to_pylist())
    assert len(found(content="third")) == len(found(content=[])) == len(found(content=long[:64])) == 0
    assert found(content=long, **{names.ENVIRONMENT_HASH: "e"}).equals(stored[long])
    assert len(found(content="other", **{names.ENVIRONMENT_HASH: "e"})) == 0
    assert len(found(content=long, **{"no such column": "x"})) == 0


def test_columns_of_one_text_are_not_read(tmp_path: Path) -> None:
    """Of a file, just the columns are told apart that hold one text in every row of every row group."""
    table = pa.table(
        {
            "one": ["x" * 300] * 10, "two": ["x"] * 9 + ["y"], "null": ["x"] * 9 + [None], "nulls": pa.nulls(10, pa.string()),
            "number": [1] * 10, "bytes": [b"x"] * 10, "by_group": ["x"] * 5 + ["y"] * 5, "empty": [""] * 10,
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert one_text_columns(metadata, [*table.column_names, "missing"]) == {"one": "x" * 300, "empty": ""}
    pq.write_table(table, tmp_path / "b.parquet", write_statistics=False)
    assert one_text_columns(pq.ParquetFile(tmp_path / "b.parquet").metadata, table.column_names) == {}
    pq.write_table(table.slice(0, 0), tmp_path / "c.parquet")
    assert one_text_columns(pq.ParquetFile(tmp_path / "c.parquet").metadata, table.column_names) == {}
    other = tmp_path / "rust"
    delta.append(str(other), pa.table({"a": ["b" * 70 + "1", "b" * 70 + "2"]}).to_reader)
    table = delta.open_table(str(other))
    assert table is not None
    table.delete("a = ''")
    table.update(updates={"a": "concat(a, '')"})  # deltalake's own writer, which cuts long texts in statistics
    opened = delta.open_table(str(other))
    assert opened is not None
    (fragment,) = delta.dataset(opened).get_fragments()
    assert one_text_columns(fragment.metadata, ["a"]) == {}
