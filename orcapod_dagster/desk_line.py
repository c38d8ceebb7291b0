"""The lines to type that bring one packet, or the packets of a run, to the desk; failure reports and logs print them."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from orcapod_dagster._compat import CodePointer, pointer_of_run
from orcapod_dagster.core.tag_values import tag_text

_log = logging.getLogger(__name__)


def desk_line(key: dg.AssetKey, tags: Mapping[str, Any], partition: str | None, pointer: CodePointer | None) -> str:
    """Return the command that shows a packet and calls its function, as it is typed in a shell.

    Args:
        key, tags, partition: which packet.
        pointer: where the definitions are; None where nobody can tell, which the line then leaves to be filled in.
    """
    chosen = [f"--tag {shlex.quote(f'{name}={tag_text(value)}')}" for name, value in tags.items()]
    if partition is not None:
        chosen.append(f"--partition {shlex.quote(partition)}")
    asset = shlex.quote(key.to_user_string())
    return f"python -m orcapod_dagster row {asset} {' '.join(chosen)} {_where(pointer)} --call"


def status_line(key: dg.AssetKey, run: dg.DagsterRun) -> str:
    """Return the command that shows how far the packets of a run are, as it is typed in a shell."""
    asset, run_id = shlex.quote(key.to_user_string()), shlex.quote(run.run_id)
    return f"python -m orcapod_dagster status {asset} --run {run_id} {definitions_of_run(run)}"


def here() -> str:
    """Return where this process runs, for a lake may be named from there."""
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return "the working directory of the code location"


def desk_line_of_run(context: dg.AssetExecutionContext, key: dg.AssetKey, tags: Mapping[str, Any]) -> str:
    """Return the command for a packet of a step that is running; empty, and a line in the log, where it cannot be made."""
    try:
        partition = context.partition_key if context.has_partition_key else None
        return desk_line(key, tags, partition, pointer_of_run(context.run))
    except Exception:  # noqa: BLE001  # the failures are what is to be told
        _log.warning("The command for a failed packet could not be made.", exc_info=True)
        return ""


def definitions_of_run(run: dg.DagsterRun) -> str:
    """Return where the definitions of a run are, as the command line takes it; to be filled in where nobody can tell."""
    try:
        pointer = pointer_of_run(run)
    except Exception:  # noqa: BLE001  # whoever asks has something to say that matters more
        _log.warning("Where the definitions of this run are cannot be told.", exc_info=True)
        pointer = None
    return _where(pointer)


def _where(pointer: CodePointer | None) -> str:
    return "-m YOUR_DEFINITIONS" if pointer is None else pointer.arguments()
