"""Interrupts: SIGINT and SIGTERM end a run, but not in the middle of storing what is finished."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_deferred() -> Generator[None, None, None]:
    """Hold SIGINT and SIGTERM back within the block; the first that came is raised again at its end, for whoever handles it.

    Signals reach the main thread alone, so in others there is nothing to hold back.
    """
    came: list[int] = []
    with _handled(lambda number, _frame: came.append(number), _SIGNALS):
        yield
    if came:
        signal.raise_signal(came[0])


class Terminated(KeyboardInterrupt):
    """SIGTERM came, which ends this process when what is finished is stored."""


@contextmanager
def termination_put_off() -> Generator[None, None, None]:
    """Let `finally` have its turn within the block where SIGTERM comes and would end the process at once; at its end, it does.

    Whoever has a handler of his own, as Dagster has in the processes of its runs, keeps it.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        with _handled(_terminate, (signal.SIGTERM,)):
            yield
    except Terminated:
        signal.raise_signal(signal.SIGTERM)
        raise


@contextmanager
def _handled(handler: Callable[[int, Any], Any], numbers: tuple[int, ...]) -> Generator[None, None, None]:
    before: dict[int, Any] = {}
    # What C code has set could not be set again, so it stays.
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number in numbers if signal.getsignal(number) is not None}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _terminate(_number: int, _frame: Any) -> None:
    raise Terminated
