"""What one IO manager makes of each cell: kind of partitions × column × way to write or read × spelling of keys.

Run by `compare_io_managers.py` in an environment of its own; needs nothing but Dagster, pyarrow and that IO manager. Writes go
through real Dagster runs; what the table holds then is read by deltalake itself and compared with a plain dict.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import logging
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "date": pa.date32(),
    "aware": pa.timestamp("us", "UTC"),
    "naive": pa.timestamp("us"),
}
SITES = ["a", "b", "c", "d", "e"]
NUMBERS = ["1", "10", "-2", "300", "7"]
DATES = ["2024-02-28", "2024-02-29", "2024-03-01", "2024-03-02", "2024-03-03"]
SPELLINGS = {
    "single quote": "it's",
    "double quote": 'say "x"',
    "slash": "x/y",
    "backslash": "x\\y",
    "percent": "100%",
    "percent encoding": "x%2Fy",
    "space": " x  y ",
    "umlaut, composed": "\u00fc",
    "umlaut, decomposed": "u\u0308",
    "emoji": "\U0001f426",
    "empty string": "",
    "leading dot": ".x",
    "two dots": "..",
    "equals sign": "part=b",
    "pipe": "a|b",
    "SQL": "x' OR '1'='1",
    "SQL comment": "x'; DROP TABLE rows; --",
    "LIKE pattern": "_%",
    "NULL": "NULL",
    "hive null": "__HIVE_DEFAULT_PARTITION__",
    "300 characters": "x" * 300,
    "newline": "x\ny",
}
KINDS: dict[str, Callable[[], Any]] = {
    "static": lambda: dg.StaticPartitionsDefinition(SITES),
    "static numbers": lambda: dg.StaticPartitionsDefinition(NUMBERS),
    "static dates": lambda: dg.StaticPartitionsDefinition(DATES),
    "dynamic": lambda: dg.DynamicPartitionsDefinition(name="sites"),
    "daily": lambda: dg.DailyPartitionsDefinition("2024-03-29", end_date="2024-04-10"),
    "daily in Berlin": lambda: dg.DailyPartitionsDefinition("2024-03-29", end_date="2024-04-10", timezone="Europe/Berlin"),
    "hourly": lambda: dg.HourlyPartitionsDefinition("2024-03-31-00:00", end_date="2024-03-31-12:00"),
    "weekly": lambda: dg.WeeklyPartitionsDefinition("2024-01-07", end_date="2024-03-31"),
    "monthly": lambda: dg.MonthlyPartitionsDefinition("2023-11-01", end_date="2024-08-01"),
    "every six hours": lambda: dg.TimeWindowPartitionsDefinition("2024-03-30 00:00", "%Y-%m-%d %H:%M", cron_schedule="0 */6 * * *", end="2024-04-02 00:00"),
    "two dimensions": lambda: dg.MultiPartitionsDefinition({"day": KINDS["daily"](), "site": dg.StaticPartitionsDefinition(SITES)}),
}  # fmt: skip
COLUMNS = {
    "static": ["string"],
    "static numbers": ["string", "int64"],
    "static dates": ["string", "date", "aware", "naive"],
    "dynamic": ["string"],
    "hourly": ["string", "aware", "aware, within", "naive", "naive, within"],
    "every six hours": ["string", "aware", "aware, within", "naive", "naive, within"],
    "weekly": ["string", "date", "date, within", "aware", "aware, within", "naive", "naive, within"],
    "monthly": ["string", "date", "date, within", "aware", "aware, within", "naive", "naive, within"],
}
DAYS = ["string", "date", "aware", "aware, within", "naive", "naive, within"]
PATTERNS = ["single", "repeated", "range", "sparse", "read one", "read all"]
MORE_PATTERNS = ["empty range", "no rows", "at once"]
GRID = ["2024-03-29|a", "2024-03-30|a", "2024-03-30|b", "2024-03-30|c", "2024-03-31|b"]
PROGRAMMING = (AttributeError, KeyError, IndexError, TypeError, NameError, AssertionError, UnboundLocalError)


@dataclass(frozen=True)
class Library:
    """How a library is used, as its documentation says.

    Attributes:
        packages: whose versions are shown. module: where its own errors are raised.
        manager: root → IO manager. frame: the class that assets return. wrap: Arrow table → frame. unwrap: back.
        expr: the metadata that names the partition column.
    """

    packages: tuple[str, ...]
    module: str
    manager: Callable[[str], Any]
    expr: str
    frame: Any = pa.Table
    wrap: Callable[[pa.Table], Any] = lambda table: table
    unwrap: Callable[[Any], pa.Table] = pa.table


def library(name: str) -> Library:
    """Return how to use a library; imports it."""
    if name == "orcapod-dagster":
        from orcapod_dagster import DeltaLakeIOManager

        return Library((name,), "orcapod_dagster", lambda root: DeltaLakeIOManager(root_uri=root), "partition_expr")
    if name == "dagster-polars":
        import polars as pl
        from dagster_polars import PolarsDeltaIOManager

        return Library(
            (name, "polars"), "dagster_polars", lambda root: PolarsDeltaIOManager(base_dir=root), "partition_by", pl.DataFrame, pl.from_arrow, lambda frame: frame.to_arrow()
        )  # fmt: skip
    module = __import__(name.replace("-", "_"))
    return Library(
        (name,),
        name.replace("-", "_"),
        lambda root: module.DeltaLakePyarrowIOManager(root_uri=root, storage_options=module.LocalConfig()),
        "partition_expr",
    )


# ---------------------------------------------------------------------------- one cell


class Cell:
    """One asset in a lake of its own, and what each of its partitions should hold."""

    def __init__(self, used: Library, instance: dg.DagsterInstance, kind: str, column: str, keys: list[str]) -> None:
        self.used, self.instance, self.kind = used, instance, kind
        self.column, self.within = column.split(",", maxsplit=1)[0], "within" in column
        self.root = Path(tempfile.mkdtemp(prefix="cell-"))
        self.definition = KINDS[kind]() if kind in KINDS else dg.StaticPartitionsDefinition(list(dict.fromkeys(keys)))
        self.keys = keys
        self.expected: dict[str, int] = {}
        self.turn = 0
        self.empty = False

    def value_of(self, key: str) -> Any:
        """Return a value of the column that lies in a partition: its key, its beginning, or well within it."""
        if self.column == "string":
            return key
        day = self.definition.partitions_defs[0].partitions_def if self.kind == "two dimensions" else self.definition
        if not hasattr(day, "time_window_for_partition_key"):
            return {"int64": int, "date": dt.date.fromisoformat}.get(self.column, dt.datetime.fromisoformat)(key)
        start = day.time_window_for_partition_key(key).start
        if self.within:
            start += dt.timedelta(days=3) if self.column == "date" else dt.timedelta(minutes=30)
        return (
            start.date() if self.column == "date" else start if self.column == "aware" else start.replace(tzinfo=None)
        )

    def table(self, keys: list[str]) -> pa.Table:
        """Return two rows per partition."""
        rows = [] if self.empty else [str(key) for key in keys for _ in range(2)]
        columns = {"day" if self.kind == "two dimensions" else "part": (self.column, [self.value_of(key.split("|")[0] if self.kind == "two dimensions" else key) for key in rows])}  # fmt: skip
        if self.kind == "two dimensions":
            columns["site"] = ("string", [key.split("|")[1] for key in rows])
        columns |= {"key": ("string", rows), "turn": ("int64", [self.turn] * len(rows))}
        return pa.table({name: pa.array(values, TYPES[column]) for name, (column, values) in columns.items()})

    def asset(self) -> dg.AssetsDefinition:
        """Return the asset, as the library's documentation would define it."""
        expr = {"day": "day", "site": "site"} if self.kind == "two dimensions" else "part"

        def rows(context):  # annotated below, with the library's class
            return self.used.wrap(self.table(list(context.partition_keys)))

        rows.__annotations__ = {"context": dg.AssetExecutionContext, "return": self.used.frame}
        return dg.asset(
            partitions_def=self.definition,
            key_prefix=["lake"],
            metadata={self.used.expr: expr},
            backfill_policy=dg.BackfillPolicy.single_run(),
        )(rows)

    def run(self, assets: list[Any], instance: dg.DagsterInstance | None = None, **options: Any) -> None:
        """Run assets with the IO manager."""
        resources = {"io_manager": self.used.manager(str(self.root))}
        dg.materialize(assets, instance=instance or self.instance, resources=resources, **options)

    def write(self, first: int, last: int | None = None, instance: dg.DagsterInstance | None = None) -> None:
        """Write one partition, or a range in one run; a run that fails should have changed nothing."""
        self.turn += 1
        if last is None:
            self.run([self.asset()], instance, partition_key=self.keys[first])
        else:
            self.run([self.asset()], instance, tags=span(self.keys[first], self.keys[last]))
        chosen = self.keys[first : (first if last is None else last) + 1]
        self.expected |= dict.fromkeys(chosen, self.turn)
        if self.empty:
            for key in chosen:
                del self.expected[key]

    def read(self, definition: Any, **options: Any) -> Counter[tuple[str, int]]:
        """Return what a downstream asset is given."""
        seen: list[Any] = []

        def reader(rows):  # annotated below, with the library's class
            seen.append(rows)

        reader.__annotations__ = {"rows": self.used.frame, "return": None}
        made = dg.asset(partitions_def=definition, ins={"rows": dg.AssetIn(key=["lake", "rows"])})(reader)
        self.run([self.asset(), made], selection=[made], **options)
        return counted(self.used.unwrap(seen[0]))

    def wanted(self, *keys: str) -> Counter[tuple[str, int]]:
        """Return what these partitions, or all, should hold."""
        return Counter({(key, turn): 2 for key, turn in self.expected.items() if not keys or key in keys})

    def held(self) -> Counter[tuple[str, int]]:
        """Return what the tables below the root hold, as deltalake reads them."""
        found: Counter[tuple[str, int]] = Counter()
        for log in self.root.rglob("_delta_log"):
            rows = QueryBuilder().register("t", DeltaTable(str(log.parent))).execute("SELECT key, turn FROM t")
            found += counted(pa.table(rows.read_all()))
        return found


def span(first: str, last: str) -> dict[str, str]:
    """Return the tags by which Dagster runs a range of partitions at once."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def counted(table: pa.Table) -> Counter[tuple[str, int]]:
    """Return how often each pair of key and turn stands in a table."""
    return Counter(zip(table["key"].to_pylist(), table["turn"].to_pylist(), strict=True))


# ---------------------------------------------------------------------------- ways to write and read


def steps(cell: Cell, pattern: str) -> Iterator[Counter[tuple[str, int]] | None]:
    """Do what a pattern says; yields after each step: None, or what a reader was given less what it should have been."""
    single = {"single": [0, 3], "repeated": [0, 1, 0], "range": [0, 2, 4], "sparse": [1, 4], "empty range": [2], "no rows": [0, 1], "at once": [0, 2, 4]}  # fmt: skip
    for index in single.get(pattern, [0, 1]):
        cell.write(index)
        yield None
    if pattern == "range":
        cell.write(1, 3)
        yield None
    if pattern == "sparse":  # Dagster makes a run of each range; of two dimensions, one is held
        for first, last in ((0, 0), (1, 1), (3, 3)) if cell.kind == "two dimensions" else ((0, 1), (3, 3)):
            cell.write(first, last)
            yield None
    if pattern == "read one":
        yield difference(cell.read(cell.definition, partition_key=cell.keys[1]), cell.wanted(cell.keys[1]))
    if pattern == "read all":
        yield difference(cell.read(None), cell.wanted())
    if pattern == "empty range":
        cell.run([cell.asset()], tags=span(cell.keys[3], cell.keys[1]))
        yield None
    if pattern == "no rows":
        cell.empty = True
        cell.write(0)
        yield None
    if pattern == "at once":
        yield from at_once(cell)


def at_once(cell: Cell) -> Iterator[None]:
    """Write two ranges of one asset at once; both rows of this turn must be there afterwards."""
    cell.turn += 1
    spans = [span(cell.keys[0], cell.keys[0]), span(cell.keys[2], cell.keys[3])]

    def run(tags: dict[str, str]) -> None:
        with dg.DagsterInstance.ephemeral() as instance:
            instance.add_dynamic_partitions("sites", SITES)
            cell.run([cell.asset()], instance, tags=tags)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, spans))
    cell.expected |= dict.fromkeys([cell.keys[0], *cell.keys[2:4]], cell.turn)
    yield None


def difference(found: Counter[Any], wanted: Counter[Any]) -> Counter[Any]:
    """Return what is there too often (positive) or is missing (negative)."""
    return Counter({key: found[key] - wanted[key] for key in found.keys() | wanted.keys() if found[key] != wanted[key]})


def outcome(cell: Cell, pattern: str, module: str) -> dict[str, str]:
    """Return the outcome of a cell: right, refused, fails, or WRONG, and why."""
    walk = steps(cell, pattern)
    while True:
        before = cell.wanted()
        try:
            read = next(walk)
        except StopIteration:
            return {"outcome": "right", "why": ""}
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the outcome
            return after_error(cell, before, root_cause(error), module, pattern)
        off = difference(cell.held(), cell.wanted()) if read is None else read
        if off:
            return {"outcome": "WRONG", "why": f"{'read: ' if read else ''}{told(off)}"}


def after_error(cell: Cell, before: Counter[Any], error: BaseException, module: str, pattern: str) -> dict[str, str]:
    """Tell a refusal, which says why and changes nothing, from a failure inside of the engine, and from a loss."""
    text = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    off = min((difference(cell.held(), wanted) for wanted in may_be(cell, before, pattern)), key=len)
    if off:
        return {"outcome": "WRONG", "why": f"{told(off)}, after {text}"}
    frames = traceback.extract_tb(error.__traceback__)
    where = frames[-1].filename if frames else ""
    own = any(f"/{package}/" in where for package in (module, "dagster", "dagster_shared"))
    if pattern == "empty range":
        return {"outcome": "right", "why": ""}
    refused = own and not isinstance(error, PROGRAMMING)
    return {"outcome": "refused" if refused else "fails", "why": text}


def may_be(cell: Cell, before: Counter[Any], pattern: str) -> list[Counter[Any]]:
    """Return what a table may hold after an error: what it held; of two runs at once, either may have succeeded."""
    if pattern != "at once":
        return [before]
    sets = [[], cell.keys[:1], cell.keys[2:4], [*cell.keys[:1], *cell.keys[2:4]]]
    held = [{**cell.expected, **dict.fromkeys(keys, cell.turn)} for keys in sets]
    return [Counter(dict.fromkeys(one.items(), 2)) for one in held]


def told(off: Counter[Any]) -> str:
    """Return in words how many rows are missing and how many should not be there."""
    missing, extra = -sum(n for n in off.values() if n < 0), sum(n for n in off.values() if n > 0)
    return " and ".join(
        text for count, text in ((missing, f"{missing} rows lost"), (extra, f"{extra} rows too many")) if count
    )


def root_cause(error: BaseException) -> BaseException:
    """Return the error below those that Dagster wraps around it."""
    while True:
        inner = getattr(error, "user_exception", None) or error.__cause__
        if inner is None or type(error).__module__.partition(".")[0] != "dagster":
            return error
        error = inner


# ---------------------------------------------------------------------------- all cells


def cells() -> Iterator[tuple[str, str, str, str, list[str]]]:
    """Yield kind, column, pattern, spelling and keys of every cell."""
    for kind in KINDS:
        keys = {"static": SITES, "static numbers": NUMBERS, "static dates": DATES, "dynamic": SITES, "two dimensions": GRID}.get(kind)  # fmt: skip
        keys = keys or list(KINDS[kind]().get_partition_keys())[:5]
        for column in COLUMNS.get(kind, DAYS):
            for pattern in PATTERNS + (MORE_PATTERNS if kind in ("static", "daily", "two dimensions") else []):
                yield kind, column, pattern, "", keys
    for spelling, key in SPELLINGS.items():
        for pattern in ("single", "repeated", "read one"):
            yield "key spelling", "string", pattern, spelling, ["y", key, "w", "z"] if pattern == "read one" else [key, "y", "w", "z"]  # fmt: skip


def main(name: str, target: str, only: str = "") -> None:
    """Try every cell with a library and write the outcomes as JSON."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    used = library(name)
    found: list[dict[str, str]] = []
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("sites", SITES)
        for kind, column, pattern, spelling, keys in cells():
            if only not in f"{kind}/{column}/{pattern}/{spelling}":
                continue
            told = {"kind": kind, "column": column, "pattern": pattern, "spelling": spelling}
            try:
                cell = Cell(used, instance, kind, column, keys)
                found.append({**told, **outcome(cell, pattern, used.module)})
            except Exception as error:  # noqa: BLE001  # Dagster itself takes no such key
                found.append({**told, "outcome": "refused", "why": f"Dagster: {error}".split("\n")[0][:200]})
            print({k: v for k, v in found[-1].items() if v}, file=sys.stderr, flush=True)  # a command prints
    versions = {package: importlib.metadata.version(package) for package in (*used.packages, "dagster", "deltalake", "pyarrow")}  # fmt: skip
    Path(target).write_text(json.dumps({"library": name, "versions": versions, "cells": found}, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
