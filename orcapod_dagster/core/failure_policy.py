"""FailurePolicy: what becomes of packets that fail, within a run and in the next one."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Final, Literal, get_args

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.error_kinds import TRANSIENT, is_any
from orcapod_dagster.core.packet_retry import PacketRetry

RetryFailed = Literal["all", "transient", "changed"]
"""Which failures of earlier runs are tried again: all; those that may go away by themselves; those whose code or input changed."""
RETRY_FAILED: Final[tuple[RetryFailed, ...]] = get_args(RetryFailed)


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """What becomes of packets that fail.

    Attributes:
        retry: how they are tried again within one run; None for not at all.
        retry_failed: which failures of earlier runs are tried again in the next. Where code or input changed, all are.
        max_failures: as `FailureLimit` takes it.
    """

    retry: PacketRetry | None = None
    retry_failed: RetryFailed = "all"
    max_failures: float | None = None

    def stands(self, failed: pa.Table, contents: frozenset[str]) -> pa.Array:
        """Tell of earlier failures which of them are not tried again.

        Args:
            failed: with the columns of `outcomes.DETAILS`.
            contents: hashes of the code that count as the code of now.

        Returns:
            Booleans, never null.
        """
        if self.retry_failed == "all":
            return pa.repeat(False, failed.num_rows)
        same_code = pc.is_in(failed[names.CONTENT_HASH].cast(pa.string()), value_set=pa.array(sorted(contents)))
        if self.retry_failed == "changed":
            return one_array(same_code)
        return one_array(pc.and_not(same_code, self._transient(failed)))

    def _transient(self, failed: pa.Table) -> pa.Array:
        """Tell which failures may go away by themselves: by their kind, or because `packet_retry` names it."""
        # One text per failure, for there are few different ones.
        kinds = pc.coalesce(pc.binary_join(failed["error_kinds"], "|"), failed["error_type"])
        coded = one_array(kinds.cast(pa.string())).dictionary_encode()
        each = [_kinds(text) for text in coded.dictionary.to_pylist()]
        named = [is_any(one, TRANSIENT) or (self.retry is not None and self.retry.names(one)) for one in each]
        return pa.array(named, pa.bool_()).take(coded.indices)


def _kinds(text: str) -> list[str]:
    """Return the kinds of a failure; an earlier release stored the class alone, and of Python's own what it is derived from is known."""
    alone = getattr(builtins, text, None)
    if isinstance(alone, type) and issubclass(alone, BaseException):
        return [one.__name__ for one in alone.__mro__]
    return text.split("|")
