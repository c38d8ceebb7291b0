"""AssetWrite: what a packet asset hands to the IO manager instead of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class AssetWrite:
    """One version of an asset's table, or of its partition, ready to be written.

    Attributes:
        schema: of the rows.
        open_reader: returns a new reader of the same rows each time; called again when a commit is retried.
        unchanged: the table holds exactly these rows already, so nothing is written.
        properties: properties of the table, should it be created.
        custom_metadata: stored with the commit.
        partition_columns: the `partition_expr` that the asset inherits when its own definition names none.
        plain_columns: columns of ever new values, which are not dictionary-encoded.
    """

    schema: pa.Schema
    open_reader: Callable[[], pa.RecordBatchReader]
    unchanged: bool = False
    properties: Mapping[str, str] = field(default_factory=dict[str, str])
    custom_metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    partition_columns: Any = None
    plain_columns: tuple[str, ...] = ()
