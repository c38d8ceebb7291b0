"""Error kinds: what an exception is, by the names of its classes; it may have been raised in another process.

A kind is the qualified name of a class, of builtins and of `__main__` the plain one. The worker tells all classes of an
exception (`slices.kinds_of`), for the driver may have none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

WORKER_DEATH: Final = "WorkerDeathError"
TRANSIENT: Final = ("OSError", "MemoryError", WORKER_DEATH)
"""Kinds that may go away by themselves: files, connections and time-outs, of which all are an `OSError` in Python; too little
memory; the death of a worker, which is mostly that too."""


def kind_names(classes: Iterable[type[BaseException] | str]) -> tuple[str, ...]:
    """Return classes of exceptions, or their names as users write them, by name.

    Raises:
        TypeError: one is neither.
    """
    return tuple(map(_name, classes))


def _name(one: object) -> str:
    if isinstance(one, str) and one.strip():
        return one.strip()
    if isinstance(one, type) and issubclass(one, BaseException):
        plain = one.__module__ in ("builtins", "__main__")
        return one.__qualname__ if plain else f"{one.__module__}.{one.__qualname__}"
    raise TypeError(f"{one!r} is no class of exceptions, and no name of one")


def is_any(kinds: Sequence[str], wanted: Iterable[str]) -> bool:
    """Tell whether an exception is of one of the wanted classes, or of one derived from it.

    Args:
        kinds: of the exception.
        wanted: names, qualified or the last part alone: "ConnectionError" is also `requests.exceptions.ConnectionError`.
    """
    return any(kind == name or kind.endswith(f".{name}") for name in wanted for kind in kinds)
