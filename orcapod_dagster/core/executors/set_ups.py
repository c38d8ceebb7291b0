"""What comes of set-ups and tear-downs of worker state in the process that sends rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from orcapod_dagster.core.errors import WorkerStateError
from orcapod_dagster.core.executors.event_loop import EventLoopThread
from orcapod_dagster.core.executors.own_modules import own_modules
from orcapod_dagster.core.executors.worker_states import SetUpError, SetUpFailure, WorkerStates

TEAR_DOWN_SECONDS: Final = 60.0
"""How long workers have to tear down at the end of a run; then they are ended."""
CANCEL_SECONDS: Final = 5.0
"""How long they have where the run is cancelled, for the row that runs to be interrupted, and to tear down."""

_log = logging.getLogger("orcapod_dagster")


def set_up_error(failure: SetUpFailure) -> WorkerStateError:
    """Return the error that a set-up which failed is to the caller."""
    return WorkerStateError(
        f"The set-up of worker state {failure.parameter!r} failed: {failure.factory} raised {failure.error} in {failure.worker}. No "
        "packet is to blame, and everything finished before is kept. Mend it, and run again.\n"
        f"{failure.traceback}"
    )


def tell_tear_downs(failed: Iterable[str]) -> None:
    """Warn of tear-downs that failed; the results are there already, so that is no error."""
    for text in failed:
        _log.warning(text)


@contextmanager
def states_here(
    factories: Mapping[str, Callable[[], Any]], loop: EventLoopThread
) -> Generator[Callable[[Callable[..., Any]], Callable[..., Any]], None, None]:
    """Make this process the one worker, within the block; gives what binds a function to its state, built when first asked.

    Raises:
        WorkerStateError: from that, where a set-up fails.
    """
    states = WorkerStates(factories, loop)

    def bind(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return states.bind(function)
        except SetUpError as error:
            raise set_up_error(error.failure) from error.__cause__

    try:
        yield bind
    finally:
        tell_tear_downs(states.close())


def modules_of(function: Callable[..., Any], factories: Mapping[str, Callable[[], Any]]) -> list[ModuleType]:
    """Return the user's own modules that a function and the factories of its state need, each once."""
    # A factory that stands for a class, such as one that rebuilds a resource, names it.
    made = [one for factory in factories.values() for one in getattr(factory, "made_of", (factory,))]
    found = [module for one in (function, *made) for module in own_modules(one)]
    return list({module.__name__: module for module in found}.values())
