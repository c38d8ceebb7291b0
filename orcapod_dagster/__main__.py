"""`python -m orcapod_dagster`: look at a lake, verify it, compact it.

Exit status: 0 all is well, 1 something is wrong with a table, 2 the command or the storage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from orcapod_dagster.core.compaction import compact
from orcapod_dagster.core.errors import LakeError
from orcapod_dagster.core.verify import TableReport, verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    chosen = _parser().parse_args(arguments)
    options = dict(option.split("=", 1) for option in chosen.storage_option) or None
    try:
        reports = list(
            verify(chosen.root_uri, options, read_all=getattr(chosen, "read_all", False), table=chosen.table)
        )
        if chosen.command == "compact":
            return _compact(chosen.root_uri, options, reports)
    except LakeError as error:
        print(error, file=sys.stderr)  # noqa: T201  # a command prints
        return 2
    return _show(reports, findings=chosen.command == "verify")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orcapod_dagster", description="Look after a lake.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--root-uri", required=True, help="the lake, as given to packet_resources")
    common.add_argument(
        "--storage-option", action="append", default=[], metavar="KEY=VALUE", help="as deltalake takes them"
    )
    common.add_argument("--table", help="only the table in this folder below the root")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("inspect", parents=[common], help="list tables with version, rows, files and size")
    check = commands.add_parser("verify", parents=[common], help="hold logs against files, and name what is wrong")
    check.add_argument("--read-all", action="store_true", help="also read every value, which finds damaged pages")
    commands.add_parser("compact", parents=[common], help="bring small files together; safe beside running writers")
    return parser


def _show(reports: Sequence[TableReport], *, findings: bool) -> int:
    print(f"{'table':60s} {'version':>8s} {'rows':>14s} {'files':>7s} {'MB':>10s}")  # noqa: T201
    wrong = 0
    for one in reports:
        version = "-" if one.version is None else str(one.version)
        print(f"{one.table:60s} {version:>8s} {one.rows:14,d} {one.files:7,d} {one.bytes / 1e6:10.2f}")  # noqa: T201
        for finding in one.findings if findings else ():
            wrong += not finding.harmless
            print(f"    {'note' if finding.harmless else 'WRONG'}: {finding.what}. {finding.do}")  # noqa: T201
    return 1 if wrong else 0


def _compact(root_uri: str, options: dict[str, str] | None, reports: Sequence[TableReport]) -> int:
    for one in reports:
        done = None if one.version is None else compact(f"{root_uri.rstrip('/')}/{one.table}", options)
        if done is not None:
            print(f"{one.table}: {done.files} files with {done.rows:,d} rows brought together, version {done.version}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
