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

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.failure_limit import FailureLimit
from orcapod_dagster.core.outcomes import FAILED, Outcome
from orcapod_dagster.core.packet_retry import PacketRetry
from orcapod_dagster.core.settling import Chunk

_TURN_SECONDS: Final = 0.5

Turns = Generator["Chunk | None"]
"""Finished work; `None` where nothing has finished for a while, so that whoever stores it has a turn."""


class Rounds:
    """Runs the packets of one run, each as often as the policy says.

    Where the first packets all fail alike, and are to be tried again, the others wait for how that ends: what a function needs may
    be away for everybody.

    Args:
        run: calls rows (`int64`) of the stream once each, and yields finished work in whatever order.
        retry: the policy; without one, each packet has one attempt.
        limit: stops the run; without one, nothing does.
    """

    def __init__(
        self, run: Callable[[pa.Array], Turns], retry: PacketRetry | None, limit: FailureLimit | None = None
    ) -> None:
        self._run = run
        self._retry = retry or PacketRetry(attempts=1)
        self._limit = limit or FailureLimit(1.0, 1 << 62, None, "")
        self._held: list[Outcome] = []
        self.tried_again = 0
        """How many further attempts there were."""

    def chunks(self, rows: pa.Array) -> Turns:
        """Call rows until each has a result or has had its last attempt, and yield what is finished.

        Raises:
            TooManyFailuresError: the limit is reached; what was finished until then was yielded.
        """
        while len(rows):
            rows = yield from self._round(rows, 1)
            attempt = 1
            while self._held:
                yield from _pause(self._retry.pause(attempt))
                again, self._held = pa.array(sorted(one.row for one in self._held), pa.int64()), []
                self._limit.begin_again()
                self.tried_again += len(again)
                attempt += 1
                yield from self._round(again, attempt)

    def _round(self, rows: pa.Array, attempt: int) -> Generator[Chunk | None, None, pa.Array]:
        """Call rows once; return those of a first round that wait for how the first packets, which failed, end."""
        done: list[pa.Array] = []
        with closing(self._run(rows)) as chunks:
            for found in chunks:
                if found is None:
                    yield None
                    continue
                chunk, held = self._divided(found, attempt)
                self._held += held
                if self._limit.watches_first:
                    done += [found.rows, pa.array([one.row for one in found.outcomes], pa.int64())]
                self._limit.look(chunk, held, attempt)
                yield chunk
                self._limit.refuse()
                if attempt == 1 and self._limit.doubts:
                    return rows.filter(pc.invert(pc.is_in(rows, value_set=pa.concat_arrays(done))))
        return rows.slice(0, 0)

    def _divided(self, chunk: Chunk, attempt: int) -> tuple[Chunk, list[Outcome]]:
        """Take those failures out that are tried again; the other outcomes say how many attempts their packets had."""
        if not chunk.outcomes:
            return chunk, []
        held: list[Outcome] = []
        kept: list[Outcome] = []
        for outcome in chunk.outcomes:
            if outcome.state == FAILED and self._retry.tries_again(outcome.kinds, attempt):
                held.append(outcome)
            else:
                kept.append(replace(outcome, attempts=attempt))
        return replace(chunk, outcomes=tuple(kept)), held


def _pause(seconds: float) -> Iterator[None]:
    """Wait; whoever stores finished work has turns meanwhile."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        yield None
        time.sleep(min(left, _TURN_SECONDS))
