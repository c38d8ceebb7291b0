"""Partitions in this IO manager beside the newest releases of others: the same cells for each, one report, docs/partitions.md.

Each library gets a throw-away environment of its own (`.venv-compare-*`), for they want other versions of Dagster and deltalake.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OURS = "orcapod-dagster"
OTHERS = {
    "dagster-deltalake": ["dagster-deltalake"],
    "dagster-delta": ["dagster-delta", "pyarrow"],
    "dagster-polars": ["dagster-polars[deltalake]"],
}
OUTCOMES = ["right", "refused", "fails", "WRONG"]
REPORT = HERE.parent / "docs" / "partitions.md"
HEAD = """# Partitions: every kind, beside other IO managers

Made by `make compare` ({date}, Python {python}); do not edit. It takes about a quarter of an hour, and needs a package index.

A cell is a kind of partitions × the type of the partition column × a way to write or read. Each goes through real Dagster
runs into a lake of its own, two rows per partition; after every run, deltalake itself reads what the table holds, and that is
compared with a plain dict. Each library is used as its documentation says: the partition column is named by `partition_expr`
(dagster-polars: `partition_by`); nothing else is set. Rows stand at the beginning of their time window, which is what most
expect; "within" means 30 minutes, or for dates 3 days, after it.

- **right**: the table holds exactly what it should after every run, and a reader is given exactly that.
- **refused**: an error that the library or Dagster raises on purpose; nothing was changed.
- **fails**: an error from deeper down (the engine, a parser, a programming error); nothing was changed.
- **WRONG**: rows were lost, doubled, left in place or not given to a reader. It is no matter whether an error came, too.

| way | what is done |
|---|---|
| single | two partitions, one run each |
| repeated | two partitions, then the first of them again |
| range | three partitions in one run, of which one is there already, beside two others |
| sparse | partitions that do not lie side by side, in the runs of ranges that Dagster makes of them; of two dimensions, cells that are no rectangle |
| read one, read all | a downstream asset with the same partitions, or with none, after two writes |
| empty range | a range that ends before it begins; right is an error, or nothing done, with nothing changed |
| no rows | a run that returns no rows for its partition, which is empty afterwards |
| at once | two runs at the same time that write other partitions; if one fails, the others must be as before |
"""


def environment(name: str) -> Path:
    """Return the interpreter of a library's own environment, with its newest release."""
    folder = HERE.parent / f".venv-compare-{name}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-qq", "--upgrade", *OTHERS[name]], check=True)
    return python


def outcomes(name: str, python: Path) -> dict[str, Any]:
    """Run all cells with a library, in a process of its environment."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "cells.json"
        paths = {"PYTHONPATH": str(HERE.parent)} if name == OURS else {}
        settings = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"TMPDIR": scratch, **paths}
        command = [str(python), str(HERE / "partition_cells.py"), name, str(target)]
        subprocess.run(command, check=True, env=settings, stderr=subprocess.DEVNULL)
        return json.loads(target.read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def in_words(cells: list[dict[str, str]]) -> str:
    """Return the outcomes of a row of cells, shortest where all are right."""
    by_outcome: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        by_outcome[cell["outcome"]].append(cell["pattern"])
    if set(by_outcome) == {"right"}:
        return "right"
    told = [f"{f'**{o}**' if o == 'WRONG' else o}: {', '.join(by_outcome[o])}" for o in OUTCOMES if o in by_outcome]
    return "; ".join(told) if len(by_outcome) > 1 else told[0].partition(":")[0]


def by_place(found: list[dict[str, Any]], kind: str, place: str) -> str:
    """Return a table of one kind: a row per column or spelling, a column per library."""
    places = dict.fromkeys(cell[place] for cell in found[0]["cells"] if cell["kind"] == kind)
    rows = [
        [name, *(in_words([c for c in one["cells"] if c["kind"] == kind and c[place] == name]) for one in found)]
        for name in places
    ]
    return table([place, *(one["library"] for one in found)], rows)


def reasons(one: dict[str, Any]) -> str:
    """Return what went wrong in a library, the most frequent first, each with an example."""
    seen: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for cell in one["cells"]:
        if cell["outcome"] != "right":
            seen[cell["outcome"], plain(cell["why"])].append(cell)
    first = sorted(seen.items(), key=lambda item: (-OUTCOMES.index(item[0][0]), -len(item[1])))
    rows = [
        [outcome, str(len(cells)), " / ".join(filter(None, (cells[0][k] for k in ("kind", "column", "spelling", "pattern")))), f"`{why}`"]
        for (outcome, why), cells in first[:12]
    ]  # fmt: skip
    more = f"\nand {len(first) - 12} more.\n" if len(first) > 12 else ""
    return table(["outcome", "cells", "for example", "what was seen"], rows) + more


def plain(why: str) -> str:
    """Return a message without what differs from run to run, or would end a table's cell."""
    text = re.sub(r"(file://)?/[^\s'\"]*cell-[^\s/'\"]*", "<root>", why)
    text = re.sub(r"<root>[^\s'\"]*", "<root>…", text)
    return re.sub(r"\d{4}-\d{2}-\d{2}[T\d:+ ]*", "<time>", text).replace("|", "/").replace("`", "'")[:140]


def report(found: list[dict[str, Any]]) -> str:
    """Return the whole report as Markdown."""
    counts = {one["library"]: Counter(cell["outcome"] for cell in one["cells"]) for one in found}
    rows = [
        [f"{name} {one['versions'][name]}", *(str(counts[name][o]) for o in OUTCOMES), versions_beside(one)]
        for one, name in ((one, one["library"]) for one in found)
    ]
    parts = [
        HEAD.format(date=dt.datetime.now(dt.UTC).date(), python=".".join(map(str, sys.version_info[:2]))),
        f"## All {len(found[0]['cells'])} cells\n",
        table(["library", *OUTCOMES, "with"], rows),
        f"\nDagster itself takes no key with a newline, and starts no run for the empty key; these are all {counts[OURS]['refused']} refusals of {OURS}.\n"
        if not counts[OURS]["WRONG"] + counts[OURS]["fails"]
        else "",
    ]
    for kind in dict.fromkeys(cell["kind"] for cell in found[0]["cells"]):
        spelled = kind == "key spelling"
        parts += [f"\n## {kind[0].upper()}{kind[1:]}\n", by_place(found, kind, "spelling" if spelled else "column")]
        if spelled:
            parts.append("\nStatic partitions on a string column: single, repeated and read one.\n")
    parts.append("\n## What was seen\n")
    for one in found:
        parts += [f"\n### {one['library']}\n", reasons(one)]
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def versions_beside(one: dict[str, Any]) -> str:
    """Return the versions of what a library ran with."""
    return ", ".join(f"{name} {version}" for name, version in one["versions"].items() if name != one["library"])


def main() -> None:
    """Run all libraries and write the report."""
    found = [outcomes(OURS, Path(sys.executable))]
    found += [outcomes(name, environment(name)) for name in OTHERS]
    REPORT.write_text(report(found))
    for one in found:
        print(one["library"], dict(Counter(cell["outcome"] for cell in one["cells"])))


if __name__ == "__main__":
    main()
