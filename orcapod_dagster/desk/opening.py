"""Desk: packet assets outside of a run, with the inputs, binding and results of a run; nothing is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Self

import dagster as dg

from orcapod_dagster._compat import dynamic_partitions, instance_of_home, upstream_partitions
from orcapod_dagster.assets import packet_spec_of
from orcapod_dagster.core import delta
from orcapod_dagster.core.earlier_rows import EarlierRows, stored_binding
from orcapod_dagster.core.errors import DefinitionError, TableNotFoundError
from orcapod_dagster.core.key_index import in_memory
from orcapod_dagster.core.pod import FunctionPod
from orcapod_dagster.core.predicates import Predicate
from orcapod_dagster.core.sources import DeltaSource, TableSource
from orcapod_dagster.execution import machine_info, pod_of
from orcapod_dagster.inputs import as_source, tags_of
from orcapod_dagster.io_manager import TIMESTAMP_KEY, VERSION_KEY, DeltaLakeIOManager
from orcapod_dagster.partitions import EXPR, plain, predicate_of, stored_expr
from orcapod_dagster.resource_parameters import with_resources
from orcapod_dagster.resources import (
    EXECUTOR_KEY,
    IO_MANAGER_KEY,
    RESULT_STORE_KEY,
    packet_resources,
)
from orcapod_dagster.spec import PacketAssetSpec

AssetLike = str | Sequence[str] | dg.AssetKey | dg.AssetsDefinition


class Desk:
    """Opens packet assets outside of a run.

    Args:
        definitions: a `Definitions` object, a repository, or assets.
        root_uri, storage_options: the lake, as `packet_resources` takes them; in place of the resources of the definitions.
        resources: likewise; a dict as `packet_resources` gives it, and more where inputs need more.
        instance: for dynamic partitions and resources; default the one that `DAGSTER_HOME` names.

    Use it as a context manager, or `close` it, where resources have something to close.
    """

    def __init__(
        self,
        definitions: Any,
        *,
        root_uri: str | None = None,
        storage_options: Mapping[str, str] | None = None,
        resources: Mapping[str, Any] | None = None,
        instance: dg.DagsterInstance | None = None,
    ) -> None:
        given = {} if root_uri is None else packet_resources(root_uri, storage_options=storage_options)
        self._given: dict[str, Any] = {**given, **(resources or {})}
        self._repository = _repository(definitions, self._given)
        self.graph: Any = self._repository.asset_graph
        self._instance = instance
        self._stack = contextlib.ExitStack()
        self._built: dict[tuple[str, int], Any] = {}
        self._own_instance: dg.DagsterInstance | None = None

    def close(self) -> None:
        """Close the resources that were opened."""
        self._stack.close()
        self._built.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ definitions

    def asset(self, asset: AssetLike) -> dg.AssetsDefinition:
        """Return the definition of an asset.

        Raises:
            DefinitionError: there is none with this key; names those that there are.
        """
        key = asset.key if isinstance(asset, dg.AssetsDefinition) else _key_of(asset)
        found = self._repository.assets_defs_by_key.get(key)
        if found is None:
            known = sorted(one.to_user_string() for one in self._repository.assets_defs_by_key)
            raise DefinitionError(
                f"The definitions have no asset {key.to_user_string()}; they have {', '.join(known)}."
            )
        return found

    def spec(self, asset: AssetLike) -> PacketAssetSpec:
        """Return what a packet asset declares.

        Raises:
            DefinitionError: the definitions have no such asset, or it is no packet asset.
        """
        definition = self.asset(asset)
        spec = packet_spec_of(definition)
        if spec is None:
            raise DefinitionError(
                f"{definition.key.to_user_string()} is no packet asset, so it has no packets. Name one that was made by packet_asset."
            )
        return spec

    def is_packet_asset(self, key: dg.AssetKey) -> bool:
        """Tell whether an asset is a packet asset of these definitions."""
        found = self._repository.assets_defs_by_key.get(key)
        return found is not None and packet_spec_of(found) is not None

    def tags_of(self, spec: PacketAssetSpec) -> tuple[str, ...]:
        """Return an asset's tag columns."""
        return tags_of(spec, self.graph)

    @property
    def instance(self) -> dg.DagsterInstance | None:
        """Where dynamic partitions are known; None without `DAGSTER_HOME`."""
        if self._instance is None:
            self._instance = instance_of_home(self._stack)
        return self._instance

    # ------------------------------------------------------------------ resources

    def resource(self, key: str, asset: dg.AssetsDefinition) -> Any:
        """Return a resource as a step of the asset has it.

        Raises:
            DefinitionError: neither the definitions nor the caller give it.
        """
        return getattr(self._resources(key, asset), key)

    def _resources(self, key: str, asset: dg.AssetsDefinition) -> Any:
        """Return a resource with those that it requires, opened; assets may have different ones under one key."""
        known = self._known(asset)
        if key == "io_manager":
            known.setdefault(key, dg.fs_io_manager)
        if key not in known:
            raise DefinitionError(
                f"The definitions have no resource {key!r}, which {asset.key.to_user_string()} needs. Give root_uri "
                "(on a command line --root-uri), or resources=packet_resources(...)."
            )
        place = (key, id(known[key]))
        if place not in self._built:
            wanted = {name: known[name] for name in _with_required(key, known)}
            self._built[place] = self._stack.enter_context(dg.build_resources(wanted, instance=self._any_instance()))
        return self._built[place]

    def _known(self, asset: dg.AssetsDefinition) -> dict[str, Any]:
        """Return the resources of an asset, as the definitions have them."""
        return {**self._repository.get_top_level_resources(), **asset.resource_defs, **self._given}

    def _any_instance(self) -> dg.DagsterInstance:
        """Return an instance for resources to be built with: making one takes half a second, so there is one for all."""
        if self._own_instance is None:
            self._own_instance = self.instance or self._stack.enter_context(dg.DagsterInstance.ephemeral())
        return self._own_instance

    def _io_manager_key(self, key: dg.AssetKey, reader: dg.AssetsDefinition) -> tuple[str, dg.AssetsDefinition]:
        """Return under which key the IO manager of an asset is to be had, and the asset whose resources have it."""
        owner = self._repository.assets_defs_by_key.get(key)
        return (IO_MANAGER_KEY, reader) if owner is None else (owner.get_io_manager_key_for_asset_key(key), owner)

    def lake_table(self, key: dg.AssetKey, reader: dg.AssetsDefinition) -> tuple[str, Mapping[str, str] | None] | None:
        """Return where an asset's table lies and its storage options; `None` where it is in no lake of ours."""
        io_manager = self.resource(*self._io_manager_key(key, reader))
        if not isinstance(io_manager, DeltaLakeIOManager):
            return None
        return io_manager.table_uri(key), io_manager.storage_options

    def pod(self, spec: PacketAssetSpec) -> FunctionPod:
        """Return the engine of a packet asset, over its results as they are; it stores nothing, no large values either."""
        asset = self.asset(spec.key)
        store, supplier = self.resource(RESULT_STORE_KEY, asset), self.resource(EXECUTOR_KEY, asset)
        spec = with_resources(spec, self._known(asset), {}, lambda key: self.resource(key, asset))
        return pod_of(spec, store, supplier, machine_info(spec), read_only=True)

    def planning_pod(self, spec: PacketAssetSpec, partition: str | None) -> FunctionPod:
        """As `pod`; its plans say by the asset's table which packets are new, as those of a run do."""
        pod = self.pod(spec)
        with contextlib.suppress(TableNotFoundError):
            pod.planner.earlier_rows = EarlierRows(
                self.table(spec, partition), lambda: stored_binding(self.standing_commit(spec, partition))
            )
        return pod

    # ------------------------------------------------------------------ tables

    def standing_commit(self, spec: PacketAssetSpec, partition: str | None) -> Mapping[str, Any] | None:
        """Return what the commit says of itself that wrote the asset's table, or a partition, as `DeltaLakeIOManager` does."""
        io_manager = self.resource(*self._io_manager_key(spec.key, self.asset(spec.key)))
        return io_manager.standing_commit(spec.key, [] if partition is None else [partition])

    def inputs(
        self, spec: PacketAssetSpec, partition: str | None, versions: Mapping[dg.AssetKey, int] | None = None
    ) -> dict[str, TableSource]:
        """Load the inputs of a packet asset as its IO managers give them to a step.

        Args:
            spec: the asset.
            partition: of the asset; with None, for an asset with partitions, all that there is.
            versions: input → version of its table; default as the asset declares, mostly the newest.

        Returns:
            Dagster input name → rows.
        """
        return {name: self._load(spec, name, key, partition, versions or {}) for name, key in spec.inputs.items()}

    def _load(
        self, spec: PacketAssetSpec, name: str, key: dg.AssetKey, partition: str | None, versions: Mapping[Any, int]
    ) -> TableSource:
        asset = self.asset(spec.key)
        given = asset.op.input_dict[name]
        manager = (given.input_manager_key, asset) if given.input_manager_key else self._io_manager_key(key, asset)
        resources = self._resources(*manager)
        io_manager = getattr(resources, manager[0])
        metadata = dict(given.metadata or {})
        if key in versions and not metadata.keys() & {VERSION_KEY, TIMESTAMP_KEY}:
            metadata[VERSION_KEY] = versions[key]
        theirs = self.graph.get(key).partitions_def if self.graph.has(key) else None
        instance = None if theirs is None else self.instance
        log: Any = dg.get_dagster_logger()
        with dynamic_partitions(instance):
            keys = upstream_partitions(asset, key, self.graph, partition)
            context = dg.InputContext(
                name=name,
                definition_metadata=metadata,
                dagster_type=given.dagster_type,
                upstream_output=dg.OutputContext(
                    name="result",
                    asset_key=key,
                    definition_metadata=self._metadata_of(key),
                    resources=resources,
                    log_manager=log,
                ),
                log_manager=log,
                resources=resources,
                asset_key=key,
                partition_key=partition,
                asset_partitions_subset=None if theirs is None else theirs.subset_with_partition_keys(keys or ()),
                asset_partitions_def=theirs,
                instance=instance,
            )
            return as_source(io_manager.load_input(context), key.to_user_string())

    def _metadata_of(self, key: dg.AssetKey) -> dict[str, Any]:
        return dict(self.graph.get(key).metadata) if self.graph.has(key) else {}

    def table(self, spec: PacketAssetSpec, partition: str | None) -> DeltaSource:
        """Return the asset's own table, or one partition of it.

        Raises:
            TableNotFoundError: it was never materialized.
        """
        uri, options = self._own_table(spec)
        table = delta.open_table(uri, options)
        if table is None:
            raise TableNotFoundError(f"asset {spec.key.to_user_string()} has no table at {uri}. Materialize it first.")
        where = None
        if partition is not None:
            where = self.predicate(spec, [partition], delta.table_schema(table), self.partition_expr(spec))
        return DeltaSource(table, where, f"asset {spec.key.to_user_string()}")

    def _own_table(self, spec: PacketAssetSpec) -> tuple[str, Mapping[str, str] | None]:
        found = self.lake_table(spec.key, self.asset(spec.key))
        if found is None:
            raise DefinitionError(
                f"{spec.key.to_user_string()}: its IO manager is no DeltaLakeIOManager, so its rows cannot be found."
            )
        return found

    def partition_expr(self, spec: PacketAssetSpec) -> Any:
        """Return by which columns the asset's table is partitioned, as declared, inherited, or written in the table."""
        if spec.partition_expr is not None:
            return spec.partition_expr
        for key in spec.inputs.values():
            if (found := plain(self._metadata_of(key).get(EXPR))) is not None:
                return found
        uri, options = self._own_table(spec)
        table = delta.open_table(uri, options)
        return None if table is None else stored_expr(table)

    def predicate(self, spec: PacketAssetSpec, keys: Sequence[str], schema: Any, expr: Any) -> Predicate:
        """Return which rows belong to partitions of the asset."""
        definition = self.asset(spec.key).partitions_def
        assert definition is not None
        with dynamic_partitions(self.instance):
            return predicate_of(definition, keys, expr, schema, f"asset {spec.key.to_user_string()}")

    def partition_keys(self, spec: PacketAssetSpec) -> Sequence[str]:
        """Return all partitions of the asset; none where it has no partitions."""
        definition = self.asset(spec.key).partitions_def
        if definition is None:
            return ()
        with dynamic_partitions(self.instance):
            return list(definition.get_partition_keys())


@contextlib.contextmanager
def desk_at(definitions: Any, asset: AssetLike | None, lake: Mapping[str, Any]) -> Generator[tuple[Desk, Any]]:
    """Open a desk, and tell the asset that is meant: the definitions themselves, where no other is named.

    Whoever asks leaves the lake as it is: not even an index of keys that is missing is written.

    Args:
        definitions: as `Desk` takes them, or a desk, which stays open.
        asset: key or definition. lake: further arguments of `Desk`.
    """
    with in_memory():
        if isinstance(definitions, Desk):
            yield definitions, asset
        else:
            with Desk(definitions, **lake) as desk:
                yield desk, definitions if asset is None else asset


def _key_of(asset: Any) -> dg.AssetKey:
    return dg.AssetKey.from_user_string(asset) if isinstance(asset, str) else dg.AssetKey.from_coercible(asset)


def _repository(definitions: Any, resources: Mapping[str, Any]) -> dg.RepositoryDefinition:
    if isinstance(definitions, dg.RepositoryDefinition):
        return definitions
    if isinstance(definitions, dg.Definitions):
        return definitions.get_repository_def()
    assets = [definitions] if isinstance(definitions, dg.AssetsDefinition) else list(definitions)
    here = {key for asset in assets for key in asset.keys}
    # An input whose definition is not given is taken for a table of the lake.
    elsewhere = sorted({key for asset in assets for key in asset.keys_by_input_name.values()} - here)
    inputs = [dg.AssetSpec(key).with_io_manager_key(IO_MANAGER_KEY) for key in elsewhere]
    return dg.Definitions(assets=[*assets, *inputs], resources=dict(resources)).get_repository_def()


def _with_required(key: str, known: Mapping[str, Any]) -> set[str]:
    """Return a resource's key with those that it requires, and they in turn."""
    found: set[str] = set()
    left = [key]
    while left:
        one = left.pop()
        if one in found or one not in known:
            continue
        found.add(one)
        left += getattr(known[one], "required_resource_keys", ())
    return found
