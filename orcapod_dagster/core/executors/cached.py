"""Functions with `functools.lru_cache` in worker processes; sent there by value, so it imports nothing but the standard library."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


class Later:
    """A function that is known later: one that calls itself reaches its own cache before it is whole."""

    def __init__(self) -> None:
        self.function: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        assert self.function is not None
        return self.function(*args, **kwargs)


def make_cached(maxsize: int | None, typed: bool) -> Any:  # as `cache_parameters` has it
    """Return an empty cache for a function that `complete` gives it."""
    later = Later()
    cached = functools.lru_cache(maxsize, typed)(later)
    vars(cached)["__wrapped__"] = later
    return cached


def complete(cached: Any, state: tuple[Callable[..., Any], dict[str, Any]]) -> None:
    """Give a cache its function, and what the user had set on it."""
    function, attributes = state
    cached.__wrapped__.function = function
    functools.update_wrapper(cached, function)
    vars(cached).update(attributes)
