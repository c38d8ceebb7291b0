"""Values as people read them: exact where they are short, cut where they are long, one line each."""

from __future__ import annotations

from typing import Any, Final

from orcapod_dagster.core.blobs.layout import BLOB_TYPE

WIDTH: Final = 80
_BLOB_FIELDS: Final = {field.name for field in BLOB_TYPE.fields}
_WRITTEN: Final = 1_000_000
_UNITS: Final = ((172_800.0, 86_400.0, "days"), (5_400.0, 3_600.0, "hours"), (90.0, 60.0, "minutes"), (0.0, 1.0, "s"))


def readable(value: Any, width: int = WIDTH) -> str:
    """Return a value on one line, as Python writes it, cut to `width` characters; large values by size and digest."""
    return _cut(_written(value), 0, width)


def readable_pair(one: Any, other: Any, width: int = WIDTH) -> tuple[str, str]:
    """Return two values as `readable`, each cut so that the first place at which they differ is seen."""
    first, second = _written(one), _written(other)
    same = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    same = min(len(first), len(second)) if same is None else same
    start = max(0, same - width // 2) if max(len(first), len(second)) > width else 0
    return _cut(first, start, width), _cut(second, start, width)


def _written(value: Any) -> str:
    if isinstance(value, dict) and value.keys() == _BLOB_FIELDS:
        return f"<{value['media_type']}, {value['size']:,} bytes, {value['hash'].hex()}>"
    if isinstance(value, (bytes, str)) and len(value) > _WRITTEN:
        return f"{value[:_WRITTEN]!r}"
    return repr(value)


def _cut(text: str, start: int, width: int) -> str:
    before = "…" if start else ""
    piece = before + text[start:]
    return piece if len(piece) <= width else piece[: width - 1] + "…"


def readable_seconds(seconds: float) -> str:
    """Return seconds for people: "0.25 s", "12 minutes", "3.5 hours", "2.1 days"."""
    if 0 < seconds < 0.001:
        return "below 1 ms"
    unit, name = next((size, name) for at_least, size, name in _UNITS if seconds >= at_least)
    value = seconds / unit
    return f"{value:,.0f} {name}" if value >= 10 else f"{value:.2g} {name}"
