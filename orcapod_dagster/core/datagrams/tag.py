"""Tag: the row of columns that say which row it is."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from orcapod_dagster.core.datagrams.datagram import Datagram


class Tag(Datagram):
    """The columns that say which row this is; never part of a cache key.

    Args:
        data, python_schema, meta_info, record_id: as for `Datagram`.
        system_tags: further columns that travel with the tag, with or without the prefix `_tag_`; not part of its
            content. They replace equally named ones of `data`, and stay under every operation on the data columns.
    """

    __slots__ = ()
    _kinds = ("meta", "system_tags", "context")

    def __init__(
        self,
        data: Mapping[str, Any] | pa.Table | pa.RecordBatch,
        python_schema: Mapping[str, Any] | None = None,
        meta_info: Mapping[str, Any] | None = None,
        record_id: str | uuid.UUID | bytes | None = None,
        *,
        system_tags: Mapping[str, Any] | None = None,
    ) -> None:
        self._fill(data, python_schema, record_id, {"meta": meta_info, "system_tags": system_tags})

    def system_tags(self) -> dict[str, Any]:
        """Return the system tags, names with their prefix."""
        return dict(self._row("system_tags").values())
