"""Materializes many small projects, one packet asset each, in one fresh process, over lakes that other processes share.

Reads a JSON list of runs on standard input, each `{"how": …, "lake": …, "jobs": […]}`, and writes a JSON list of what each job
did. A run materializes the assets of its jobs with the executor that `how` names, or has the engine do it, without Dagster
around it; a job is a project's folder with its layout and name, which is that of its asset, too. `check` also reads what is
stored, `probe` also asks a worker what hashes the function has there.
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
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable

from orcapod_dagster import (
    LocalExecutorResource,
    PacketExecutorResource,
    ProcessPoolExecutorResource,
    RayExecutorResource,
    packet_asset,
    packet_resources,
)
from orcapod_dagster.core.databases import DeltaTableDatabase
from orcapod_dagster.core.executors.base import RowBatch
from orcapod_dagster.core.outcomes import OutcomeLog, outcome_path
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.result_cache import ResultCache, result_path
from orcapod_dagster.core.sources import MemorySource
from orcapod_dagster.core.streams import PacketStream, StreamInput

ROWS = [2.5, 7.0, 8.0]
EXECUTORS: dict[str, Callable[[], PacketExecutorResource]] = {
    "local": LocalExecutorResource,
    "process_pool": lambda: ProcessPoolExecutorResource(max_workers=1),
    "ray": lambda: RayExecutorResource(num_cpus=1),
}
STORED = {"content": "__pf_var_function_content_hash", "signature": "__pf_var_function_signature_hash"}
EXECUTOR = "__pf_exec_executor_type"
NUMBERS = pa.table({"id": [1, 2, 3], "x": ROWS})


@dg.asset
def numbers() -> pa.Table:
    """Return the rows of all projects."""
    return NUMBERS


def packet_function(work: Any, name: str, output: str | None) -> PythonPacketFunction:
    """Return `work` as a packet function; without type hints, it takes and gives floats."""
    hinted = bool(getattr(inspect.unwrap(work), "__annotations__", None)) or not inspect.isfunction(work)
    schemas = {} if hinted else {"input_schema": {"x": float}, "output_schema": {"y": float}}
    if output is not None:
        schemas["output_schema"] = {"y": {"str": str}[output]}
    # Columns that the type of the result names are not named again.
    returned = inspect.get_annotations(work).get("return") if inspect.isfunction(work) else None
    keys = None if hasattr(returned, "__total__") else ["y"]
    return PythonPacketFunction(work, output_keys=keys, function_name=name, **schemas)


def asset_of(function: PythonPacketFunction) -> dg.AssetsDefinition:
    """Return a packet function as an asset."""
    name = function.canonical_function_name
    # An edit of a type may change the table's columns.
    metadata = {"orcapod/schema_evolution": "overwrite"}
    return packet_asset(function, inputs="numbers", tag_columns=["id"], name=name, metadata=metadata)


@contextlib.contextmanager
def placed(jobs: list[dict[str, Any]]) -> Iterator[None]:
    """Let the modules of the projects be found."""
    folders = [job["folder"] for job in jobs]
    sys.path += folders
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path = [place for place in sys.path if place not in folders]


def load(job: dict[str, Any]) -> Any:
    """Return the function of a project."""
    module = f"{job['name']}.main" if job["layout"] == "package" else f"{job['name']}_main"
    return importlib.import_module(module).work


def define(job: dict[str, Any]) -> tuple[Any, Any]:
    """Return a project's function and packet function, or what went wrong, and nothing."""
    try:
        work = load(job)
        return work, packet_function(work, job["name"], job.get("output"))
    except Exception:
        return traceback.format_exc()[-2000:], None


def run_all(given: dict[str, Any], instance: dg.DagsterInstance) -> list[Any]:
    """Do a run, and say of each of its jobs what happened; a project that cannot be run fails alone."""
    jobs, lake = given["jobs"], given["lake"]
    with placed(jobs), warnings.catch_warnings(record=True):
        defined = [define(job) for job in jobs]
        if given["how"] == "engine":
            found = [
                {"error": work} if function is None else try_by_engine(job, lake, function)
                for job, (work, function) in zip(jobs, defined, strict=True)
            ]
        else:
            found = materialize(jobs, lake, defined, EXECUTORS[given["how"]](), instance)
        for (work, function), one in zip(defined, found, strict=True):
            if function is not None:
                variation = function.get_function_variation_data()
                one["content"], one["signature"] = (variation[f"function_{n}_hash"] for n in ("content", "signature"))
                one["called"] = [plain(call(work, x)) for x in ROWS]
        return found


def try_by_engine(job: dict[str, Any], lake: str, function: PythonPacketFunction) -> dict[str, Any]:
    """Return what the engine did, or what went wrong."""
    try:
        return run_by_engine(job, lake, function)
    except Exception:
        return {"error": traceback.format_exc()[-2000:]}


def run_by_engine(job: dict[str, Any], lake: str, function: PythonPacketFunction) -> dict[str, Any]:
    """Run a project's function over the rows, as a step of Dagster does."""
    database = DeltaTableDatabase(f"{lake}/.orcapod", durable=False)
    cache, outcomes = ResultCache(database, result_path(function.uri)), OutcomeLog(database, outcome_path(function.uri))
    pod = FunctionPod(function, cache, outcomes)
    plan = pod.plan(PacketStream.open([StreamInput("numbers", MemorySource(NUMBERS))], ("id",)))
    report = pod.compute(plan)
    found = {"ran": report.done, "because": dict(plan.reasons.counts())}
    _, snapshot, positions = pod.assemble(plan, report)
    if job.get("check") and snapshot is not None and len(positions):
        names = [*function.output_keys, *STORED.values(), EXECUTOR]
        found["stored"] = stored(snapshot.source.take(positions, names), function.output_keys)
    return found


def materialize(
    jobs: list[dict[str, Any]],
    lake: str,
    defined: list[tuple[Any, Any]],
    executor: PacketExecutorResource,
    instance: dg.DagsterInstance,
) -> list[dict[str, Any]]:
    """Materialize the assets of jobs in one run of Dagster."""
    if not Path(lake, "numbers").exists():
        dg.materialize([numbers], instance=instance, resources=packet_resources(lake, as_default=True))
    assets = [asset_of(function) for _, function in defined if function is not None]
    resources = packet_resources(lake, executor, as_default=True)
    run = dg.materialize(
        [numbers, *assets], selection=assets, instance=instance, resources=resources, raise_on_error=False
    )
    return [
        {"error": work} if function is None else found_of(job, lake, work, run, executor)
        for job, (work, function) in zip(jobs, defined, strict=True)
    ]


def found_of(
    job: dict[str, Any], lake: str, work: Any, run: dg.ExecuteInProcessResult, executor: PacketExecutorResource
) -> dict[str, Any]:
    """Say what a run of Dagster did with one project's asset."""
    name = job["name"]
    events = run.asset_materializations_for_node(name)
    if not events:
        (failed,) = [event for event in run.get_step_failure_events() if event.step_key == name]
        return {"error": str(failed.step_failure_data.error)[-2000:]}
    shown = {key: value.value for key, value in events[0].metadata.items()}
    found = {"ran": shown["orcapod/packets_computed"], "because": shown["orcapod/computed_because"]}
    if job.get("check"):
        table = DeltaTable(str(Path(lake, name))).to_pyarrow_table().sort_by("id")
        outputs = [column for column in table.column_names if not column.startswith("_") and column != "id"]
        found["stored"] = stored(table, outputs)
    if job.get("probe"):
        found["probed"] = hashes_in_worker(work, executor)
    return found


def stored(table: pa.Table, outputs: Sequence[str]) -> dict[str, Any]:
    """Return the results of a table, in the order of the rows, and under which hashes and executors they are recorded."""
    hashes = {key: sorted(set(table[column].to_pylist())) for key, column in STORED.items()}
    values = [list(row.values()) for row in table.select(outputs).to_pylist()]
    return {"values": values, "executors": sorted(set(table[EXECUTOR].to_pylist())), **hashes}


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
def cluster(used: bool) -> Iterator[None]:
    """Keep one local Ray cluster for all runs, where it is Ray that runs them."""
    if not used:
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
    """Do all runs given."""
    sys.dont_write_bytecode = True
    here = Path(__file__).resolve()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here.parent), str(here.parents[1])])  # for the workers of Ray
    logging.disable(logging.WARNING)
    runs = json.load(sys.stdin)
    on_ray = any(run["how"] == "ray" for run in runs)
    with contextlib.redirect_stdout(sys.stderr), dg.DagsterInstance.ephemeral() as instance, cluster(on_ray):
        found = [one for run in runs for one in run_all(run, instance)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
