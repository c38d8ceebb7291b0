"""The remote functions of Ray; they know nothing, what they call comes with the payload."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any


def make_tasks() -> tuple[Callable[..., bytes], Callable[..., Iterator[bytes]], Callable[..., Iterator[bytes]]]:
    """Return the functions that Ray calls; nested ones, for those are pickled by value.

    The first runs rows. The second runs one row alone, and says before it that it begins: if its worker ends then, it was the row.
    The third runs several rows at a time, and gives their results as they are ready.
    """
    loaded: dict[str, Any] = {}

    def load(payload: list[Any]) -> Any:
        # By name, because in this folder type checkers take `import ray` for our own ray.py.
        ray = importlib.import_module("ray")
        key = payload[0].hex()
        if key not in loaded:
            # A worker process keeps few functions: what one holds, such as a model, may be large.
            while len(loaded) > 1:
                loaded.pop(next(iter(loaded))).close()
            make_worker, function, *what = ray.get(payload[0])
            loaded[key] = ray.cloudpickle.loads(make_worker)(function, "ray.cloudpickle", *what)
        return loaded[key]

    def orcapod_rows(payload: list[Any], rows: bytes, seconds: float) -> bytes:
        return load(payload).run(rows, seconds)

    def orcapod_row_alone(payload: list[Any], rows: bytes, seconds: float) -> Iterator[bytes]:
        worker = load(payload)
        yield b""
        yield worker.run(rows, seconds)

    def orcapod_rows_at_once(payload: list[Any], rows: bytes, seconds: float) -> Iterator[bytes]:
        yield from load(payload).run_at_once(rows, seconds)

    return orcapod_rows, orcapod_row_alone, orcapod_rows_at_once
