"""Asset checks of packet assets that look at the inputs, as the asset's own step is given them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from orcapod_dagster.assets import LOAD_AS_SOURCE
from orcapod_dagster.core.key_index import in_memory
from orcapod_dagster.resources import EXECUTOR_KEY, RESULT_STORE_KEY
from orcapod_dagster.spec import PacketAssetSpec


def check_with_inputs(
    spec: PacketAssetSpec,
    evaluate: Callable[[Any, Mapping[str, Any]], dg.AssetCheckResult],
    *,
    name: str,
    description: str,
    blocking: bool = False,
) -> dg.AssetChecksDefinition:
    """Return a check of a packet asset.

    Args:
        spec: the asset.
        evaluate: takes the check's context, and Dagster input name → what its IO manager loaded.
        name, description, blocking: of the check, as `dg.asset_check` takes them.
    """

    def check(context: Any, **loaded: Any) -> dg.AssetCheckResult:
        with in_memory():  # a check leaves the lake as it is, also where an index of keys is missing
            return evaluate(context, loaded)

    # Dagster looks for each input among the parameters.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    first = inspect.Parameter("context", kind, annotation=dg.AssetCheckExecutionContext)
    inputs = [inspect.Parameter(name, kind) for name in spec.inputs]
    signature = inspect.Signature([first, *inputs], return_annotation=dg.AssetCheckResult)
    check.__signature__ = signature  # type: ignore[attr-defined]  # as inspect reads it
    check.__annotations__ = {"context": first.annotation, "return": dg.AssetCheckResult}
    return dg.asset_check(
        asset=spec.key,
        name=name,
        description=description,
        blocking=blocking,
        additional_ins={name: dg.AssetIn(key, metadata=LOAD_AS_SOURCE) for name, key in spec.inputs.items()},
        required_resource_keys={EXECUTOR_KEY, RESULT_STORE_KEY, *spec.function.resources},
    )(check)
