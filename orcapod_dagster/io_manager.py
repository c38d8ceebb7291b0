"""DeltaLakeIOManager: Arrow ↔ Delta tables of assets; each write replaces exactly its partitions."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable
from pydantic import Field

from orcapod_dagster.core import delta
from orcapod_dagster.core.asset_write import AssetWrite
from orcapod_dagster.core.errors import InputError, MissingExtraError, PartitionError, TableNotFoundError
from orcapod_dagster.core.paths import join_uri, results_root
from orcapod_dagster.core.predicates import NOTHING, Predicate
from orcapod_dagster.core.sources import DeltaSource, MemorySource, TableSource
from orcapod_dagster.core.storage import hide_options
from orcapod_dagster.core.storage_types import from_storage
from orcapod_dagster.partitions import EXPR, EXPR_PROPERTY, plain, predicate_of, refuse_outside

_log = logging.getLogger(__name__)
LOAD_KEY: Final = "orcapod/load"
EVOLUTION_KEY: Final = "orcapod/schema_evolution"
WRITE_MODE_KEY: Final = "orcapod/write_mode"
VERSION_KEY: Final = "orcapod/version"
TIMESTAMP_KEY: Final = "orcapod/timestamp"
_LOOK_BACK: Final = 100


class DeltaLakeIOManager(dg.ConfigurableIOManager):
    """Stores each asset as one Delta table below a root.

    Takes Arrow tables, readers and datasets, polars and pandas frames and lists of dicts; gives whichever of these the
    parameter's annotation asks for (default `pyarrow.Table`; also `deltalake.DeltaTable`). A partitioned asset names
    its partition column in the definition metadata `partition_expr`.
    """

    root_uri: str = Field(description="The lake: a local folder or an object store URI.")
    storage_options: dict[str, str] | None = Field(default=None, description="As deltalake takes them; never shown.")

    def __init__(self, **data: Any) -> None:
        if "storage_options" in data:
            data["storage_options"] = hide_options(data["storage_options"])
        super().__init__(**data)

    def __repr__(self) -> str:
        return f"DeltaLakeIOManager(root_uri={self.root_uri!r})"

    __str__ = __repr__

    # ------------------------------------------------------------------ places

    def table_uri(self, asset_key: dg.AssetKey) -> str:
        """Return where an asset's table lies: below the root, one folder per component of its key."""
        return join_uri(self.root_uri, asset_key.path)

    @property
    def results_root(self) -> str:
        """Where results lie: a folder that no asset key can take."""
        return results_root(self.root_uri)

    # ------------------------------------------------------------------ writing

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Replace the asset's table, or exactly the partitions of the run.

        Raises:
            InputError: the value is no table. PartitionError: a row lies outside of the run's partitions, or the asset
                does not say by which column it is partitioned. LakeError: as `core.delta.replace`.
        """
        write = obj if isinstance(obj, AssetWrite) else _as_write(obj, _owner(context.asset_key))
        uri = self.table_uri(context.asset_key)
        if not write.unchanged:
            result = self._replace(context, write, uri)
            shown: dict[str, Any] = {"orcapod/delta_version": result.version}
        else:
            table = delta.open_table(uri, self.storage_options)
            shown = {"orcapod/delta_version": None if table is None else table.version()}
        self._add_metadata(context, write.schema, uri, shown)

    def _replace(self, context: dg.OutputContext, write: AssetWrite, uri: str) -> delta.WriteResult:
        metadata = context.definition_metadata or {}
        evolve: Any = plain(metadata.get(EVOLUTION_KEY, "refuse"))
        if _is_append(context):
            self._refuse_partitioned_table(uri, context.asset_key)
            return delta.append(
                uri, write.open_reader, storage_options=self.storage_options, properties=write.properties,
                custom_metadata=write.custom_metadata, plain_columns=write.plain_columns, commit_id=_commit_id(context),
            )  # fmt: skip
        definition, keys = None, ()
        if context.has_asset_partitions:
            definition, keys = context.asset_partitions_def, context.asset_partition_keys
        expr = plain(metadata.get(EXPR)) or write.partition_columns
        expr, where = self.part_to_write(context.asset_key, definition, keys, expr, write.schema)
        if where is None:
            return delta.replace(
                uri, write.open_reader, where=None, storage_options=self.storage_options, properties=write.properties,
                custom_metadata=write.custom_metadata,
                plain_columns=write.plain_columns, evolve=evolve,
            )  # fmt: skip
        return delta.replace(
            uri, _inside(write.open_reader, where, _owner(context.asset_key), keys), where=where,
            storage_options=self.storage_options,
            properties={**write.properties, EXPR_PROPERTY: json.dumps(expr)}, custom_metadata=write.custom_metadata,
                plain_columns=write.plain_columns, evolve=evolve,
        )  # fmt: skip

    def part_to_write(
        self, key: dg.AssetKey, definition: Any, keys: Sequence[str], declared: Any, schema: pa.Schema
    ) -> tuple[Any, Predicate | None]:
        """Return by which column an asset's table is partitioned, and which rows a run is to replace: None for all.

        Args:
            key: of the asset. definition: its partitions, or None. keys: the partitions of the run.
            declared: its `partition_expr`. schema: of what is to be written.

        Raises:
            PartitionError: there is no right way to write this; it is told without a look at any row.
        """
        uri, owner = self.table_uri(key), _owner(key)
        if definition is None:
            self._refuse_partitioned_table(uri, key)
            return None, None
        expr = self._agreed_expr(uri, declared, owner)
        where = predicate_of(definition, keys, expr, schema, owner)
        where.mask(schema.empty_table())  # a key that the column's type cannot express is found without rows
        return expr, where

    def _agreed_expr(self, uri: str, declared: Any, owner: str) -> Any:
        """Return by which column the table is partitioned; what the table says and what is declared must be the same."""
        table = delta.open_table(uri, self.storage_options)
        stored = None if table is None else _expr_of(table)
        if table is not None and declared is not None and stored != declared:
            was = "as a whole" if stored is None else f"by {stored!r}"
            raise PartitionError(
                f"{owner} is partitioned by {declared!r}, but its table {uri} was written {was}. Nothing was written. Remove the "
                "table, or give the asset another name."
            )
        return declared if declared is not None else stored

    def _stored_expr(self, uri: str) -> Any:
        table = delta.open_table(uri, self.storage_options)
        return None if table is None else _expr_of(table)

    def _refuse_partitioned_table(self, uri: str, key: dg.AssetKey) -> None:
        if self._stored_expr(uri) is not None:
            raise PartitionError(
                f"{_owner(key)} has no partitions, but its table {uri} was written by partitions. Nothing was written. Give the "
                "asset its partitions_def, or remove the table."
            )

    def _add_metadata(self, context: dg.OutputContext, schema: pa.Schema, uri: str, shown: Mapping[str, Any]) -> None:
        try:
            table = delta.open_table(uri, self.storage_options)
            columns = [
                dg.TableColumn(f.name, str(f.type), constraints=dg.TableColumnConstraints(nullable=f.nullable))
                for f in schema
            ]
            context.add_output_metadata(
                {
                    **({} if table is None else {"dagster/row_count": table.count()}),
                    "dagster/column_schema": dg.TableSchema(columns=columns),
                    "dagster/table_name": ".".join(context.asset_key.path),
                    "dagster/uri": uri,
                    **shown,
                }
            )
        except Exception:  # noqa: BLE001  # metadata never fails a run that has written its rows
            _log.warning("The metadata of %s could not be made.", _owner(context.asset_key), exc_info=True)

    # ------------------------------------------------------------------ reading

    def load_input(self, context: dg.InputContext) -> Any:
        """Return the upstream asset, or the partitions of it that this run maps to, as the annotation asks for.

        Raises:
            TableNotFoundError: the upstream was never materialized. PartitionError: its partitions cannot be read right.
        """
        wanted = context.dagster_type.typing_type
        metadata = context.definition_metadata or {}
        as_source = plain(metadata.get(LOAD_KEY)) == "source"
        if not as_source and wanted is not DeltaTable and self._is_before_all(context):
            return _as_type(MemorySource(pa.table({})), wanted, None)
        source = self._source_of(context)
        return source if as_source else _as_type(source, wanted, plain(metadata.get("columns")))

    def _is_before_all(self, context: dg.InputContext) -> bool:
        """Tell whether a run needs no partition of a table that is not there yet: the first of an asset that reads itself."""
        needs_none = context.has_asset_partitions and not context.asset_partition_keys
        return needs_none and delta.open_table(self.table_uri(context.asset_key), self.storage_options) is None

    def _source_of(self, context: dg.InputContext) -> DeltaSource:
        key = context.asset_key
        table = self._table_as_asked(context)
        upstream = context.upstream_output
        metadata = (upstream.definition_metadata if upstream is not None else None) or {}
        expr = plain(metadata.get(EXPR)) or _expr_of(table)
        if not context.has_asset_partitions:
            if _expr_of(table) is not None:
                raise PartitionError(
                    f"{_owner(key)} was written by partitions, but its definition here knows none, so the wanted part cannot be "
                    "told. Give its definition here the same partitions_def."
                )
            return DeltaSource(table, description=_owner(key))
        keys = context.asset_partition_keys
        if not keys:  # the run maps to no partition of it
            return DeltaSource(table, NOTHING, _owner(key))
        where = predicate_of(context.asset_partitions_def, keys, expr, delta.table_schema(table), _owner(key))
        return DeltaSource(table, where, _owner(key))

    def _table_as_asked(self, context: dg.InputContext) -> DeltaTable:
        """Open the upstream's table: as it is, or as it was at the version or time that the input's metadata names."""
        key, metadata = context.asset_key, context.definition_metadata or {}
        version, moment = plain(metadata.get(VERSION_KEY)), plain(metadata.get(TIMESTAMP_KEY))
        if version is not None and moment is not None:
            raise InputError(f"{_owner(key)}: both {VERSION_KEY!r} and {TIMESTAMP_KEY!r} are given. Name one.")
        table = delta.open_table(self.table_uri(key), self.storage_options)
        if table is None:
            raise TableNotFoundError(f"{_owner(key)} has no table at {self.table_uri(key)}. Materialize it first.")
        if version is None and moment is None:
            return table
        asked: Any = version if version is not None else moment
        return delta.open_at(self.table_uri(key), asked, self.storage_options)

    def commits_of(self, asset_key: dg.AssetKey) -> list[dict[str, Any]]:
        """Return what the latest commits of an asset's table say of themselves, newest first."""
        table = delta.open_table(self.table_uri(asset_key), self.storage_options)
        return [] if table is None else table.history(_LOOK_BACK)

    def current_source(self, context: dg.AssetExecutionContext, partition_expr: Any) -> TableSource | None:
        """Return what the asset's own table, or the partitions of this run, hold now; `None` without a table."""
        key = context.assets_def.key
        table = delta.open_table(self.table_uri(key), self.storage_options)
        if table is None:
            return None
        definition = context.assets_def.partitions_def
        if definition is None:
            return DeltaSource(table, description=_owner(key))
        expr = partition_expr or _expr_of(table)
        where = predicate_of(definition, context.partition_keys, expr, delta.table_schema(table), _owner(key))
        return DeltaSource(table, where, _owner(key))


def _is_append(context: dg.OutputContext) -> bool:
    """Tell whether the asset adds rows to its table instead of replacing them."""
    owner = _owner(context.asset_key)
    mode = plain((context.definition_metadata or {}).get(WRITE_MODE_KEY, "replace"))
    if mode not in ("replace", "append"):
        raise InputError(f"{owner}: {WRITE_MODE_KEY!r} is {mode!r}. Give 'replace' or 'append'.")
    if mode == "append" and context.has_asset_partitions:
        raise PartitionError(
            f"{owner} has partitions, each of which is replaced when it is materialized; {WRITE_MODE_KEY!r} 'append' would keep old "
            "rows beside new ones. Leave it out, or give the asset no partitions."
        )
    return mode == "append"


def _commit_id(context: dg.OutputContext) -> str:
    """Return what stays the same when a run's step is tried again, so that its rows are appended once."""
    return f"{context.run_id}/{context.step_key}/{context.name}"


def _owner(key: dg.AssetKey) -> str:
    return f"asset {key.to_user_string()}"


def _expr_of(table: DeltaTable) -> Any:
    stored = table.metadata().configuration.get(EXPR_PROPERTY)
    return None if stored is None else json.loads(stored)


def _inside(
    open_reader: Callable[[], pa.RecordBatchReader], where: Predicate, owner: str, keys: Sequence[str]
) -> Callable[[], pa.RecordBatchReader]:
    """Refuse rows outside of the partitions before anything is committed."""

    def checked(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        for batch in reader:
            refuse_outside(batch, where, owner, keys)
            yield batch

    def open_checked() -> pa.RecordBatchReader:
        reader = open_reader()
        return pa.RecordBatchReader.from_batches(reader.schema, checked(reader))

    return open_checked


# ---------------------------------------------------------------------------- kinds of tables


def _as_write(value: Any, owner: str) -> AssetWrite:
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
    if kind.__module__.startswith("polars") and kind.__name__ == "LazyFrame":
        frame = frame.collect()
    if kind.__module__.startswith("pandas") and kind.__name__ == "DataFrame":
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


def _as_type(source: DeltaSource | MemorySource, wanted: Any, columns: Sequence[str] | None) -> Any:
    written = source.written_schema
    names = list(columns) if columns is not None else written.names
    schema = pa.schema([written.field(name) for name in names], metadata=written.metadata)
    batches = (from_storage(batch, schema) for batch in source.scan(names))
    if wanted is TableSource or wanted is DeltaSource:
        return source
    if wanted is DeltaTable and isinstance(source, DeltaSource):
        return source.table
    if wanted is pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(schema, batches)
    table = pa.Table.from_batches(batches, schema=schema)
    if isinstance(wanted, type) and _is_dataset(wanted):
        import pyarrow.dataset as ds  # imports pandas, where that is installed

        return ds.dataset(table)
    module, name = getattr(wanted, "__module__", ""), getattr(wanted, "__name__", "")
    if module.startswith("polars"):
        frame = _extra("polars").from_arrow(table)
        return frame.lazy() if name == "LazyFrame" else frame
    if module.startswith("pandas"):
        _extra("pandas")
        return table.to_pandas()
    if wanted is list or getattr(wanted, "__origin__", None) is list:
        return table.to_pylist()
    return table


def _extra(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise MissingExtraError(
            f"{name} is not installed. Install it: pip install 'orcapod-dagster[{name}]'."
        ) from error
