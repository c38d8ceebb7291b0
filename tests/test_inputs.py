"""What an IO manager loads, as the source of a packet asset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from orcapod_dagster.inputs import as_source


@pytest.mark.parametrize("form", [lambda t: t, pl.from_arrow, lambda t: pl.DataFrame(pl.from_arrow(t)).lazy()])
def test_partitions_without_rows_keep_their_columns(form: Callable[[pa.Table], Any]) -> None:
    """Of several partitions, some or all of which have no rows, the rows of the others come, and the columns of all."""
    some, none = pa.table({"a": pa.array([1, 2])}), pa.table({"a": pa.array([], pa.int64())})
    for parts, rows in (([some, none], 2), ([none, some], 2), ([none, none], 0)):
        source = as_source({str(number): form(part) for number, part in enumerate(parts)}, "x")
        assert source.schema.names == ["a"]
        assert sum(batch.num_rows for batch in source.scan(["a"])) == rows


def test_a_lazy_partition_is_collected_once() -> None:
    """What a lazy frame costs, it costs once."""
    calls: list[int] = []

    class Lazy:
        def collect(self) -> pa.Table:
            calls.append(1)
            return pa.table({"a": [1]})

    as_source({"p": Lazy()}, "x")
    assert len(calls) == 1
