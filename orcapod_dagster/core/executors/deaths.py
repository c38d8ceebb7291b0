"""Deaths: which packet ended the worker that ran it, found by running again what ran there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orcapod_dagster.core.executors.base import BatchResult, RowFailure
from orcapod_dagster.core.executors.capture import LogEntry
from orcapod_dagster.core.executors.tasks import Piece

# So many at once, for the parts run side by side, and each round costs the end and the start of a worker.
_PARTS: Final = 16


class Deaths:
    """Keeps, over one run of rows, which of them are suspects: alone, or known by what their worker noted last.

    Args:
        at_once: how many rows are under way at a time in a worker. batch: how many are called in one call, at most.
    """

    def __init__(self, at_once: int, batch: int) -> None:
        self._at_once, self._batch = at_once, batch
        self._suspects: set[int] = set()
        self._doubted: set[int] = set()

    def runs_alone(self, piece: Piece) -> bool:
        """Tell whether a piece is a suspect's; if its worker dies, that was its row."""
        return piece.length == 1 and piece.start in self._suspects

    def again(self, piece: Piece, begun: int = 0) -> list[Piece]:
        """Return what is to run in place of those rows whose results had not come when their worker died, in order.

        That is nothing where it is one suspect alone: the packet has failed.

        Args:
            piece: the rows.
            begun: which of them the worker noted last, counted from 1; 0 where nobody knows. That is the row that was begun last, of several
                at a time the one whose code ran last, and of a batch its first.
        """
        left = piece.left()
        of_several = self._at_once > 1 or (self._batch > 1 and begun > 0)
        if of_several and sum(part.length for part in left) > 1:
            return self._among(left, piece.first + begun - 1)
        return self._after(left[0], begun - (left[0].first - piece.first))

    def _after(self, piece: Piece, begun: int) -> list[Piece]:
        """Return them for rows that ran one after the other, as many of which were begun."""
        if piece.length == 1:
            if self.runs_alone(piece):
                return []
            self._suspects.add(piece.start)
            return [piece]
        if not 0 < begun <= piece.length or piece.start in self._doubted:
            parts = list(_in_parts(piece))
            self._doubted.update(part.start for part in parts)
            self._suspects.update(part.start for part in parts if part.length == 1)
            return parts
        before, suspect, after = around(piece, begun - 1)
        self._suspects.add(suspect.start)
        # They ran well, so if a worker dies with them again, one of them does harm that shows later.
        self._doubted.update(part.start for part in before)
        return [*before, suspect, *after]

    def _among(self, left: Sequence[Piece], running: int) -> list[Piece]:
        """Return them for rows of which several were under way.

        All are run again in halves, for of any a thread may have done it; but by itself the row whose code ran last, with those
        that were called with it in one call: `running`, as a place in the batch.
        """
        found: list[Piece] = []
        for piece in left:
            spans = [piece]
            if piece.first <= running < piece.last:
                end = min(running + self._batch, piece.last)
                cuts = ((piece.first, running), (running, end), (end, piece.last))
                spans = [Piece(piece.batch, first, last) for first, last in cuts if first < last]
            for span in spans:
                found += [part for part in span.split(max(1, span.length // 2)) if part is not None]
        self._suspects.update(part.start for part in found if part.length == 1)
        return found


def around(piece: Piece, row: int) -> tuple[list[Piece], Piece, list[Piece]]:
    """Return one row of a piece, counted from its first, and before and after it what there is before and after it."""
    place = piece.first + row
    before = [Piece(piece.batch, piece.first, place)] if row else []
    after = [Piece(piece.batch, place + 1, piece.last)] if place + 1 < piece.last else []
    return before, Piece(piece.batch, place, place + 1), after


def failed_alone(
    piece: Piece, error: Exception, duration: float, data: Mapping[str, Any], logs: Sequence[LogEntry] = ()
) -> BatchResult:
    """Return the failure of the one row of a piece, whose worker can say nothing any more.

    Args:
        piece: the row. error: why. duration: seconds that it took, as far as is known.
        data: of the executor. logs: what it had printed.
    """
    failure = RowFailure(piece.start, error, type(error).__qualname__, str(error), "", duration)
    entries = tuple(entry._replace(row=piece.start) for entry in logs)
    return BatchResult(piece.start, 1, [None], [duration], (failure,), dict(data), entries)


def _in_parts(piece: Piece) -> Iterator[Piece]:
    size = -(-piece.length // _PARTS)
    rest: Piece | None = piece
    while rest is not None:
        part, rest = rest.split(size)
        yield part
