"""What all kinds of things to clean share: how old they must be, and how one of them is described and removed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from orcapod_dagster.core.errors import LakeError
from orcapod_dagster.core.lake import Lake, folder_name

Keep = Literal["all", "current-code", "used"]
"""Which results stay: all; those that an asset table uses, and all of code that one uses; those that one uses."""
DAY: Final = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class CleanSettings:
    """What may be removed.

    Attributes:
        older_than: files of versions that were superseded for so long; time travel within it keeps working.
        keep_results: which results stay.
        results_older_than: results that may go were stored before so long.
        used_by: other lakes whose asset tables may use results of this one.
        table: only the table in this folder, relative to the root; None for all.
        nothing_runs: nobody writes or reads now, so that the ages may be less than a day.

    Raises:
        LakeError: an age below a day, while something may run; or a table that leads out of the root.
    """

    older_than: dt.timedelta = dt.timedelta(days=7)
    keep_results: Keep = "all"
    results_older_than: dt.timedelta = dt.timedelta(days=30)
    used_by: tuple[Lake, ...] = ()
    table: str | None = None
    nothing_runs: bool = False
    now: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def __post_init__(self) -> None:
        if self.table is not None:
            object.__setattr__(self, "table", folder_name(self.table))
        shortest = min(self.older_than, self.results_older_than)
        if shortest < DAY and not self.nothing_runs:
            raise LakeError(
                f"An age of {shortest} is less than a day: files and results of a run that goes on could be removed. Give a day or "
                "more, or say that nothing runs (--nothing-runs)."
            )

    @property
    def retained_since(self) -> dt.datetime:
        """From when on versions stay whole."""
        return self.now - self.older_than

    @property
    def orphaned_before(self) -> dt.datetime:
        """A file that no commit names may belong to a writer that still runs; one from before this does not."""
        return self.now if self.nothing_runs else self.now - DAY

    @property
    def results_before(self) -> dt.datetime:
        """Results from before this may go."""
        return self.now - self.results_older_than


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Removable:
    """Something that can go.

    Attributes:
        table: the folder of its table, relative to the root.
        what, why: for people.
        rows, files, bytes: how much it is; bytes of rows inside of files are an estimate.
        remove: removes it. What has changed since it was found is not removed.
        problem: why nothing of this kind can be removed here; there is nothing to remove then.
    """

    table: str
    what: str
    why: str
    rows: int = 0
    files: int = 0
    bytes: int = 0
    remove: Callable[[], object] = _nothing
    problem: bool = False


Kind = Callable[[Lake, CleanSettings], Iterator[Removable]]
"""A kind of thing to clean: finds what can go. Nothing is changed until `Removable.remove` is called."""
