"""Loading definitions: 100 packet assets in 100 modules beside 100 plain assets, each in a fresh process."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = 100
ROUNDS = 5

TOOLS = "LIMIT = 3\n\n\ndef scale(x):\n    return min(x, LIMIT)\n\n\nclass Shape:\n    side = 2\n\n    def area(self):\n        return self.side ** 2\n"
BODY = '''
from project.tools import Shape, scale

FACTOR = 2
TABLE = {{"a": [1, 2], "b": FACTOR}}


{decorator}
def asset_{n}({parameter}){returns}:
    """Scale one value."""
    from project.tools import LIMIT

    return scale(x) * FACTOR + below(x) + Shape().area() + TABLE["a"][0] + LIMIT if x else None


def below(x):
    return deeper(x) + 1


def deeper(x):
    return [value * FACTOR for value in range(int(x))][-1]
'''
PACKET = "from orcapod_dagster import packet_asset\n" + BODY.replace(
    "{decorator}", '@packet_asset(inputs="source", tag_columns=["id"], output_keys=["y"])'
).replace("{parameter}", "x: float").replace("{returns}", " -> float | None")
PLAIN = "import dagster as dg\n" + BODY.replace("{decorator}", "@dg.asset").replace("{parameter}", "source").replace(
    "return scale", "x = source\n    return scale"
).replace("{returns}", "")
LOAD = f"""
import time
import dagster as dg, orcapod_dagster
started = time.process_time()
import importlib
modules = [importlib.import_module(f"project.m{{n}}") for n in range({MODULES})]
assets = [dg.AssetSpec("source"), *(getattr(m, f"asset_{{n}}") for n, m in enumerate(modules))]
dg.Definitions(assets=assets, resources=orcapod_dagster.packet_resources(root_uri="lake")).get_repository_def()
print(time.process_time() - started)
"""


def write(folder: Path, text: str) -> Path:
    """Write a project of so many modules."""
    package = folder / "project"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "tools.py").write_text(TOOLS)
    for n in range(MODULES):
        (package / f"m{n}.py").write_text(text.replace("{{", "{").replace("}}", "}").replace("{n}", str(n)))
    return folder


def seconds(folder: Path) -> float:
    """Load the definitions in a fresh process; seconds of processor time, for the machine may be busy."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={"PYTHONPATH": f"{folder}:{ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        plain, packet = write(Path(place, "plain"), PLAIN), write(Path(place, "packet"), PACKET)
        seconds(plain), seconds(packet)  # bytecode
        rounds = [(seconds(plain), seconds(packet)) for _ in range(ROUNDS)]
    plain_s, packet_s = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(
        f"{MODULES} plain assets {plain_s:.2f} s, packet assets {packet_s:.2f} s: {packet_s - plain_s:+.2f} s (budget 1 s)"
    )


if __name__ == "__main__":
    main()
