"""The inputs of a packet asset: what IO managers loaded, brought together as its packets see them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.converter import to_array
from orcapod_dagster.core.errors import InputError
from orcapod_dagster.core.sources import DeltaSource, MemorySource, TableSource
from orcapod_dagster.core.streams import PacketStream, StreamInput, ambiguous_columns
from orcapod_dagster.partitions import plain
from orcapod_dagster.spec import TAG_COLUMNS_METADATA, PacketAssetSpec

INPUT_VERSIONS_INFO: Final = "input_versions"
"""In the extra info of a result: input → version of its table, as JSON."""
HIDDEN: Final = "="  # begins the inner name of a column that no user's column can have


def as_source(value: Any, name: str) -> TableSource:
    """Return what an IO manager loaded as a table source; anything but a Delta source is gathered in memory.

    Raises:
        InputError: the value is no table; names the input and its class.
    """
    if isinstance(value, TableSource):
        return value
    if isinstance(value, pa.Table):
        return MemorySource(value)
    if isinstance(value, Mapping) and value and not hasattr(value, "__arrow_c_stream__"):
        parts: list[Any] = list(value.values())  # pyright: ignore[reportUnknownArgumentType]  # several partitions: key → table
        sources = [as_source(part, name) for part in parts]
        # Of no rows there are no batches, which would say what the columns are.
        tables = [pa.Table.from_batches(one.scan(one.schema.names), schema=one.schema) for one in sources]
        return MemorySource(pa.concat_tables(tables, promote_options="default"))
    if isinstance(value, list) and all(isinstance(row, Mapping) for row in value):
        return MemorySource(pa.Table.from_pylist(value))
    frame: Any = value
    if hasattr(frame, "collect") and not hasattr(frame, "__arrow_c_stream__"):
        frame = frame.collect()
    if hasattr(frame, "__arrow_c_stream__"):
        return MemorySource(pa.table(frame))
    raise InputError(
        f"input {name}: its IO manager gave a {type(value).__qualname__}, which is no table. A packet asset takes Arrow, "
        "polars, pandas or a list of dicts."
    )


def open_stream(spec: PacketAssetSpec, loaded: Mapping[str, Any], graph: Any) -> PacketStream:
    """Bring an asset's inputs together, as its packets see them.

    Args:
        spec: the asset. loaded: Dagster input name → what its IO manager loaded.
        graph: Dagster's asset graph, which knows the tags of upstream packet assets.

    Raises:
        InputError: names the input, column or tag that is missing, in two inputs, or of a type that does not fit.
    """
    tags = tags_of(spec, graph)
    inputs = [
        StreamInput(key.to_user_string(), as_source(loaded[name], key.to_user_string()), spec.rename)
        for name, key in spec.inputs.items()
    ]
    hints = spec.function.input_packet_schema
    params = {
        n: to_array([v], hints[n], column=n, owner=f"params of {spec.key.to_user_string()}")
        for n, v in spec.params.items()
    }
    inputs = [_visible(one) for one in inputs]
    stream = PacketStream.open(inputs, tags, params)
    unclear = ambiguous_columns(stream)
    used = [c for c in (*hints, *spec.carry) if c in unclear and c not in params]
    if used:
        raise InputError(
            f"{spec.key.to_user_string()}: column {used[0]!r} stands in {' and '.join(unclear[used[0]])}. Rename one upstream, "
            "or make it a tag."
        )
    missing = [c for c in spec.carry if c not in stream.schema().names]
    if missing:
        raise InputError(
            f"{spec.key.to_user_string()}: no input has the columns {missing} to carry; there are {stream.schema().names}."
        )
    return stream


def _visible(one: StreamInput) -> StreamInput:
    """Hide an upstream packet asset's own record columns, which say nothing of this asset's rows."""
    hidden = {name: f"{HIDDEN}{one.name}{name}" for name in one.source.schema.names if names.is_reserved(name)}
    return StreamInput(one.name, one.source, {**hidden, **one.rename})


def tags_of(spec: PacketAssetSpec, graph: Any) -> tuple[str, ...]:
    """Return an asset's tag columns: its own, or those of its inputs.

    Raises:
        InputError: they are not known.
    """
    if spec.tag_columns is not None:
        return spec.tag_columns
    found: dict[str, None] = {}
    for key in spec.inputs.values():
        tags = graph.get(key).metadata.get(TAG_COLUMNS_METADATA) if graph.has(key) else None
        if tags is None:
            raise InputError(
                f"{spec.key.to_user_string()}: its tag columns are not known, for {key.to_user_string()} is no packet asset. "
                "Give tag_columns=[...], the columns that say which row this is."
            )
        found |= dict.fromkeys(plain(tags))
    return tuple(found)


def versions_read(stream: PacketStream) -> dict[str, str]:
    """Return which version of each input's table is read, as JSON; a trace finds by it what a packet was."""
    versions = versions_of(stream)
    return {INPUT_VERSIONS_INFO: json.dumps(versions)} if versions else {}


def versions_of(stream: PacketStream) -> dict[str, int]:
    """Return which version of each input's table is read, where that has versions."""
    sources = {part.input.name: part.input.source for part in stream.parts}
    return {name: source.version for name, source in sources.items() if isinstance(source, DeltaSource)}
