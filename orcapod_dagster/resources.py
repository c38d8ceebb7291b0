"""Dagster resources: executors, the result store, and the set of them that a project needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import dagster as dg
from pydantic import Field

from orcapod_dagster.core.blobs.keeper import INLINE_BYTES
from orcapod_dagster.core.blobs.store import BlobStore
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.databases.delta import DeltaTableDatabase
from orcapod_dagster.core.executors.base import PythonFunctionExecutorProtocol
from orcapod_dagster.core.executors.local import LocalPythonFunctionExecutor
from orcapod_dagster.core.executors.process_pool import ProcessPoolExecutor
from orcapod_dagster.core.executors.ray import RayExecutor
from orcapod_dagster.core.executors.ray_secrets import hide_address, hide_environment, revealed
from orcapod_dagster.core.failure_policy import RetryFailed
from orcapod_dagster.core.paths import results_root
from orcapod_dagster.core.storage import hide_options
from orcapod_dagster.core.types import Schema
from orcapod_dagster.io_manager import DeltaLakeIOManager

IO_MANAGER_KEY: Final = "packet_io_manager"
EXECUTOR_KEY: Final = "packet_executor"
RESULT_STORE_KEY: Final = "result_store"
RECOMPUTE_LIMIT_HOURS: Final = 1.0
"""Of the user's function, as recorded; what a developer waits for without thinking about it is less."""


class PacketExecutorResource(dg.ConfigurableResource, ABC):  # type: ignore[type-arg]  # dagster's own generic
    """Supplies the executor on which packet functions run; subclass it to bring your own.

    Example:
        >>> class NicedExecutorResource(PacketExecutorResource):
        ...     level: int = 10
        ...     def get_executor(self):
        ...         return NicedExecutor(self.level)
    """

    @abstractmethod
    def get_executor(self) -> PythonFunctionExecutorProtocol:
        """Return the executor; called once per step."""

    def executor_data_schema(self) -> Schema:
        """Return the schema of the data that the executor stores with each row."""
        return self.get_executor().get_executor_data_schema()


class LocalExecutorResource(PacketExecutorResource):
    """Runs packet functions in the step's own process, row after row."""

    def get_executor(self) -> PythonFunctionExecutorProtocol:
        """Return a local executor."""
        return LocalPythonFunctionExecutor()


class ProcessPoolExecutorResource(PacketExecutorResource):
    """Runs packet functions on the cores of this machine, many rows per task.

    Needs the extra `process-pool`. Steps that run at once share the workers; one asset takes fewer or more by
    `executor_options={"max_workers": …}`.
    """

    max_workers: int | None = Field(default=None, ge=1, description="Processes at a time; default one per core.")

    def get_executor(self) -> PythonFunctionExecutorProtocol:
        """Return a process pool; its workers start with the first row that has to be computed."""
        return ProcessPoolExecutor(self.max_workers)


class RayExecutorResource(PacketExecutorResource):
    """Runs packet functions on a Ray cluster, many rows per task.

    Needs the extra `ray`. Without an address the cluster named by `RAY_ADDRESS` is used, or a local one is started.
    """

    ray_address: str | None = Field(default=None, description="Address of the cluster, e.g. 'ray://head:10001'.")
    runtime_env: dict[str, Any] | None = Field(default=None, description="Ray's runtime environment; never stored.")
    num_cpus: float | None = Field(default=None, description="CPUs that one task reserves.")
    num_gpus: float | None = Field(default=None, description="GPUs that one task reserves.")
    resources: dict[str, float] | None = Field(default=None, description="Custom resources that one task reserves.")
    remote_opts: dict[str, Any] = Field(default_factory=dict, description="Further options of ray.remote.")

    def __init__(self, **data: Any) -> None:
        # Dagster keeps the configuration of resources in its own database.
        hidden = {"ray_address": hide_address(data.get("ray_address"))}
        hidden["runtime_env"] = hide_environment(data.get("runtime_env"))
        super().__init__(**{**data, **{name: value for name, value in hidden.items() if name in data}})

    def get_executor(self) -> PythonFunctionExecutorProtocol:
        """Return a Ray executor; ray is imported when it first runs."""
        address, runtime_env = revealed(self.ray_address), revealed(self.runtime_env)
        return RayExecutor(address, runtime_env, self.num_cpus, self.num_gpus, self.resources, **self.remote_opts)


class ResultStoreResource(dg.ConfigurableResource):  # type: ignore[type-arg]  # dagster's own generic
    """Where the results of packet functions are kept: Delta tables below one folder of the lake."""

    root_uri: str = Field(description="The lake: a local folder or an object store URI. Results lie below it.")
    storage_options: dict[str, str] | None = Field(default=None, description="As deltalake takes them; never shown.")
    inline_bytes: int = Field(
        default=INLINE_BYTES,
        ge=0,
        description="Values declared Blob up to this size, in bytes, lie in the tables themselves.",
    )
    recompute_limit_hours: float | None = Field(
        default=RECOMPUTE_LIMIT_HOURS,
        ge=0,
        description="A run that would compute packets again, for their code changed, stops before the first where their results "
        "took longer than this together; confirm_recompute lets it run. Null is no limit.",
    )

    retry_failed: RetryFailed = Field(
        default="all",
        description="Which failures of earlier runs are tried again: all, transient (what may go away by itself), or changed (only "
        "when code or input changed); an asset may say otherwise. The others count as failed.",
    )

    def __init__(self, **data: Any) -> None:
        if "storage_options" in data:
            data["storage_options"] = hide_options(data["storage_options"])
        super().__init__(**data)

    def database(self) -> ArrowDatabase:
        """Return the database of results."""
        return DeltaTableDatabase(results_root(self.root_uri), self.storage_options)

    def blobs(self) -> BlobStore:
        """Return the large values of the lake."""
        return BlobStore(self.root_uri, self.storage_options, inline_bytes=self.inline_bytes)

    def __repr__(self) -> str:
        return f"ResultStoreResource(root_uri={self.root_uri!r})"

    __str__ = __repr__


def packet_resources(
    root_uri: str,
    executor: PacketExecutorResource | None = None,
    storage_options: Mapping[str, str] | None = None,
    as_default: bool = False,
    inline_bytes: int = INLINE_BYTES,
    recompute_limit_hours: float | None = RECOMPUTE_LIMIT_HOURS,
    retry_failed: RetryFailed = "all",
) -> dict[str, Any]:
    """Return the resources that packet assets use, under keys that no existing project has.

    Args:
        root_uri: the lake: a local folder (relative to the working directory of the code location) or an object store URI;
            also as `dg.EnvVar`.
        executor: where packet functions run; default in the step's process.
        storage_options: credentials and options of the object store, as deltalake takes them; each value also as
            `dg.EnvVar`, which is read when a run begins.
        as_default: whether the lake also becomes the project's `io_manager`, for assets that are no packet assets.
        inline_bytes: values declared `Blob` up to this size lie in the tables themselves, larger ones beside them.
        recompute_limit_hours: a run that would compute packets again because code, signature or environment changed, whose
            results took longer than this together, fails before the first (`RecomputeLimitError`); None is no limit.
        retry_failed: which failures of earlier runs are tried again, as `packet_asset` takes it; for assets that do not say.

    Example:
        >>> import dagster as dg
        >>> defs = dg.Definitions(resources=packet_resources(root_uri="lake"))
    """
    options = dict(storage_options) if storage_options else None
    io_manager = DeltaLakeIOManager(root_uri=root_uri, storage_options=options)
    resources: dict[str, Any] = {
        IO_MANAGER_KEY: io_manager,
        EXECUTOR_KEY: executor or LocalExecutorResource(),
        RESULT_STORE_KEY: ResultStoreResource(
            root_uri=root_uri,
            storage_options=options,
            inline_bytes=inline_bytes,
            recompute_limit_hours=recompute_limit_hours,
            retry_failed=retry_failed,
        ),
    }
    if as_default:
        resources["io_manager"] = io_manager
    return resources
