"""Packet assets on a real local Ray cluster: equal values, hashes and data versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable

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
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


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
