"""What runs inside a Ray worker; sent there by value, because the worker need not have this package.

`make_task` gives the remote function, which knows nothing; what it calls, `RowWorker`, comes with the payload.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from array import array
from collections.abc import Callable
from types import ModuleType
from typing import Any

from orcapod_dagster.core.blobs.handle import Blob
from orcapod_dagster.core.blobs.keeper import output_directory
from orcapod_dagster.core.executors.slices import EventLoopThread, SliceFailure, SliceResult, describe, run_slice
from orcapod_dagster.core.skip import SkipPacket


def make_task() -> Callable[..., bytes]:
    """Return the function that Ray calls; a nested one, for those are pickled by value."""
    loaded: dict[str, Any] = {}

    def orcapod_rows(payload: list[Any], rows: bytes, seconds: float) -> bytes:
        # By name, because in this folder type checkers take `import ray` for our own ray.py.
        ray = importlib.import_module("ray")
        key = payload[0].hex()
        if key not in loaded:
            # A worker process keeps few functions: what one holds, such as a model, may be large.
            while len(loaded) > 1:
                del loaded[next(iter(loaded))]
            worker, function = ray.get(payload[0])
            loaded[key] = ray.cloudpickle.loads(worker)(function)
        return loaded[key].run(rows, seconds)

    return orcapod_rows


class RowWorker:
    """The user's function in a worker process, with the event loop that its async calls share.

    Args:
        function: the function, pickled.
    """

    def __init__(self, function: bytes) -> None:
        _provide_package()
        self._function = _cloudpickle().loads(function)
        self._loop = EventLoopThread()

    def run(self, rows: bytes, seconds: float) -> bytes:
        """Run a finished prefix of the rows: pickled columns, keyword columns and length in, a packed result out."""
        columns, keywords, length = _cloudpickle().loads(rows)
        return _pack(run_slice(self._function, columns, keywords, 0, length, seconds, self._loop))


def _pack(result: SliceResult) -> bytes:
    """Pickle a result as plain tuples; an output that cannot be pickled is its row's failure alone."""
    packed = _try_dumps(result.outputs)
    if packed is None:
        result = _without_unpicklable(result)
        packed = _try_dumps(result.outputs)
    failures = [(f.row, _try_dumps(f.error), *f[2:]) for f in result.failures]
    # Durations of 4 bytes, exact to a ten-millionth, help results of small values stay below the 100 KB that Ray sends inline.
    return _cloudpickle().dumps((packed, array("f", result.durations), failures))


def _without_unpicklable(result: SliceResult) -> SliceResult:
    outputs, failures = list(result.outputs), list(result.failures)
    for row, output in enumerate(outputs):
        try:
            _cloudpickle().dumps(output)
        except Exception as error:  # noqa: BLE001  # pickling runs users' `__reduce__`, which may raise anything
            outputs[row] = None
            failures.append(describe(error, row, result.durations[row]))
    return SliceResult(outputs, result.durations, sorted(failures, key=_row))


def _row(failure: SliceFailure) -> int:
    return failure.row


def _try_dumps(value: Any) -> bytes | None:
    try:
        return _cloudpickle().dumps(value)
    except Exception:  # noqa: BLE001  # as above; the caller has a stand-in
        return None


def _cloudpickle() -> Any:
    return importlib.import_module("ray.cloudpickle")


def _provide_package() -> None:
    """Let functions import what they need of this package in a worker that lacks it."""
    if "orcapod_dagster" in sys.modules or importlib.util.find_spec("orcapod_dagster") is not None:
        return
    provided = {"SkipPacket": SkipPacket, "Blob": Blob, "output_directory": output_directory}
    for name in ("orcapod_dagster", "orcapod_dagster.core", "orcapod_dagster.core.skip"):
        module = ModuleType(name, "Stands in for orcapod_dagster, which is not installed here.")
        module.__path__ = []
        vars(module).update(provided)
        sys.modules[name] = module
