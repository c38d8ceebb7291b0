"""How a trace is shown: as an Arrow table, as a Mermaid drawing, and as Markdown that Dagster's UI shows.

Dagster's UI (dagster-webserver 1.13.27) renders Markdown of GitHub's kind with tables and code, and no Mermaid: a block of it
is shown as text. So there is an outline for the UI beside the drawing.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.readable import readable
from orcapod_dagster.core.tag_values import tag_text
from orcapod_dagster.desk.steps import CURRENT, NOT_FOUND, TraceStep

_TEXTS: Final = pa.map_(pa.string(), pa.string())
TRACE_SCHEMA: Final = pa.schema(
    [
        pa.field("step", pa.int32(), nullable=False),
        pa.field("used_by", pa.list_(pa.int32()), nullable=False),
        pa.field("asset", pa.string(), nullable=False),
        pa.field("partition", pa.string()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("note", pa.string(), nullable=False),
        pa.field("tags", _TEXTS, nullable=False),
        pa.field("consumed", _TEXTS, nullable=False),
        pa.field("row", _TEXTS, nullable=False),
        pa.field("table", pa.string()),
        pa.field("version", pa.int64()),
        pa.field("record_id", pa.string()),
        pa.field("function_name", pa.string()),
        pa.field("function_content_hash", pa.string()),
        pa.field("git_hash", pa.string()),
        pa.field("executor_type", pa.string()),
        pa.field("python_version", pa.string()),
        pa.field("run_id", pa.string()),
        pa.field("computed_at", pa.timestamp("us", "UTC")),
        pa.field("duration", pa.float64()),
    ]
)
"""One row per step. `kind` is "packet asset" or "source"; `used_by` are the steps that were made from it. Values of rows are
text, cut to a readable length. What a record says is null for a source row; `duration` is in seconds."""

_WIDTH: Final = 60
_LABEL_WIDTH: Final = 160


def to_table(steps: Sequence[TraceStep]) -> pa.Table:
    """Return one row per step, with the columns `TRACE_SCHEMA`."""
    return pa.Table.from_pylist([_record(step) for step in steps], TRACE_SCHEMA)


def _record(step: TraceStep) -> dict[str, Any]:
    said = step.record
    variation, execution = names.VARIATION_PREFIX, names.EXECUTION_PREFIX
    return {
        "step": step.number,
        "used_by": list(step.used_by),
        "asset": step.asset.to_user_string(),
        "partition": step.partition,
        "kind": "packet asset" if step.is_packet_asset else "source",
        "state": step.state,
        "note": step.note,
        "tags": [(name, tag_text(value)) for name, value in step.tags.items()],
        "consumed": _texts(step.consumed),
        "row": _texts(step.row),
        "table": step.table,
        "version": step.version,
        "record_id": str(uuid.UUID(bytes=said[names.RECORD_ID])) if said else None,
        "function_name": said.get(variation + "function_name"),
        "function_content_hash": said.get(variation + "function_content_hash"),
        "git_hash": said.get(variation + "git_hash"),
        "executor_type": said.get(execution + "executor_type"),
        "python_version": said.get(execution + "python_version"),
        "run_id": dict(said.get(execution + "extra_info") or ()).get("run_id"),
        "computed_at": said.get(names.TIMESTAMP),
        "duration": said.get(names.DURATION),
    }


def _texts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, readable(value)) for name, value in values.items()]


# ---------------------------------------------------------------------------- what a step says


def _place(step: TraceStep) -> str:
    part = "" if step.partition is None else f", partition {step.partition}"
    version = "" if step.version is None else f", version {step.version}"
    return f"{step.asset.to_user_string()}{part}{version}"


def _tags(step: TraceStep) -> str:
    return ", ".join(f"{name}={tag_text(value)}" for name, value in step.tags.items())


def _code(step: TraceStep) -> str:
    said = step.record
    name = said[names.VARIATION_PREFIX + "function_name"]
    content = said[names.VARIATION_PREFIX + "function_content_hash"].rpartition(":")[2][:12]
    commit = re.sub(r"^([0-9a-f]{12})[0-9a-f]{28,}", r"\1", said[names.VARIATION_PREFIX + "git_hash"])
    return f"{name} {content} @ {commit}"


def _circumstances(step: TraceStep) -> str:
    said = step.record
    executor, python = said[names.EXECUTION_PREFIX + "executor_type"], said[names.EXECUTION_PREFIX + "python_version"]
    return f"{executor}, Python {python}, {said[names.TIMESTAMP]:%Y-%m-%d %H:%M:%S} UTC, {said[names.DURATION]:.3g} s"


def _values(step: TraceStep) -> Mapping[str, Any]:
    return {name: value for name, value in step.row.items() if name not in step.tags}


# ---------------------------------------------------------------------------- Mermaid


def to_mermaid(steps: Sequence[TraceStep]) -> str:
    """Return a flowchart from the source rows to the row that was asked for; each label is escaped text."""
    lines = ["flowchart BT"]
    for step in steps:
        opening, closing = ('["', '"]') if step.is_packet_asset else ('[("', '")]')
        lines.append(f"  s{step.number}{opening}{'<br/>'.join(map(_escaped, _label(step)))}{closing}")
    for step in steps:
        for consumer in step.used_by:
            arrow = "-.->" if step.state == NOT_FOUND else "-->"
            lines.append(f"  s{step.number} {arrow} s{consumer}")
    lines += [f"  style s{step.number} stroke-dasharray: 5 5" for step in steps if step.state != CURRENT]
    return "\n".join(lines)


def _label(step: TraceStep) -> list[str]:
    lines = [_place(step), _tags(step)]
    lines += [f"{name} = {readable(value, _WIDTH)}" for name, value in list(_values(step).items())[:6]]
    if step.is_packet_asset:
        lines += [_code(step), _circumstances(step)]
    if step.state != CURRENT or step.note:
        lines.append(f"{step.state}: {step.note}" if step.note else step.state)
    return [line if len(line) <= _LABEL_WIDTH else f"{line[:_LABEL_WIDTH]}…" for line in lines if line]


_SPECIAL: Final = re.compile(r"[^\w .,:;=+/()\-…→@]")


def _escaped(text: str) -> str:
    """Return text as a label: all but letters, digits and a few signs by their numbers, so that nothing in it is syntax.

    Mermaid reads quotes, backquotes, angle brackets, `#` and `%%{` also in quoted labels; line ends would end a statement.
    """
    plain = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return _SPECIAL.sub(lambda found: f"#{ord(found[0])};", plain)


# ---------------------------------------------------------------------------- Markdown


def to_markdown(steps: Sequence[TraceStep]) -> str:
    """Return an outline: the row that was asked for, below it those that it was made from, and so on."""
    made_from: dict[int, list[int]] = {step.number: [] for step in steps}
    for step in steps:
        for consumer in step.used_by:
            made_from[consumer].append(step.number)
    lines: list[str] = []
    shown: set[int] = set()
    waiting = [(0, 0)] if steps else []
    while waiting:
        number, depth = waiting.pop()
        lines += _outlined(steps[number], depth, again=number in shown)
        if number not in shown:
            shown.add(number)
            waiting += [(one, depth + 1) for one in reversed(made_from[number])]
    return "\n".join(lines)


def _outlined(step: TraceStep, depth: int, *, again: bool) -> list[str]:
    indent = "  " * depth
    state = "" if step.state == CURRENT else f" **{step.state}**"
    head = f"{indent}- **{_marked(_place(step))}** {_coded(_tags(step))}{state}"
    if again:
        return [f"{head} (as above)"]
    lines = [head]
    values = [f"{_coded(f'{name} = {readable(value, _WIDTH)}')}" for name, value in _values(step).items()]
    if values:
        lines.append(f"{indent}  - {', '.join(values)}")
    if step.is_packet_asset:
        got = ", ".join(f"{name}={readable(value, _WIDTH)}" for name, value in step.consumed.items())
        record = str(uuid.UUID(bytes=step.record[names.RECORD_ID]))
        lines.append(f"{indent}  - made by {_coded(_code(step))} from {_coded(got)}")
        lines.append(f"{indent}  - {_marked(_circumstances(step))}, record {_coded(record)}")
    if step.note:
        lines.append(f"{indent}  - {_marked(step.note)}")
    return lines


def _marked(text: str) -> str:
    """Return text of which Markdown makes nothing but text."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&$])", r"\\\1", " ".join(text.split()))


def _coded(text: str) -> str:
    """Return text as code, between more backquotes than it has in a row."""
    plain = " ".join(text.split())
    if not plain:
        return ""
    ticks = "`" * (1 + max((len(run) for run in re.findall(r"`+", plain)), default=0))
    space = " " if "`" in plain else ""
    return f"{ticks}{space}{plain}{space}{ticks}"
