"""PacketAssetSpec: what a packet asset was declared to do, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import dagster as dg

from orcapod_dagster.core.failure_policy import RetryFailed
from orcapod_dagster.core.matching import MatchPolicy
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.packet_retry import PacketRetry
from orcapod_dagster.core.rate_limit import RateLimit

TAG_COLUMNS_METADATA: Final = "orcapod/tag_columns"
PARTITION_EXPR: Final = "partition_expr"

OnError = Literal["raise", "continue"]


@dataclass(frozen=True, slots=True)
class PacketAssetSpec:
    """What a packet asset was declared to do; its execution reads nothing else.

    Attributes:
        key: the asset's key. function: what computes.
        inputs: Dagster input name → upstream key, in the order of declaration.
        tag_columns: as declared or inherited; None when only the running code location can tell.
        match, on_error, carry, rename, params, executor_options: as `packet_asset` takes them.
        partition_expr: as declared or inherited, else None.
        capture: bytes per packet and stream; 0 for none.
        packet_retry: how packets that fail are tried again within one run; None for not at all.
        max_failures: as `FailureLimit` takes it.
        rate_limit: how many packets begin per second at most; None for as many as can.
        retry_failed: which failures of earlier runs are tried again; None for what the result store says.
        time_limit: seconds that one packet may take; None for no limit.
        index_column: of a generator, the column that counts the rows of a packet; None for other functions.
        max_concurrency: how many packets of an async function are under way at a time in a process.
    """

    key: dg.AssetKey
    function: PythonPacketFunction
    inputs: Mapping[str, dg.AssetKey]
    tag_columns: tuple[str, ...] | None
    match: MatchPolicy
    on_error: OnError
    carry: tuple[str, ...]
    rename: Mapping[str, str]
    params: Mapping[str, Any]
    executor_options: Mapping[str, Any]
    partition_expr: Any
    capture: int
    packet_retry: PacketRetry | None
    retry_failed: RetryFailed | None
    max_failures: float | None
    time_limit: float | None
    rate_limit: RateLimit | None
    index_column: str | None
    max_concurrency: int

    @property
    def table_tags(self) -> tuple[str, ...] | None:
        """The tag columns of the asset's table, with the index of a generator; None as `tag_columns`."""
        return None if self.tag_columns is None else (*self.tag_columns, *self.index_columns)

    @property
    def index_columns(self) -> tuple[str, ...]:
        """The index column, if there is one."""
        return () if self.index_column is None else (self.index_column,)
