"""The recompute guard: an edit must not cost a week by accident."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

import dagster as dg

from orcapod_dagster.core.cost import Recomputation
from orcapod_dagster.core.errors import RecomputeLimitError
from orcapod_dagster.core.readable import readable_seconds
from orcapod_dagster.desk_line import definitions_of_run, here
from orcapod_dagster.run_options import RunOptions

_SHOWN: Final = 10


def over_limit(again: Recomputation, limit_hours: float | None, options: RunOptions) -> bool:
    """Tell whether a run would compute again what took longer than the limit, without having been told to."""
    return limit_hours is not None and not options.confirm_recompute and again.seconds > limit_hours * 3600


def refuse_recompute(
    context: dg.AssetExecutionContext,
    key: dg.AssetKey,
    again: Recomputation,
    limit_hours: float | None,
    options: RunOptions,
) -> None:
    """Refuse to compute packets again that have results, at a recorded cost above the limit.

    Args:
        context: of the step. key: the asset.
        again: what would be computed again.
        limit_hours: of the result store; None is no limit.
        options: of the run.

    Raises:
        RecomputeLimitError: names the edit, the cost, the limit, and the ways out as they are typed.
    """
    if limit_hours is None or not over_limit(again, limit_hours, options):
        return
    where = definitions_of_run(context.run)
    raise RecomputeLimitError(refusal(key, context.op_execution_context.op_handle.path, again, limit_hours, where))


def refusal(key: dg.AssetKey, node: Sequence[str], again: Recomputation, limit_hours: float, where: str) -> str:
    """Return what was seen, what the limit is, and both ways out.

    Args:
        key, again, limit_hours: as above.
        node: the op's name in the run config; of an op in a graph, those around it first.
        where: where the definitions are, as the command line takes it.
    """
    why = [f"    {count:,}: {reason}" for reason, count in list(again.reasons.items())[:_SHOWN]]
    if len(again.reasons) > _SHOWN:
        why.append(f"    and {len(again.reasons) - _SHOWN} more reasons")
    lines = "\n".join(why)
    return (
        f"{key.to_user_string()}: {again.packets:,} packets that have results would be computed again:\n\n{lines}\n\n"
        f"Their results took {readable_seconds(again.seconds)}, as recorded; the limit is {readable_seconds(limit_hours * 3600)} "
        "(recompute_limit_hours of the result store). Nothing was computed and no table was written.\n\n"
        'If they are to be computed again, give the run this run config, or the run tag orcapod/confirm_recompute: "true":\n\n'
        f"{_run_config(node)}\n\n"
        f"If the edit changes no value, declare that, in {here()}, and the results count as they are:\n\n"
        f"    {accept_command(key, where)}\n\n"
        "The run config dry_run: true tells what a run would compute, and why."
    )


def accept_command(key: dg.AssetKey, where: str) -> str:
    """Return the command that declares an edit of an asset equivalent."""
    asset = shlex.quote(key.to_user_string())
    return f'python -m orcapod_dagster accept {asset} {where} --reason "why the values stay the same"'


def _run_config(node: Sequence[str]) -> str:
    lines, indent = ["    ops:"], 6
    for depth, name in enumerate(node):
        lines.append(f"{' ' * indent}{name}:")
        indent += 2
        if depth < len(node) - 1:
            lines.append(f"{' ' * indent}ops:")
            indent += 2
    lines += [f"{' ' * indent}config:", f"{' ' * (indent + 2)}confirm_recompute: true"]
    return "\n".join(lines)
