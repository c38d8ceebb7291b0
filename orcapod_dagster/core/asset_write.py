"""AssetWrite: what a packet asset hands to the IO manager instead of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

DATA_VERSION: Final = "orcapod.data_version"
"""In the metadata of a commit to a packet asset's table: the digest of its rows, over tags and values alone."""
PART: Final = "orcapod.part"
"""Likewise: the partition keys of the rows as JSON, empty where they are the whole table."""
COLUMNS: Final = "orcapod.columns"
"""Likewise, as JSON: tags and carried columns, an empty name, outputs; those that the digest is over."""
TAGS: Final = "orcapod.tags"
"""Likewise, as JSON: the columns that say which row this is."""

BINDING: Final = "orcapod.binding"
"""Likewise, as JSON: how the input hashes of the rows were made (`earlier_rows.binding_of`)."""
INPUT_VERSIONS: Final = "orcapod.input_versions"
"""Likewise, as JSON: input → version of its table that was read."""


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
