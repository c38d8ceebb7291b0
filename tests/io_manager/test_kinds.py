"""Which kinds of tables are written and loaded, and which columns of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable
from lakes import ROWS, Lake, make_asset, make_reader

from orcapod_dagster.core.errors import (
    InputError,
)
from orcapod_dagster.core.sources import DeltaSource


@pytest.mark.parametrize(
    "give",
    [
        lambda: ROWS,
        ROWS.to_reader,
        lambda: ds.dataset(ROWS),
        lambda: ROWS.to_batches()[0],
        lambda: pl.from_arrow(ROWS),
        lambda: pl.from_arrow(ROWS).lazy(),
        ROWS.to_pandas,
        ROWS.to_pylist,
    ],
    ids=["table", "reader", "dataset", "batch", "polars", "lazy", "pandas", "dicts"],
)
def test_every_kind_is_written(lake: Lake, give: Callable[[], Any]) -> None:
    """Each kind of table gives the same rows."""
    lake.write(give())
    assert lake.rows("source") == ROWS.to_pylist()


@pytest.mark.parametrize(
    ("annotation", "kind", "to_rows"),
    [
        (Any, pa.Table, pa.Table.to_pylist),
        (pa.Table, pa.Table, pa.Table.to_pylist),
        (pa.RecordBatchReader, pa.RecordBatchReader, lambda r: r.read_all().to_pylist()),
        (ds.Dataset, ds.Dataset, lambda d: d.to_table().to_pylist()),
        (pl.DataFrame, pl.DataFrame, pl.DataFrame.to_dicts),
        (pl.LazyFrame, pl.LazyFrame, lambda frame: frame.collect().to_dicts()),
        (pd.DataFrame, pd.DataFrame, lambda frame: frame.to_dict("records")),
        (list[dict[str, Any]], list, list),
        (DeltaTable, DeltaTable, lambda t: t.to_pyarrow_table().to_pylist()),
    ],
    ids=lambda value: getattr(value, "__qualname__", str(value)),  # the same in every process that collects tests
)
def test_every_kind_is_loaded(lake: Lake, annotation: Any, kind: type, to_rows: Callable[[Any], Any]) -> None:
    """A parameter receives the kind of table that its annotation asks for."""
    seen: list[Any] = []
    rows: list[Any] = []

    def read(source: Any) -> None:
        seen.append(source)
        rows.extend(to_rows(source))

    read.__annotations__ = {"source": annotation, "return": None}
    lake.run(make_asset(lambda _: ROWS), dg.asset(read))
    assert isinstance(seen[0], kind)
    assert rows == ROWS.to_pylist()


def test_columns_are_pruned(lake: Lake) -> None:
    """The input metadata `columns` limits what is loaded."""
    seen: list[Any] = []
    lake.run(make_asset(lambda _: ROWS), make_reader(pa.Table, seen, name="down", input_metadata={"columns": ["site"]}))
    assert seen[0].column_names == ["site"]


def test_a_source_is_loaded_pinned(lake: Lake) -> None:
    """With the input metadata `orcapod/load` a pinned source is given."""
    seen: list[Any] = []
    lake.run(make_asset(lambda _: ROWS), make_reader(Any, seen, name="down", input_metadata={"orcapod/load": "source"}))
    assert isinstance(seen[0], DeltaSource)
    lake.write(ROWS.slice(0, 1))
    assert seen[0].num_rows == 3


def test_dicts_with_different_keys_lose_nothing(lake: Lake) -> None:
    """A key that only a later dict has becomes a column, null in the rows before."""
    lake.write([{"a": 1}, {"a": 2, "b": "x"}])
    assert lake.rows("source") == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]


def test_a_named_pandas_index_is_kept(lake: Lake) -> None:
    """The index of a pandas frame that has a name is a column."""
    lake.write(pd.DataFrame({"v": [1]}, index=pd.Index(["x"], name="key")))
    assert lake.rows("source") == [{"v": 1, "key": "x"}]


@pytest.mark.parametrize(
    ("value", "match"), [(None, "None"), ([], "empty list"), (42, "int"), ("text", "str"), ([1], "list")]
)
def test_what_is_no_table_is_refused(lake: Lake, value: Any, match: str) -> None:
    """A value that is no table is refused with the asset's name and the value's kind, and leaves nothing behind."""
    with pytest.raises(InputError, match=f"source.*{match}"):
        lake.write(value)
    assert not (lake.root / "source").exists()


def test_a_column_that_is_not_there_is_named(lake: Lake) -> None:
    """Asking for a column that the table lacks says which, and which there are."""
    with pytest.raises(InputError, match=r"no columns \['city'\].*\['id', 'site'\]"):
        lake.run(
            make_asset(lambda _: ROWS), make_reader(pa.Table, [], name="down", input_metadata={"columns": ["city"]})
        )
