"""Settling: what an executor gives back becomes chunks, values in Arrow and an outcome of each packet without any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from orcapod_dagster.core.arrow import size_of
from orcapod_dagster.core.blobs.keeper import Keeper
from orcapod_dagster.core.errors import ConversionError, OutputCountError, OutputSizeError
from orcapod_dagster.core.executors.base import BatchResult, RowFailure
from orcapod_dagster.core.executors.capture import LogEntry
from orcapod_dagster.core.executors.slices import kinds_of
from orcapod_dagster.core.infrastructure import INFRASTRUCTURE_CLASS
from orcapod_dagster.core.outcomes import FAILED, SKIPPED, Outcome
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.packet_logs import with_last_lines


@dataclass(frozen=True, slots=True)
class Chunk:
    """Finished work that waits to be stored.

    Attributes:
        rows: of the stream, those with a result. outputs, durations: one per row.
        outcomes: of further rows, which gave no result. execution: the executor's data of the task.
        logs: what packets printed and logged.
    """

    rows: pa.Array
    outputs: pa.RecordBatch
    durations: list[float]
    outcomes: tuple[Outcome, ...]
    execution: Mapping[str, Any]
    logs: tuple[LogEntry, ...]

    def without_faults(self) -> tuple[Chunk, str | None]:
        """Return it without the packets during which something of ours failed, and what the first of these tells."""
        told, kept = None, list[Outcome]()
        for one in self.outcomes:
            if INFRASTRUCTURE_CLASS in one.kinds:
                told = told or one.message
            else:
                kept.append(one)
        return (self, None) if told is None else (replace(self, outcomes=tuple(kept)), told)

    @property
    def without_result(self) -> tuple[int, int]:
        """How many packets failed, and how many were skipped."""
        failed = sum(one.state == FAILED for one in self.outcomes)
        return failed, len(self.outcomes) - failed

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return size_of(self.outputs) + sum(len(entry.text) for entry in self.logs)


class Settler:
    """Settles the results of one function.

    Args:
        function: the packet function.
        keeper: where large values go.
    """

    def __init__(self, function: PythonPacketFunction, keeper: Keeper) -> None:
        self._function = function
        self._keeper = keeper

    def settled(self, rows: pa.Array, result: BatchResult, changed: Mapping[int, str]) -> Iterator[Chunk]:
        """Yield a result in as many chunks as its bytes need: a slice of rows is bounded by time, and its outputs by nothing.

        Args:
            rows: of the stream, one per row of the result.
            result: what the executor gave back.
            changed: rows whose files changed meanwhile, counted from the first, and why.
        """
        try:
            chunk = self._settle(rows, result, changed)
        except OutputSizeError:
            middle = result.length // 2
            for first, end in ((0, middle), (middle, result.length)):
                within = {row - first: why for row, why in changed.items() if first <= row < end}
                yield from self.settled(rows.slice(first, end - first), result.part(first, end), within)
        else:
            yield chunk

    def _settle(self, rows: pa.Array, result: BatchResult, changed: Mapping[int, str]) -> Chunk:
        """Bring return values to Arrow; one that does not fit its declared type is that packet's failure alone.

        Raises:
            OutputSizeError: several rows, which do not fit into one batch.
        """
        failures = [f for f in result.failures if not (f.skipped and f.row - result.start in changed)]
        outcomes = [_outcome(rows[f.row - result.start].as_py(), f) for f in failures]
        bad = {f.row - result.start for f in failures}
        for i in sorted(changed.keys() - bad):
            # Of no kind, for no further call can mend it: the hash is that of what the file held before.
            outcomes.append(Outcome(rows[i].as_py(), FAILED, "InputError", changed[i], "", result.durations[i]))
            bad.add(i)
        good = [i for i in range(result.length) if i not in bad] if bad else range(result.length)
        outputs = [result.outputs[i] for i in good] if bad else result.outputs
        try:
            batch = self._function.outputs_to_batch(outputs, self._keeper)
        except (ConversionError, OutputCountError, KeyError, AttributeError, TypeError) as error:
            if isinstance(error, OutputSizeError) and len(outputs) > 1:
                raise
            misfits = _misfits(self._function, outputs, self._keeper)
            outcomes += [
                Outcome(
                    rows[good[i]].as_py(),
                    FAILED,
                    type(e).__name__,
                    str(e),
                    "",
                    result.durations[good[i]],
                    kinds=kinds_of(e),
                )
                for i, e in misfits.items()
            ]
            good = [row for i, row in enumerate(good) if i not in misfits]
            batch = self._function.outputs_to_batch([result.outputs[i] for i in good], self._keeper)
        durations = result.durations
        logs = tuple(entry._replace(row=rows[entry.row - result.start].as_py()) for entry in result.logs)
        if len(good) < result.length:
            rows, durations = rows.take(pa.array(good, pa.int64())), [durations[i] for i in good]
        without = tuple(with_last_lines(outcomes, logs))
        return Chunk(rows, batch, durations, without, result.execution_data, logs)


def _outcome(row: int, failure: RowFailure) -> Outcome:
    state = SKIPPED if failure.skipped else FAILED
    kinds = failure.kinds or kinds_of(failure.error)
    return Outcome(row, state, failure.error_type, failure.message, failure.traceback, failure.duration, kinds=kinds)


def _misfits(function: PythonPacketFunction, outputs: Sequence[Any], keeper: Keeper) -> dict[int, Exception]:
    found: dict[int, Exception] = {}
    for i, output in enumerate(outputs):
        try:
            function.outputs_to_batch([output], keeper)
        except (ConversionError, OutputCountError) as error:
            found[i] = error
        except (KeyError, AttributeError, TypeError) as error:
            found[i] = ConversionError(
                f"function {function.canonical_function_name!r} returned a {type(output).__qualname__}, which lacks "
                f"{error}; expected the columns {list(function.output_keys)}."
            )
    return found
