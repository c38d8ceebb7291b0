"""A process in which storage refuses one write call after the other; started with `refusal.c` preloaded.

    python -m faults.refusals SCENARIO FOLDER STRIDE ERRORS

Every STRIDE-th call is refused: with each of the four errors where ERRORS is "each", with one of them "in-turn".

Each try begins with a copy of the same lake, and a call that fails. Then the work must have ended well, or in an error of
ours that names the table and no value; what was there is there; and the same work once more ends as if nothing had been.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from faults import workers
from faults.harness import check_squares, say, table_of
from orcapod_dagster.core import delta
from orcapod_dagster.core.columns import INPUT_HASH
from orcapod_dagster.core.compaction import compact
from orcapod_dagster.core.errors import CommitError, StorageError
from orcapod_dagster.core.predicates import Equals

ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES)
SECRET = "a value of a row"


@dataclass(frozen=True)
class Scenario:
    """Work that storage may refuse.

    Attributes:
        prepare: makes the lake in a folder. work: what is refused. states: what the lake may hold after an error: the first
            before the work, the last after it. look: returns what the lake holds.
    """

    prepare: Callable[[Path], object]
    work: Callable[[Path], object]
    states: tuple[object, ...]
    look: Callable[[Path], object]


def rows(*numbers: int, site: str = "a") -> pa.Table:
    """Return some rows of a table."""
    count = len(numbers)
    return pa.table({"site": [site] * count, "number": pa.array(numbers, pa.int64()), "text": [SECRET] * count})


def numbers_of(folder: Path) -> list[int]:
    """Return what the table holds; raises where it cannot be read."""
    found = table_of(folder / "t")
    return sorted(found["number"].to_pylist()) if found.num_columns else []


def append(*numbers: int, site: str = "a") -> Callable[[Path], object]:
    """Append, durably, and once however often it is tried."""
    return lambda folder: delta.append(
        str(folder / "t"), rows(*numbers, site=site).to_reader, durable=True, commit_id=str(numbers)
    )


def append_each(*numbers: int) -> Callable[[Path], object]:
    """Append so many times one row."""
    return lambda folder: [append(number)(folder) for number in numbers]


def replace(*numbers: int, where: Equals | None = None) -> Callable[[Path], object]:
    """Replace rows, of the whole table or a partition."""
    return lambda folder: delta.replace(str(folder / "t"), rows(*numbers).to_reader, where=where)


def two_sites(folder: Path) -> None:
    """Make one file with rows of two partitions."""
    delta.append(str(folder / "t"), pa.concat_tables([rows(1, 2), rows(3, 4, site="b")]).to_reader)


def materialize(folder: Path) -> None:
    """Materialize a packet asset and its input."""
    workers.many_commits()
    workers.materialize_squares(f"{folder}/lake", 1_000)


def squares_of(folder: Path) -> str:
    """Return how far the materialization came; raises where something is half, double or unreadable."""
    lake = folder / "lake"
    for results in (lake / ".orcapod" / "results").glob("square/*/*/*"):
        found = table_of(results)
        assert not found.num_columns or len(set(found[INPUT_HASH].to_pylist())) == found.num_rows
    if not table_of(lake / "numbers").num_rows or not table_of(lake / "square").num_rows:
        return "begun"
    check_squares(folder, 1_000)
    return "complete"


SCENARIOS = {
    "append": Scenario(append(1), append(2, 3), ([1], [1, 2, 3]), numbers_of),
    "append with a checkpoint": Scenario(
        append_each(*range(18)), append(18), (list(range(18)), list(range(19))), numbers_of
    ),
    "creation": Scenario(lambda folder: None, append(1, 2), ([], [1, 2]), numbers_of),
    "replacement": Scenario(append(1, 2), replace(3, 4), ([1, 2], [3, 4]), numbers_of),
    "replacement of a partition": Scenario(
        two_sites, replace(5, where=Equals("site", ("a",))), ([1, 2, 3, 4], [3, 4, 5]), numbers_of
    ),
    "compaction": Scenario(append_each(1, 2, 3), lambda folder: compact(str(folder / "t")), ([1, 2, 3],), numbers_of),
    "materialization": Scenario(lambda folder: None, materialize, ("begun", "complete"), squares_of),
}


class Storage:
    """The storage below a folder, as the preloaded library lets it be."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.refusal_of.restype = ctypes.c_char_p

    def refuse(self, folder: Path, call: int, error: int, *, lasting: bool) -> None:
        """Refuse a call, or all from it on; 0 refuses none, and counts."""
        self._library.refusal_arm(str(folder).encode(), call, error, lasting)

    def allow(self) -> int:
        """Refuse nothing any more; return how many calls there were."""
        return self._library.refusal_disarm()

    def refused(self) -> str:
        """Return the first call that was refused."""
        return self._library.refusal_of().decode()


def ours(error: BaseException) -> BaseException | None:
    """Return the error of this package in a chain of errors, which Dagster may have put others around."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, (StorageError, CommitError)):
        seen = seen.__cause__ or seen.__context__
    return seen


def attempt(scenario: Scenario, storage: Storage, folder: Path, call: int, error: int, *, lasting: bool) -> bool:
    """Do the work while one call fails, hold the lake against what it may hold, and do the work again; return whether it failed."""
    failure: BaseException | None = None
    storage.refuse(folder, call, error, lasting=lasting)
    try:
        scenario.work(folder)
    except BaseException as raised:
        failure = raised
    storage.allow()
    found = scenario.look(folder)
    assert found in scenario.states, f"holds {found}"
    if failure is None:
        assert found == scenario.states[-1], f"the work ended well, but the lake holds {found}"
    else:
        own = ours(failure)
        assert own is not None, f"ended in {failure!r}"
        assert str(folder) in str(own), f"does not say where: {own}"
        assert SECRET not in str(own), f"shows values: {own}"
    scenario.work(folder)
    assert scenario.look(folder) == scenario.states[-1], f"the next run leaves {scenario.look(folder)}"
    return failure is not None


def tries(calls: int, stride: int, first: int, *, each_error: bool) -> Iterator[tuple[int, int, bool]]:
    """Yield (call, error, lasting): every so many calls, with each error once and one that lasts, or with one of these in turn.

    The last call comes first: what fails after the commit tells whether the outcome was looked up.

    Args:
        first: which turn is the first, for with few tries another scenario should meet other errors.
    """
    turns = itertools.islice(itertools.cycle(itertools.product(ERRORS, (False, True))), first, None)
    for call in range(calls, 0, -stride):
        if each_error:
            yield from ((call, error, False) for error in ERRORS)
            yield call, ERRORS[call % 4], True
        else:
            yield call, *next(turns)


def main(name: str, folder: Path, stride: int, *, each_error: bool) -> None:
    """Run a scenario, and print how many calls it has, how often one was refused, and how often the work failed."""
    scenario, storage = SCENARIOS[name], Storage()
    template = folder / "template"
    template.mkdir()
    scenario.prepare(template)
    first = folder / "first"
    shutil.copytree(template, first)
    storage.refuse(first, 0, 0, lasting=False)
    scenario.work(first)
    calls = storage.allow()
    assert scenario.look(first) == scenario.states[-1]
    refused = failed = 0
    for number, (call, error, lasting) in enumerate(
        tries(calls, stride, 3 * list(SCENARIOS).index(name), each_error=each_error)
    ):
        lake = folder / str(number)
        shutil.copytree(template, lake)
        try:
            failed += attempt(scenario, storage, lake, call, error, lasting=lasting)
        except BaseException as problem:
            problem.add_note(f"{errno.errorcode[error]}, lasting: {lasting}, at call {call}: {storage.refused()}")
            raise
        refused += bool(storage.refused())
        shutil.rmtree(lake)
    say(f"calls {calls} refused {refused} failed {failed}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), each_error=sys.argv[4] == "each")
