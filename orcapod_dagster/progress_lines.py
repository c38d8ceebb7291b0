"""ProgressLines: a line in the Dagster log every few seconds, also while nothing finishes."""

from __future__ import annotations

import logging
import threading
from typing import Final, Self

import dagster as dg

from orcapod_dagster._compat import log_from_aside
from orcapod_dagster.core.executors.local import stay_aside
from orcapod_dagster.core.progress import Progress

_log = logging.getLogger(__name__)
_SECONDS: Final = 5.0
_LATER_SECONDS: Final = 10.0
_LATER_AFTER: Final = 600.0
_END_SECONDS: Final = 2.0


class ProgressLines:
    """Tells of a progress within a `with` block, and at its end how it ended.

    A thread writes the lines, for in this process a packet of ten minutes holds the step's own thread for as long. What it
    writes is no packet's: it goes past the handlers of loggers, to the event log and to stderr.

    Args:
        context: of the step. name: of the asset.
        progress: is asked every few seconds.
    """

    def __init__(self, context: dg.AssetExecutionContext, name: str, progress: Progress) -> None:
        self._context = context
        self._name = name
        self._progress = progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="orcapod-progress", daemon=True)

    def __enter__(self) -> Self:
        if self._progress.to_compute and self._context.log.isEnabledFor(logging.INFO):
            self._thread.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)
        if self._progress.to_compute and error is None:
            self._context.log.info(f"{self._name}: {self._progress.summary()}")

    def _tell(self) -> None:
        stay_aside()
        while not self._stop.wait(_SECONDS if self._progress.seconds < _LATER_AFTER else _LATER_SECONDS):
            try:
                log_from_aside(self._context, f"{self._name}: {self._progress.line()}")
            except Exception:  # noqa: BLE001  # a line that cannot be written ends no run
                _log.warning("A line about the progress could not be written.", exc_info=True)
                return
