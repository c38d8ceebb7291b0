"""Options of packet assets: what users give is brought to the form of `PacketAssetSpec`, or refused by the name of the asset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from orcapod_dagster.core.columns import refuse_reserved
from orcapod_dagster.core.counting import refuse_former_names
from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.failure_policy import RETRY_FAILED
from orcapod_dagster.core.forms import checked_concurrency
from orcapod_dagster.core.matching import MATCH_POLICIES
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.packet_retry import PacketRetry
from orcapod_dagster.spec import PacketAssetSpec


def owner_of(key: dg.AssetKey) -> str:
    """Return how messages name a packet asset."""
    return f"packet asset {key.to_user_string()!r}"


def names_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return column names; one alone may be given as it is."""
    return (given,) if isinstance(given, str) else tuple(given)


def mapping_of(given: Any, option: str, owner: str) -> dict[str, Any]:
    """Return an option that is a mapping; nothing given is an empty one.

    Raises:
        DefinitionError: it is none.
    """
    if given is None or isinstance(given, Mapping):
        return dict(given or {})  # pyright: ignore[reportUnknownArgumentType]  # of whatever
    raise DefinitionError(f"{owner}: {option}={given!r} is no mapping. Give a dict, or leave it out.")


def checked_retry(given: Any, owner: str) -> PacketRetry | None:
    """Return `PacketRetry.of` what users give; its error names the asset."""
    try:
        return PacketRetry.of(given)
    except DefinitionError as error:
        raise DefinitionError(f"{owner}: {error}") from error


def concurrency_of(given: int | None, function: PythonPacketFunction, owner: str) -> int:
    """Return how many packets of an async function are under way at a time: as the asset says, else the function."""
    if given is None:
        return function.max_concurrency
    return checked_concurrency(given, function.function, function.batch_size, owner)


def checked_index(given: Any, function: PythonPacketFunction, key: dg.AssetKey, owner: str) -> str | None:
    """Return the index column of a generator, by default after the asset's name; `None` for other functions.

    Raises:
        DefinitionError: it is no name, or the function is no generator.
    """
    if given is not None and not function.is_generator:
        raise DefinitionError(
            f"{owner}: index_column={given!r} is for generators, which give several rows for a packet (-> Iterator[T]). Leave it out."
        )
    if given is not None and not (isinstance(given, str) and given):
        raise DefinitionError(f"{owner}: index_column={given!r} is no name of a column. Give one, or leave it out.")
    return (given or f"{key.path[-1]}_index") if function.is_generator else None


def refuse_checks(options: Mapping[str, Any], owner: str) -> None:
    """Refuse `check_specs` among the options of `dg.asset`.

    Raises:
        DefinitionError: there are some.
    """
    if options.get("check_specs"):
        raise DefinitionError(
            f"{owner}: check_specs: the body of a packet asset is not yours, so nothing could evaluate these checks, and each run "
            "would fail for them. Define them beside it: @dg.asset_check(asset=...)."
        )


def refuse_wrong(spec: PacketAssetSpec, owner: str) -> None:
    """Refuse options that cannot be right together, or are none of those that there are.

    Raises:
        DefinitionError: names the option.
    """
    _refuse_wrong_columns(spec, owner)
    if spec.match not in MATCH_POLICIES:
        raise DefinitionError(f"{owner}: match={spec.match!r} is none of {', '.join(map(repr, MATCH_POLICIES))}.")
    refuse_former_names(spec.function, spec.match, owner)
    if spec.retry_failed not in (None, *RETRY_FAILED):
        raise DefinitionError(
            f"{owner}: retry_failed={spec.retry_failed!r} is none of {', '.join(map(repr, RETRY_FAILED))}."
        )
    if spec.on_error not in ("raise", "continue"):
        raise DefinitionError(f"{owner}: on_error={spec.on_error!r} is neither 'raise' nor 'continue'.")


def _refuse_wrong_columns(spec: PacketAssetSpec, owner: str) -> None:
    function = spec.function
    if not function.input_packet_schema:
        raise DefinitionError(
            f"{owner}: the function has no parameters, so there are no packets. Give it at least one."
        )
    kept = [*(spec.tag_columns or ()), *spec.index_columns, *spec.carry]
    refuse_reserved(kept, owner)
    unknown = sorted(set(spec.params) - set(function.input_packet_schema))
    if unknown:
        raise DefinitionError(
            f"{owner}: params {unknown} are no parameters of {function.canonical_function_name!r}. Remove them."
        )
    twice = sorted({name for name in kept if name in function.output_keys or kept.count(name) > 1})
    if twice:
        raise DefinitionError(
            f"{owner}: columns {twice} would stand in the table twice (tags, index_column, carry, output_keys). Rename one."
        )
