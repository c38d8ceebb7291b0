"""RayExecutor: many rows per task on a Ray cluster; workers need neither this package nor the user's project."""

from __future__ import annotations

import copy
import functools
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final, Self

from orcapod_dagster.core.errors import ExecutorError, MissingExtraError
from orcapod_dagster.core.executors import ray_worker, row_worker
from orcapod_dagster.core.executors.base import BatchResult, PythonFunctionExecutorBase, RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.own_modules import own_modules
from orcapod_dagster.core.executors.pickling import dumps
from orcapod_dagster.core.executors.tasks import Piece, TaskRun, unpacked
from orcapod_dagster.core.executors.worker_modules import WORKER_MODULES
from orcapod_dagster.core.executors.worker_output import CaptureOrder, pass_on
from orcapod_dagster.core.types import Schema

# With more rows of a trivial function, results leave Ray's inline limit and take the slower way of the object store.
_MAX_ROWS: Final = 8_192
_TASKS_PER_SLOT: Final = 2
_SLOTS_SECONDS: Final = 5.0
_CANCEL_SECONDS: Final = 1.0


class RayExecutor(PythonFunctionExecutorBase):
    """Runs rows on Ray.

    Args:
        ray_address: the cluster; default the one that `RAY_ADDRESS` names, or a local one, started once per process.
        runtime_env: Ray's runtime environment; never stored, only whether there is one.
        num_cpus, num_gpus, resources: what one task reserves.
        ray_remote_opts: further options of `ray.remote`, e.g. `max_retries`.

    Raises:
        MissingExtraError: at the first run, when ray is not installed.
    """

    executor_type_id = "ray.v0"
    supports_concurrent_execution = True

    def __init__(
        self,
        ray_address: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        resources: Mapping[str, float] | None = None,
        **ray_remote_opts: Any,
    ) -> None:
        self._address = ray_address
        self._runtime_env = copy.deepcopy(dict(runtime_env)) if runtime_env else None
        given = {"num_cpus": num_cpus, "num_gpus": num_gpus, "resources": dict(resources) if resources else None}
        self._remote_opts: dict[str, Any] = {**{k: v for k, v in given.items() if v is not None}, **ray_remote_opts}

    def with_options(self, **opts: Any) -> Self:
        """Return a new executor whose remote options are updated with `opts`."""
        runtime_env = opts.pop("runtime_env", self._runtime_env)
        address = opts.pop("ray_address", self._address)
        merged: dict[str, Any] = {**self._remote_opts, **opts}
        return type(self)(address, runtime_env, **merged)

    def get_executor_data(self) -> dict[str, Any]:
        """Return type, address (without credentials), remote options, and whether there is a runtime environment."""
        return {
            "executor_type": self.executor_type_id,
            "ray_address": _without_credentials(self._address) if self._address else "auto",
            "remote_opts": {name: _plain(value) for name, value in self._remote_opts.items()},
            "runtime_env": self._runtime_env is not None,
        }

    def get_executor_data_schema(self) -> Schema:
        """Return the schema of `get_executor_data`."""
        return Schema({"executor_type": str, "ray_address": str, "remote_opts": dict, "runtime_env": bool})

    def run_rows(
        self,
        fn: Callable[..., Any],
        batches: Iterable[RowBatch],
        *,
        executor_options: Mapping[str, Any] | None = None,
        call_options: CallOptions = CallOptions(),  # noqa: B008  # immutable
    ) -> Iterator[BatchResult]:
        """Run rows as tasks of about `call_options.slice_seconds`, in order of completion.

        A task that reaches the bound gives back its finished rows, and the rest is sent again at once. At most two
        tasks per slot of the cluster are under way, so rows never pile up in the object store.
        """
        executor = self.with_options(**executor_options) if executor_options else self
        return _Run(executor.connect(), executor, fn, call_options).results(batches)

    def connect(self) -> Any:
        """Return the module `ray`, connected to the cluster; a process has one connection, whoever made it.

        Raises:
            ExecutorError: the cluster cannot be reached.
        """
        ray = _import_ray()
        if ray.is_initialized():
            return ray
        address = self._address or os.environ.get("RAY_ADDRESS")
        options: dict[str, Any] = {"ignore_reinit_error": True, "log_to_driver": False, "configure_logging": False}
        if address is None:
            options["include_dashboard"] = False
        shown = _without_credentials(address) if address else "a local cluster"
        try:
            ray.init(address=address, **options)
        except Exception as error:  # noqa: BLE001  # Ray, gRPC and the operating system raise errors of many classes
            # Ray quotes the address in its own errors, so one with credentials is not shown as the cause.
            cause = error if address is None or shown == address else None
            raise ExecutorError(
                f"Ray at {shown} cannot be reached: {type(error).__name__}. Start it, or mend ray_address."
            ) from cause
        return ray

    def remote_options(self) -> dict[str, Any]:
        """Return the options of a task; a copy, for Ray changes the runtime environment that it is given."""
        options = copy.deepcopy(self._remote_opts)
        if self._runtime_env is not None:
            options["runtime_env"] = copy.deepcopy(self._runtime_env)
        return options


class _Run(TaskRun):
    """The tasks of one `run_rows`."""

    def __init__(self, ray: Any, executor: RayExecutor, fn: Callable[..., Any], call_options: CallOptions) -> None:
        super().__init__(call_options, _MAX_ROWS)
        self._ray = ray
        self._executor = executor
        self._options = executor.remote_options()
        self._task = _task().options(**self._options)
        self._modules = [*WORKER_MODULES, *own_modules(fn)]
        # Ray gets one object; the function is apart in it, because unpickling it may need what the worker sets up.
        order = CaptureOrder.of(call_options.capture)
        self._payload = ray.put((self._dumps(row_worker.make_worker), self._dumps(fn), order and tuple(order)))
        self._window, self._window_until = 1, 0.0

    def _slots(self) -> int:
        """Return how many tasks may be under way; looked up again now and then, because clusters grow and shrink."""
        if time.monotonic() >= self._window_until:
            self._window = _TASKS_PER_SLOT * _slots(self._ray.cluster_resources(), self._options)
            self._window_until = time.monotonic() + _SLOTS_SECONDS
        return self._window

    def _dumps(self, value: Any) -> bytes:
        """Pickle with the user's modules by value, so that classes in values are those that the function knows."""
        return dumps(self._ray.cloudpickle, value, self._modules)

    def _submit(self, piece: Piece) -> Hashable:
        # In a list, the payload stays a reference, and a worker fetches it once for all its tasks.
        return self._task.remote([self._payload], self._dumps(piece.values()), self._seconds)

    def _finished(self, running: Mapping[Any, Piece], seconds: float | None) -> Any:
        ready, _ = self._ray.wait(list(running), num_returns=1, timeout=seconds)
        return ready[0] if ready else None

    def _collect(self, task: Any, piece: Piece) -> BatchResult:
        loads = self._ray.cloudpickle.loads
        try:
            result = unpacked(self._ray.get(task), loads, piece.start, self._executor.get_executor_data())
        except self._ray.exceptions.TaskCancelledError as error:
            raise KeyboardInterrupt("a Ray task was interrupted") from error
        except Exception as error:
            raise ExecutorError(
                f"Ray lost a task of {piece.length} rows: {_reason(error)}. Everything finished before is "
                "kept; see Ray's own log, and run again."
            ) from error
        pass_on(result.logs, streams=True)
        return result

    def _cancel(self, running: list[Any]) -> None:
        """Stop what still runs: first asked, and after a second by the end of its worker process."""
        if not running or not self._ray.is_initialized():
            return
        for task in running:
            self._ray.cancel(task, force=False)
        _, left = self._ray.wait(running, num_returns=len(running), timeout=_CANCEL_SECONDS)
        for task in left:
            self._ray.cancel(task, force=True)


@functools.cache
def _task() -> Any:
    # One remote function for all runs of this process: Ray exports it once per cluster.
    return _import_ray().remote(ray_worker.make_task())


def _slots(cluster: Mapping[str, float], options: Mapping[str, Any]) -> int:
    """Return how many tasks with these options the cluster runs at once; at least one."""
    wanted = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus"), **(options.get("resources") or {})}
    fits = [cluster.get(name, 0.0) / amount for name, amount in wanted.items() if amount]
    return max(1, int(min(fits, default=cluster.get("CPU", 1.0))))


def _reason(error: Exception) -> str:
    cause = getattr(error, "cause", None)
    return f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else type(error).__name__


def _plain(value: Any) -> Any:
    """Bring an option to a value that JSON has: an object such as a scheduling strategy is shown by its class."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return type(value).__qualname__


def _without_credentials(address: str) -> str:
    """Return the address without user, password, query and fragment."""
    scheme, separator, rest = address.rpartition("://")
    place = rest.partition("?")[0].partition("#")[0].rpartition("@")[2]
    return scheme + separator + place


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("Ray is not installed. Install it: pip install 'orcapod-dagster[ray]'.") from error
    return ray
