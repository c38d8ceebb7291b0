"""Attempts: packets of a run are called in rounds, and those whose failure may be tried again have their next one later.

Rounds are the driver's: each is a `run_rows` of its own, so they are the same on every executor. A failure that is tried again is
recorded nowhere, so a crash in between loses nothing but the attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Final

import pyarrow as pa

from orcapod_dagster.core.outcomes import FAILED, Outcome
from orcapod_dagster.core.packet_retry import PacketRetry
from orcapod_dagster.core.settling import Chunk

_TURN_SECONDS: Final = 0.5

Turns = Generator["Chunk | None"]
"""Finished work; `None` where nothing has finished for a while, so that whoever stores it has a turn."""


class Rounds:
    """Runs the packets of one run, each as often as the policy says.

    Args:
        run: calls rows (`int64`) of the stream once each, and yields finished work in whatever order.
        retry: the policy; without one, each packet has one attempt.
    """

    def __init__(self, run: Callable[[pa.Array], Turns], retry: PacketRetry | None) -> None:
        self._run = run
        self._retry = retry or PacketRetry(attempts=1)
        self._held: list[int] = []
        self.tried_again = 0
        """How many further attempts there were."""

    def chunks(self, rows: pa.Array) -> Turns:
        """Call rows until each has a result or has had its last attempt, and yield what is finished."""
        attempt = 1
        while len(rows):
            yield from self._round(rows, attempt)
            rows, self._held = pa.array(sorted(self._held), pa.int64()), []
            if len(rows):
                yield from _pause(self._retry.pause(attempt))
                self.tried_again += len(rows)
                attempt += 1

    def _round(self, rows: pa.Array, attempt: int) -> Turns:
        with closing(self._run(rows)) as chunks:
            for chunk in chunks:
                yield chunk and self._without_held(chunk, attempt)

    def _without_held(self, chunk: Chunk, attempt: int) -> Chunk:
        """Hold the packets back that are tried again; the outcomes of the others say how many attempts they had."""
        if not chunk.outcomes:
            return chunk
        kept: list[Outcome] = []
        for outcome in chunk.outcomes:
            if outcome.state == FAILED and self._retry.tries_again(outcome.kinds, attempt):
                self._held.append(outcome.row)
            else:
                kept.append(replace(outcome, attempts=attempt))
        return replace(chunk, outcomes=tuple(kept))


def _pause(seconds: float) -> Iterator[None]:
    """Wait; whoever stores finished work has turns meanwhile."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        yield None
        time.sleep(min(left, _TURN_SECONDS))
