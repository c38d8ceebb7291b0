"""One step of a packet asset: load, plan, compute, assemble, and what Dagster is told of it."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from orcapod_dagster import metadata as shown
from orcapod_dagster.assembly import Assembly, AssetTable
from orcapod_dagster.core.asset_write import DATA_VERSION
from orcapod_dagster.core.blobs.keeper import Digester
from orcapod_dagster.core.cost import Recomputation
from orcapod_dagster.core.databases import ReadOnlyDatabase
from orcapod_dagster.core.errors import PacketFailuresError, TooManyFailuresError
from orcapod_dagster.core.execution_data import flatten_execution_data
from orcapod_dagster.core.failure_policy import FailurePolicy
from orcapod_dagster.core.git import git_state
from orcapod_dagster.core.outcomes import Outcome, OutcomeLog, outcome_path
from orcapod_dagster.core.packet_logs import PacketLogs, log_path
from orcapod_dagster.core.plan_log import PlanLog, PlannedRun, plan_path
from orcapod_dagster.core.plan_report import look_ahead
from orcapod_dagster.core.planning import Plan
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.progress import Progress
from orcapod_dagster.core.recording import PodReport
from orcapod_dagster.core.result_cache import ResultCache, result_path
from orcapod_dagster.core.streams import PacketStream
from orcapod_dagster.desk_line import desk_line_of_run, here, status_line
from orcapod_dagster.dry_run import plan_lines, plan_metadata
from orcapod_dagster.inputs import open_stream, versions_of, versions_read
from orcapod_dagster.partitions import plain
from orcapod_dagster.progress_lines import ProgressLines
from orcapod_dagster.recompute_guard import over_limit, refuse_recompute
from orcapod_dagster.resource_parameters import with_resources_of_step
from orcapod_dagster.resources import EXECUTOR_KEY, RESULT_STORE_KEY, PacketExecutorResource, ResultStoreResource
from orcapod_dagster.run_options import PacketAssetConfig, RunOptions
from orcapod_dagster.spec import PARTITION_EXPR, PacketAssetSpec

_TRACEBACKS = 3


def materialize_packets(
    context: dg.AssetExecutionContext, config: PacketAssetConfig, spec: PacketAssetSpec, loaded: Mapping[str, Any]
) -> Iterator[Any]:
    """Run one step of a packet asset.

    Args:
        context, config: of the step.
        spec: what was declared.
        loaded: Dagster input name → what its IO manager loaded.

    Yields:
        A `MaterializeResult`, or an `AssetObservation` when `limit`, `rows` or `dry_run` leave the table as it is.

    Raises:
        RunOptionError: a tag of the run is no option of packet assets, or no value of one.
        RecomputeLimitError: results would be made again that took longer than the limit.
        PacketFailuresError: packets failed and `on_error` is "raise"; everything that succeeded is stored.
    """
    options = RunOptions.of(config, context.run.tags)
    spec = with_resources_of_step(spec, context)
    stream = open_stream(spec, loaded, context.op_execution_context.job_def.asset_layer.asset_graph)
    if options.rows is not None:
        stream = stream.where(options.rows)
    pod = _pod_of_step(context, spec, stream, options)
    table = AssetTable(context, spec, pod, _partition_expr(context, spec), stream)
    if options.dry_run:
        yield _look_ahead(context, spec, pod, stream, options)
        return
    hashed = pod.hash(stream)
    standing = None if options.partial or options.force else table.standing(stream, hashed.hashes)
    if standing is not None:
        yield _nothing_new(context, spec, pod, table, stream, standing)
        return
    stream.refuse_unclear_tags()
    plan = pod.plan(stream, hashed, force=options.force, limit=options.limit)
    _tell_plan(context, spec, plan)
    refuse_recompute(context, spec.key, Recomputation.of(plan), _store(context).recompute_limit_hours, options)
    progress = Progress(len(plan.to_compute), cached=len(plan.found) - plan.found.null_count)
    try:
        with ProgressLines(context, spec.key.to_user_string(), progress):
            report = pod.compute(plan, progress)
    except TooManyFailuresError as error:
        told = _told_failures(context, spec, plan.stream, error.failures)
        raise TooManyFailuresError("\n".join([error.summary, *told])) from None
    _tell_losses(context, report)
    stream, snapshot, positions = pod.assemble(plan, report)
    metadata = _metadata(context, spec, pod, plan.variation, plan.stream, report)
    metadata |= shown.guarded(lambda: _status(context, spec, plan, report))
    metadata |= shown.guarded(lambda: shown.code_changes(pod.planner.code_changes(plan)))
    if options.partial:
        context.log.info(
            "Tried out with limit or rows: the asset table stays as it is, and downstream steps of this run are skipped."
        )
        yield dg.AssetObservation(asset_key=spec.key, metadata=metadata, partition=_partition(context))
        return
    if report.failed and spec.on_error == "raise":
        raise _failures_error(context, spec, plan.stream, report)
    if report.failed:
        context.log.warning(f"{report.failed:,} packets failed; the rest is materialized. See orcapod/failures.")
    yield _materialized(context, table, Assembly.of(spec, stream, snapshot, positions), metadata)


def _nothing_new(
    context: dg.AssetExecutionContext,
    spec: PacketAssetSpec,
    pod: FunctionPod,
    table: AssetTable,
    stream: PacketStream,
    standing: str,
) -> dg.MaterializeResult[Any]:
    """Leave the table as it is, for it holds just these rows; `standing` is its data version."""
    context.log.info(
        f"{spec.key.to_user_string()}: {stream.num_rows:,} packets, all cached, and the table holds just these rows."
    )
    report = PodReport(stream.num_rows, 0, cached=stream.num_rows)
    metadata = _metadata(context, spec, pod, pod.function.get_function_variation_data(), stream, report)
    metadata |= {"orcapod/unchanged": True, **shown.guarded(lambda: shown.preview(table.first_rows(stream)))}
    return dg.MaterializeResult(value=table.keep(standing), metadata=metadata, data_version=dg.DataVersion(standing))


def _materialized(
    context: dg.AssetExecutionContext, table: AssetTable, assembly: Assembly, metadata: dict[str, Any]
) -> dg.MaterializeResult[Any]:
    """Hand the assembled rows to the IO manager, or leave the table as it is where it holds these."""
    write = table.write(assembly)
    metadata |= shown.guarded(lambda: shown.preview(assembly.first_rows()))
    metadata["orcapod/unchanged"] = write.unchanged
    if write.unchanged:
        context.log.info("Nothing new: the table holds exactly these rows, so no new version is written.")
    return dg.MaterializeResult(
        value=write, metadata=metadata, data_version=dg.DataVersion(write.custom_metadata[DATA_VERSION])
    )


def _tell_plan(context: dg.AssetExecutionContext, spec: PacketAssetSpec, plan: Plan) -> None:
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in plan.reasons.counts().items()) or "nothing new"
    line = (
        f"{spec.key.to_user_string()}: {len(plan.hashes):,} packets, {len(plan.to_compute):,} to compute ({reasons})."
    )
    if len(plan.failed):
        line += f" {len(plan.failed):,} failed before and are not tried again (retry_failed)."
    if len(plan.to_compute):
        line += f"\nHow far each of them is: {status_line(spec.key, context.run)}"
    context.log.info(line)


def _tell_losses(context: dg.AssetExecutionContext, report: PodReport) -> None:
    if report.lost_plan:
        context.log.warning(
            f"What this run set out to do could not be stored ({report.lost_plan}), so the state of its single packets cannot be "
            "asked for. Results and failures are stored."
        )
    if report.lost_logs:
        context.log.warning(
            f"{report.lost_logs:,} entries of what packets printed and logged are not in the log table, which could not be "
            f"written ({report.lost_logs_reason}). The results of these packets are stored."
        )


def _look_ahead(
    context: dg.AssetExecutionContext,
    spec: PacketAssetSpec,
    pod: FunctionPod,
    stream: PacketStream,
    options: RunOptions,
) -> dg.AssetObservation:
    """Say what the run would do, in the log and as an observation."""
    stream.refuse_unclear_tags()
    report = look_ahead(pod, stream, force=options.force, limit=options.limit)
    guarded = over_limit(report.recomputation, _store(context).recompute_limit_hours, options)
    context.log.info(
        "\n".join(
            [
                f"{spec.key.to_user_string()}: a dry run; nothing is computed or written, and downstream steps of this run are skipped.",
                *plan_lines(report, guarded=guarded),
            ]
        )
    )
    metadata = plan_metadata(report, guarded=guarded)
    return dg.AssetObservation(asset_key=spec.key, metadata=metadata, partition=_partition(context))


# ---------------------------------------------------------------------------- the engine


def pod_of(
    spec: PacketAssetSpec,
    store: ResultStoreResource,
    supplier: PacketExecutorResource,
    extra_info: Mapping[str, str],
    *,
    read_only: bool,
    run: PlannedRun | None = None,
) -> FunctionPod:
    """Return the engine of a packet asset.

    Args:
        spec: the asset. store, supplier: where its results lie, and what gives the executor.
        extra_info: stored with each result.
        read_only: nothing is stored; of large values that it makes, it keeps the digests.
        run: in whose name plans are kept, and logs of packets, as the asset says; without it, none are.
    """
    database, blobs = store.database(), store.blobs()
    if read_only:
        database, blobs.keeper = ReadOnlyDatabase(database), Digester(blobs.keeper.inline_bytes)
    uri, logs = spec.function.uri, None
    if run is not None and spec.capture:
        logs = PacketLogs(database, log_path(uri), run_id=run.run_id, limit=spec.capture)
    return FunctionPod(
        spec.function,
        ResultCache(database, result_path(uri)),
        OutcomeLog(database, outcome_path(uri)),
        executor=supplier.get_executor(),
        match=spec.match,
        executor_options=spec.executor_options,
        extra_info=extra_info,
        blobs=blobs,
        logs=logs,
        failures=FailurePolicy(spec.packet_retry, spec.retry_failed or store.retry_failed, spec.max_failures),
        plans=None if run is None else PlanLog(database, plan_path(uri), run),
        time_limit=spec.time_limit,
        rate_limit=spec.rate_limit,
        max_concurrency=spec.max_concurrency,
    )


def _pod_of_step(
    context: dg.AssetExecutionContext, spec: PacketAssetSpec, stream: PacketStream, options: RunOptions
) -> FunctionPod:
    return pod_of(
        spec,
        _store(context),
        getattr(context.resources, EXECUTOR_KEY),
        {**_run_info(context), **machine_info(spec), **versions_read(stream)},
        read_only=options.dry_run,
        run=_planned_run(context, spec, stream, options),
    )


def _store(context: dg.AssetExecutionContext) -> ResultStoreResource:
    return getattr(context.resources, RESULT_STORE_KEY)


def machine_info(spec: PacketAssetSpec) -> dict[str, str]:
    """Return what is recorded of the code's repository and of this machine."""
    code = getattr(spec.function.function, "__code__", None)
    git = git_state(None if code is None else code.co_filename).as_info()
    info = {"host": socket.gethostname(), "platform": platform.platform(), **git}
    return {key: value for key, value in info.items() if value}


def _run_info(context: dg.AssetExecutionContext) -> dict[str, str]:
    info = {
        "run_id": context.run.run_id,
        "job": context.run.job_name,
        "step": str(context.op_execution_context.op_handle),
        "partition": _partition(context) or "",
        "retry_number": str(context.op_execution_context.retry_number),
    }
    return {key: value for key, value in info.items() if value}


def _planned_run(
    context: dg.AssetExecutionContext, spec: PacketAssetSpec, stream: PacketStream, options: RunOptions
) -> PlannedRun:
    """Return what a plan says of the run, and what brings the same rows back later."""
    partitioned = context.has_partition_key or context.has_partition_key_range
    keys = list(context.partition_keys) if partitioned else []
    read = {"versions": versions_of(stream), "partitions": keys, "rows": options.rows}
    step = str(context.op_execution_context.op_handle)
    return PlannedRun(context.run.run_id, step, spec.key.to_user_string(), _partition(context), read)


def _partition(context: dg.AssetExecutionContext) -> str | None:
    if not context.has_partition_key:
        if context.has_partition_key_range:
            span = context.partition_key_range
            return f"{span.start}...{span.end}"
        return None
    return context.partition_key


def _partition_expr(context: dg.AssetExecutionContext, spec: PacketAssetSpec) -> Any:
    if spec.partition_expr is not None or (not context.has_partition_key and not context.has_partition_key_range):
        return spec.partition_expr
    graph = context.op_execution_context.job_def.asset_layer.asset_graph
    for key in spec.inputs.values():
        found = graph.get(key).metadata.get(PARTITION_EXPR) if graph.has(key) else None
        if found is not None:
            return plain(found)
    return None


# ---------------------------------------------------------------------------- what Dagster shows


def _metadata(
    context: dg.AssetExecutionContext,
    spec: PacketAssetSpec,
    pod: FunctionPod,
    variation: Mapping[str, str],
    stream: PacketStream,
    report: PodReport,
) -> dict[str, Any]:
    data = flatten_execution_data(pod.executor.get_executor_data(), pod.extra_info)
    supplier: PacketExecutorResource = getattr(context.resources, EXECUTOR_KEY)
    return {
        **shown.counts(report),
        **shown.guarded(lambda: shown.accepted(report)),
        **shown.guarded(lambda: shown.identity(variation, spec.function.version, spec.match)),
        **shown.guarded(lambda: shown.execution(data, supplier.executor_data_schema())),
        **shown.guarded(lambda: shown.joins(stream)),
        **shown.guarded(lambda: _failures(context, spec, stream, report)),
        **shown.guarded(lambda: _lineage(spec, stream)),
    }


def _status(context: dg.AssetExecutionContext, spec: PacketAssetSpec, plan: Plan, report: PodReport) -> dict[str, Any]:
    """Return the line to type that shows the state of each packet, where there is one."""
    stored = (len(plan.to_compute) or plan.invalid) and not report.lost_plan
    return {"orcapod/status": status_line(spec.key, context.run)} if stored else {}


def _with_tags(stream: PacketStream, failures: Sequence[Outcome]) -> list[tuple[dict[str, Any], Outcome]]:
    rows = [outcome.row for outcome in failures]
    if not rows:
        return []
    narrowed = stream.narrow(pa.array(rows, pa.int64()))
    tags = pa.Table.from_batches(narrowed.scan(stream.tag_columns)).to_pylist()
    return list(zip(tags, failures, strict=True))


def _lineage(spec: PacketAssetSpec, stream: PacketStream) -> dict[str, Any]:
    owner: dict[str, list[dg.TableColumnDep]] = {}
    for key, part in zip(spec.inputs.values(), stream.parts, strict=False):
        for name, column in part.input.columns().items():
            owner.setdefault(name, []).append(dg.TableColumnDep(asset_key=key, column_name=column))
    consumed = {name: owner[name] for name in spec.function.input_packet_schema if name in owner}
    kept = {name: owner[name] for name in (*stream.tag_columns, *spec.carry) if name in owner}
    return shown.lineage(spec.function.output_keys, consumed, kept)


def _failures(
    context: dg.AssetExecutionContext, spec: PacketAssetSpec, stream: PacketStream, report: PodReport
) -> dict[str, Any]:
    failed = _with_tags(stream, report.failures)
    return shown.failures(failed, [desk_line_of_run(context, spec.key, tag) for tag, _ in failed])


def _failures_error(
    context: dg.AssetExecutionContext, spec: PacketAssetSpec, stream: PacketStream, report: PodReport
) -> PacketFailuresError:
    told = _told_failures(context, spec, stream, report.failures)
    lines = [
        (
            f"{report.failed:,} of {report.total:,} packets of {spec.key.to_user_string()} failed. Everything that succeeded is stored, and the "
            "asset table is as it was. Mend the function or the rows and run again: only packets without a result are computed. "
            'With on_error="continue" the rest is materialized.'
        )
    ]
    return PacketFailuresError("\n".join([*lines, *told]))


def _told_failures(
    context: dg.AssetExecutionContext, spec: PacketAssetSpec, stream: PacketStream, failures: Sequence[Outcome]
) -> list[str]:
    """Return the first failures as lines: tag, error, traceback, the end of what was printed, and the command for the desk."""
    lines: list[str] = []
    for tag, outcome in _with_tags(stream, failures[:_TRACEBACKS]):
        lines.append(f"\n{tag}: {outcome.error_type}: {outcome.message}\n{outcome.traceback}")
        if outcome.printed:
            lines.append(f"It had printed and logged, at the end:\n{outcome.printed}")
        if line := desk_line_of_run(context, spec.key, tag):
            lines.append(f"To call the function with this packet, in {here()}: {line}")
    return lines
