"""Logs of packet assets: what single packets print and log, in the lake, in reports, and in Dagster's compute log."""

from __future__ import annotations

import datetime as dt
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from campaigns import long_param
from deltalake import DeltaTable, QueryBuilder

from orcapod_dagster import (
    LocalExecutorResource,
    PacketExecutorResource,
    ProcessPoolExecutorResource,
    packet_asset,
    packet_resources,
    read_logs,
)
from orcapod_dagster.core.cleanup import CleanSettings, clean
from orcapod_dagster.core.cleanup.base import Keep
from orcapod_dagster.core.contexts import VARIATION_SCHEMA, Context
from orcapod_dagster.core.databases.delta import DeltaTableDatabase
from orcapod_dagster.core.datagrams import Datagram
from orcapod_dagster.core.errors import DefinitionError, PacketFailuresError
from orcapod_dagster.core.execution_data import EXECUTION_DATA_SCHEMA, flatten_execution_data
from orcapod_dagster.core.executors.capture import LogEntry
from orcapod_dagster.core.hashing import hash_rows
from orcapod_dagster.core.lake import Lake
from orcapod_dagster.core.packet_logs import LOG_SCHEMA, PacketLogs
from orcapod_dagster.core.result_cache import ResultCache
from orcapod_dagster.core.sources import MemorySource
from orcapod_dagster.core.streams import PacketStream, StreamInput
from orcapod_dagster.core.tag_texts import tags_as_text
from orcapod_dagster.core.verify import verify


@dg.asset
def numbers() -> pa.Table:
    return pa.table({"subject": ["a", "b", "c", "d"], "day": [1, 2, 3, 4], "x": [0, 1, 2, 3]})


def speak(x: int) -> int:
    if x == 1:
        print("printed")
        logging.getLogger("mine").warning("logged")
    if x == 2:
        subprocess.run(["sh", "-c", "echo child"], check=True)
        raise ValueError("two")
    return x


def asset_of(function: Callable[..., Any], **options: Any) -> Any:
    given: dict[str, Any] = {"tag_columns": ["subject", "day"], "output_keys": ["y"], "name": "spoken", **options}
    return packet_asset(function, inputs=numbers, **given)


def run(
    root: Path, asset: Any, executor: PacketExecutorResource | None = None, *, instance: Any = None, **options: Any
) -> dg.ExecuteInProcessResult:
    resources = packet_resources(str(root), executor=executor, as_default=True)
    return dg.materialize([numbers, asset], resources=resources, instance=instance, **options)


def tables(root: Path) -> list[str]:
    return sorted(str(p.parent.relative_to(root)) for p in root.rglob("_delta_log"))


@pytest.mark.parametrize("executor", [LocalExecutorResource(), ProcessPoolExecutorResource(max_workers=2)])
def test_the_log_table(tmp_path: Path, executor: PacketExecutorResource) -> None:
    """Each packet that spoke has its rows, with tags, run, hash, the record where there is one; SQL reads them."""
    spoken = asset_of(speak, on_error="continue")
    done = run(tmp_path, spoken, executor)
    logs = read_logs(spoken, str(tmp_path))
    shown = logs.select(["stream", "level", "logger", "text"]).to_pylist()
    assert sorted(shown, key=lambda row: row["text"]) == [
        {"stream": "stdout", "level": None, "logger": None, "text": "child\n"},
        {"stream": "log", "level": "WARNING", "logger": "mine", "text": "logged"},
        {"stream": "stdout", "level": None, "logger": None, "text": "printed\n"},
    ]
    assert set(logs["run_id"].to_pylist()) == {done.run_id}
    by_text = {row["text"]: row for row in logs.to_pylist()}
    assert dict(by_text["printed\n"]["tag"]) == {"subject": "b", "day": "2"}
    assert by_text["child\n"]["__record_id"] is None
    (folder,) = [t for t in tables(tmp_path) if "/logs/" in t]
    query = QueryBuilder().register("logs", DeltaTable(str(tmp_path / folder)))
    query = query.register("spoken", DeltaTable(str(tmp_path / "spoken")))
    found = query.execute(
        "SELECT l.text, l.tag['subject'] AS subject FROM logs l JOIN spoken s ON l.__record_id = s.__record_id "
        "WHERE l.stream = 'stdout'"
    ).read_all()
    assert pa.table(found).to_pylist() == [{"text": "printed\n", "subject": "b"}]
    assert read_logs(spoken, str(tmp_path), tag={"day": 3})["text"].to_pylist() == ["child\n"]
    assert read_logs(spoken, str(tmp_path), tag={"day": None}).num_rows == 0
    assert read_logs(spoken, str(tmp_path), run_id="another").num_rows == 0


def test_nothing_printed_nothing_written(tmp_path: Path) -> None:
    """Without output there is no log table, a cached run adds nothing to one, and `capture=False` writes none."""

    def silent(x: int) -> int:
        return x

    run(tmp_path, asset_of(silent))
    assert not any("/logs/" in name for name in tables(tmp_path))

    def prints(x: int) -> int:
        print(x)
        return x

    off = asset_of(prints, capture=False)
    run(tmp_path / "off", off)
    assert read_logs(off, str(tmp_path / "off")).num_rows == 0
    on = asset_of(prints)
    run(tmp_path / "on", on)
    run(tmp_path / "on", on)
    assert read_logs(on, str(tmp_path / "on")).num_rows == 4


def test_the_bound_is_an_option(tmp_path: Path) -> None:
    """`capture` takes the bytes that are kept of each packet; what is no number of bytes is refused."""

    def prints(x: int) -> int:
        print("n" * 1000)
        return x

    short = asset_of(prints, capture=100)
    run(tmp_path, short)
    assert {len(text) for text in read_logs(short, str(tmp_path))["text"].to_pylist()} == {121}
    with pytest.raises(DefinitionError, match="capture=-1"):
        asset_of(prints, capture=-1)


def test_failures_show_what_was_printed(tmp_path: Path) -> None:
    """The end of what a failing packet printed stands in the error of the step, and in the table of failures."""
    with pytest.raises(PacketFailuresError, match=r"It had printed and logged, at the end:\nchild\n"):
        run(tmp_path, asset_of(speak))
    done = run(tmp_path / "other", asset_of(speak, on_error="continue"))
    (event,) = [e for e in done.get_asset_materialization_events() if e.asset_key == dg.AssetKey("spoken")]
    failures: Any = event.materialization.metadata["orcapod/failures"]
    (failure,) = failures.records
    assert failure.data["printed"] == "child\n"


SCRIPT = """
import logging, os, subprocess, sys
import dagster as dg
sys.path.insert(0, {tests!r})
from test_logs import asset_of, run
from pathlib import Path
from orcapod_dagster import LocalExecutorResource, ProcessPoolExecutorResource

def loud(x: int) -> int:
    print("python", x)
    print("error", x, file=sys.stderr)
    os.write(1, b"descriptor\\n")
    logging.getLogger("mine").warning("record %d", x)
    return x

if __name__ == "__main__":
    before = [os.fstat(n).st_ino for n in (1, 2)], sys.stdout, sys.stderr
    with dg.instance_for_test() as instance:
        executor = LocalExecutorResource() if sys.argv[1] == "local" else ProcessPoolExecutorResource(max_workers=1)
        done = run(Path(sys.argv[2]), asset_of(loud), executor, instance=instance)
        records = instance.all_logs(done.run_id)
        for event in records:
            captured = event.dagster_event.logs_captured_data if event.is_dagster_event and event.dagster_event.event_type_value == "LOGS_CAPTURED" else None
            if captured is not None and "spoken" in captured.step_keys:
                data = instance.compute_log_manager.get_log_data([done.run_id, "compute_logs", captured.file_key])
                print("OUT", sorted(data.stdout.decode().split("\\n")))
                print("ERR", sorted(line for line in data.stderr.decode().split("\\n") if "error" in line or "record" in line))
    print("RESTORED", before == ([os.fstat(n).st_ino for n in (1, 2)], sys.stdout, sys.stderr))
"""


@pytest.mark.parametrize("executor", [long_param("local"), "pool"])
def test_dagsters_compute_log_has_it_all(tmp_path: Path, executor: str) -> None:
    """What packets print, write and log stands in Dagster's compute log as well, once; afterwards the streams are as before."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    found = subprocess.run(
        [sys.executable, str(script), executor, str(tmp_path / "lake")],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout.splitlines()  # fmt: skip
    lines = {line.partition(" ")[0]: line.partition(" ")[2] for line in found}
    assert lines["OUT"] == str(sorted(["", *["descriptor"] * 4, *(f"python {x}" for x in range(4))]))
    assert lines["ERR"] == str(sorted([f"error {x}" for x in range(4)] + [f"record {x}" for x in range(4)]))
    assert lines["RESTORED"] == "True"


def test_verify_knows_the_log_table(tmp_path: Path) -> None:
    """A log table is verified like others, and a lost file of it says what is lost."""
    run(tmp_path, asset_of(speak, on_error="continue"))
    (report,) = [one for one in verify(str(tmp_path), read_all=True) if "/logs/" in one.table]
    assert (report.rows, report.findings) == (3, ())
    for file in (tmp_path / report.table).glob("*.parquet"):
        file.unlink()
    (report,) = [one for one in verify(str(tmp_path)) if "/logs/" in one.table]
    assert "printed and logged is lost" in report.findings[0].do


def test_logs_go_with_their_results(tmp_path: Path) -> None:
    """A clean-up removes the logs of results that no asset uses and of old failures, and leaves those of results in use."""
    keep: set[int] = {0, 1, 2, 3}

    @dg.asset(name="numbers")
    def fewer() -> pa.Table:
        return pa.table({"subject": [str(x) for x in sorted(keep)], "x": sorted(keep)})

    def prints(x: int) -> int:
        print(x)
        return 1 // (x - 3) if x == 3 else x

    asset = packet_asset(
        prints, inputs=fewer, tag_columns=["subject"], output_keys=["y"], match="version", on_error="continue"
    )
    resources = packet_resources(str(tmp_path), as_default=True)
    dg.materialize([fewer, asset], resources=resources)
    keep.clear()
    keep.update({0, 1})
    dg.materialize([fewer, asset], resources=resources)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=60)
    steps: list[tuple[Keep, int]] = [("all", 4), ("current-code", 4), ("used", 2)]
    for kept, texts in steps:
        done = list(clean(Lake(str(tmp_path)), CleanSettings(keep_results=kept, now=later), dry_run=False))
        assert not any(one.problem for one in done)
        assert ("logs" in {one.what for one in done}) == (kept == "used")
        assert read_logs(asset, str(tmp_path)).num_rows == texts
    assert sorted(read_logs(asset, str(tmp_path))["text"].to_pylist()) == ["0\n", "1\n"]


def test_logs_are_durable_before_their_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies while it stores results has stored their logs; the next run computes and logs these packets again."""
    spoken = asset_of(speak, on_error="continue")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(ResultCache, "store_batch", refuse)
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path, spoken)
    monkeypatch.undo()
    first = read_logs(spoken, str(tmp_path))
    assert sorted(first["text"].to_pylist()) == ["child\n", "logged", "printed\n"]
    run(tmp_path, spoken)
    again = read_logs(spoken, str(tmp_path))
    assert again.num_rows == 6
    assert len(set(again["run_id"].to_pylist())) == 2


def test_a_log_table_that_cannot_be_written_fails_no_step(tmp_path: Path) -> None:
    """Where something stands in the way of the log table, results are stored, and one warning says why logs are not."""
    (tmp_path / ".orcapod").mkdir()
    (tmp_path / ".orcapod" / "logs").write_text("in the way")

    def prints(x: int) -> int:
        print(x)
        return x

    asset = asset_of(prints)
    with dg.instance_for_test() as instance:
        done = run(tmp_path, asset, instance=instance)
        said = [
            one for one in instance.all_logs(done.run_id) if one.level == logging.WARNING and one.step_key == "spoken"
        ]
    assert done.success
    assert DeltaTable(str(tmp_path / "spoken")).to_pyarrow_table().num_rows == 4
    (warning,) = said
    assert warning.user_message.startswith("4 entries of what packets printed and logged are not in the log table")
    (tmp_path / ".orcapod" / "logs").unlink()
    run(tmp_path, asset)
    assert read_logs(asset, str(tmp_path)).num_rows == 0


def test_tags_of_every_type_stand_as_text() -> None:
    """Numbers, times, nulls, bytes and nested values are texts in the tag map, and rows and columns are not confused."""
    table = pa.table(
        {
            "n": pa.array([1, None, 3]),
            "t": pa.array([dt.datetime(2024, 1, 2, tzinfo=dt.UTC)] * 3, pa.timestamp("us", "UTC")),
            "b": pa.array([b"\xff", b"a", None]),
            "l": pa.array([[1], [], None]),
            "x": [0, 1, 2],
        }
    )
    stream = PacketStream.open([StreamInput("t", MemorySource(table))], ["n", "t", "b", "l"])
    found = tags_as_text(stream, pa.array([0, 2], pa.int64())).to_pylist()
    time = "2024-01-02 00:00:00.000000Z"
    assert [dict(one) for one in found] == [
        {"n": "1", "t": time, "b": "b'\\xff'", "l": "[1]"},
        {"n": "3", "t": time, "b": None, "l": None},
    ]


def test_logs_of_few_packets_are_found_by_their_hashes(tmp_path: Path) -> None:
    """The logs of packets with given input hashes are found among others, also after a compaction."""
    database = DeltaTableDatabase(str(tmp_path))
    table = pa.table({"x": list(range(100))})
    stream = PacketStream.open([StreamInput("t", MemorySource(table))], ["x"])
    hashes = hash_rows({"x": table["x"]})
    context = Context.of(
        Datagram(dict.fromkeys(VARIATION_SCHEMA, "v"), VARIATION_SCHEMA),
        Datagram(flatten_execution_data({"executor_type": "local"}), EXECUTION_DATA_SCHEMA),
    )
    logs = PacketLogs(database, ("logs", "f"), run_id="r")
    empty = pa.array([], pa.int64())
    for row in (*range(40), 7):
        entries = [LogEntry(row, "stdout", None, None, float(row), f"{n} of {row}") for n in range(2)]
        logs.store(entries, stream, hashes, empty, pa.array([], hashes.type), context)
    found = logs.read(hashes.take(pa.array([7, 8, 99])))
    assert sorted(found["text"].to_pylist()) == sorted([*["0 of 7", "1 of 7"] * 2, "0 of 8", "1 of 8"])
    assert set(map(len, found["tag"].to_pylist())) == {1}
    assert logs.read().num_rows == 82
    assert found.schema == LOG_SCHEMA
