"""RayPayload: what a run sends to the cluster once, for all its tasks or actors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orcapod_dagster.core.executors import row_worker
from orcapod_dagster.core.executors.call_options import CallOptions
from orcapod_dagster.core.executors.late_imports import dumps_function
from orcapod_dagster.core.executors.pickling import dumps
from orcapod_dagster.core.executors.set_ups import modules_of
from orcapod_dagster.core.executors.worker_modules import WORKER_MODULES
from orcapod_dagster.core.executors.worker_output import CaptureOrder


class RayPayload:
    """The function of a run, with its state, in the object store.

    Attributes:
        reference: of one object; the function is apart in it, because unpickling it may need what the worker sets up. It is sent in
            a list, in which it stays a reference, and is fetched once by each worker.
    """

    def __init__(self, ray: Any, fn: Callable[..., Any], call_options: CallOptions) -> None:
        self._ray = ray
        self._modules = [*WORKER_MODULES, *modules_of(fn, call_options.state)]
        order = CaptureOrder.of(call_options.capture)
        function = dumps_function(ray.cloudpickle, fn, call_options.state, self._modules)
        what = order and tuple(order), call_options.for_workers()
        self.reference = ray.put((self.dumps(row_worker.make_worker), function, *what))

    def dumps(self, value: Any) -> bytes:
        """Pickle with the user's modules by value, so that classes in values are those that the function knows."""
        return dumps(self._ray.cloudpickle, value, self._modules)
