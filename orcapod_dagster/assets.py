"""packet_asset: a packet function becomes a Dagster asset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, overload

import dagster as dg

from orcapod_dagster.asset_options import (
    checked_index,
    checked_retry,
    concurrency_of,
    mapping_of,
    names_of,
    owner_of,
    refuse_checks,
    refuse_wrong,
)
from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.executors.call_options import checked_time_limit
from orcapod_dagster.core.failure_limit import checked_max_failures
from orcapod_dagster.core.failure_policy import RetryFailed
from orcapod_dagster.core.identity import function_signature_hash
from orcapod_dagster.core.matching import MatchPolicy
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.packet_logs import checked_capture
from orcapod_dagster.core.packet_retry import PacketRetry
from orcapod_dagster.core.rate_limit import RateLimit
from orcapod_dagster.core.worker_state import WorkerState
from orcapod_dagster.execution import materialize_packets
from orcapod_dagster.partitions import plain
from orcapod_dagster.resources import EXECUTOR_KEY, IO_MANAGER_KEY, RESULT_STORE_KEY
from orcapod_dagster.run_options import PacketAssetConfig
from orcapod_dagster.spec import PARTITION_EXPR, TAG_COLUMNS_METADATA, OnError, PacketAssetSpec

LOAD_AS_SOURCE: Final = {"orcapod/load": "source"}

InputLike = str | Sequence[str] | dg.AssetKey | dg.AssetsDefinition | dg.AssetSpec | dg.AssetIn


class PacketAssetsDefinition(dg.AssetsDefinition):
    """An asset whose name is still callable as the plain function."""

    packet_asset_spec: PacketAssetSpec

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function with its own parameters; nothing is cached or stored."""
        return self.packet_asset_spec.function(*args, **kwargs)

    @property
    def __wrapped_function__(self) -> Callable[..., Any]:
        return self.packet_asset_spec.function.function


def packet_function_of(asset: dg.AssetsDefinition) -> PythonPacketFunction:
    """Return the packet function of a packet asset.

    Raises:
        DefinitionError: the asset is no packet asset.
    """
    spec = packet_spec_of(asset)
    if spec is None:
        raise DefinitionError(f"{asset.key.to_user_string()} is no packet asset, so it has no packet function.")
    return spec.function


def packet_spec_of(asset: Any) -> PacketAssetSpec | None:
    """Return what a packet asset was declared to do, or `None` where it is another thing.

    Copies that Dagster makes of an asset (with resources, another key, a prefix) keep its op; their keys are those that count.
    """
    found: PacketAssetSpec | None = getattr(asset, "packet_asset_spec", None)
    if found is None and isinstance(asset, dg.AssetsDefinition) and asset.is_executable:
        found = getattr(asset.node_def, "packet_asset_spec", None)
    if found is None:
        return None
    return replace(found, key=asset.key, inputs={name: asset.keys_by_input_name[name] for name in found.inputs})


@overload
def packet_asset(fn_or_packet_function: Callable[..., Any], **options: Any) -> PacketAssetsDefinition: ...
@overload
def packet_asset(
    fn_or_packet_function: None = None, **options: Any
) -> Callable[[Callable[..., Any]], PacketAssetsDefinition]: ...
def packet_asset(fn_or_packet_function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a Dagster asset of a function that takes one row and gives one row.

    The function runs once for every input row that it has not seen before, and never again for the same row and
    code. Every other option of `@dg.asset` (`tags`, `owners`, `kinds`, `automation_condition`, `pool`,
    `retry_policy`, `metadata`, …) is taken under the same name.

    Args:
        fn_or_packet_function: a plain, type-hinted function or a packet function; without it, a decorator is returned.
        options: keyword arguments:

            - `inputs`: the upstream asset or assets: keys, asset definitions or `AssetIn`. Several are joined (inner)
              on their shared tag columns; rows keep the order of the first.
            - `tag_columns`: the columns that say which row this is; inherited from upstream packet assets.
            - `output_keys`, `version`, `own_code`, `depends_on`, `ignore`, `formerly`: as `PythonPacketFunction` takes them.
            - `match`: which stored result counts as the same computation: `"version"`, `"signature"`, `"content"`,
              `"environment"` (also Python's minor version and the distributions that the code refers to).
            - `on_error`: `"raise"` runs the rest, stores it, then fails the step and leaves the table as it was;
              `"continue"` materializes the rows that succeeded.
            - `carry`: the upstream column or columns to pass through beside the outputs.
            - `rename`: upstream column → parameter (or tag or carried column).
            - `params`: values that every packet gets; they enter the input hash. A `per_worker(...)` is made once per worker instead,
              and is no column. Nor is a parameter that is annotated with a Dagster resource: it gets the one of this key.
            - `executor_options`: for the executor.
            - `capture`: whether what each packet prints and logs is kept in the log table, up to 64 KiB of stdout, of
              stderr, and of log records; `False`, or another number of bytes.
            - `packet_retry`: how packets that fail are tried again within one run: a `PacketRetry`, its attributes as a dict,
              or how often a packet is called at most. Dagster's `retry_policy` is about whole steps.
            - `retry_failed`: which failures of earlier runs are tried again: `"all"`, `"transient"` (files, connections, time-outs,
              memory, the death of a worker, and what `packet_retry` names), `"changed"` (only when code or input changed); default
              as the result store says. The others count as failed.
            - `max_failures`: how many packets of a run may fail, or which part of those that it computes (a float; 1.0 for all);
              with more, it stops. By default, it stops where the first 20, or more as run at a time, all fail alike.
            - `time_limit`: seconds that one packet may take; one that takes longer is stopped, and fails with `PacketTimeoutError`.
            - `rate_limit`: how many packets begin per second, minute or hour at most, by all workers of the step: `"10/s"`,
              `"60/min"`, `"1000/h"`.
            - `index_column`: of a generator, the column that counts the rows of a packet, and is a further tag downstream; default
              the asset's name with `_index`.
            - `batch`, `batch_size`: whether the function takes many packets in one call, and how many at most.
            - `max_concurrency`: how many packets of an async function are under way at a time, in each process; one by default,
              or what the packet function says.
            - `name`, `key_prefix`, `key`, `group_name`, `partitions_def`, `backfill_policy`, …: as `@dg.asset`.

    Returns:
        The asset. Calling it with the function's parameters runs the plain function.

    Raises:
        DefinitionError: names the function, parameter or column whose declaration cannot be right.

    Example:
        >>> @packet_asset(inputs="readings", tag_columns=["reading_id"], output_keys=["celsius"])
        ... def to_celsius(fahrenheit: float) -> float:
        ...     return (fahrenheit - 32) * 5 / 9
        >>> to_celsius(212.0)
        100.0
    """
    if fn_or_packet_function is None:
        return lambda function: _build(function, **options)
    return _build(fn_or_packet_function, **options)


def _build(
    function: Callable[..., Any],
    *,
    inputs: InputLike | Sequence[InputLike] | Mapping[str, InputLike],
    tag_columns: str | Sequence[str] | None = None,
    output_keys: str | Sequence[str] | None = None,
    version: str = "v0.0",
    match: MatchPolicy = "content",
    on_error: OnError = "raise",
    carry: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    executor_options: Mapping[str, Any] | None = None,
    capture: bool | int = True,
    packet_retry: PacketRetry | Mapping[str, Any] | int | None = None,
    retry_failed: RetryFailed | None = None,
    max_failures: float | None = None,
    time_limit: float | None = None,
    rate_limit: str | None = None,
    max_concurrency: int | None = None,
    index_column: str | None = None,
    batch: bool = False,
    batch_size: int | None = None,
    own_code: Sequence[Any] = (),
    depends_on: Sequence[Any] | Mapping[str, Any] = (),
    ignore: Sequence[str] = (),
    formerly: str | Sequence[str] = (),
    **asset_options: Any,
) -> PacketAssetsDefinition:
    params = mapping_of(params, "params", f"packet asset of {getattr(function, '__name__', function)!r}")
    states = {name: value for name, value in params.items() if isinstance(value, WorkerState)}
    own = {"own_code": own_code, "depends_on": depends_on, "ignore": ignore, "formerly": formerly}
    packet_function = _as_packet_function(
        function, states, output_keys, version, {**own, "batch": batch, "batch_size": batch_size}
    )
    ins, upstreams = _asset_ins(inputs)
    key = _asset_key(packet_function, asset_options)
    owner = owner_of(key)
    refuse_checks(asset_options, owner)
    spec = PacketAssetSpec(
        key=key,
        function=packet_function,
        inputs={name: asset_in.key for name, asset_in in ins.items() if isinstance(asset_in.key, dg.AssetKey)},
        tag_columns=_inherited_tags(tag_columns, upstreams, len(ins)),
        match=match,
        on_error=on_error,
        carry=names_of(carry),
        rename=mapping_of(rename, "rename", owner),
        params={name: value for name, value in params.items() if name not in states},
        executor_options=mapping_of(executor_options, "executor_options", owner),
        partition_expr=_inherited_partition_expr(asset_options, upstreams),
        capture=checked_capture(capture, owner),
        packet_retry=checked_retry(packet_retry, owner),
        retry_failed=retry_failed,
        max_failures=checked_max_failures(max_failures, owner),
        time_limit=checked_time_limit(time_limit, owner),
        rate_limit=RateLimit.of(rate_limit, owner),
        index_column=checked_index(index_column, packet_function, key, owner),
        max_concurrency=concurrency_of(max_concurrency, packet_function, owner),
    )
    refuse_wrong(spec, owner)
    return _define(spec, ins, asset_options)


def _as_packet_function(
    function: Any,
    states: Mapping[str, Any],
    output_keys: str | Sequence[str] | None,
    version: str,
    more: Mapping[str, Any],
) -> PythonPacketFunction:
    if isinstance(function, PythonPacketFunction):
        if output_keys is not None or version != "v0.0" or any(more.values()):
            raise DefinitionError(
                f"{function.canonical_function_name!r} is a packet function already; output_keys, version, own_code, "
                "depends_on, ignore, formerly, batch and batch_size belong to its own definition. Give them there."
            )
        return function.with_worker_state(states)
    return PythonPacketFunction(function, output_keys, version=version, worker_state=states, **more)


def _asset_key(function: PythonPacketFunction, options: Mapping[str, Any]) -> dg.AssetKey:
    if options.get("key") is not None:
        return dg.AssetKey.from_coercible(options["key"])
    prefix = options.get("key_prefix") or []
    parts = [prefix] if isinstance(prefix, str) else list(prefix)
    return dg.AssetKey([*parts, options.get("name") or function.canonical_function_name])


def _asset_ins(inputs: Any) -> tuple[dict[str, dg.AssetIn], list[dg.AssetsDefinition | dg.AssetSpec | None]]:
    """Return Dagster inputs by name, and their definitions where they were given."""
    if isinstance(inputs, Mapping):
        listed = list(inputs.values())
    elif isinstance(inputs, (list, tuple)) and not isinstance(inputs, (dg.AssetIn, dg.AssetKey, dg.AssetSpec)):
        listed = list(inputs)
    else:
        listed = [inputs]
    if not listed:
        raise DefinitionError("A packet asset needs at least one input; give inputs=<asset>.")
    ins: dict[str, dg.AssetIn] = {}
    upstreams: list[dg.AssetsDefinition | dg.AssetSpec | None] = []
    for one in listed:
        given = one if isinstance(one, dg.AssetIn) else dg.AssetIn(key=_key_of(one))
        if given.key is None:
            raise DefinitionError("An AssetIn among the inputs has no key; give AssetIn(key=...).")
        name = "in_" + "__".join(given.key.path).replace("-", "_").replace(".", "_")
        ins[name] = given._replace(metadata={**(given.metadata or {}), **LOAD_AS_SOURCE})
        upstreams.append(one if isinstance(one, (dg.AssetsDefinition, dg.AssetSpec)) else None)
    return ins, upstreams


def _key_of(one: Any) -> dg.AssetKey:
    if isinstance(one, dg.AssetKey):
        return one
    if isinstance(one, (dg.AssetsDefinition, dg.AssetSpec)):
        return one.key
    if isinstance(one, str):
        return dg.AssetKey.from_user_string(one)
    raise DefinitionError(
        f"inputs: a {type(one).__qualname__} names no asset. Give a key, an asset definition or an AssetIn."
    )


def _metadata_of(upstream: dg.AssetsDefinition | dg.AssetSpec | None) -> Mapping[str, Any]:
    if isinstance(upstream, dg.AssetsDefinition):
        return upstream.get_asset_spec(upstream.key).metadata
    return {} if upstream is None else upstream.metadata


def _inherited_tags(
    declared: str | Sequence[str] | None, upstreams: Sequence[dg.AssetsDefinition | dg.AssetSpec | None], inputs: int
) -> tuple[str, ...] | None:
    if declared is not None:
        return names_of(declared)
    inherited = [_metadata_of(upstream).get(TAG_COLUMNS_METADATA) for upstream in upstreams]
    if any(tags is None for tags in inherited) or len(inherited) < inputs:
        return None
    return tuple(dict.fromkeys(tag for tags in inherited for tag in plain(tags)))


def _inherited_partition_expr(options: Mapping[str, Any], upstreams: Sequence[Any]) -> Any:
    own = (options.get("metadata") or {}).get(PARTITION_EXPR)
    if own is not None or options.get("partitions_def") is None:
        return own
    for upstream in upstreams:
        found = plain(_metadata_of(upstream).get(PARTITION_EXPR))
        if found is not None:
            return found
    return None


def code_version(function: PythonPacketFunction, match: MatchPolicy) -> str:
    """Return the code version of an asset: a pure function of code and match policy."""
    parts = [function.canonical_function_name, function.output_packet_schema_hash[:8], f"v{function.major_version}"]
    if match != "version":
        parts.append(function_signature_hash(function.function).rpartition(":")[2][:12])
    if match in ("content", "environment"):
        parts.append(function.get_function_content_hash().rpartition(":")[2][:12])
    if match == "environment":
        parts.append(function.get_environment().environment_hash.rpartition(":")[2][:12])
    return "-".join(parts)


def _define(spec: PacketAssetSpec, ins: Mapping[str, dg.AssetIn], options: dict[str, Any]) -> PacketAssetsDefinition:
    def compute(context: dg.AssetExecutionContext, config: PacketAssetConfig, **loaded: Any):  # noqa: ANN202  # an annotation would make Dagster type-check the table
        yield from materialize_packets(context, config, spec, loaded)

    compute.__annotations__ = {"context": dg.AssetExecutionContext, "config": PacketAssetConfig}
    metadata = dict(options.pop("metadata", None) or {})
    if spec.table_tags is not None:
        metadata[TAG_COLUMNS_METADATA] = list(spec.table_tags)
    if spec.partition_expr is not None:
        metadata[PARTITION_EXPR] = spec.partition_expr
    for named in ("name", "key_prefix", "key"):
        options.pop(named, None)
    settings: dict[str, Any] = {
        "description": spec.function.function.__doc__,
        "code_version": code_version(spec.function, spec.match),
        "io_manager_key": IO_MANAGER_KEY,
        "kinds": {"python", "deltalake"},
        **options,
    }
    required = {EXECUTOR_KEY, RESULT_STORE_KEY, IO_MANAGER_KEY, *spec.function.resources} | set(
        settings.pop("required_resource_keys", None) or ()
    )
    made = dg.asset(
        key=spec.key,
        ins=dict(ins),
        metadata=metadata,
        output_required=False,
        required_resource_keys=required,
        **settings,
    )(compute)
    made.__class__ = PacketAssetsDefinition
    asset: Any = made
    asset.packet_asset_spec = asset.op.packet_asset_spec = spec
    return asset
