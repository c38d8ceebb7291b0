"""What the processes of the fault campaigns do; each is started in a process of its own, and may be killed in it."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from orcapod_dagster import LocalExecutorResource, packet_asset, packet_resources
from orcapod_dagster.core import DeltaTableDatabase, PythonPacketFunction, ResultCache, delta, waiting
from orcapod_dagster.core.columns import RECORD_ID
from orcapod_dagster.core.compaction import compact
from orcapod_dagster.core.delta import superseding, write as write_module
from orcapod_dagster.core.errors import CommitError, StorageError
from orcapod_dagster.core.executors.base import BatchResult
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.outcomes import OutcomeLog
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.predicates import Equals
from orcapod_dagster.core.sources import DeltaSource, MemorySource
from orcapod_dagster.core.streams import PacketStream, StreamInput

ROWS = 10_000


def square(x: int) -> int:
    """Take about 20 µs, so that a kill meets every phase."""
    deadline = time.perf_counter() + 20e-6
    while time.perf_counter() < deadline:
        pass
    return x * x


def acknowledge(path: Path, text: str) -> None:
    """Write one line that is there even if the process is killed right after it."""
    with path.open("a") as file:
        file.write(text + "\n")


class RowByRow(LocalPythonFunctionExecutor):
    """Gives each row back as soon as it is done, as it does with slow rows."""

    def run_rows(self, *arguments: Any, call_options: CallOptions, **options: Any) -> Iterator[BatchResult]:
        """Run them."""
        yield from super().run_rows(*arguments, call_options=replace(call_options, slice_seconds=0.0), **options)


class RowByRowResource(LocalExecutorResource):
    """Gives such executors."""

    def get_executor(self) -> RowByRow:
        """Return one."""
        return RowByRow()


COMMITTED_ROWS = 500


def many_commits() -> None:
    """Make results durable every `COMMITTED_ROWS`, as slow rows would be, so that 10,000 quick ones meet many commits."""
    os.environ["ORCAPOD_GIT"] = "off"
    waiting.FLUSH_ROWS = COMMITTED_ROWS  # type: ignore[misc]


def materialize(root: str, rows: int) -> None:
    """Materialize a packet asset; each chunk that is durable is acknowledged with the ids of its records."""
    Path(root).mkdir(exist_ok=True)
    many_commits()
    acknowledge_appends(Path(root) / "acknowledged")
    materialize_squares(f"{root}/lake", rows)


def materialize_squares(lake: str, rows: int) -> None:
    """Materialize a packet asset and its input."""

    @dg.asset(io_manager_key="packet_io_manager")
    def numbers() -> pa.Table:
        return pa.table({"id": pa.array(range(rows)), "x": pa.array(range(rows))})

    asset = packet_asset(square, inputs=numbers, tag_columns=["id"], output_keys=["y"], match="version")
    with quiet_instance() as instance:
        dg.materialize([numbers, asset], instance=instance, resources=packet_resources(lake, RowByRowResource()))


def quiet_instance() -> dg.DagsterInstance:
    """A Dagster instance in memory that says nothing on the terminal but errors."""
    logging.disable(logging.WARNING)
    return dg.DagsterInstance.ephemeral()


def acknowledge_appends(path: Path) -> None:
    """Note the record ids of every append that returned, as a caller may who was told that they are durable."""
    append = delta.append

    def append_and_say(uri: str, open_reader: Any, **options: Any) -> delta.WriteResult:
        result = append(uri, open_reader, **options)
        if RECORD_ID in open_reader().schema.names:
            ids = open_reader().read_all()[RECORD_ID].to_pylist()
            acknowledge(path, f"{uri} {','.join(i.hex() for i in ids)}")
        return result

    delta.append = append_and_say  # type: ignore[assignment]


FAILPOINTS: dict[str, tuple[str, bool]] = {
    "before the files": ("write_files", True),
    "after the files": ("write_files", False),
    "before the table is created": ("create_table", True),
    "after the table is created": ("create_table", False),
    "before the commit": ("_try", True),
    "after the commit": ("_try", False),
    "before the sync": ("sync", True),
    "after the sync": ("sync", False),
}
"""Name → the step of a write, and whether it is before or after it."""


def stop_at(failpoint: str, table: str, passage: int, stop: int, work: Callable[..., None], *arguments: Any) -> None:
    """Do some work, and send this process a signal when it passes a failpoint of a write to a table so often."""
    name, before = FAILPOINTS[failpoint]
    owners: list[Any] = [one for one in (delta.Write, write_module, superseding) if hasattr(one, name)]
    original = getattr(owners[0], name)
    passed = 0

    def pass_by(uri: str) -> None:
        nonlocal passed
        passed += f"/{table}" in uri
        if passed == passage:
            passed += 1
            os.kill(os.getpid(), stop)

    def wrapped(*args: Any, **options: Any) -> Any:
        uri = args[0].uri if isinstance(args[0], delta.Write) else args[0]
        if before:
            pass_by(uri)
        result = original(*args, **options)
        if not before:
            pass_by(uri)
        return result

    for owner in owners:
        setattr(owner, name, wrapped)
    work(*arguments)


def compute(root: str, writer: int, first: int, last: int) -> None:
    """Compute packets `first` to `last` through one shared result table; acknowledge every durable chunk."""
    many_commits()
    acknowledge_appends(Path(root) / f"acknowledged-{writer}")
    database = DeltaTableDatabase(f"{root}/lake")
    function = PythonPacketFunction(square, "y")
    pod = FunctionPod(
        function,
        ResultCache(database, function.uri),
        OutcomeLog(database, ("outcomes", *function.uri)),
        executor=RowByRow(),
        match="version",
    )
    rows = MemorySource(pa.table({"x": pa.array(range(first, last))}))
    pod.compute(pod.plan(PacketStream.open([StreamInput("rows", rows)], ["x"])))


def append_batches(uri: str, writer: int, batches: int) -> None:
    """Append so many batches of 5 rows."""
    for number in range(batches):
        rows = pa.table({"writer": [writer] * 5, "batch": [number] * 5, "row": list(range(5))})
        delta.append(uri, rows.to_reader)


def create(folder: str, writer: int, tables: int, together: Any) -> None:
    """Write the first rows of one table after the other, each at the same moment as others; append to every other one."""
    create_table = write_module.create_table

    def wait_and_create(*arguments: Any) -> Any:
        time.sleep(0.2)  # so that all have looked and found no table
        return create_table(*arguments)

    write_module.create_table = wait_and_create
    rows = pa.table({"writer": [writer] * 3, "row": [0, 1, 2]})
    for number in range(tables):
        together.wait()
        if number % 2:
            delta.append(f"{folder}/{number}", rows.to_reader)
        else:
            delta.replace(f"{folder}/{number}", rows.to_reader, where=None)


def materialize_partition(root: str, run: int, partition: str) -> None:
    """Materialize one partition of an asset, with values that tell the run, and of a packet asset below it."""
    options: dict[str, Any] = {
        "partitions_def": dg.StaticPartitionsDefinition(["a", "b"]),
        "metadata": {"partition_expr": "site"},
    }

    @dg.asset(io_manager_key="packet_io_manager", **options)
    def numbers() -> pa.Table:
        xs = range(run * 1_000, run * 1_000 + 20)
        return pa.table({"site": [partition] * 20, "id": list(range(20)), "x": list(xs)})

    asset = packet_asset(
        square, inputs=numbers, tag_columns=["site", "id"], output_keys=["y"], match="version", **options
    )
    resources = packet_resources(f"{root}/lake", RowByRowResource())
    with quiet_instance() as instance:
        dg.materialize([numbers, asset], instance=instance, partition_key=partition, resources=resources)


def materialize_together(root: str, number: int, rounds: int, begin: Any, end: Any) -> None:
    """Materialize partition "a" in each round at the same moment as others; between the rounds it can be looked at."""
    many_commits()
    for round_ in range(rounds):
        begin.wait()
        materialize_partition(root, 4 * round_ + number + 1, "a")
        end.wait()


def replace_many(uri: str, versions: int, stop: str) -> None:
    """Replace the whole table at least so often, and until told to stop; every version holds 1,000 times its own number."""
    number = 0
    while number < versions or not Path(stop).exists():
        delta.replace(uri, pa.table({"version": [number] * 1000}).to_reader, where=None)
        number += 1


def read_often(uri: str, reads: int, answer: str) -> None:
    """Read the whole table so often; each read must be of one version, whole."""
    done, seen = 0, set[int]()
    while done < reads:
        table = delta.open_table(uri)
        if table is None:
            continue
        source = DeltaSource(table)
        found = pa.concat_tables([pa.Table.from_batches([b]) for b in source.scan(["version"])] or [])
        versions = set(found["version"].to_pylist())
        if len(versions) != 1 or found.num_rows != 1000:
            acknowledge(Path(answer), f"mixed: {sorted(versions)}, {found.num_rows} rows")
            return
        seen |= versions
        done += 1
    acknowledge(Path(answer), f"whole, of {len(seen)} versions")


def keep_changing(uri: str, writer: int, kind: str, stop: str, journal: str) -> None:
    """Append, replace, delete or compact until told to stop; note every write with the version in which it happened."""
    pick = random.Random(writer)
    number = 0
    while not Path(stop).exists():
        number += 1
        op = pick.choice(("append", "append", "replace", "delete")) if kind == "owner" else kind
        bucket = f"b{pick.randrange(8)}"
        site = f"s{writer}" if kind == "owner" else "shared"
        count = pick.randrange(1, 6) if op in ("append", "replace") else 0
        first = writer * 10_000_000 + number * 10
        ids = list(range(first, first + count))
        schema = pa.schema([("site", pa.string()), ("bucket", pa.string()), ("number", pa.int64())])
        rows = pa.table({"site": [site] * count, "bucket": [bucket] * count, "number": ids}, schema=schema)
        where = Equals("site", (site,)) if kind == "owner" else Equals("bucket", (bucket,))
        name = {"write": f"{writer}-{number}"}
        if op == "compact":
            compact(uri, at_least=4)
            time.sleep(0.2)
            continue
        if op == "append":
            version = delta.append(uri, rows.to_reader, custom_metadata=name).version
        else:
            version = delta.replace(uri, rows.to_reader, where=where, custom_metadata=name).version
            time.sleep(0.1 if kind == "delete" else 0)
        note = {
            "version": version,
            "op": op,
            "column": where.column,
            "value": where.values[0],
            "rows": rows.to_pylist(),
        }
        acknowledge(Path(journal), json.dumps({**name, **note}))


def write_with_little_space(uri: str, limit: int) -> None:
    """Append 10,000 rows where no file may grow beyond `limit` bytes; a clear error is right, a half table is not."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    rows = pa.table({"id": pa.array(range(ROWS)), "text": pa.array([os.urandom(8).hex() for _ in range(ROWS)])})
    try:
        delta.append(uri, rows.to_reader)
    except (StorageError, CommitError) as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        acknowledge(Path(f"{uri}.error"), f"{type(error).__name__}: {str(error).splitlines()[0]}")
        raise SystemExit(3) from None
