"""The command line: look at a lake, verify it, compact it, clean it up, export a table; bring packets to the desk.

Exit status: 0 all is well, 1 something is wrong with a table or a packet, 2 the command or the storage.
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from orcapod_dagster.accept_commands import add_accept_commands
from orcapod_dagster.core.cleanup import CleanSettings, Removable, clean
from orcapod_dagster.core.compaction import compact
from orcapod_dagster.core.databases.delta import compact_records
from orcapod_dagster.core.errors import OrcapodError
from orcapod_dagster.core.export import export
from orcapod_dagster.core.lake import Lake
from orcapod_dagster.core.paths import RESULTS_FOLDER, join_uri
from orcapod_dagster.core.verify import TableReport, verify
from orcapod_dagster.desk.commands import add_desk_commands

_AGE: Final = re.compile(r"(\d+)([dhms])$")
_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_KEEP: Final[dict[str, Any]] = {"keep": "all", "old-code": "current-code", "unused": "used"}
_EXIT: Final = (
    "Exit status: 0 all is well, 1 something is wrong with a table or a packet, 2 the command or the storage."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    chosen = _parser().parse_args(arguments)
    try:
        return chosen.run(chosen)
    except OrcapodError as error:
        print(error, file=sys.stderr)  # noqa: T201  # a command prints
        return 2


# ---------------------------------------------------------------------------- what can be given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orcapod_dagster", description="Look after a lake, and at the packets of assets.", epilog=_EXIT
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--root-uri", required=True, help="the lake, as given to packet_resources")
    common.add_argument(
        "--storage-option", action="append", default=[], type=_option, metavar="KEY=VALUE",
        help="as deltalake takes them; credentials are better left to the environment (AWS_ACCESS_KEY_ID, ...)",
    )  # fmt: skip
    one = argparse.ArgumentParser(add_help=False, parents=[common])
    one.add_argument("--table", help="only the table in this folder below the root")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, parent: Any, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[parent], help=text, description=text, epilog=_EXIT)
        added.set_defaults(run=run)
        return added

    command("inspect", one, _inspect, "list tables with version, rows, files and size")
    check = command("verify", one, _verify, "hold logs against files, and name what is wrong; changes nothing")
    check.add_argument("--read-all", action="store_true", help="also read every value, which finds what rotted")
    command("compact", one, _compact, "bring small files together; safe beside running writers")
    _add_clean(command("clean", one, _clean, "show what is no longer needed; with --yes, remove it"))
    add_desk_commands(command, _option)
    add_accept_commands(command, common, _option)
    _add_export(command("export", common, _export, "write a table to a .parquet, .csv or .arrow file"))
    return parser


def _add_clean(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="remove it; without, only show it")
    parser.add_argument(
        "--older-than", type=_age, default=_age("7d"), metavar="AGE",
        help="remove files of versions superseded for so long, e.g. 7d (the default), 36h; longer than your longest run",
    )  # fmt: skip
    parser.add_argument(
        "--results", choices=list(_KEEP), default="keep",
        help="keep them all (the default); remove those that no asset table uses and whose code made none that one uses "
        "(old-code); remove all that no asset table uses (unused)",
    )  # fmt: skip
    parser.add_argument(
        "--results-older-than", type=_age, default=_age("30d"), metavar="AGE", help="of results; 30d is the default"
    )
    parser.add_argument(
        "--used-by", action="append", default=[], metavar="ROOT_URI", help="another lake whose assets use these results"
    )
    parser.add_argument("--nothing-runs", action="store_true", help="allows ages below a day; only while nothing runs")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", help="an asset key, parts joined by '/', or a folder as inspect lists it")
    parser.add_argument("--to", required=True, metavar="FILE", help="ends in .parquet, .csv or .arrow")
    parser.add_argument("--columns", type=lambda text: text.split(","), metavar="A,B,...", help="default all")
    parser.add_argument("--version", type=int, help="of the table; default the newest")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def _option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        # Not the text itself: it may be a credential.
        raise argparse.ArgumentTypeError("a storage option is KEY=VALUE")
    return key, value


def _age(text: str) -> dt.timedelta:
    match = _AGE.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; give e.g. 7d, 36h or 90m")
    return dt.timedelta(**{_UNITS[match[2]]: int(match[1])})


def _options(chosen: Any) -> dict[str, str] | None:
    return dict(chosen.storage_option) or None


def _say(text: str) -> None:
    print(text)  # noqa: T201  # a command prints


# ---------------------------------------------------------------------------- tables


def _inspect(chosen: Any) -> int:
    for report in _reports(chosen):
        _say(_line(report))
    return 0


def _verify(chosen: Any) -> int:
    wrong = 0
    for report in _reports(chosen, read_all=chosen.read_all):
        _say(_line(report))
        for finding in report.findings:
            wrong += not finding.harmless
            _say(f"    {'note' if finding.harmless else 'WRONG'}: {finding.what}. {finding.do}")
    return 1 if wrong else 0


def _compact(chosen: Any) -> int:
    for report in _reports(chosen):
        uri = f"{chosen.root_uri.rstrip('/')}/{report.table}"
        bring_together = compact_records if report.table.startswith(f"{RESULTS_FOLDER}/") else compact
        done = None if report.version is None else bring_together(uri, _options(chosen))
        if done is not None:
            _say(
                f"{report.table}: {done.files} files with {done.rows:,d} rows brought together, version {done.version}"
            )
    return 0


def _reports(chosen: Any, *, read_all: bool = False) -> Iterable[TableReport]:
    reports = verify(chosen.root_uri, _options(chosen), read_all=read_all, table=chosen.table)
    if chosen.command != "compact":
        reports = list(reports)  # so that a lake that cannot be listed shows no table head
        _say(f"{'version':>8s} {'rows':>14s} {'files':>7s} {'MB':>10s}  table")
    return reports


def _line(one: TableReport) -> str:
    version = "-" if one.version is None else str(one.version)
    return f"{version:>8s} {one.rows:14,d} {one.files:7,d} {one.bytes / 1e6:10.2f}  {one.table}"


# ---------------------------------------------------------------------------- cleaning, exporting


def _clean(chosen: Any) -> int:
    lake = Lake(chosen.root_uri, _options(chosen))
    settings = CleanSettings(
        older_than=chosen.older_than,
        keep_results=_KEEP[chosen.results],
        results_older_than=chosen.results_older_than,
        used_by=tuple(Lake(uri, _options(chosen)) for uri in chosen.used_by),
        table=chosen.table,
        nothing_runs=chosen.nothing_runs,
    )
    lake.folders()  # a root that cannot be listed is told before the head of the table
    _say(f"{'what':24s} {'rows':>14s} {'files':>7s} {'MB':>10s}  table: why")
    problems = 0
    found: list[Removable] = []
    for one in clean(lake, settings, dry_run=not chosen.yes):
        problems += one.problem
        if not one.problem:
            found.append(one)
        _say(f"{one.what:24s} {one.rows:14,d} {one.files:7,d} {one.bytes / 1e6:10.2f}  {one.table}: {one.why}")
    if chosen.table:
        _say("Large values are left alone: only all tables together tell which are used. Leave out --table.")
    size = sum(one.bytes for one in found) / 1e6
    done = "removed" if chosen.yes else "would be removed; --yes removes it"
    _say(f"{size:,.2f} MB in {sum(one.files for one in found):,d} files {done}." if found else "Nothing to remove.")
    return 1 if problems else 0


def _export(chosen: Any) -> int:
    done = export(
        _table_uri(chosen), chosen.to, columns=chosen.columns, version=chosen.version, storage_options=_options(chosen),
        force=chosen.force,
    )  # fmt: skip
    _say(f"{chosen.to}: {done.rows:,d} rows of version {done.version}")
    if done.left_out:
        _say(f"left out, for CSV cannot hold them: {', '.join(done.left_out)}")
    return 0


def _table_uri(chosen: Any) -> str:
    """Return where the table of an asset lies; a folder of the lake, hidden ones too, is taken as it is."""
    name = chosen.table.strip("/")
    folders = {folder.name for folder in Lake(chosen.root_uri, _options(chosen)).folders()}
    if name in folders:
        return f"{chosen.root_uri.rstrip('/')}/{name}"
    return join_uri(chosen.root_uri, name.split("/"))
