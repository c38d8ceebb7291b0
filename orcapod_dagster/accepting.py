"""accept, accepted, withdraw: edits of packet assets that are declared equivalent, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from orcapod_dagster.assets import packet_spec_of
from orcapod_dagster.core import delta
from orcapod_dagster.core.acceptance import Acceptance, AcceptanceStore
from orcapod_dagster.core.accepting import Proposal, propose as propose_for, user
from orcapod_dagster.core.databases import DeltaTableDatabase
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.paths import results_root
from orcapod_dagster.core.sources import DeltaSource, TableSource
from orcapod_dagster.io_manager import DeltaLakeIOManager
from orcapod_dagster.resources import RESULT_STORE_KEY


def propose(
    asset: dg.AssetsDefinition,
    *,
    from_code: str | None = None,
    parts: str | Sequence[str] = (),
    commits: str | None = None,
    root_uri: str | None = None,
    storage_options: Mapping[str, str] | None = None,
    resources: Mapping[str, Any] | None = None,
) -> Proposal:
    """Say what `accept` with these arguments would accept, and how many stored results would count; stores nothing.

    Args, Raises: as `accept`.
    """
    spec = packet_spec_of(asset)
    if spec is None:
        raise DefinitionError(f"{asset.key.to_user_string()} is no packet asset, so it has no results to accept.")
    database = _database(root_uri, storage_options, {**asset.resource_defs, **(resources or {})})
    named = (parts,) if isinstance(parts, str) else tuple(parts)
    return propose_for(
        spec.function, database, match=spec.match, from_code=from_code, parts=named, commits=commits,
        table=lambda: own_table(spec.key, _place(asset, root_uri, storage_options, resources or {})),
    )  # fmt: skip


def own_table(key: dg.AssetKey, place: tuple[str, Mapping[str, str] | None] | None) -> TableSource | None:
    """Open an asset's table.

    Args:
        key: of the asset.
        place: where it lies, with its storage options; None where it is in no lake of ours.
    """
    table = None if place is None else delta.open_table(*place)
    return None if table is None else DeltaSource(table, description=f"asset {key.to_user_string()}")


def accept(asset: dg.AssetsDefinition, *, reason: str, who: str | None = None, **which: Any) -> list[Acceptance]:
    """Declare that an edit of a packet asset's code changes no result, so that stored results count.

    It holds both ways, and together with other acceptances: A as B and B as C make A count as C. It is kept in the lake with who,
    when, why and the difference, and counts from the next run on.

    Args:
        asset: a packet asset, as its code is now.
        reason: why no result changes; must say something.
        who: accepts; default the user of this process.
        which: keyword arguments:

            - `from_code`: the earlier version, by its content hash or the first 6 or more of its digits; default the one that made
              the newest rows of the asset's own table that do not count yet.
            - `parts`: accept only the change of these parts, in whatever function has them, together if several:
              `"helper project.tools.scale"`, as a run's reason names them.
            - `commits`: `"<X>..<Y>"` or `"<X>.."`: all versions from commit X on, up to Y or now, count as the last of them.
            - `root_uri`, `storage_options`: the lake; or `resources`, as `packet_resources` gives them.

    Returns:
        One acceptance per earlier version.

    Raises:
        AcceptanceError: no reason, no such version or part, nothing differs, or the asset has no table that tells the earlier
            version; nothing is stored then.
        DefinitionError: the asset is no packet asset, or its lake is not known.

    Example:
        >>> accept(to_celsius, reason="the loop became a comprehension", root_uri="lake")  # doctest: +SKIP
    """
    return propose(asset, **which).accept(reason=reason, who=who)


def accepted(
    root_uri: str | None = None,
    *,
    storage_options: Mapping[str, str] | None = None,
    resources: Mapping[str, Any] | None = None,
) -> list[Acceptance]:
    """Return all acceptances of a lake, the oldest first; withdrawn ones say so in `withdrawn`."""
    return AcceptanceStore(_database(root_uri, storage_options, resources or {})).all()


def withdraw(
    acceptance_id: str,
    *,
    reason: str,
    who: str | None = None,
    root_uri: str | None = None,
    storage_options: Mapping[str, str] | None = None,
    resources: Mapping[str, Any] | None = None,
) -> Acceptance:
    """Take an acceptance back: from the next run on, the results that counted by it do not count any more.

    Raises:
        AcceptanceError: no such acceptance holds, or there is no reason.
    """
    store = AcceptanceStore(_database(root_uri, storage_options, resources or {}))
    return store.withdraw(acceptance_id, reason=reason, who=who or user())


def _place(
    asset: dg.AssetsDefinition,
    root_uri: str | None,
    storage_options: Mapping[str, str] | None,
    resources: Mapping[str, Any],
) -> tuple[str, Mapping[str, str] | None] | None:
    """Return where an asset's own table lies, with its storage options; `None` where it is in no lake of ours."""
    key = asset.get_io_manager_key_for_asset_key(asset.key)
    found = {**asset.resource_defs, **resources}.get(key)
    if root_uri is not None:
        found = DeltaLakeIOManager(
            root_uri=root_uri, storage_options=dict(storage_options) if storage_options else None
        )
    if not isinstance(found, DeltaLakeIOManager):
        return None
    with dg.build_resources({key: found}) as opened:
        io_manager = getattr(opened, key)
        return io_manager.table_uri(asset.key), io_manager.storage_options


def _database(
    root_uri: str | None, storage_options: Mapping[str, str] | None, resources: Mapping[str, Any]
) -> ArrowDatabase:
    if root_uri is not None:
        return DeltaTableDatabase(results_root(root_uri), dict(storage_options) if storage_options else None)
    store = resources.get(RESULT_STORE_KEY)
    if store is None:
        raise DefinitionError(
            "The lake is not known. Give root_uri=..., as packet_resources was given it, or resources=packet_resources(...)."
        )
    # Values that are environment variables are read by Dagster.
    with dg.build_resources({RESULT_STORE_KEY: store}) as opened:
        return getattr(opened, RESULT_STORE_KEY).database()
