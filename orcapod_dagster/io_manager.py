"""DeltaLakeIOManager: Arrow ↔ Delta tables of assets; each write replaces exactly its partitions."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable
from pydantic import Field

from orcapod_dagster.core import delta
from orcapod_dagster.core.asset_write import COLUMNS, DATA_VERSION, PART, TAGS, AssetWrite
from orcapod_dagster.core.columns import DESCRIPTIONS
from orcapod_dagster.core.compaction import COMPACTED, MANY_FILES, compact
from orcapod_dagster.core.errors import InputError, OrcapodError, PartitionError, TableNotFoundError
from orcapod_dagster.core.paths import join_uri, results_root
from orcapod_dagster.core.predicates import NOTHING, Predicate
from orcapod_dagster.core.sources import DeltaSource, MemorySource, TableSource
from orcapod_dagster.core.storage import hide_options
from orcapod_dagster.kinds import as_type, as_write
from orcapod_dagster.partitions import EXPR, EXPR_PROPERTY, plain, predicate_of, run_text, stored_expr

_log = logging.getLogger(__name__)
LOAD_KEY: Final = "orcapod/load"
EVOLUTION_KEY: Final = "orcapod/schema_evolution"
WRITE_MODE_KEY: Final = "orcapod/write_mode"
VERSION_KEY: Final = "orcapod/version"
TIMESTAMP_KEY: Final = "orcapod/timestamp"
_LOOK_BACK: Final = 100
_KEEPS_ROWS: Final = frozenset({"OPTIMIZE", "VACUUM START", "VACUUM END"})
"""What other engines call commits that change no row, though perhaps their order."""


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
        write = obj if isinstance(obj, AssetWrite) else self._ordinary(context, obj)
        uri = self.table_uri(context.asset_key)
        if write.unchanged:
            self._add_metadata(context, write.schema, uri)
            return
        result = self._replace(context, write, uri)
        whole = not context.has_asset_partitions and not _is_append(context)
        self._add_metadata(context, write.schema, uri, result, result.rows if whole else None)

    def _ordinary(self, context: dg.OutputContext, value: Any) -> AssetWrite:
        """Return what an ordinary asset gave as a write; nothing new where it set the data version that stands."""
        write = as_write(value, _owner(context.asset_key))
        keys = list(context.asset_partition_keys) if context.has_asset_partitions else []
        said, given = {PART: json.dumps(keys) if keys else ""}, _given_data_version(context)
        if given is None or _is_append(context):
            return replace(write, custom_metadata=said)
        said[DATA_VERSION] = given
        return replace(write, custom_metadata=said, unchanged=self._stands(context.asset_key, keys, given))

    def _stands(self, key: dg.AssetKey, keys: Sequence[str], data_version: str) -> bool:
        """Tell whether the rows of partitions, or the whole table, are known to be those of a data version still."""
        said = self.standing_commit(key, keys)
        return said is not None and said.get(DATA_VERSION) == data_version

    def _replace(self, context: dg.OutputContext, write: AssetWrite, uri: str) -> delta.WriteResult:
        metadata = context.definition_metadata or {}
        evolve: Any = _choice(context, EVOLUTION_KEY, ("refuse", "add", "overwrite"))
        if _is_append(context):
            self._refuse_partitioned_table(uri, context.asset_key)
            return self._append(context, write, uri)
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
            uri, write.open_reader, where=where, owner=_owner(context.asset_key), part=run_text(keys),
            storage_options=self.storage_options,
            properties={**write.properties, EXPR_PROPERTY: json.dumps(expr)}, custom_metadata=write.custom_metadata,
            plain_columns=write.plain_columns, evolve=evolve,
        )  # fmt: skip

    def _append(self, context: dg.OutputContext, write: AssetWrite, uri: str) -> delta.WriteResult:
        # These would speak of the whole table, of which the rows are a part only.
        said = {key: value for key, value in write.custom_metadata.items() if key not in (PART, COLUMNS, TAGS)}
        result = delta.append(
            uri, write.open_reader, storage_options=self.storage_options, properties=write.properties,
            custom_metadata=said, plain_columns=write.plain_columns, commit_id=_commit_id(context),
        )  # fmt: skip
        try:
            compact(uri, self.storage_options, at_least=MANY_FILES, plain_columns=write.plain_columns)
        except OrcapodError:  # the rows are written; the next append tries again
            _log.warning("The table %s could not be compacted.", uri, exc_info=True)
        return result

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
        stored = None if table is None else stored_expr(table)
        if table is not None and declared is not None and stored != declared:
            was = "as a whole" if stored is None else f"by {stored!r}"
            raise PartitionError(
                f"{owner} is partitioned by {declared!r}, but its table {uri} was written {was}. Nothing was written. Remove the "
                "table, or give the asset another name."
            )
        return declared if declared is not None else stored

    def _stored_expr(self, uri: str) -> Any:
        table = delta.open_table(uri, self.storage_options)
        return None if table is None else stored_expr(table)

    def _refuse_partitioned_table(self, uri: str, key: dg.AssetKey) -> None:
        if self._stored_expr(uri) is not None:
            raise PartitionError(
                f"{_owner(key)} has no partitions, but its table {uri} was written by partitions. Nothing was written. Give the "
                "asset its partitions_def, or remove the table."
            )

    def _add_metadata(
        self,
        context: dg.OutputContext,
        schema: pa.Schema,
        uri: str,
        result: delta.WriteResult | None = None,
        count: int | None = None,
    ) -> None:
        """Show the table; where version or number of rows are not known from the write, the log tells them."""
        try:
            version, table = (None, None) if result is None else (result.version, result.before)
            if count is None:
                table = table or delta.open_table(uri, self.storage_options)
                count = None if table is None else delta.rows_of_newest(table)
                version = version if version is not None or table is None else table.version()
            columns = [
                dg.TableColumn(
                    f.name, str(f.type), DESCRIPTIONS.get(f.name), dg.TableColumnConstraints(nullable=f.nullable)
                )
                for f in schema
            ]
            context.add_output_metadata(
                {
                    **({} if count is None else {"dagster/row_count": count}),
                    "dagster/column_schema": dg.TableSchema(columns=columns),
                    "dagster/table_name": ".".join(context.asset_key.path),
                    "dagster/uri": uri,
                    "orcapod/delta_version": version,
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
            return as_type(MemorySource(pa.table({})), wanted, None)
        source = self._source_of(context)
        return source if as_source else as_type(source, wanted, plain(metadata.get("columns")))

    def _is_before_all(self, context: dg.InputContext) -> bool:
        """Tell whether a run needs no partition of a table that is not there yet: the first of an asset that reads itself."""
        needs_none = context.has_asset_partitions and not context.asset_partition_keys
        return needs_none and delta.open_table(self.table_uri(context.asset_key), self.storage_options) is None

    def _source_of(self, context: dg.InputContext) -> DeltaSource:
        key = context.asset_key
        table = self._table_as_asked(context)
        upstream = context.upstream_output
        metadata = (upstream.definition_metadata if upstream is not None else None) or {}
        expr = plain(metadata.get(EXPR)) or stored_expr(table)
        if not context.has_asset_partitions:
            if stored_expr(table) is not None:
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

    def standing_commit(self, asset_key: dg.AssetKey, keys: Sequence[str]) -> dict[str, Any] | None:
        """Return what the commit says of itself that wrote the rows of partitions, or (no keys) the whole table.

        It is `None` where that is not among the latest, or where a later one, of other partitions with some of these among
        them or of another engine, may have changed these rows.
        """
        for commit in self._commits(asset_key):
            if COMPACTED in commit or commit.get("operation") in _KEEPS_ROWS:
                continue
            part = commit.get(PART)
            if part is None:
                return None
            replaced = json.loads(part) if part else []
            if replaced == list(keys):
                return commit
            if not replaced or not keys or not set(keys).isdisjoint(replaced):
                return None
        return None

    def _commits(self, asset_key: dg.AssetKey) -> Iterator[dict[str, Any]]:
        """Yield what the latest commits of an asset's table say of themselves, newest first.

        Each lies in a file of its own, and mostly the newest is the one that is looked for; so it is read by itself.
        """
        table = delta.open_table(self.table_uri(asset_key), self.storage_options)
        if table is not None:
            yield from table.history(1)
            yield from table.history(_LOOK_BACK)[1:]

    def current_source(self, context: dg.AssetExecutionContext, partition_expr: Any) -> TableSource | None:
        """Return what the asset's own table, or the partitions of this run, hold now; `None` without a table."""
        key = context.assets_def.key
        table = delta.open_table(self.table_uri(key), self.storage_options)
        if table is None:
            return None
        definition = context.assets_def.partitions_def
        if definition is None:
            return DeltaSource(table, description=_owner(key))
        expr = partition_expr or stored_expr(table)
        where = predicate_of(definition, context.partition_keys, expr, delta.table_schema(table), _owner(key))
        return DeltaSource(table, where, _owner(key))


def _is_append(context: dg.OutputContext) -> bool:
    """Tell whether the asset adds rows to its table instead of replacing them."""
    owner = _owner(context.asset_key)
    mode = _choice(context, WRITE_MODE_KEY, ("replace", "append"))
    if mode == "append" and context.has_asset_partitions:
        raise PartitionError(
            f"{owner} has partitions, each of which is replaced when it is materialized; {WRITE_MODE_KEY!r} 'append' would keep old "
            "rows beside new ones. Leave it out, or give the asset no partitions."
        )
    return mode == "append"


def _choice(context: dg.OutputContext, key: str, choices: Sequence[str]) -> str:
    """Return a setting from the asset's definition metadata; the first choice where it is not set."""
    value = plain((context.definition_metadata or {}).get(key, choices[0]))
    if value not in choices:
        raise InputError(f"{_owner(context.asset_key)}: {key!r} is {value!r}. Give {' or '.join(map(repr, choices))}.")
    return value


def _given_data_version(context: dg.OutputContext) -> str | None:
    """Return the data version that the asset's body has set; one that an `Output` carries is not shown to IO managers."""
    try:
        step = context.step_context
    except dg.DagsterInvariantViolationError:  # a context that was built by hand
        return None
    key = context.asset_key
    return step.get_data_version(key).value if step.has_data_version(key) else None


def _commit_id(context: dg.OutputContext) -> str:
    """Return what stays the same when a run's step is tried again, so that its rows are appended once."""
    return f"{context.run_id}/{context.step_key}/{context.name}"


def _owner(key: dg.AssetKey) -> str:
    return f"asset {key.to_user_string()}"
