"""TraceStep: one row of a trace, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import dagster as dg

CURRENT: Final = "current"
CHANGED: Final = "changed since"
NOT_FOUND: Final = "not found"


@dataclass(frozen=True)
class TraceStep:
    """One row of a trace.

    Attributes:
        number: of the step; the row that was asked for is 0.
        asset: whose row. is_packet_asset: whether a packet function made it; else it is a source row.
        tags: which row it is; of a source row, those of the packet that it has columns for.
        row: its columns, without those of this package; empty where it is not found. record: those, empty for a source row.
        consumed: parameter → value that the function got; empty for a source row.
        used_by: steps that were made from it. table, version: where it was read; None outside of a lake.
        partition: of a packet asset's row.
        state: `CURRENT`; `CHANGED` where its table holds another row now, or none; `NOT_FOUND` where the row that was
            consumed is not known any more.
        note: what else is to be said.
    """

    number: int
    asset: dg.AssetKey
    is_packet_asset: bool
    tags: Mapping[str, Any]
    row: Mapping[str, Any]
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])
    consumed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    used_by: tuple[int, ...] = ()
    table: str | None = None
    version: int | None = None
    partition: str | None = None
    state: str = CURRENT
    note: str = ""
