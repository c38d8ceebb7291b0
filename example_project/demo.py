"""`make demo`: materialize this project three times, the third time after an edit, and show what happened.

Every run is a process of its own, as it would be from the Dagster UI. The edit is made in a copy of this directory.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

PROJECT = Path(__file__).parent
DEMO = PROJECT.parent / ".demo"
LAKE = DEMO / "lake"

EDITED_FILE = "routes.py"
EDIT = ("6371.0 *", "6371.0088 *")
"""In the helper `great_circle_km`: the earth's radius becomes the mean radius of the IUGG."""

ASSETS = ("route_geometry", "flight_speed", "headwind", "time_made_up")
COUNTS = ("total", "cached", "computed", "skipped", "failed")
STRONGEST = """
SELECT flight_id, dest, ground_speed_kmh, headwind_kmh, crosswind_kmh
FROM headwind ORDER BY headwind_kmh DESC, flight_id LIMIT 10
"""
WHERE_FROM = "SELECT * FROM headwind ORDER BY headwind_kmh DESC, flight_id LIMIT 1"
WHICH_RUN = """
WITH rows_of AS (
    SELECT 'route_geometry' AS asset, __pf_exec_executor_type AS executor, __pf_exec_extra_info AS info FROM route_geometry
    UNION ALL SELECT 'flight_speed', __pf_exec_executor_type, __pf_exec_extra_info FROM flight_speed
    UNION ALL SELECT 'headwind', __pf_exec_executor_type, __pf_exec_extra_info FROM headwind
)
SELECT asset, executor, info['run_id'] AS run_id, count(*) AS row_count FROM rows_of GROUP BY 1, 2, 3 ORDER BY 3, 1
"""


def main() -> None:
    """Run the demo; its lake and the logs of its runs are left in `.demo`."""
    shutil.rmtree(DEMO, ignore_errors=True)
    LAKE.mkdir(parents=True)
    print("336,776 flights of 2013, hour by hour weather, 1,458 airports; all tables in .demo/lake.")
    print("A packet is one row's input. Flights with equal inputs are one computation: the others count as cached.")
    run("first run: nothing is known yet", PROJECT)
    run("second run: nothing has changed", PROJECT)
    with tempfile.TemporaryDirectory() as folder:
        run(f"third run, after an edit in a copy of {EDITED_FILE}: {EDIT[0]} -> {EDIT[1]}", edited_copy(Path(folder)))
    show_what_the_edit_did()
    show_rows()
    show_provenance()
    show_query()
    print("\nTo see this project in the Dagster UI and to materialize it there:  make dev")


def edited_copy(folder: Path) -> Path:
    """Copy the project into a folder, with the edit made."""
    copy = folder / PROJECT.name
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / EDITED_FILE
    before, after = EDIT
    source = path.read_text(encoding="utf-8")
    if source.count(before) != 1:
        raise ValueError(
            f"{EDITED_FILE} holds {before!r} {source.count(before)} times; the demo edits exactly one place."
        )
    path.write_text(source.replace(before, after), encoding="utf-8")
    return copy


def run(title: str, project: Path) -> None:
    """Materialize a copy of the project in a new process, and print a table of counts."""
    print(f"\n== {title}", flush=True)
    number = len(list(DEMO.glob("run-*.log"))) + 1
    report, log = DEMO / f"run-{number}.json", DEMO / f"run-{number}.log"
    started = time.monotonic()
    if start_process(project, report, log) != 0:
        last_lines = log.read_text(encoding="utf-8").splitlines()[-40:]
        sys.exit("\n".join([*last_lines, f"The run failed; see {log}."]))
    seconds = time.monotonic() - started
    done = json.loads(report.read_text(encoding="utf-8"))
    print_table(done["assets"])
    print(f"{seconds:.1f} s in all, with the start of Python and the other assets; Dagster run {done['run_id']}")


def start_process(project: Path, report: Path, log: Path) -> int:
    """Run `materialize` in a new process that imports that copy of the project; return its exit code."""
    command = [sys.executable, "-m", f"{PROJECT.name}.demo", str(report)]
    environment = {**os.environ, "ORCAPOD_LAKE": str(LAKE)}
    with log.open("w", encoding="utf-8") as file:
        ended = subprocess.run(
            command, cwd=project.parent, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    return ended.returncode


def materialize(report: Path) -> None:
    """Materialize all assets for all months in one run, and write the counts of the packet assets."""
    from example_project.definitions import defs
    from example_project.sources import MONTHS

    months = MONTHS.get_partition_keys()
    tags = {"dagster/asset_partition_range_start": months[0], "dagster/asset_partition_range_end": months[-1]}
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("everything").execute_in_process(tags=tags, instance=instance)
    done = {"run_id": result.run_id, "assets": packet_counts(result)}
    report.write_text(json.dumps(done, indent=1), encoding="utf-8")


def packet_counts(result: dg.ExecuteInProcessResult) -> list[dict[str, Any]]:
    """Return one row per packet asset of a run: its counts and the seconds that its step took."""
    rows: list[dict[str, Any]] = []
    for event in result.all_events:
        if event.event_type != dg.DagsterEventType.STEP_SUCCESS:
            continue
        metadata = result.asset_materializations_for_node(event.node_name)[0].metadata
        if "orcapod/packets_total" in metadata:
            counts = {name: metadata[f"orcapod/packets_{name}"].value for name in COUNTS}
            seconds = round(event.step_success_data.duration_ms / 1000, 1)
            rows.append({"asset": event.node_name, **counts, "seconds": seconds})
    return sorted(rows, key=lambda row: ASSETS.index(row["asset"]))


def show_what_the_edit_did() -> None:
    """Say which assets computed anything in the third run."""
    rows = json.loads((DEMO / "run-3.json").read_text(encoding="utf-8"))["assets"]
    computed = ", ".join(row["asset"] for row in rows if row["computed"]) or "nothing"
    kept = ", ".join(row["asset"] for row in rows if not row["computed"])
    print(f"The edit changed the code or the values of {computed}; {kept} kept all results.")


def show_rows() -> None:
    """Print ten rows of a result."""
    print("\n== ten rows of headwind (.demo/lake/headwind)")
    print_table(query(STRONGEST, "headwind"))


def show_provenance() -> None:
    """Print where one of these rows comes from."""
    print("\n== where the first of them comes from")
    (row,) = query(WHERE_FROM, "headwind")
    for name, value in row.items():
        if name.startswith("_"):
            print_field(name, value)


def show_query() -> None:
    """Print an SQL query that groups by an entry of a map column, and its answer."""
    print("\n== which run computed which rows, in SQL with deltalake's QueryBuilder")
    print(WHICH_RUN.strip() + "\n")
    print_table(query(WHICH_RUN, "route_geometry", "flight_speed", "headwind"))


def query(sql: str, *tables: str) -> list[dict[str, Any]]:
    """Return the rows that a query over tables of the demo's lake gives."""
    builder = QueryBuilder()
    for name in tables:
        builder.register(name, DeltaTable(LAKE / name))
    return pa.table(builder.execute(sql)).to_pylist()


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as aligned columns, numbers to the right."""
    if not rows:
        print("(no rows)")
        return
    names = list(rows[0])
    cells = [names, *([readable(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    numeric = [isinstance(rows[0][name], (int, float)) for name in names]
    for line in cells:
        print("  ".join(aligned(line, widths, numeric)).rstrip())


def aligned(line: Iterable[str], widths: Iterable[int], numeric: Iterable[bool]) -> list[str]:
    """Return the cells of a line, each as wide as its column."""
    return [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, numeric, strict=True)]


def print_field(name: str, value: object) -> None:
    """Print a column's name and value; a map gets a line for each entry."""
    if isinstance(value, list):
        print(f"{name}{'' if value else '  (empty)'}")
        for key, entry in value:
            print(f"    {key:<24}{readable(entry)}")
    else:
        print(f"{name:<40}{readable(value)}")


def readable(value: object) -> str:
    """Return a value as people read it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 0.1 or not value else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        materialize(Path(sys.argv[1]))
    else:
        main()
