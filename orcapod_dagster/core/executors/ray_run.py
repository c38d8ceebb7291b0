"""RayRun: what one run of rows on a Ray cluster does alike by tasks and by actors, above all where something is lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from orcapod_dagster.core.errors import ExecutorError, WorkerDeathError
from orcapod_dagster.core.executors import ray_secrets
from orcapod_dagster.core.executors.base import BatchResult
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.deaths import Deaths, failed_alone
from orcapod_dagster.core.executors.ray_cluster import RayCluster
from orcapod_dagster.core.executors.ray_payload import RayPayload
from orcapod_dagster.core.executors.tasks import Piece, TaskRun, rows_at_once, unpacked
from orcapod_dagster.core.executors.time_limit import GRACE_SECONDS, took_too_long
from orcapod_dagster.core.executors.worker_output import pass_on

# With more rows of a trivial function, results leave Ray's inline limit and take the slower way of the object store.
_MAX_ROWS: Final = 8_192
_LOSSES: Final = 4
"""So often in a row something is tried again that came to nothing by lost nodes, or by workers that end before a row."""


class RayRun(TaskRun):
    """One `run_rows` on Ray.

    Args:
        ray: the module, connected.
        options: of one task or actor. data: what is recorded of the executor.
        fn, call_options: as `run_rows` has them.
    """

    def __init__(
        self,
        ray: Any,
        options: Mapping[str, Any],
        data: Mapping[str, Any],
        fn: Callable[..., Any],
        call_options: CallOptions,
    ) -> None:
        super().__init__(call_options, _MAX_ROWS, rows_at_once(fn, call_options))
        self._ray, self._options, self._data = ray, options, data
        self._runtime_env: Mapping[str, Any] | None = options.get("runtime_env")
        self._cluster = RayCluster(ray, options)
        self._payload = RayPayload(ray, fn, call_options)
        self._deaths, self._limit = Deaths(self._at_once, self._batch), call_options.time_limit
        self._losses = Counter[int]()
        errors = ray.exceptions
        self._worker_died = errors.WorkerCrashedError, errors.RayActorError, errors.OutOfMemoryError
        self._node_died = errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError

    def _unpacked(self, answer: bytes, piece: Piece) -> tuple[BatchResult, bool]:
        """Return what a worker answered, with its output shown here, and whether it will answer again."""
        result, more = unpacked(answer, self._ray.cloudpickle.loads, piece.start, dict(self._data))
        pass_on(result.logs, streams=True)
        return result, more

    def _after_death(self, piece: Piece, error: Exception, began: float) -> Sequence[BatchResult | Piece]:
        """Return the rows to run again, in parts or alone, or the failure of the one that ended its worker twice, alone.

        Args:
            piece: what the worker ran. error: Ray's. began: when it did, by `time.monotonic`.
        """
        again = self._deaths.again(piece)
        if again:
            return again
        seconds = time.monotonic() - began
        # What Ray says of memory is advice about its settings.
        how = "for want of memory" if isinstance(error, self._ray.exceptions.OutOfMemoryError) else self._reason(error)
        failure = WorkerDeathError(f"The Ray worker that ran this packet ended, and again when it ran alone: {how}")
        if self._limit is not None and seconds >= self._limit + GRACE_SECONDS:
            failure = took_too_long(self._limit, ended=True)
        (alone,) = piece.left()
        return [failed_alone(alone, failure, seconds, self._data)]

    def _count_loss(self, key: int, what: str, error: Exception) -> None:
        """Note that something came to nothing for no fault of a row.

        Raises:
            ExecutorError: this happened with the same key again and again.
        """
        self._cluster.look_again()
        self._losses[key] += 1
        if self._losses[key] >= _LOSSES:
            raise ExecutorError(
                f"{_LOSSES} times in a row {what}: {self._reason(error)}. Everything finished before is kept. See Ray's own log; mend "
                "what the function's module does when it is loaded, or the set-up of its worker state, give it memory, or the "
                "cluster nodes that stay."
            ) from self._cause(error)

    def _lost(self, piece: Piece, error: Exception) -> ExecutorError:
        """Return the error of a task of which Ray says something that nothing is known to be done about."""
        lost = ExecutorError(
            f"Ray lost a task of {piece.length} rows: {self._reason(error)}. Everything finished before is kept; see Ray's own log, "
            "and run again."
        )
        lost.__cause__ = self._cause(error)
        return lost

    def _reason(self, error: Exception) -> str:
        """Return what Ray says last, without secrets: before that, it tells names and numbers of its own."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception):
            return ray_secrets.shown(f"{type(cause).__name__}: {cause}", self._runtime_env)
        lines = str(error).strip().splitlines()
        return ray_secrets.shown(": ".join((type(error).__name__, *lines[-1:])), self._runtime_env)

    def _cause(self, error: Exception) -> BaseException | None:
        return ray_secrets.cause_of(error, self._runtime_env)
