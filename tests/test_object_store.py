"""A lake on an object store: a real S3 server on the loopback, with several processes, and with secrets that must not leak."""

from __future__ import annotations

import datetime as dt
import multiprocessing as mp
import os
import pickle
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from campaigns import long_form, rounds

from orcapod_dagster import Blob, output_directory, packet_asset, packet_resources
from orcapod_dagster.cli import main
from orcapod_dagster.core import BlobStore, delta
from orcapod_dagster.core.blobs.check import BlobCheck
from orcapod_dagster.core.cleanup import CleanSettings, clean
from orcapod_dagster.core.databases import DeltaTableDatabase
from orcapod_dagster.core.lake import Lake
from orcapod_dagster.core.predicates import Equals
from orcapod_dagster.core.sources import DeltaSource

pytestmark = pytest.mark.slow
SECRET = "geheim-4711-do-not-show"
ROWS = pa.table({"reading_id": ["a", "b"], "fahrenheit": [32.0, 212.0]})


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, str]]:
    # A process of its own: deltalake keeps the interpreter lock while it waits for an upload.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _wait_for(url)
    yield {
        "aws_access_key_id": "user",
        "aws_secret_access_key": SECRET,
        "aws_region": "us-east-1",
        "endpoint_url": url,
        "allow_http": "true",
        "conditional_put": "etag",
    }
    server.kill()
    server.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def root(options: dict[str, str]) -> str:
    bucket = f"lake-{uuid.uuid4().hex[:8]}"
    urllib.request.urlopen(urllib.request.Request(f"{options['endpoint_url']}/{bucket}", method="PUT")).close()
    return f"s3://{bucket}"


def rows(uri: str, options: dict[str, str]) -> list[dict[str, Any]]:
    table = delta.open_table(uri, options)
    assert table is not None
    source = DeltaSource(table)
    return pa.Table.from_batches(source.scan(source.schema.names), schema=source.schema).to_pylist()


def readings_asset(current: list[pa.Table]) -> dg.AssetsDefinition:
    @dg.asset
    def readings() -> pa.Table:
        return current[-1]

    return readings


def to_celsius(fahrenheit: float) -> float:
    if fahrenheit < -459.67:
        raise ValueError("colder than possible")
    return (fahrenheit - 32) * 5 / 9


def test_a_packet_asset_end_to_end(root: str, options: dict[str, str]) -> None:
    """On S3 as on a disk: computed once, cached afterwards, only new rows run, rows that are gone leave."""
    current = [ROWS]
    assets = [
        readings_asset(current),
        packet_asset(to_celsius, inputs="readings", tag_columns="reading_id", output_keys="celsius"),
    ]
    resources = packet_resources(root, storage_options=options, as_default=True)
    counts: list[tuple[int, int]] = []
    for table in (ROWS, ROWS, pa.table({"reading_id": ["b", "c"], "fahrenheit": [212.0, 50.0]})):
        current.append(table)
        result = dg.materialize(assets, resources=resources)
        (event,) = result.asset_materializations_for_node("to_celsius")
        counts.append(tuple(event.metadata[f"orcapod/packets_{kind}"].value for kind in ("cached", "computed")))  # type: ignore[arg-type]
    assert counts == [(0, 2), (2, 0), (1, 1)]
    assert [(row["reading_id"], row["celsius"]) for row in rows(f"{root}/to_celsius", options)] == [
        ("b", 100.0),
        ("c", 10.0),
    ]


def test_large_values(root: str, options: dict[str, str], tmp_path: Path) -> None:
    """Stored by one put and once, opened lazily downstream, computed again when gone; a handle that travels takes its bytes."""

    def record(fahrenheit: float) -> tuple[Blob, Blob]:
        path = output_directory() / "a.txt"
        path.write_bytes(b"%08d" % fahrenheit * 10_000)
        return Blob(path), Blob(b"%08d" % fahrenheit * 20_000)

    def head(file: Blob, data: Blob) -> bytes:
        with file.open() as opened:
            return opened.read(8) + data.path().read_bytes()[:8]

    current = [ROWS]
    recorded = packet_asset(
        record, inputs=readings_asset(current), tag_columns="reading_id", output_keys=["file", "data"]
    )
    assets = [readings_asset(current), recorded, packet_asset(head, inputs=recorded, output_keys="head")]
    resources = packet_resources(root, storage_options=options, as_default=True)

    def run() -> list[int]:
        result = dg.materialize(assets, resources=resources)
        events = [result.asset_materializations_for_node(name)[0] for name in ("record", "head")]
        return [event.metadata["orcapod/packets_computed"].value for event in events]  # type: ignore[misc]

    assert run() == [2, 2]
    assert [row["head"] for row in rows(f"{root}/head", options)] == [b"00000032" * 2, b"00000212" * 2]
    store = BlobStore(root, options)
    listing = store.listing()
    assert sorted(listing["size"].to_pylist()) == [80_000, 80_000, 160_000, 160_000]
    assert listing["modified"].null_count == 0
    assert run() == [0, 0]
    store.remove(listing["path"].to_pylist()[:1], dt.datetime.now(dt.UTC) + dt.timedelta(days=1))
    assert run() == [1, 0]
    assert store.listing()["modified"].to_pylist()[1:] == listing["modified"].to_pylist()[1:]
    row = rows(f"{root}/record", options)[0]
    sent = pickle.dumps((BlobStore(root, options).open(row["file"]), store.keeper))
    assert SECRET.encode() not in sent
    assert pickle.loads(sent)[0].read() == b"00000032" * 10_000
    source = DeltaSource(delta.open_table(f"{root}/record", options))  # type: ignore[arg-type]
    assert list(BlobCheck(store).problems(source, read_all=True)) == []
    stray = store.keeper.keep(b"x" * 100_000, "c").place[1]
    settings = CleanSettings(now=dt.datetime.now(dt.UTC) + dt.timedelta(days=2))
    (found,) = (one for one in clean(Lake(root, options), settings, dry_run=False) if one.what == "large values")
    assert (found.files, found.bytes) == (1, 100_000)
    assert sorted([*store.listing()["path"].to_pylist(), stray]) == sorted([*listing["path"].to_pylist(), stray])


# ---------------------------------------------------------------------------- several processes


def append(uri: str, options: dict[str, str], writer: int, _start_at: float) -> None:
    for number in range(5):
        delta.append(uri, pa.table({"writer": [writer], "number": [number]}).to_reader, storage_options=options)


def create(uri: str, options: dict[str, str], writer: int, start_at: float) -> None:
    time.sleep(max(0.0, start_at - time.time()))
    delta.replace(uri, pa.table({"writer": [writer]}).to_reader, where=None, storage_options=options)


def replace(uri: str, options: dict[str, str], writer: int, _start_at: float) -> None:
    for number in range(4):
        table = pa.table({"writer": [writer] * 3, "number": [number] * 3})
        delta.replace(uri, table.to_reader, where=Equals("writer", (str(writer),)), storage_options=options)


def at_once(work: Callable[..., None], uri: str, options: dict[str, str], writers: int) -> None:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["test_object_store"])
    processes = [context.Process(target=work, args=(uri, options, n, time.time() + 0.5)) for n in range(writers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * writers


def test_concurrent_appends(root: str, options: dict[str, str]) -> None:
    """4 processes append 5 times each to a table that is not there yet: every row is there, once."""
    at_once(append, f"{root}/t", options, 4)
    found = rows(f"{root}/t", options)
    assert sorted((row["writer"], row["number"]) for row in found) == [(w, n) for w in range(4) for n in range(5)]


def test_first_writers_race(root: str, options: dict[str, str]) -> None:
    """4 processes write the first rows of one table at once, without a lock: one of them is the table."""
    for number in range(rounds(1, 3)):
        at_once(create, f"{root}/{number}", options, 4)
        assert len(rows(f"{root}/{number}", options)) == 1


def test_concurrent_replacements(root: str, options: dict[str, str]) -> None:
    """Processes that each replace their own part again and again end with exactly their last part each."""
    at_once(replace, f"{root}/t", options, 3)
    found = sorted((row["writer"], row["number"]) for row in rows(f"{root}/t", options))
    assert found == [(w, 3) for w in range(3) for _ in range(3)]


# ---------------------------------------------------------------------------- secrets


@long_form
def test_secrets_are_read_from_the_environment_and_shown_nowhere(
    root: str,
    options: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """An EnvVar inside of storage_options works; the secret is in no event, log, table, error or repr of good and bad runs."""
    monkeypatch.setenv("LAKE_SECRET", SECRET)
    settings: dict[str, Any] = {**options, "aws_secret_access_key": dg.EnvVar("LAKE_SECRET")}
    resources = packet_resources(root, storage_options=settings, as_default=True)
    closed = {**settings, "endpoint_url": "http://127.0.0.1:9", "max_retries": "0", "retry_timeout": "1s"}
    current = [ROWS]
    assets = [
        readings_asset(current),
        packet_asset(to_celsius, inputs="readings", tag_columns="reading_id", output_keys="celsius"),
    ]
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        assert dg.materialize(assets, instance=instance, resources=resources).success
        current.append(pa.table({"reading_id": ["a", "z"], "fahrenheit": [32.0, -1000.0]}))
        assert not dg.materialize(assets, instance=instance, resources=resources, raise_on_error=False).success
        broken = packet_resources(root, storage_options=closed, as_default=True)
        result = dg.materialize(assets, instance=instance, resources=broken, raise_on_error=False)
        assert not result.success
    shown = [
        repr(resources),
        str(resources["packet_io_manager"]),
        *capfd.readouterr(),
        str(rows(f"{root}/to_celsius", options)),
    ]
    for path in home.rglob("*"):
        if path.is_file():
            shown.append(path.read_bytes().decode(errors="replace"))
            if path.suffix == ".db":
                with sqlite3.connect(path) as database:
                    shown += list(database.iterdump())
    assert not [text[:80] for text in shown if SECRET in text]
    assert os.environ["LAKE_SECRET"] == SECRET


def test_upkeep_takes_credentials_from_the_environment(
    root: str,
    options: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Clean-up, verify and export work on an object store; nothing secret stands on the command line."""
    for rows_ in (ROWS, ROWS.slice(0, 1)):
        delta.replace(f"{root}/readings", rows_.to_reader, where=None, storage_options=options)
    for name, option in (
        ("AWS_ACCESS_KEY_ID", "aws_access_key_id"),
        ("AWS_SECRET_ACCESS_KEY", "aws_secret_access_key"),
        ("AWS_REGION", "aws_region"),
        ("AWS_ENDPOINT_URL", "endpoint_url"),
        ("AWS_ALLOW_HTTP", "allow_http"),
    ):
        monkeypatch.setenv(name, options[option])

    def run(command: str, *arguments: str) -> str:
        assert main([command, "--root-uri", root, *arguments]) == 0
        return capsys.readouterr().out

    assert "Nothing to remove" in run("clean")
    assert "1 files removed" in run("clean", "--older-than", "0s", "--nothing-runs", "--yes")
    assert "WRONG" not in run("verify", "--read-all")
    assert "1 rows" in run("export", "readings", "--to", str(tmp_path / "x.csv"))


def test_results_of_former_names_and_narrower_types_are_found(root: str, options: dict[str, str]) -> None:
    """What lies under a place is listed on an object store as on a disk, without what lies deeper or beside it."""
    database = DeltaTableDatabase(root, options)
    assert database.children(("results", "work")) == []
    table = pa.table({"y": [1]})
    for path in (("results", "work", "abc", "v0"), ("results", "work", "abd", "v0"), ("results", "worker", "x", "v0")):
        database.append(path, table.to_reader)
    assert database.children(("results", "work")) == ["abc", "abd"]
    assert database.children(("results",)) == ["work", "worker"]
