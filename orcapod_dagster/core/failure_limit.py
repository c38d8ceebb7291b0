"""FailureLimit: when a run stops, because too many of its packets fail, or the first ones all fail alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from orcapod_dagster.core.errors import DefinitionError, TooManyFailuresError
from orcapod_dagster.core.outcomes import FAILED, KEPT_FAILURES, Outcome
from orcapod_dagster.core.settling import Chunk

FIRST_PACKETS: Final = 20
"""Where so many first packets all fail with one class of errors, the run stops, unless `max_failures` says otherwise."""


def checked_max_failures(value: Any, owner: str) -> int | float | None:
    """Return what users give for `max_failures`.

    Raises:
        DefinitionError: it is neither a whole number, 0 or more, nor a part above 0, up to 1.0.
    """
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    part = isinstance(value, float) and 0 < value <= 1
    if value is None or whole or part:
        return value
    raise DefinitionError(
        f"{owner}: max_failures={value!r}; give how many packets may fail (0 or more), or which part of those that are computed "
        "(a float above 0, up to 1.0 for all of them)."
    )


class FailureLimit:
    """Watches how the packets of one run end.

    Args:
        max_failures: how many packets may fail, or as a float which part of `packets`; None stops only where the first packets
            all fail with one class of errors.
        packets: that the run computes.
        concurrency: how many run at a time; None where nobody tells. Of the first packets, twice as many must have failed.
        owner: whom the message names.
        expected: rows that failed in an earlier run, while others had results: those who fail again are no sign that all will.
    """

    def __init__(
        self,
        max_failures: float | None,
        packets: int,
        concurrency: int | None,
        owner: str,
        expected: frozenset[int] = frozenset(),
    ) -> None:
        self._most = max_failures * packets if isinstance(max_failures, float) else max_failures
        self._said = max_failures
        self._packets = packets
        self._first = max(FIRST_PACKETS, 2 * (concurrency or 0))
        self._owner = owner
        self._kinds: set[str] = set()
        self._expected = expected
        self._tried = self._failed = self._waiting = self._alike = self._held = 0
        self._failures: list[Outcome] = []
        self.watches_first = max_failures is None
        """Whether all packets until now failed with one class of errors, and that counts."""

    def look(self, chunk: Chunk, held: Sequence[Outcome], attempt: int) -> None:
        """Count finished work, and failures of packets that are tried again, of calls that were the packets' first, second, … ones."""
        failed = [one for one in chunk.outcomes if one.state == FAILED]
        finished = len(chunk.rows) + len(chunk.outcomes)
        self._tried += finished
        self._waiting += len(held) if attempt == 1 else -finished
        self._failed += len(failed)
        self._failures.extend(failed[: KEPT_FAILURES - len(self._failures)])
        if self.watches_first:
            surprises = [one for one in failed if one.row not in self._expected]
            waiting = [one for one in held if one.row not in self._expected]
            self._alike += len(surprises)
            self._held += len(waiting)
            self._kinds.update(one.error_type for one in (*surprises, *waiting))
            well = len(chunk.rows) or len(failed) < len(chunk.outcomes)
            self.watches_first = not well and len(self._kinds) < 2

    def begin_again(self) -> None:
        """Be told that packets which were held back are tried again."""
        self._held = 0

    @property
    def doubts(self) -> bool:
        """Whether the first packets all failed alike, also those that are tried again, so that the others had better wait."""
        return self.watches_first and self._alike + self._held >= self._first

    def refuse(self) -> None:
        """Stop the run where that is due.

        Raises:
            TooManyFailuresError: says how many were called, what they failed with, and what to do.
        """
        called = self._tried + self._waiting
        if self._most is not None:
            if self._failed > self._most:
                raise self._error(
                    f"{self._failed:,} of the {called:,} packets that were called failed, and max_failures={self._said!r} "
                    f"allows {int(self._most):,} of {self._packets:,}"
                )
        elif self.watches_first and self._alike >= self._first and self._tried < self._packets:
            (kind,) = self._kinds
            raise self._error(
                f"the first {called:,} of {self._packets:,} packets were called, none was computed or skipped, and {self._alike:,} "
                f"failed with {kind}"
            )

    def _error(self, what: str) -> TooManyFailuresError:
        left = self._packets - self._tried - self._waiting
        again = f", and {self._waiting:,} that had failed were to be called again" if self._waiting else ""
        return TooManyFailuresError.of(
            f"{self._owner}: {what}, so the run stopped. {left:,} packets were not called, or not to their end{again}; these are not failed. "
            "Everything that was finished is stored. Mend the function, or what it needs, and run again. To go on whatever fails, give "
            "max_failures=1.0; or how many packets may fail.",
            self._failures,
        )
