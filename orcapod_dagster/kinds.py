"""Kinds of tables: what an asset may return as one, and what a parameter's annotation asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from orcapod_dagster.core.asset_write import AssetWrite
from orcapod_dagster.core.errors import InputError, MissingExtraError
from orcapod_dagster.core.sources import DeltaSource, MemorySource, TableSource
from orcapod_dagster.core.storage_types import from_storage

# ---------------------------------------------------------------------------- returned


def as_write(value: Any, owner: str) -> AssetWrite:
    """Return any kind of table as something that can be opened again for each try."""
    if value is None:
        raise InputError(
            f"{owner} returned None, which is no table. Return a table, or give the asset another io_manager_key, or let it "
            "declare no output."
        )
    if isinstance(value, pa.RecordBatchReader):
        return _of_reader(value)
    if _is_dataset(type(value)):
        scanner = value.scanner
        return AssetWrite(value.schema, lambda: scanner().to_reader())
    if _is_of(value, "polars", "LazyFrame") and hasattr(value, "collect_batches"):
        return _of_lazy_frame(value)
    table = _to_table(value, owner)
    return AssetWrite(table.schema, table.to_reader)


def _is_dataset(kind: type) -> bool:
    """Tell whether a class is a pyarrow dataset, without importing that module."""
    return any(one.__module__ == "pyarrow._dataset" and one.__name__ == "Dataset" for one in kind.__mro__)


def _of_reader(reader: pa.RecordBatchReader) -> AssetWrite:
    opened: list[bool] = []

    def open_once() -> pa.RecordBatchReader:
        if opened:
            raise InputError(
                "A RecordBatchReader can be read only once, and the commit had to be tried again. Nothing was written; run again."
            )
        return pa.RecordBatchReader.from_batches(reader.schema, _mark(reader, opened))

    return AssetWrite(reader.schema, open_once)


def _of_lazy_frame(frame: Any) -> AssetWrite:
    """Return a query that is evaluated while it is written, batch by batch, in its order."""
    schema = pa.table(frame.collect_schema().to_frame()).schema

    def batches() -> Iterator[pa.RecordBatch]:
        for part in frame.collect_batches(maintain_order=True):
            yield from pa.table(part).cast(schema).to_batches()

    return AssetWrite(schema, lambda: pa.RecordBatchReader.from_batches(schema, batches()))


def _is_of(value: Any, package: str, name: str) -> bool:
    kind: Any = type(value)
    return kind.__module__.partition(".")[0] == package and kind.__name__ == name


def _mark(reader: pa.RecordBatchReader, opened: list[bool]) -> Iterator[pa.RecordBatch]:
    opened.append(True)
    yield from reader


def _to_table(value: Any, owner: str) -> pa.Table:
    frame: Any = value
    if isinstance(value, pa.Table):
        return value
    if isinstance(value, list):
        if not value:
            raise InputError(
                f"{owner} returned an empty list, which has no columns. Return a pyarrow table with a schema."
            )
        if all(isinstance(row, Mapping) for row in value):  # pyright: ignore[reportUnknownVariableType]
            return _of_dicts(value)  # pyright: ignore[reportUnknownArgumentType]
    kind: Any = type(value)
    if _is_of(value, "polars", "LazyFrame"):
        frame = frame.collect()
    if _is_of(value, "pandas", "DataFrame"):
        return pa.Table.from_pandas(frame, preserve_index=None).replace_schema_metadata(None)
    if hasattr(frame, "__arrow_c_stream__"):
        return pa.table(frame)
    raise InputError(
        f"{owner} returned a {kind.__qualname__}, which is no table. Return a pyarrow, polars or pandas table or a list of "
        "dicts, or give the asset another io_manager_key."
    )


def _of_dicts(rows: list[Mapping[str, Any]]) -> pa.Table:
    """Return dicts as a table with every key of any of them, in the order of first sight."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return pa.table({key: pa.array([row.get(key) for row in rows]) for key in keys})


# ---------------------------------------------------------------------------- asked for


def as_type(source: DeltaSource | MemorySource, wanted: Any, columns: Sequence[str] | None) -> Any:
    """Return a table, or some of its columns, as an annotation asks for it.

    Datasets and LazyFrames read nothing until they are asked, and then only the columns and rows that they are asked for.
    """
    written = source.written_schema
    names = list(columns) if columns is not None else written.names
    missing = [name for name in names if name not in written.names]
    if missing:
        raise InputError(
            f"{source.description}, has no columns {missing}, which the input's metadata 'columns' names; it has {written.names}."
        )
    schema = pa.schema([written.field(name) for name in names], metadata=written.metadata)
    module, name = getattr(wanted, "__module__", ""), getattr(wanted, "__name__", "")
    if wanted is TableSource or wanted is DeltaSource:
        return source
    if wanted is DeltaTable and isinstance(source, DeltaSource):
        return source.table
    if wanted is pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(schema, _batches(source, schema))
    if module.startswith("polars") and name == "LazyFrame":
        return _lazy_frame(source, schema)
    if isinstance(wanted, type) and _is_dataset(wanted):
        return _dataset(source, schema)
    table = pa.Table.from_batches(_batches(source, schema), schema=schema)
    if module.startswith("polars"):
        return _extra("polars").from_arrow(table)
    if module.startswith("pandas"):
        _extra("pandas")
        return table.to_pandas()
    if wanted is list or getattr(wanted, "__origin__", None) is list:
        return table.to_pylist()
    return table


def _batches(source: DeltaSource | MemorySource, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    return (from_storage(batch, schema) for batch in source.scan(schema.names))


def _dataset(source: DeltaSource | MemorySource, schema: pa.Schema) -> Any:
    import pyarrow.dataset as ds  # imports pandas, where that is installed

    found = None if isinstance(source, MemorySource) else source.dataset(schema.names)
    return found if found is not None else ds.dataset(pa.Table.from_batches(_batches(source, schema), schema=schema))


def _lazy_frame(source: DeltaSource | MemorySource, schema: pa.Schema) -> Any:
    polars = _extra("polars")
    found = None if isinstance(source, MemorySource) else source.dataset(schema.names)
    if found is not None:
        # Arrow and polars differ in what they make of NaN, so where there can be some, polars filters the rows itself.
        pushed = not any(_holds_floats(field.type) for field in schema)
        return polars.scan_pyarrow_dataset(found, allow_pyarrow_filter=pushed)

    def frames(columns: list[str] | None, predicate: Any, limit: int | None, _size: int | None) -> Iterator[Any]:
        chosen = pa.schema([schema.field(name) for name in columns or schema.names], metadata=schema.metadata)
        for batch in _batches(source, chosen):
            part = polars.from_arrow(pa.Table.from_batches([batch.slice(0, limit)]))
            limit = None if limit is None else limit - part.height
            yield part if predicate is None else part.filter(predicate)
            if limit == 0:
                return

    from polars.io.plugins import register_io_source

    return register_io_source(frames, schema=polars.from_arrow(pa.Table.from_batches([], schema=schema)).schema)


def _holds_floats(t: pa.DataType) -> bool:
    return "float" in str(t) or "double" in str(t)


def _extra(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise MissingExtraError(
            f"{name} is not installed. Install it: pip install 'orcapod-dagster[{name}]'."
        ) from error
