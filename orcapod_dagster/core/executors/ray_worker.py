"""The remote functions and the actor of Ray; they know nothing, what they call comes with the payload."""

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


def make_actor() -> type:
    """Return the class of the actors that run functions with worker state; a nested one, as above."""

    class OrcapodWorker:
        def __init__(self, payload: list[Any]) -> None:
            ray = importlib.import_module("ray")
            make_worker, function, *what = ray.get(payload[0])
            self._worker = ray.cloudpickle.loads(make_worker)(function, "ray.cloudpickle", *what)
            self._worker.listen()

        def place(self) -> tuple[str, int]:
            import os

            ray = importlib.import_module("ray")
            return ray.get_runtime_context().get_node_id(), os.getpid()

        def set_up(self) -> bytes:
            return self._worker.set_up()

        def run(self, rows: bytes, seconds: float) -> bytes:
            try:
                return self._worker.run(rows, seconds)
            except KeyboardInterrupt:
                return b""

        def run_at_once(self, rows: bytes, seconds: float) -> Iterator[bytes]:
            try:
                yield from self._worker.run_at_once(rows, seconds)
            except KeyboardInterrupt:
                yield b""

        def close(self) -> list[str]:
            return self._worker.close()

    return OrcapodWorker


def make_interrupter() -> Callable[[list[int]], None]:
    """Return the function that does so on another node; a nested one, as above."""

    def orcapod_interrupt(processes: list[int]) -> None:
        import contextlib
        import os
        import signal

        for process in processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGINT)

    return orcapod_interrupt
