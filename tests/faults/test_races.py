"""Campaigns: many processes create one table, or append to it, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from campaigns import FULL, rounds
from deltalake import DeltaTable

from faults import workers
from faults.harness import finish, start, table_of

pytestmark = pytest.mark.slow


def test_first_writers_race(processes: Any, tmp_path: Path) -> None:
    """8 processes that write the first rows of a table at once: of replacements one is the table, whole; of appends all are."""
    tables = rounds(4, 200)
    together = processes.Barrier(8, timeout=600)
    finish([start(processes, workers.create, str(tmp_path), writer, tables, together) for writer in range(8)], 3_600)
    for number in range(tables):
        assert DeltaTable(str(tmp_path / str(number))).version() == 8, "created more than once, or a write is missing"
        found = table_of(tmp_path / str(number))
        writers = found["writer"].to_pylist()[::3]
        assert sorted(writers) == list(range(8)) if number % 2 else len(writers) == 1
        assert found["row"].to_pylist() == [0, 1, 2] * len(writers)
        assert found["writer"].to_pylist() == [writer for writer in writers for _ in range(3)]


@pytest.mark.parametrize("writers", [8, 32] if FULL else [8])
def test_concurrent_appends(processes: Any, tmp_path: Path, writers: int) -> None:
    """Writers that append 20 batches each at once, to a table that is not there yet: every row is there, once."""
    uri = str(tmp_path / "t")
    batches = rounds(5, 20)
    finish([start(processes, workers.append_batches, uri, writer, batches) for writer in range(writers)], 1_200)
    found = table_of(uri)
    wanted = [(writer, batch, row) for writer in range(writers) for batch in range(batches) for row in range(5)]
    assert sorted(zip(*(found[name].to_pylist() for name in ("writer", "batch", "row")), strict=True)) == wanted
