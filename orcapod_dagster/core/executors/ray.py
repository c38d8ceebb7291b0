"""RayExecutor: many rows per task on a Ray cluster; workers need neither this package nor the user's project."""

from __future__ import annotations

import copy
import functools
import importlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, Self

from orcapod_dagster.core.errors import ExecutorError, MissingExtraError
from orcapod_dagster.core.executors import ray_secrets, ray_worker
from orcapod_dagster.core.executors.base import HONOURED, BatchResult, PythonFunctionExecutorBase, RowBatch
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.local_cluster import join_local_cluster
from orcapod_dagster.core.executors.ray_actors import ActorRun
from orcapod_dagster.core.executors.ray_run import RayRun
from orcapod_dagster.core.executors.ray_shares import RayShare
from orcapod_dagster.core.executors.tasks import Partial, Piece
from orcapod_dagster.core.types import Schema

_TASKS_PER_SLOT: Final = 2
_LOOK_SECONDS: Final = 5.0
_CANCEL_SECONDS: Final = 1.0


class RayExecutor(PythonFunctionExecutorBase):
    """Runs rows on Ray.

    Args:
        ray_address: the cluster; default the one that `RAY_ADDRESS` names or `ray start` has started on this machine, or a local
            one, which processes share that are alike (`local_cluster.py`).
        runtime_env: Ray's runtime environment; never stored, only whether there is one.
        num_cpus, num_gpus, resources: what one task reserves.
        ray_remote_opts: further options of `ray.remote`.

    A worker that dies (a crash in C code, too little memory) costs the rows of its task, which run again in ever smaller parts;
    the packet at which it dies runs alone, and fails if its worker dies again. `max_retries`, which has Ray try all rows of such
    a task again, is 0 unless it is given. Rows of a node that is lost run again on others, and none of them is to blame.

    Raises:
        MissingExtraError: at the first run, when ray is not installed.
    """

    executor_type_id = "ray.v0"
    supports_concurrent_execution = True
    waits_for_batches = True
    honours = HONOURED

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
        ray = executor.connect()
        executor.refuse_environment(ray)
        if call_options.state:
            data = executor.get_executor_data()
            return ActorRun(ray, executor.remote_options(), data, fn, call_options).results(batches)
        return _Run(ray, executor, fn, call_options).results(batches)

    def connect(self) -> Any:
        """Return the module `ray`, connected to the cluster; a process has one connection, whoever made it.

        Raises:
            ExecutorError: the cluster cannot be reached.
        """
        ray = _import_ray()
        if ray.is_initialized():
            return ray
        address = self._address or os.environ.get("RAY_ADDRESS")
        shown = _without_credentials(address) if address else "a local cluster"
        try:
            if address is None and not _is_started_by_hand():
                address = shown = _joined(ray)
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, configure_logging=False)
        except ExecutorError:
            raise
        except Exception as error:  # noqa: BLE001  # Ray, gRPC and the operating system raise errors of many classes
            # Ray quotes the address in its own errors, so one with credentials is not shown as the cause.
            cause = error if address is None or shown == address else None
            raise ExecutorError(
                f"Ray at {shown} cannot be reached: {type(error).__name__}. Start it, or mend ray_address."
            ) from cause
        return ray

    def refuse_environment(self, ray: Any) -> None:
        """Raise where Ray does not take the runtime environment; its own error would quote it.

        Raises:
            ExecutorError: says why, without secrets.
        """
        if self._runtime_env is None:
            return
        try:
            ray.runtime_env.RuntimeEnv(**copy.deepcopy(self._runtime_env))
        except Exception as error:  # noqa: BLE001  # Ray raises what Python gives
            said = ray_secrets.shown(f"{type(error).__name__}: {error}", self._runtime_env)
            cause = ray_secrets.cause_of(error, self._runtime_env)
            raise ExecutorError(f"Ray does not take this runtime_env: {said}. Mend it.") from cause

    def remote_options(self) -> dict[str, Any]:
        """Return the options of a task; a copy, for Ray changes the runtime environment that it is given."""
        options = copy.deepcopy(self._remote_opts)
        if self._runtime_env is not None:
            options["runtime_env"] = copy.deepcopy(self._runtime_env)
        return options


class _Run(RayRun):
    """The tasks of one `run_rows`."""

    def __init__(self, ray: Any, executor: RayExecutor, fn: Callable[..., Any], call_options: CallOptions) -> None:
        options = executor.remote_options()
        super().__init__(ray, options, executor.get_executor_data(), fn, call_options)
        rows, alone, at_once = _tasks()
        # Ray would try all rows of a task again; here, those that cost a worker are found.
        self._task = rows.options(**{"max_retries": 0, **options})
        self._alone = alone.options(**{**options, "max_retries": 0, "_generator_backpressure_num_objects": 1})
        self._several = at_once.options(**{**options, "max_retries": 0})
        self._sent: set[_Task] = set()

    def results(self, batches: Iterable[RowBatch]) -> Iterator[BatchResult]:
        """Let steps that hold actors know that this one wants places, too."""
        with RayShare(self._cluster, self._options):
            yield from super().results(batches)

    def _slots(self) -> int:
        return _TASKS_PER_SLOT * self._cluster.slots()

    def _submit(self, piece: Piece) -> _Task:
        arguments = [self._payload.reference], self._payload.dumps(piece.values()), self._seconds
        if self._deaths.runs_alone(piece) and not self._cluster.is_by_client:
            task = _Task(self._alone.remote(*arguments), announces=True)
        elif self._at_once > 1 and not self._cluster.is_by_client:
            task = _Task(self._several.remote(*arguments), answers_often=True)
        else:
            task = _Task(self._task.remote(*arguments))
        self._sent.add(task)
        return task

    def _finished(self, running: Mapping[_Task, Piece], seconds: float) -> _Task | None:
        """Wait for a task; what says meanwhile that it begins is not finished."""
        by_reference = {task.awaited: task for task in running}
        end = time.monotonic() + seconds
        while True:
            left = max(0.0, min(_LOOK_SECONDS, end - time.monotonic()))
            ready, _ = self._ray.wait(list(by_reference), num_returns=1, timeout=left)
            if ready and not by_reference[ready[0]].announced(self._ray):
                return by_reference[ready[0]]
            if not ready:
                self._cluster.refuse_gone(at_once=False)
                if time.monotonic() >= end:
                    return None

    def _collect(self, task: _Task, piece: Piece) -> Partial | Sequence[BatchResult | Piece]:
        try:
            packed = self._ray.get(task.value())
        except self._ray.exceptions.TaskCancelledError as error:
            raise KeyboardInterrupt("a Ray task was interrupted") from error
        except Exception as error:  # noqa: BLE001  # looked through below, and raised as one of ours
            self._sent.discard(task)
            return self._instead(task, piece, error)
        result, more = self._unpacked(packed, piece)
        if more:
            return Partial(result)
        self._sent.discard(task)
        return [result]

    def _instead(self, task: _Task, piece: Piece, error: Exception) -> Sequence[BatchResult | Piece]:
        """Return what to do about rows of which Ray gives an error.

        Raises:
            ExecutorError: nothing can be done.
        """
        self._cluster.refuse_gone(at_once=True)
        place = f"(the first is row {piece.start} of those sent)"
        if isinstance(error, self._worker_died):
            if not task.announces:
                return self._after_death(piece, error, task.began)
            self._count_loss(piece.start, f"a worker ended before its first row {place}", error)
            return [piece]
        cause = getattr(error, "cause", error) if isinstance(error, self._ray.exceptions.RayTaskError) else error
        if isinstance(cause, self._node_died):
            self._count_loss(piece.start, f"a node of the cluster was lost that ran these rows {place}", cause)
            return piece.left()
        raise self._lost(piece, error)

    def _cancel(self) -> None:
        """Stop what still runs: first asked, and after a second by the end of its worker process."""
        if not self._sent or self._cluster.is_gone or not self._ray.is_initialized():
            return
        for task in self._sent:
            self._ray.cancel(task.awaited, force=False)
        # A generator is ready as soon as it has one more value; its task may go on for long.
        ends = {task.awaited.completed() if task.streams else task.awaited: task for task in self._sent}
        _, left = self._ray.wait([*ends], num_returns=len(ends), timeout=_CANCEL_SECONDS)
        for end in left:
            self._ray.cancel(ends[end].awaited, force=True)


class _Task:
    """A task under way.

    Args:
        awaited: Ray's reference of its value, or its generator.
        announces: whether it says first that it begins. answers_often: whether it gives several values.

    Attributes:
        streams: whether Ray's reference is a generator.
        began: when it did, by `time.monotonic`; of one that does not say so, when it was sent.
    """

    def __init__(self, awaited: Any, *, announces: bool = False, answers_often: bool = False) -> None:
        self.awaited = awaited
        self.announces = announces
        self.streams = announces or answers_often
        self.began = time.monotonic()
        self._value: Any = None if announces or answers_often else awaited

    def announced(self, ray: Any) -> bool:
        """Tell whether what came is that it begins, and no more than that."""
        if not self.announces:
            return False
        began = time.monotonic()
        first = next(self.awaited)  # which lets it go on
        try:
            ray.get(first)
        except Exception:  # noqa: BLE001  # whatever it is, who asks for the value gets it
            self._value = first
            return False
        self.announces, self.began = False, began
        return True

    def value(self) -> Any:
        """Return the reference of its value, or its next one; it is finished."""
        return next(self.awaited) if self._value is None else self._value


@functools.cache
def _tasks() -> tuple[Any, Any, Any]:
    # The same remote functions for all runs of this process: Ray exports them once per cluster.
    ray = _import_ray()
    return tuple(ray.remote(one) for one in ray_worker.make_tasks())


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


def _joined(ray: Any) -> str:
    """Return the address of the local cluster that this process shares, ready to be connected to."""
    address, auth_mode = join_local_cluster(ray.__version__)
    if auth_mode is not None and os.environ.get("RAY_AUTH_MODE") is None:
        # As Ray does itself for a cluster that it starts, or finds by itself; not for one that is named.
        os.environ["RAY_AUTH_MODE"] = auth_mode
        importlib.import_module("ray._raylet").Config.initialize("")
    return address


def _is_started_by_hand() -> bool:
    """Tell whether `ray start` has left the address of a cluster on this machine, to which `ray.init()` connects by itself."""
    services = importlib.import_module("ray._private.services")
    return services.find_bootstrap_address(None) is not None


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("Ray is not installed. Install it: pip install 'orcapod-dagster[ray]'.") from error
    return ray
