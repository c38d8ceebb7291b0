"""Packet assets on a real local Ray cluster: equal values, hashes and data versions."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from ray_clusters import small_cluster

from orcapod_dagster import (
    LocalExecutorResource,
    PacketExecutorResource,
    RayExecutorResource,
    SkipPacket,
    packet_asset,
    packet_resources,
)

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with small_cluster():
        yield


def offset(x: int) -> float:
    return x / 4


def work(x: int, scale: float = 2.0) -> float:
    if x == 7:
        raise SkipPacket("seven")
    return offset(x) * scale


def materialize(root: Path, executor: PacketExecutorResource) -> tuple[pa.Table, str, dict[str, Any]]:
    @dg.asset(io_manager_key="packet_io_manager")
    def numbers() -> pa.Table:
        return pa.table({"id": pa.array(range(5000)), "x": pa.array(range(5000))})

    asset = packet_asset(work, inputs=numbers, tag_columns=["id"], output_keys=["y"])
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([numbers, asset], instance=instance, resources=packet_resources(str(root), executor))
        (event,) = result.asset_materializations_for_node("work")
    table = DeltaTable(str(root / "work")).to_pyarrow_table()
    return table, event.tags["dagster/data_version"], {k: v.value for k, v in event.metadata.items()}


def test_ray_gives_what_local_gives(tmp_path: Path) -> None:
    """Values, input hashes, function hashes and data version on Ray equal those of the local executor."""
    here, version, _ = materialize(tmp_path / "local", LocalExecutorResource())
    there, ray_version, shown = materialize(
        tmp_path / "ray", RayExecutorResource(num_cpus=1, runtime_env={"env_vars": {"TOKEN": "secret-1"}})
    )
    same = ["id", "y", "__input_packet_hash", "__pf_var_function_content_hash", "__pf_var_function_signature_hash"]
    assert there.select(same).equals(here.select(same))
    assert version == ray_version
    assert set(there["__pf_exec_executor_type"].to_pylist()) == {"ray.v0"}
    assert dict(there["__pf_exec_executor_info"][0].as_py()) == {
        "ray_address": "auto",
        "remote_opts": '{"num_cpus": 1.0}',
        "runtime_env": "True",
    }
    assert shown["orcapod/packets_skipped"] == 1
    assert "secret-1" not in str(shown) + str(there.slice(0, 1).to_pylist())


def test_secrets_of_a_run_that_fails_on_ray_are_left_nowhere(tmp_path: Path) -> None:
    """Neither lake, nor DAGSTER_HOME with its database, nor compute logs have one of runtime_env or address, whatever fails."""
    password, token, index = "pw-Ab3-secret", "token-Qr7-secret", "index-Zk9-secret"
    # The second environment is refused by Ray, the third cannot be built: both errors of Ray's quote it.
    environments: list[dict[str, Any]] = [
        {},
        {"working_dir": f"s3://user:{index}@bucket/folder"},
        {"conda": {"dependencies": [f"https://user:{index}@host/x"]}},
    ]
    home, shown = tmp_path / "home", []
    home.mkdir()
    for number, environment in enumerate(environments):
        executor = RayExecutorResource(
            ray_address=f"ray://user:{password}@head:10001/?key={password}",
            runtime_env={"env_vars": {"TOKEN": token}, **environment},
        )
        (result, text) = failing_run(home, tmp_path / "lake", executor, number)
        assert not result.success
        shown.append(text)
    assert "ZeroDivisionError" in shown[0]
    assert "does not take this runtime_env" in shown[1]
    assert "RuntimeEnvSetupError" in shown[2]
    left = b"\n".join(every_byte(tmp_path)) + "".join(shown).encode()
    assert b"ZeroDivisionError" in left
    assert b"told on the worker" in left
    for secret in (password, token, index):
        assert secret.encode() not in left


def failing_run(home: Path, lake: Path, executor: PacketExecutorResource, number: int) -> tuple[Any, str]:
    """Materialize with an instance of files an asset of which a packet fails, and a run without its environment; return what it tells."""

    @dg.asset(io_manager_key="packet_io_manager")
    def numbers() -> pa.Table:
        return pa.table({"id": pa.array(range(3)), "x": pa.array(range(3))})

    asset = packet_asset(
        divide,
        inputs=numbers,
        tag_columns=["id"],
        output_keys=["y"],
        name=f"run{number}",
        ignore=["TOKEN"],
        max_failures=0,
    )
    resources = packet_resources(str(lake), executor)
    defs = dg.Definitions([numbers, asset], resources=resources)
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        logs = instance.all_logs(result.run_id)
    return result, "\n".join(str(entry) for entry in logs)


def divide(x: int) -> float:
    print("told on the worker")
    assert os.environ["TOKEN"]
    return 1 / x


def every_byte(folder: Path) -> Iterator[bytes]:
    """Yield each file, and each value of each SQLite database, unpacked."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.read_bytes()
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as database:
                tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                for (table,) in tables:
                    for row in database.execute(f'SELECT * FROM "{table}"'):
                        yield from (unpacked(value) for value in row if isinstance(value, (bytes, str)))


def unpacked(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    try:
        return zlib.decompress(raw)
    except zlib.error:
        return raw
