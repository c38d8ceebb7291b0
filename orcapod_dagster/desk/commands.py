"""The commands of the desk: row, why, trace, audit, plan, status."""

from __future__ import annotations

import argparse
import inspect
import pdb  # noqa: T100  # a command that is asked to debug
import traceback
from collections.abc import Callable
from typing import Any

from orcapod_dagster._compat import CodePointer, load_repository
from orcapod_dagster.core.audit import AuditFinding
from orcapod_dagster.core.outcomes import FAILED
from orcapod_dagster.desk.audits import audit
from orcapod_dagster.desk.opening import Desk
from orcapod_dagster.desk.packets import tags_told
from orcapod_dagster.desk.plans import in_all, plan
from orcapod_dagster.desk.row import PacketRow, packet_row
from orcapod_dagster.desk.status import STATES, status
from orcapod_dagster.desk.trace import trace
from orcapod_dagster.desk.why import why

AddCommand = Callable[[str, argparse.ArgumentParser, Callable[[Any], int], str], argparse.ArgumentParser]


def add_desk_commands(command: AddCommand, option: Callable[[str], tuple[str, str]]) -> None:
    """Add the commands to the command line.

    Args:
        command: adds one, with its parent parser, what runs it, and what it does.
        option: reads KEY=VALUE.
    """
    where = asset_arguments(option)
    row = argparse.ArgumentParser(add_help=False, parents=[where])
    row.add_argument(
        "--tag", action="append", default=[], type=_tag, metavar="NAME=VALUE", help="once per tag column of the asset"
    )
    shown = command(
        "row", row, _row, "show one packet: arguments, stored result, failure; with --call, call the function with it"
    )
    shown.add_argument("--call", action="store_true", help="call the function in this process; stores nothing")
    shown.add_argument("--pdb", action="store_true", help="likewise, in the debugger, which stops at its first line")
    command("why", row, _why, "say whether a row is cached, why it would be computed, and why its result was made")
    traced = command(
        "trace", row, _trace, "show from which rows one row of an asset's table was made, down to the sources"
    )
    traced.add_argument("--mermaid", action="store_true", help="as a Mermaid drawing in place of an outline")
    audited = command("audit", where, _audit, "run a sample of cached packets again and compare; stores nothing")
    size = audited.add_mutually_exclusive_group()
    size.add_argument("--size", type=int, metavar="N", help="packets to run; default 100")
    size.add_argument("--fraction", type=float, metavar="F", help="or this part of them, e.g. 0.01")
    audited.add_argument("--seed", type=int, help="draws the sample that an earlier audit named")
    _add_plan(command, _definitions(option))
    _add_status(command, _definitions(option))


def _add_plan(command: AddCommand, definitions: argparse.ArgumentParser) -> None:
    text = "say what a run would compute, why, and for how long; runs and writes nothing"
    planned = command("plan", definitions, _plan, text)
    planned.add_argument(
        "--asset",
        action="append",
        metavar="KEY",
        help="a packet asset, parts joined by '/'; may be repeated; default all",
    )
    planned.add_argument("--partition", help="of the assets that have partitions; default all")
    planned.add_argument("--rows", metavar="SQL", help="only packets whose tags fulfil this condition")
    planned.add_argument("--force", action="store_true", help="as if everything were computed, also what has a result")


def _add_status(command: AddCommand, definitions: argparse.ArgumentParser) -> None:
    text = "show how far each packet of a run is, also while it runs: computed, cached, failed, skipped or pending, and why"
    shown = command("status", definitions, _status, text)
    shown.add_argument("asset", help="the key of a packet asset, parts joined by '/'")
    shown.add_argument(
        "--run", dest="run_id", metavar="RUN_ID", help="default the latest that had something to compute"
    )
    shown.add_argument("--partition", help="only runs of this partition, or range of them (first...last)")
    shown.add_argument("--state", action="append", choices=STATES, help="show packets in this state; may be repeated")
    shown.add_argument("--rows", type=int, default=20, metavar="N", help="how many packets to show; default 20")


def asset_arguments(option: Callable[[str], tuple[str, str]]) -> argparse.ArgumentParser:
    """Return what says which asset, and where definitions and lake are."""
    parser = argparse.ArgumentParser(add_help=False, parents=[_definitions(option)])
    parser.add_argument("asset", help="the key of a packet asset, parts joined by '/'")
    parser.add_argument("--partition", help="of the asset; where it is left out, it is found by the row's values")
    return parser


def _definitions(option: Callable[[str], tuple[str, str]]) -> argparse.ArgumentParser:
    """Return what says where definitions and lake are, under the names that Dagster's own command line has."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("definitions", "without any, those that pyproject.toml names for `dagster dev`")
    group.add_argument("-m", "--module-name", help="the module with your definitions")
    group.add_argument("-f", "--python-file", help="or the file")
    group.add_argument("--package-name", help="or the package")
    group.add_argument("--autoload-defs-module-name", help="or the module whose definitions Dagster finds by itself")
    group.add_argument("-a", "--attribute", help="the name in it, where it has several")
    group.add_argument("-d", "--working-directory", help="from which it is imported; default this one")
    group.add_argument("--root-uri", help="another lake than that of the definitions")
    group.add_argument(
        "--storage-option", action="append", default=[], type=option, metavar="KEY=VALUE", help="of that lake"
    )
    return parser


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no tag; give NAME=VALUE")
    return name, value


def desk_of(chosen: Any) -> Desk:
    """Return the desk over the definitions and the lake that the arguments name."""
    pointer = CodePointer(
        chosen.module_name, chosen.python_file, chosen.package_name, chosen.attribute, chosen.working_directory,
        chosen.autoload_defs_module_name,
    )  # fmt: skip
    options = dict(chosen.storage_option) or None
    return Desk(load_repository(pointer), root_uri=chosen.root_uri, storage_options=options)


def _say(text: str) -> None:
    print(text)  # noqa: T201  # a command prints


def _row(chosen: Any) -> int:
    with desk_of(chosen) as desk:
        row = packet_row(desk, chosen.asset, tags=dict(chosen.tag), partition=chosen.partition)
        _say(row.describe())
        return _call(row, debug=chosen.pdb) if chosen.call or chosen.pdb else 0


def _call(row: PacketRow, *, debug: bool) -> int:
    """Call the function; what it raises is printed as Python does, without the frames before it."""
    try:
        value = _debugged(row) if debug else row.call()
    except Exception as error:  # noqa: BLE001  # the user's function may raise anything
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_globals.get("__package__", "").startswith("orcapod_dagster"):
            frames = frames.tb_next
        _say("".join(traceback.format_exception(type(error), error, frames or error.__traceback__)).rstrip())
        return 1
    _say(f"returned: {value!r}")
    return 0


def _debugged(row: PacketRow) -> Any:
    debugger = pdb.Pdb()
    if inspect.iscoroutinefunction(row.function):
        return debugger.runcall(row.call)
    return debugger.runcall(row.function, *row.positional, **row.keyword)


def _why(chosen: Any) -> int:
    with desk_of(chosen) as desk:
        _say(why(desk, chosen.asset, tags=dict(chosen.tag), partition=chosen.partition).describe())
    return 0


def _trace(chosen: Any) -> int:
    with desk_of(chosen) as desk:
        found = trace(desk, chosen.asset, tags=dict(chosen.tag), partition=chosen.partition)
    _say(found.to_mermaid() if chosen.mermaid else found.to_markdown())
    return 0


def _audit(chosen: Any) -> int:
    with desk_of(chosen) as desk:
        report = audit(
            desk, chosen.asset, size=chosen.size, fraction=chosen.fraction, seed=chosen.seed, partition=chosen.partition
        )
    _say(report.summary())
    for finding in report.findings:
        _say(_described(finding))
    return 1 if report.counts else 0


def _plan(chosen: Any) -> int:
    with desk_of(chosen) as desk:
        plans = plan(desk, chosen.asset, partition=chosen.partition, force=chosen.force, rows=chosen.rows)
    for one in plans:
        _say(one.describe())
    if len(plans) > 1:
        _say(in_all(plans))
    return 1 if any(one.problem for one in plans) else 0


def _status(chosen: Any) -> int:
    with desk_of(chosen) as desk:
        found = status(desk, chosen.asset, run_id=chosen.run_id, partition=chosen.partition)
    _say(found.describe(chosen.state or STATES, chosen.rows))
    return 1 if FAILED in found.counts else 0


def _described(finding: AuditFinding) -> str:
    lines = [f"{tags_told(finding.tags)}: {finding.what}"]
    lines += [
        f"    {name:7s}{text}" for name in ("stored", "now", "again", "error") if (text := getattr(finding, name))
    ]
    lines += [f"    {name}: {was} then, {now} now" for name, (was, now) in finding.versions.items()]
    lines.append(f"    stored {finding.computed_at:%Y-%m-%d %H:%M:%S} UTC, record {finding.record_id}")
    return "\n".join(lines)
