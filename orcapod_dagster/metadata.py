"""What a materialization of a packet asset shows; nothing here can crash a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.blobs.layout import BLOB_TYPE
from orcapod_dagster.core.code_diff import CodeChange, to_markdown
from orcapod_dagster.core.outcomes import Outcome
from orcapod_dagster.core.recording import PodReport
from orcapod_dagster.core.streams import PacketStream

_log = logging.getLogger(__name__)
_PREVIEW_ROWS = 10
_CELL_WIDTH = 40
_BLOB_FIELDS = {field.name for field in BLOB_TYPE.fields}


def guarded(build: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Return what `build` returns, or nothing and a log line when it raises: metadata never fails a run."""
    try:
        return dict(build())
    except Exception:  # noqa: BLE001  # a run that has done its work does not fail for what it shows
        _log.warning("Some metadata could not be made.", exc_info=True)
        return {}


def counts(report: PodReport) -> dict[str, Any]:
    """Return the counts of a run under the names of the specification."""
    return {
        "orcapod/packets_total": report.total,
        "orcapod/packets_cached": report.cached,
        "orcapod/packets_computed": report.computed,
        "orcapod/packets_failed": report.failed,
        "orcapod/packets_skipped": report.skipped,
        **({"orcapod/packets_tried_again": report.tried_again} if report.tried_again else {}),
        "orcapod/packets_per_second": round(report.done / report.seconds, 1) if report.seconds else 0.0,
        "orcapod/seconds": round(report.seconds, 3),
        "orcapod/computed_because": dg.MetadataValue.json(dict(report.reasons)),
    }


def accepted(report: PodReport) -> dict[str, Any]:
    """Return how many rows have results of other versions of the code, where there are any."""
    if not report.accepted:
        return {}
    by_code = {_short(content): count for content, count in report.accepted.items()}
    return {
        "orcapod/packets_of_accepted_code": sum(by_code.values()),
        "orcapod/accepted_code": dg.MetadataValue.json(by_code),
    }


def code_changes(changes: Sequence[CodeChange]) -> dict[str, Any]:
    """Return, where results do not count any more for another code, what changed in it, with the difference of the source."""
    return {"orcapod/code_changes": dg.MetadataValue.md(to_markdown(changes))} if changes else {}


def identity(variation: Mapping[str, str], version: str, match: str) -> dict[str, Any]:
    """Return what the function is."""
    return {
        "orcapod/function": variation["function_name"],
        "orcapod/function_version": version,
        "orcapod/match": match,
        "orcapod/function_content_hash": _short(variation["function_content_hash"]),
        "orcapod/function_signature_hash": _short(variation["function_signature_hash"]),
        "orcapod/git_hash": variation["git_hash"],
    }


def _short(content_hash: str) -> str:
    """Return a hash as people compare it; the table holds the whole."""
    method, _, digest = content_hash.rpartition(":")
    return f"{method}:{digest[:16]}…"


def execution(data: Mapping[str, Any], data_schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return how it ran: flat execution data, and the schema of the executor's own data."""
    schema = {name: getattr(hint, "__name__", str(hint)) for name, hint in data_schema.items()}
    return {
        "orcapod/executor_type": data["executor_type"],
        "orcapod/executor_info": dg.MetadataValue.json(data["executor_info"]),
        "orcapod/executor_data_schema": dg.MetadataValue.json(schema),
        "orcapod/python_version": data["python_version"],
        "orcapod/extra_info": dg.MetadataValue.json(data["extra_info"]),
    }


def joins(stream: PacketStream) -> dict[str, Any]:
    """Return, for a join, how many rows of each input found no partner."""
    return {"orcapod/rows_without_partner": dg.MetadataValue.json(dict(stream.unmatched))} if stream.unmatched else {}


def preview(rows: pa.Table) -> dict[str, Any]:
    """Return the first rows as a Markdown table: tags and values, without the columns of provenance."""
    shown = [name for name in rows.column_names if not names.is_reserved(name)]
    lines = ["| " + " | ".join(_cell(name) for name in shown) + " |", "|" + "---|" * len(shown)]
    records = rows.select(shown).slice(0, _PREVIEW_ROWS).to_pylist()
    lines += ["| " + " | ".join(_cell(row[name]) for name in shown) + " |" for row in records]
    return {"orcapod/preview": dg.MetadataValue.md("\n".join(lines))}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict) and value.keys() == _BLOB_FIELDS:
        value = f"{value['media_type']}, {value['size']:,} bytes"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= _CELL_WIDTH else text[: _CELL_WIDTH - 1] + "…"


def failures(shown: Sequence[tuple[Mapping[str, Any], Outcome]], commands: Sequence[str]) -> dict[str, Any]:
    """Return the first failures as a table: tag, error, traceback, the end of what was printed, and the command for the desk."""
    if not shown:
        return {}
    records = [
        dg.TableRecord(
            {
                "tag": ", ".join(f"{k}={v}" for k, v in tag.items()),
                "error": f"{o.error_type}: {o.message}"[:500],
                "attempts": o.attempts,
                "traceback": o.traceback[-2000:],
                "printed": o.printed,
                "command": command,
            }
        )
        for (tag, o), command in zip(shown, commands, strict=True)
    ]
    return {"orcapod/failures": dg.MetadataValue.table(records)}


def lineage(
    outputs: Sequence[str],
    consumed: Mapping[str, Sequence[dg.TableColumnDep]],
    kept: Mapping[str, Sequence[dg.TableColumnDep]],
) -> dict[str, Any]:
    """Return the column lineage: outputs depend on all consumed columns, tags and carried columns on themselves."""
    deps = [dep for column in consumed.values() for dep in column]
    by_column: dict[str, Sequence[dg.TableColumnDep]] = {**kept, **dict.fromkeys(outputs, deps)}
    return {"dagster/column_lineage": dg.TableColumnLineage(deps_by_column=by_column)}
