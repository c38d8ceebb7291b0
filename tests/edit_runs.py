"""Materializes many small projects, one packet asset each, in one fresh process, over lakes that other processes share.

Reads a JSON object on standard input, `{"executor": …, "jobs": […]}`, and writes a JSON list of what each run did. A job is
a project's folder with its layout, the name of its asset, and the lake; `check` also calls the function and reads the
table, `probe` also asks a worker of the executor what hashes the function has there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable
from identity_worker import loaded

from orcapod_dagster import (
    LocalExecutorResource,
    PacketExecutorResource,
    ProcessPoolExecutorResource,
    RayExecutorResource,
    packet_asset,
    packet_function_of,
    packet_resources,
)
from orcapod_dagster.core.executors.base import RowBatch
from orcapod_dagster.core.packet_function import PythonPacketFunction

ROWS = [2.5, 7.0, 8.0]
EXECUTORS: dict[str, Callable[[], PacketExecutorResource]] = {
    "local": LocalExecutorResource,
    "process_pool": lambda: ProcessPoolExecutorResource(max_workers=1),
    "ray": lambda: RayExecutorResource(num_cpus=1),
}
STORED = {"content": "__pf_var_function_content_hash", "signature": "__pf_var_function_signature_hash"}


@dg.asset
def numbers() -> pa.Table:
    """Return the rows of all projects."""
    return pa.table({"id": [1, 2, 3], "x": ROWS})


def asset_of(work: Any, name: str) -> dg.AssetsDefinition:
    """Return `work` as a packet asset; without type hints, it takes and gives floats."""
    hinted = bool(getattr(inspect.unwrap(work), "__annotations__", None)) or not inspect.isfunction(work)
    schemas = {} if hinted else {"input_schema": {"x": float}, "output_schema": {"y": float}}
    # Columns that the type of the result names are not named again.
    returned = inspect.get_annotations(work).get("return") if inspect.isfunction(work) else None
    keys = None if hasattr(returned, "__total__") else ["y"]
    function = PythonPacketFunction(work, output_keys=keys, function_name=name, **schemas)
    # An edit of a type may change the table's columns.
    metadata = {"orcapod/schema_evolution": "overwrite"}
    return packet_asset(function, inputs="numbers", tag_columns=["id"], name=name, metadata=metadata)


def run_job(job: dict[str, Any], executor: PacketExecutorResource, instance: dg.DagsterInstance) -> Any:
    """Materialize one project's asset and say what happened."""
    lake = job["lake"]
    with loaded(job["folder"], job["layout"]) as work:
        asset = asset_of(work, job["name"])
        resources = packet_resources(lake, executor, as_default=True)
        run = dg.materialize([numbers, asset], selection=[asset], instance=instance, resources=resources)
        (event,) = run.asset_materializations_for_node(job["name"])
        shown = {key: value.value for key, value in event.metadata.items()}
        function = packet_function_of(asset)
        found = {
            "computed": shown["orcapod/packets_computed"],
            "because": shown["orcapod/computed_because"],
            "content": function.get_function_variation_data()["function_content_hash"],
            "signature": function.get_function_variation_data()["function_signature_hash"],
        }
        if job.get("check"):
            found |= {"stored": read(lake, job["name"]), "called": [plain(call(work, x)) for x in ROWS]}
        if job.get("probe"):
            found["probed"] = hashes_in_worker(work, executor)
        return found


def try_job(job: dict[str, Any], executor: PacketExecutorResource, instance: dg.DagsterInstance) -> Any:
    """Return what happened; a project that cannot be run fails alone."""
    try:
        return run_job(job, executor, instance)
    except Exception:
        return {"error": traceback.format_exc()[-2000:]}


def read(lake: str, name: str) -> dict[str, Any]:
    """Return the results of an asset's table, in the order of the rows, and under which hashes and executors they are recorded."""
    table = DeltaTable(str(Path(lake, name))).to_pyarrow_table().sort_by("id")
    values = table.drop_columns([c for c in table.column_names if c.startswith("_") or c == "id"]).to_pylist()
    hashes = {key: sorted(set(table[column].to_pylist())) for key, column in STORED.items()}
    executors = sorted(set(table["__pf_exec_executor_type"].to_pylist()))
    return {"values": [list(row.values()) for row in values], "executors": executors, **hashes}


def call(work: Any, x: float) -> Any:
    """Call the plain function."""
    value = work(x)
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def plain(value: Any) -> list[Any]:
    """Return a result as the columns of its row."""
    return list(value.values()) if isinstance(value, dict) else [value]


def hashes_in_worker(work: Any, executor: PacketExecutorResource) -> dict[str, str]:
    """Return what a worker takes the function for that it was sent by value."""
    inner = work
    while isinstance(inner, functools.partial):
        inner = inner.func

    # It has the name of the function's module, so the same modules travel with it.
    @functools.wraps(getattr(inner, "__func__", inner), updated=())
    def probe(x: float) -> dict[str, str]:
        # Without the package around it, which takes a second to import.
        identity = importlib.import_module("identity_worker").load_identity()
        return {
            "content": identity.function_code(work).content_hash,
            "signature": identity.function_signature_hash(work),
        }

    (result,) = executor.get_executor().run_rows(probe, [RowBatch(([1.0],), {}, 0, 1)])
    for failure in result.failures:
        raise failure.error
    return result.outputs[0]


@contextlib.contextmanager
def cluster(executor: str) -> Iterator[None]:
    """Keep one local Ray cluster for all jobs, where it is Ray that runs them."""
    if executor != "ray":
        yield
        return
    import ray

    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    ray.init(num_cpus=1, object_store_memory=100_000_000, **options)
    try:
        yield
    finally:
        ray.shutdown()


def main() -> None:
    """Run all jobs given."""
    sys.dont_write_bytecode = True
    here = Path(__file__).resolve()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here.parent), str(here.parents[1])])  # for the workers of Ray
    logging.disable(logging.WARNING)
    given = json.load(sys.stdin)
    executor = EXECUTORS[given["executor"]]()
    with contextlib.redirect_stdout(sys.stderr), dg.DagsterInstance.ephemeral() as instance, cluster(given["executor"]):
        for lake in {job["lake"] for job in given["jobs"] if not Path(job["lake"], "numbers").exists()}:
            dg.materialize([numbers], instance=instance, resources=packet_resources(lake, as_default=True))
        found = [try_job(job, executor, instance) for job in given["jobs"]]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
