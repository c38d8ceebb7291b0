"""Inputs are read as they were."""

from __future__ import annotations

import datetime as dt
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from lakes import ROWS, Lake, make_reader

from orcapod_dagster.core.errors import (
    OrcapodError,
)


def test_time_travel(lake: Lake) -> None:
    """An input is read at the version, or at the time, that its metadata names."""
    lake.write(ROWS)
    moment = dt.datetime.now(dt.UTC)
    lake.write(ROWS.slice(2))
    seen: list[Any] = []
    for metadata in ({"orcapod/version": 1}, {"orcapod/timestamp": moment.isoformat()}, {}):
        lake.run(
            make_reader(pa.Table, seen, input_metadata=metadata, name="reader"),
            dg.AssetSpec("source"),
            selection="reader",
        )
    assert [table.num_rows for table in seen] == [3, 3, 1]


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"orcapod/version": 99}, "the versions are 1 to 1"),
        ({"orcapod/timestamp": "2024-01-01T00:00:00"}, "without a zone"),
        ({"orcapod/version": 1, "orcapod/timestamp": "2024-01-01T00:00:00Z"}, "Name one"),
    ],
)
def test_a_moment_that_cannot_be_read_is_named(lake: Lake, metadata: dict[str, Any], match: str) -> None:
    """A version that is not there, a time without a zone, and both at once are refused with what would do."""
    lake.write(ROWS)
    with pytest.raises(OrcapodError, match=match):
        lake.run(
            make_reader(pa.Table, [], input_metadata=metadata, name="reader"),
            dg.AssetSpec("source"),
            selection="reader",
        )
