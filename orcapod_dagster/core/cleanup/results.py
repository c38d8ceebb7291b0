"""Results, failures and logs that no asset uses, and plans of old runs: rows of the hidden tables, removed in one commit that stands on what was looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable

from orcapod_dagster.core import columns as names, delta
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.cleanup.base import CleanSettings, Removable
from orcapod_dagster.core.errors import CommitError, LakeError
from orcapod_dagster.core.hashing import HASH_TYPE
from orcapod_dagster.core.lake import LOGS, OUTCOMES, PLANS, RESULTS, Folder, Lake, retained_rows, scan_files, sizes_of
from orcapod_dagster.core.outcomes import FAILED
from orcapod_dagster.core.paths import RESULTS_FOLDER

CLEANED: Final = "orcapod.cleanup"
_CODE: Final = (names.SIGNATURE_HASH, names.CONTENT_HASH)
_TRIES: Final = 3
_WHICH: Final = {RESULTS: "results", OUTCOMES: "failures and skips", LOGS: "logs", PLANS: "plans of runs"}
Mask = Callable[[pa.RecordBatch], Any]


def find_results(lake: Lake, settings: CleanSettings) -> Iterator[Removable]:
    """Find rows of the tables of results, failures, logs and plans that may go; all stay unless the settings say otherwise.

    A result that stands in any retained version of an asset table stays, however old. Where one such table cannot be read,
    nobody knows what it uses, so nothing goes.
    """
    if settings.keep_results == "all":
        return
    try:
        used = _Used.of(lake, settings)
    except LakeError as error:
        yield Removable(RESULTS_FOLDER, "all results stay", f"what assets use is not known: {error}", problem=True)
        return
    for folder in lake.folders():
        if not folder.name.startswith(tuple(_WHICH)) or settings.table not in (None, folder.name):
            continue
        try:
            folder.refuse_strange(lake.root_uri)
            table = folder.open()
            if table is not None:
                yield from _of_table(folder, table, used, settings)
        except LakeError as error:
            yield Removable(folder.name, "left alone", str(error), problem=True)


# ---------------------------------------------------------------------------- what is used


@dataclass(frozen=True, slots=True)
class _Used:
    """What stands in retained versions of asset tables: ids of records, and hashes of the code that made them."""

    ids: pa.Array
    code: Mapping[str, pa.Array]

    @classmethod
    def of(cls, lake: Lake, settings: CleanSettings) -> _Used:
        ids: list[pa.Array] = []
        code: dict[str, list[pa.Array]] = {column: [] for column in _CODE}
        for one in (lake, *settings.used_by):
            for batch in _asset_rows(one, settings):
                ids.append(batch.column(names.RECORD_ID).cast(HASH_TYPE))
                for column in _CODE:
                    code[column].append(batch.column(column).cast(pa.string()).unique())
        empty = pa.array([], pa.string())
        return cls(
            pa.concat_arrays([pa.array([], HASH_TYPE), *ids]),
            {column: pa.concat_arrays([empty, *found]).unique() for column, found in code.items()},
        )


def _asset_rows(lake: Lake, settings: CleanSettings) -> Iterator[pa.RecordBatch]:
    """Yield record ids and code of every row of every retained version of the asset tables of a lake."""
    wanted = [names.RECORD_ID, *_CODE]
    for listed in lake.folders():
        if listed.name.startswith(f"{RESULTS_FOLDER}/"):
            continue
        yield from retained_rows(
            lake, listed, settings.retained_since, lambda schema: wanted if {*wanted} <= {*schema.names} else []
        )


# ---------------------------------------------------------------------------- what may go


def _of_table(folder: Folder, table: DeltaTable, used: _Used, settings: CleanSettings) -> Iterator[Removable]:
    schema = delta.table_schema(table)
    # A log goes with its record; one without goes by its age and code. A plan goes by its age alone, all of its rows at once.
    is_results, is_plans = not folder.name.startswith(OUTCOMES), folder.name.startswith(PLANS)
    own = [] if is_plans else [*_CODE, names.RECORD_ID if is_results else "state"]
    needed = [names.TIMESTAMP, *own]
    if not set(needed) <= set(schema.names):
        return
    old = f"older than {settings.results_older_than.days} days"
    if is_plans:
        mask, why = _old_mask(settings), f"their runs are {old}"
    else:
        mask = _mask_of(_with_newest(table, used), settings, is_results=is_results)
        why = f"no asset table uses them, and they are {old}"
        if settings.keep_results == "current-code":
            why += "; their code made nothing that one uses"
    yield from _told(folder, table, needed, mask, why)


def _told(folder: Folder, table: DeltaTable, needed: Sequence[str], mask: Mask, why: str) -> Iterator[Removable]:
    """Count the rows that a mask tells, and offer to remove them."""
    affected: dict[str, int] = {}
    sizes = sizes_of(table)
    share = 0.0
    for path, batches in _held(table, needed):
        rows = sum(pc.sum(mask(batch)).as_py() or 0 for batch in batches)
        if rows:
            affected[path] = rows
            share += sizes[path][1] * rows / (sizes[path][0] or rows)
    if not affected:
        return
    which = next(text for start, text in _WHICH.items() if folder.name.startswith(start))
    yield Removable(
        folder.name, which, why, rows=sum(affected.values()), files=len(affected), bytes=int(share),
        remove=lambda: remove_rows(folder.uri, folder.options, needed, mask),
    )  # fmt: skip


def _with_newest(table: DeltaTable, used: _Used) -> _Used:
    """Count the code of a table's newest row as current, for it may be tried out before an asset uses it."""
    newest: Any = None
    code: dict[str, pa.Array] = dict(used.code)
    for _, batches in _held(table, [names.TIMESTAMP, *_CODE]):
        for batch in batches:
            last = pc.max(batch.column(names.TIMESTAMP))
            if not last.is_valid or (newest is not None and last.as_py() < newest):
                continue
            newest = last.as_py()
            rows = batch.filter(pc.equal(batch.column(names.TIMESTAMP), last))
            code = {c: pa.concat_arrays([used.code[c], rows.column(c).cast(pa.string())]) for c in _CODE}
    return _Used(used.ids, code)


def _old_mask(settings: CleanSettings) -> Mask:
    before = pa.scalar(settings.results_before, pa.timestamp("us", "UTC"))
    return lambda rows: pc.less(rows.column(names.TIMESTAMP), before)


def _mask_of(used: _Used, settings: CleanSettings, *, is_results: bool) -> Mask:
    """Return what tells, per row, whether it may go."""
    before = pa.scalar(settings.results_before, pa.timestamp("us", "UTC"))

    def mask(rows: pa.RecordBatch) -> Any:
        goes = pc.less(rows.column(names.TIMESTAMP), before)
        current = pc.and_(*(pc.is_in(rows.column(c), value_set=used.code[c]) for c in _CODE))
        if is_results:
            goes = pc.and_not(goes, pc.is_in(rows.column(names.RECORD_ID).cast(HASH_TYPE), value_set=used.ids))
        elif settings.keep_results == "used":
            # A skip is an answer, which would have to be computed again; a failure is tried again anyway.
            current = pc.and_(current, pc.not_equal(rows.column("state"), FAILED))
        if settings.keep_results == "current-code" or not is_results:
            goes = pc.and_not(goes, current)
        return goes

    return mask


def _held(table: DeltaTable, columns: Sequence[str]) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
    """Yield path and rows of each file, in the types in which files hold them."""
    held = delta.held_schema(table)
    return scan_files(table, pa.schema([held.field(name) for name in columns]))


# ---------------------------------------------------------------------------- removing rows


class _Overtaken(Exception):  # noqa: N818  # no error: a compaction or another clean-up was first
    pass


def remove_rows(uri: str, options: Mapping[str, str] | None, needed: Sequence[str], mask: Mask) -> int:
    """Remove the rows of a table that a mask tells, in one commit; appends meanwhile stay, and older versions too.

    Args:
        uri, options: the table.
        needed: the columns that the mask reads.
        mask: gives per row of a batch whether it goes.

    Returns:
        How many rows went.

    Raises:
        CommitError: others changed the same files first, three times.
    """
    for _ in range(_TRIES):
        try:
            return _try_to_remove(uri, options, needed, mask)
        except _Overtaken:
            continue
    raise CommitError(
        f"{uri}: others changed its files first, {_TRIES} times. Nothing was removed there. Clean up again."
    )


def _try_to_remove(uri: str, options: Mapping[str, str] | None, needed: Sequence[str], mask: Mask) -> int:
    table = delta.open_table(uri, options)
    if table is None:
        return 0
    going = {
        path: rows
        for path, batches in _held(table, needed)
        if (rows := sum(pc.sum(mask(batch)).as_py() or 0 for batch in batches))
    }
    if not going:
        return 0
    removed = sum(going.values())
    held = delta.held_schema(table)
    encoded = {delta.decoded(row["path"]): row for row in pa.table(table.get_add_actions(flatten=True)).to_pylist()}
    plain = (names.RECORD_ID, names.INPUT_HASH)
    write = delta.Write(uri, delta.table_schema(table), options, {}, {CLEANED: str(removed)}, plain)
    write.durable = True

    def supersede(current: DeltaTable) -> delta.Superseded:
        if not going.keys() <= sizes_of(current).keys():
            raise _Overtaken
        return delta.Superseded([delta.removal(encoded[p]["path"], encoded[p]["size_bytes"]) for p in going], [])

    write.run(lambda: pa.RecordBatchReader.from_batches(held, _staying(table, going, held.names, mask)), supersede)
    return removed


def _staying(
    table: DeltaTable, going: Mapping[str, int], columns: Sequence[str], mask: Mask
) -> Iterator[pa.RecordBatch]:
    for path, batches in _held(table, columns):
        if path in going:
            for batch in batches:
                yield batch.filter(pc.invert(mask(batch)))
