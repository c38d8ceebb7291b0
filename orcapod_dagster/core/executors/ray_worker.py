"""The remote function of Ray; it knows nothing, what it calls comes with the payload."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


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
                loaded.pop(next(iter(loaded))).close()
            make_worker, function, order = ray.get(payload[0])
            loaded[key] = ray.cloudpickle.loads(make_worker)(function, "ray.cloudpickle", order)
        return loaded[key].run(rows, seconds)

    return orcapod_rows
