"""Credentials of an object store are left nowhere, its errors say what happened, and racing writers create a table once."""

from __future__ import annotations

import multiprocessing as mp
import socket
import sqlite3
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from campaigns import long_form
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow import fs

from orcapod_dagster import packet_asset, packet_resources
from orcapod_dagster.core import delta
from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.sources import DeltaSource
from orcapod_dagster.core.storage import hide_options, options_for
from orcapod_dagster.io_manager import DeltaLakeIOManager
from orcapod_dagster.resources import ResultStoreResource

SECRET = "Xy7-very-secret-Qw9"
SECRET_FROM_ENV = "Pz3-secret-of-the-environment"
BUCKET = "lakes"


class Server:
    """A running object store, and fresh places in it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.options = {
            "aws_endpoint_url": endpoint,
            "aws_access_key_id": "somebody",
            "aws_secret_access_key": SECRET,
            "aws_region": "us-east-1",
            "aws_allow_http": "true",
        }

    def place(self) -> str:
        return f"s3://{BUCKET}/{time.time_ns()}"

    def objects(self) -> bytes:
        """Return every object of the bucket, one after another."""
        store = fs.PyFileSystem(DeltaStorageHandler(f"s3://{BUCKET}", options_for("s3://", self.options)))
        files = store.get_file_info(fs.FileSelector("", recursive=True))
        found = [store.open_input_file(file.path).read() for file in files if file.type == fs.FileType.File]
        assert found
        return b"\n".join(found)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("moto", reason="the local object store is in the extra dev")
    pytest.importorskip("flask", reason="moto[server] is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("moto") / "log").open("w")
    command = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])"]
    process = subprocess.Popen([*command, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        _wait_for(endpoint, process)
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT"))
        yield Server(endpoint)
    finally:
        process.kill()
        process.wait()
        log.close()


def _wait_for(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(endpoint)
        except urllib.error.URLError:
            assert process.poll() is None, "the local object store ended"
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the local object store did not start")


def read(uri: str, options: dict[str, str]) -> pa.Table:
    table = delta.open_table(uri, options)
    assert table is not None
    source = DeltaSource(table)
    return pa.Table.from_batches(source.scan(source.schema.names), schema=source.schema)


# ---------------------------------------------------------------------------- several processes at once


def append_rows(uri: str, options: dict[str, str], writer: int, times: int, start: Any, told: Any) -> None:
    start.wait()
    try:
        for i in range(times):
            table = pa.table({"writer": [writer] * 3, "row": [3 * i, 3 * i + 1, 3 * i + 2]})
            delta.append(uri, table.to_reader, storage_options=options)
        told.put("")
    except BaseException:
        told.put(traceback.format_exc())


def at_once(*calls: tuple[Callable[..., None], tuple[Any, ...]]) -> None:
    """Run calls in processes of their own that begin at one moment."""
    spawn = mp.get_context("spawn")
    start, told = spawn.Event(), spawn.Queue()
    processes = [spawn.Process(target=call, args=(*args, start, told)) for call, args in calls]
    for process in processes:
        process.start()
    time.sleep(1.5)
    start.set()
    problems = [told.get(timeout=180) for _ in processes]
    for process in processes:
        process.join()
    assert problems == [""] * len(processes), "\n".join(problems)


@pytest.mark.slow
@long_form
def test_a_table_is_created_once(server: Server) -> None:
    """Writers that find no table create it once between them, however they race: one version says so."""
    places = [server.place() for _ in range(20)]
    for uri in places:
        at_once(*[(append_rows, (uri, server.options, writer, 1)) for writer in range(3)])
        operations = [e["operation"] for e in DeltaTable(uri, storage_options=server.options).history()]
        assert operations.count("CREATE TABLE") == 1
        assert read(uri, server.options).num_rows == 9


# ---------------------------------------------------------------------------- a lake, end to end


@dg.asset
def readings() -> pa.Table:
    return pa.table({"reading_id": [1, 2, 3], "fahrenheit": [32.0, 212.0, -40.0]})


@packet_asset(inputs="readings", tag_columns=["reading_id"], output_keys=["celsius"])
def to_celsius(fahrenheit: float) -> float:
    return (fahrenheit - 32) * 5 / 9


@packet_asset(inputs="readings", tag_columns=["reading_id"], output_keys=["x"], name="failing")
def failing(fahrenheit: float) -> float:
    raise ValueError("no value")


# ---------------------------------------------------------------------------- credentials


def left_behind(folder: Path) -> bytes:
    """Return everything below a folder, with what databases hold compressed."""
    found: list[bytes] = []
    for path in folder.rglob("*"):
        if path.is_file():
            found.append(path.read_bytes())
        if path.suffix == ".db":
            found.extend(_cells(path))
    return b"\n".join(found)


def _cells(path: Path) -> Iterator[bytes]:
    with sqlite3.connect(path) as database:
        for (name,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            for row in database.execute(f'select * from "{name}"'):
                for cell in row:
                    raw = cell.encode() if isinstance(cell, str) else cell if isinstance(cell, bytes) else b""
                    try:
                        yield zlib.decompress(raw)
                    except zlib.error:
                        yield raw


def test_credentials_are_left_nowhere(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """After good and failing runs no credential stands in Dagster's databases and logs, the tables, or any output."""
    monkeypatch.setenv("A_SECRET_OF_THE_ENVIRONMENT", SECRET_FROM_ENV)
    literal = {**server.options, "aws_session_token": dg.EnvVar("A_SECRET_OF_THE_ENVIRONMENT")}
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        for root, assets, succeeds in (
            (server.place(), [readings, to_celsius], True),
            (server.place(), [readings, failing], False),
            ("s3://there-is-no-such-bucket/lake", [readings, to_celsius], False),
        ):
            resources = packet_resources(root, storage_options=literal, as_default=True)
            shown = repr(resources) + str(resources["io_manager"]) + str(resources["result_store"])
            assert SECRET not in shown
            result = dg.materialize(assets, instance=instance, resources=resources, raise_on_error=False)
            assert result.success is succeeds
            events = repr(instance.all_logs(result.run_id)) + repr(result.all_events)
            assert SECRET not in events
            assert SECRET_FROM_ENV not in events
        everything = left_behind(tmp_path) + server.objects() + "".join(capfd.readouterr()).encode()
    assert b"aws_session_token" in everything, "the configuration itself is expected there"
    assert b"there-is-no-such-bucket" in everything
    assert SECRET.encode() not in everything
    assert SECRET_FROM_ENV.encode() not in everything


def test_environment_variables_are_read_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested environment variables need not exist when the code is loaded, and give their value of the run."""
    monkeypatch.delenv("A_KEY", raising=False)
    monkeypatch.delenv("A_ROOT", raising=False)
    resources = packet_resources(dg.EnvVar("A_ROOT"), storage_options={"aws_secret_access_key": dg.EnvVar("A_KEY")})
    seen: list[Any] = []

    @dg.op(required_resource_keys={"packet_io_manager", "result_store"})
    def look(context) -> None:
        manager = context.resources.packet_io_manager
        assert isinstance(manager, DeltaLakeIOManager)
        assert isinstance(context.resources.result_store, ResultStoreResource)
        seen.append((manager.root_uri, options_for("gs://x", manager.storage_options)))
        seen.append(context.resources.result_store.database().root_uri)
        assert SECRET not in f"{manager!r}{manager}{manager.storage_options}"

    @dg.job(resource_defs=resources)
    def job() -> None:
        look()

    monkeypatch.setenv("A_KEY", SECRET)
    monkeypatch.setenv("A_ROOT", "gs://bucket")
    assert job.execute_in_process().success
    assert seen == [("gs://bucket", {"aws_secret_access_key": SECRET}), "gs://bucket/.orcapod"]


def test_options_keep_their_values_and_hide_them() -> None:
    """Hiding is undone where a store is opened, shows what is no secret, and the same value has one stand-in."""
    given = {"azure_storage_sas_key": "sv=1&sig=abc", "aws_region": "x", "endpoint": "https://me:pw@host", "token": "t"}
    hidden = hide_options(given)
    assert hidden is not None
    assert hidden["aws_region"] == "x"
    assert not {"sv=1&sig=abc", "https://me:pw@host", "t"} & set(hidden.values())
    assert hide_options(hidden) == hidden == hide_options(given)
    assert options_for("gs://x", hidden) == given
    with pytest.raises(StorageError, match="another process"):
        options_for("gs://x", {"token": "hidden:token:999999"})


@pytest.mark.parametrize("bad", [{"AWS_S3_ALLOW_UNSAFE_RENAME": "true"}, {"conditional_put": "disabled"}])
def test_options_that_lose_commits_are_refused(bad: dict[str, str]) -> None:
    """An option under which two writers overwrite each other's commits is refused by its name."""
    with pytest.raises(StorageError, match=next(iter(bad))):
        options_for("s3://bucket/x", bad)


def test_errors_of_a_store_say_what_happened(server: Server) -> None:
    """A missing bucket is named in plain words, without colour codes and query strings."""
    with pytest.raises(StorageError) as caught:
        delta.open_table("s3://there-is-no-such-bucket/x", server.options)
    text = str(caught.value)
    assert "NoSuchBucket" in text or "404" in text
    assert "\x1b" not in text
    assert "list-type" not in "".join(traceback.format_exception(caught.value))
