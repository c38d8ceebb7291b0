"""How campaigns start processes, and hold what the processes were told against what the tables hold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orcapod_dagster.core import delta
from orcapod_dagster.core.columns import INPUT_HASH, RECORD_ID
from orcapod_dagster.core.sources import DeltaSource


def say(text: str) -> None:
    """Tell a figure of a campaign; `make faults` shows it."""
    sys.stdout.write(f"\n{text}\n")


def start(context: Any, work: Callable[..., None], *arguments: Any) -> Any:
    """Start a process."""
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def finish(running: Sequence[Any], seconds: float = 600) -> None:
    """Wait for processes; each must end well."""
    for process in running:
        process.join(seconds)
        assert process.exitcode == 0


def rows_of(table: Any) -> pa.Table:
    """Return all rows of an opened table, in order."""
    source = DeltaSource(table)
    return pa.Table.from_batches(source.scan(source.schema.names), schema=source.schema)


def table_of(uri: str | Path) -> pa.Table:
    """Return all rows of a table; no rows where there is none."""
    table = delta.open_table(str(uri))
    return pa.table({}) if table is None else rows_of(table)


def acknowledged(paths: Iterable[Path]) -> dict[str, set[str]]:
    """Return per result table the ids of the records whose write was acknowledged."""
    records: dict[str, set[str]] = {}
    for path in paths:
        for line in path.read_text().splitlines() if path.exists() else ():
            uri, _, ids = line.rpartition(" ")
            records.setdefault(uri, set()).update(ids.split(","))
    return records


def check_results(paths: Iterable[Path], *, one_writer: bool = False) -> None:
    """Every acknowledged record is there, none twice; with one writer at a time, no packet has two results."""
    for uri, ids in acknowledged(paths).items():
        found = table_of(uri)
        there = [record.hex() for record in found[RECORD_ID].to_pylist()]
        lost = ids.difference(there)
        assert not lost, f"{uri}: {len(lost)} of {len(ids)} acknowledged records are lost"
        assert len(set(there)) == len(there), f"{uri}: {len(there) - len(set(there))} records are there twice"
        if one_writer:
            assert pc.count_distinct(found[INPUT_HASH]).as_py() == found.num_rows, f"{uri}: a packet has two results"


def check_squares(root: Path, rows: int) -> None:
    """The asset table is as an undisturbed run leaves it."""
    found = table_of(root / "lake" / "square")
    assert found["id"].to_pylist() == list(range(rows))
    assert found["y"].to_pylist() == [i * i for i in range(rows)]
