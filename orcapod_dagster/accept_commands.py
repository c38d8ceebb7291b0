"""The commands accept, accepted and withdraw."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from orcapod_dagster.accepting import accepted, own_table, withdraw
from orcapod_dagster.core.acceptance import Acceptance
from orcapod_dagster.core.accepting import Proposal, propose
from orcapod_dagster.core.errors import AcceptanceError
from orcapod_dagster.desk.commands import AddCommand, asset_arguments, desk_of
from orcapod_dagster.resources import RESULT_STORE_KEY


def add_accept_commands(
    command: AddCommand, lake: argparse.ArgumentParser, option: Callable[[str], tuple[str, str]]
) -> None:
    """Add the commands to the command line.

    Args:
        command: adds one, with its parent parser, what runs it, and what it does.
        lake: the arguments that name a lake.
        option: reads KEY=VALUE.
    """
    why = argparse.ArgumentParser(add_help=False)
    why.add_argument("--reason", help="why no result changes, or why it is taken back; kept with it")
    why.add_argument("--who", help="default the user of this process")
    text = "declare that an edit of a packet asset's code changes no result, so that stored results count"
    asset = argparse.ArgumentParser(add_help=False, parents=[asset_arguments(option), why])
    made = command("accept", asset, _accept, text)
    made.add_argument(
        "--from", dest="from_code", metavar="HASH",
        help="the earlier version, or 6 or more digits of it; default that of the newest rows of its table that do not count",
    )  # fmt: skip
    made.add_argument(
        "--part", action="append", default=[], metavar="PART",
        help="accept this part alone, in every function; as a run's reason names it, e.g. 'helper project.tools.scale'",
    )  # fmt: skip
    made.add_argument("--commits", metavar="X..Y", help="all versions from commit X on; 'X..' up to now")
    made.add_argument("--dry-run", action="store_true", help="show the difference and how many results would count")
    listed = argparse.ArgumentParser(add_help=False, parents=[lake])
    command("accepted", listed, _accepted, "list what was accepted").add_argument(
        "--differences", action="store_true", help="with the differences"
    )
    back = argparse.ArgumentParser(add_help=False, parents=[lake, why])
    command("withdraw", back, _withdraw, "take an acceptance back").add_argument("acceptance", help="its id")


def _say(text: str) -> None:
    print(text)  # noqa: T201  # a command prints


def _accept(chosen: Any) -> int:
    with desk_of(chosen) as desk:
        spec = desk.spec(chosen.asset)
        database = desk.resource(RESULT_STORE_KEY, desk.asset(spec.key)).database()
        proposal = propose(
            spec.function, database, match=spec.match, from_code=chosen.from_code, parts=chosen.part,
            commits=chosen.commits, table=lambda: own_table(spec.key, desk.lake_table(spec.key, desk.asset(spec.key))),
        )  # fmt: skip
        _say(proposal.describe())
        _say(f"{proposal.count():,} packets have a stored result that does not count now, and would.")
        if chosen.dry_run:
            return 0
        for one in proposal.accept(reason=_reason(chosen, proposal), who=chosen.who):
            _say(f"accepted as {one.acceptance_id}; withdraw {one.acceptance_id} takes it back")
    return 0


def _reason(chosen: Any, proposal: Proposal) -> str:
    """Return the reason that is given, or ask for it where somebody sits there."""
    if chosen.reason is not None or not sys.stdin.isatty():
        return chosen.reason or ""
    try:
        return input(f"Why does this change no result of {proposal.function.canonical_function_name}? ")
    except EOFError:
        raise AcceptanceError("No reason was given, so nothing is accepted.") from None


def _accepted(chosen: Any) -> int:
    for one in accepted(chosen.root_uri, storage_options=dict(chosen.storage_option) or None):
        _say(_line(one))
        if chosen.differences:
            _say("\n".join(f"    {line}" for line in one.difference.splitlines()))
    return 0


def _line(one: Acceptance) -> str:
    what = ", ".join(one.changes)
    versions = " -> ".join(text.rpartition(":")[2][:12] for text in (one.from_content_hash, one.to_content_hash))
    line = f"{one.acceptance_id}  {one.at:%Y-%m-%d %H:%M} UTC  {one.who}  {one.scope} {one.function_name} {versions} ({what}): {one.reason}"
    return line if one.withdrawn is None else f"{line}\n    withdrawn by {one.withdrawn}"


def _withdraw(chosen: Any) -> int:
    options = dict(chosen.storage_option) or None
    one = withdraw(
        chosen.acceptance, reason=chosen.reason or "", who=chosen.who, root_uri=chosen.root_uri, storage_options=options
    )
    _say(f"withdrawn: {_line(one)}")
    return 0
