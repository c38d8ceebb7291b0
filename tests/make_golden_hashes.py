"""Write tests/data/golden_hashes.json anew: for a new version of the encoding, never to make a failing test pass."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import reference_hash as reference

PATH = Path(__file__).parent / "data" / "golden_hashes.json"
INT = [0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), None]
TEXT = ["", "1", "\0", "\0\0", "12345678", "123456789", "Ä𝄞", "x" * 128, "x" * 129, "y" * 1000, None]
COLUMNS: list[tuple[Any, list[Any]]] = [
    ("null", [None]),
    ("bool", [True, False, None]),
    ("int64", INT),
    ("uint64", [0, 1, 2**63, 2**64 - 1, None]),
    ("double", [0.0, -0.0, 1.0, 0.1, 5e-324, float("inf"), float("-inf"), float("nan"), None]),
    ("string", TEXT),
    ("binary", [None if t is None else t.encode() for t in TEXT]),
    ("date32[day]", [0, -1, 19_782, None]),
    *((name, [0, 1, -1, 10**15, None]) for name in reference.NAMES if name.startswith(("timestamp", "duration"))),
    *((name, [0, 1, 86_399_999_999, None]) for name in reference.NAMES if name.startswith("time64")),
    ({"decimal": 18}, [0, 1, -1, 15 * 10**17, 10**38 - 1, None]),
    ({"decimal": 0}, [1, None]),
    ({"list": "int64"}, [[], [0], [0, 0], [1, 2], [2, 1], [None], None]),
    ({"list": "string"}, [[], [""], ["", ""], ["ab"], ["a", "b"], None]),
    ({"list": {"list": "double"}}, [[], [[]], [[], []], [[1.0], None], None]),
    ({"map": ["string", "int64"]}, [[], [["a", 1]], [["a", 1], ["b", 2]], [["b", 2], ["a", 1]], [["a", None]], None]),
    ({"struct": {"x": "int64", "y": "string"}}, [{"x": 1, "y": "a"}, {"x": None, "y": None}, None]),
    ({"struct": {"x": {"map": ["int64", {"list": "bool"}]}}}, [{"x": [[1, [True, None]]]}, {"x": []}, {"x": None}]),
]  # fmt: skip


def to_json(value: Any) -> Any:
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, list):
        return [to_json(v) for v in value]
    if isinstance(value, dict):
        return {"dict": {k: to_json(v) for k, v in value.items()}}
    return value


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [from_json(v) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "float":
        return float.fromhex(inner)
    return bytes.fromhex(inner) if kind == "bytes" else {k: from_json(v) for k, v in inner.items()}


def cases() -> list[dict[str, Any]]:
    found = [{"kinds": {"c": kind}, "rows": [{"c": value} for value in values]} for kind, values in COLUMNS]
    pick = random.Random(7)
    kinds = {f"column {number}": kind for number, (kind, _) in enumerate(COLUMNS)}
    rows = [{n: pick.choice(values) for n, (_, values) in zip(kinds, COLUMNS, strict=True)} for _ in range(20)]
    return [*found, {"kinds": kinds, "rows": rows}]


def main() -> None:
    written: list[dict[str, Any]] = []
    for case in cases():
        hashes = [reference.hash_row(row, case["kinds"]) for row in case["rows"]]
        written.append(
            {
                "kinds": case["kinds"],
                "rows": [{n: to_json(v) for n, v in row.items()} for row in case["rows"]],
                "packet": [one.hex() for one in hashes],
                "rows_hash": reference.hash_row_set(hashes).hex(),
            }
        )
    PATH.write_text(json.dumps(written, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
