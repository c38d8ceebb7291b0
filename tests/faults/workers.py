"""What the processes of the fault campaigns do; each is started in a process of its own, and may be killed in it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from orcapod_dagster.core import DeltaTableDatabase, PythonPacketFunction, ResultCache, delta, pod as pod_module
from orcapod_dagster.core.errors import CommitError, StorageError
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


def materialize(root: str, rows: int, flush_rows: int) -> None:
    """Materialize a packet asset; each chunk that is durable is acknowledged with the number of stored results."""
    import dagster as dg

    from orcapod_dagster import packet_asset, packet_resources

    os.environ["ORCAPOD_GIT"] = "off"
    pod_module.FLUSH_ROWS = flush_rows  # type: ignore[misc]  # many small chunks, so that kills meet many commits
    _acknowledge_appends(Path(root) / "acknowledged")

    @dg.asset(io_manager_key="packet_io_manager")
    def numbers() -> pa.Table:
        return pa.table({"id": pa.array(range(rows)), "x": pa.array(range(rows))})

    asset = packet_asset(square, inputs=numbers, tag_columns=["id"], output_keys=["y"], match="version")
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([numbers, asset], instance=instance, resources=packet_resources(f"{root}/lake"))


def _acknowledge_appends(path: Path) -> None:
    append = delta.append

    def append_and_say(uri: str, *arguments: Any, **options: Any) -> delta.WriteResult:
        result = append(uri, *arguments, **options)
        acknowledge(path, f"{uri} {result.rows}")
        return result

    delta.append = append_and_say  # type: ignore[assignment]


def die_at(failpoint: str, work: Callable[..., None], *arguments: Any) -> None:
    """Do some work, and die by SIGKILL at the first passage of a failpoint of a commit to a result table or the asset."""

    def dies(original: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            if before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    write: Any = delta.Write
    places: dict[str, tuple[Any, str, bool]] = {
        "before the files": (delta, "write_files", True),
        "after the files": (delta, "write_files", False),
        "before the table is created": (write, "_create", True),
        "after the table is created": (write, "_create", False),
        "before the commit": (write, "_try", True),
        "after the commit": (write, "_try", False),
        "before the acknowledgement": (write, "_commit", False),
    }
    owner, name, before = places[failpoint]
    setattr(owner, name, dies(getattr(owner, name), before=before))
    work(*arguments)


def compute(root: str, writer: int, first: int, last: int) -> None:
    """Compute packets `first` to `last` through one shared result table; acknowledge every durable chunk."""
    os.environ["ORCAPOD_GIT"] = "off"
    pod_module.FLUSH_ROWS = 500  # type: ignore[misc]
    _acknowledge_appends(Path(root) / f"acknowledged-{writer}")
    database = DeltaTableDatabase(f"{root}/lake")
    function = PythonPacketFunction(square, "y")
    pod = FunctionPod(
        function,
        ResultCache(database, function.uri),
        OutcomeLog(database, ("outcomes", *function.uri)),
        executor=LocalPythonFunctionExecutor(),
        match="version",
    )
    rows = MemorySource(pa.table({"x": pa.array(range(first, last))}))
    pod.compute(pod.plan(PacketStream.open([StreamInput("rows", rows)], ["x"])))


def append_batches(uri: str, writer: int, batches: int) -> None:
    """Append so many batches of 5 rows."""
    for number in range(batches):
        rows = pa.table({"writer": [writer] * 5, "batch": [number] * 5, "row": list(range(5))})
        delta.append(uri, rows.to_reader)


def create(uri: str, writer: int, start_at: float) -> None:
    """Write the first rows of a table at the same moment as others."""
    time.sleep(max(0.0, start_at - time.time()))
    delta.replace(uri, pa.table({"writer": [writer], "row": [0]}).to_reader, where=None)


def replace_partition(uri: str, writer: int, start_at: float) -> None:
    """Replace one partition at the same moment as others."""
    time.sleep(max(0.0, start_at - time.time()))
    rows = pa.table({"site": ["a"] * 20, "writer": [writer] * 20, "row": list(range(20))})
    delta.replace(uri, rows.to_reader, where=Equals("site", ("a",)))


def replace_many(uri: str, versions: int, stop: str) -> None:
    """Replace the whole table at least so often, and until told to stop; every version holds 1,000 times its own number."""
    number = 0
    while number < versions or not Path(stop).exists():
        delta.replace(uri, pa.table({"version": [number] * 1000}).to_reader, where=None)
        number += 1


def read_often(uri: str, reads: int, answer: str) -> None:
    """Read the whole table so often; each read must be of one version, whole."""
    done = 0
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
        done += 1
    acknowledge(Path(answer), "whole")


def keep_writing(uri: str, writer: int, stop: str, answer: str) -> None:
    """Append or replace an own partition until told to stop; say what it should hold in the end."""
    site = f"s{writer}"
    held: list[int] = []
    number = 0
    while not Path(stop).exists():
        number += 1
        if number % 5 == 0:
            held = [number] * 3
            rows = pa.table({"site": [site] * 3, "number": held})
            delta.replace(uri, rows.to_reader, where=Equals("site", (site,)))
        elif number % 13 == 0:
            held = []
            rows = pa.schema([("site", pa.string()), ("number", pa.int64())]).empty_table()
            delta.replace(uri, rows.to_reader, where=Equals("site", (site,)))
        else:
            held = [*held, number]
            delta.append(uri, pa.table({"site": [site], "number": [number]}).to_reader)
    acknowledge(Path(answer), f"{site} {held}")


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
