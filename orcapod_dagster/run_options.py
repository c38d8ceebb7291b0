"""Run options: what a run is asked to do otherwise, by the run config of a packet asset or by the tags of the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import dagster as dg
from pydantic import Field

from orcapod_dagster.core.errors import RunOptionError

TAG_PREFIX: Final = "orcapod/"


class PacketAssetConfig(dg.Config):
    """Run config of every packet asset. What is left out, or null, is as the run's tags say (`orcapod/force`, …)."""

    force: bool | None = Field(default=None, description="Compute every packet, also those that have a result.")
    limit: int | None = Field(
        default=None,
        ge=0,
        description="For trying out: compute at most so many packets and keep their results; the asset table stays as it is.",
    )
    rows: str | None = Field(
        default=None,
        description="An SQL condition on tag columns, e.g. \"subject = 'm1'\": only these packets; the asset table stays as it is.",
    )
    dry_run: bool | None = Field(
        default=None,
        description="Say which packets would be computed, why, and how long it would take; run and write nothing.",
    )
    confirm_recompute: bool | None = Field(
        default=None,
        description="Compute packets again that have results, however long those took (see recompute_limit_hours of the result store).",
    )


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What one step of a run is asked to do; attributes as `PacketAssetConfig` describes them."""

    force: bool = False
    limit: int | None = None
    rows: str | None = None
    dry_run: bool = False
    confirm_recompute: bool = False

    @property
    def partial(self) -> bool:
        """Whether only some packets are looked at, so that the asset table must stay as it is."""
        return self.limit is not None or self.rows is not None

    @classmethod
    def of(cls, config: PacketAssetConfig, tags: Mapping[str, str]) -> Self:
        """Bring a step's run config and its run's tags together; what the run config sets wins.

        Args:
            config: of the step.
            tags: of the run; `orcapod/<option>`, booleans as "true" or "false".

        Raises:
            RunOptionError: a tag names no option, or its value is none; also where the run config sets that option.
        """
        named = {key.removeprefix(TAG_PREFIX): text for key, text in tags.items() if key.startswith(TAG_PREFIX)}
        values = {name: _parsed(name, text) for name, text in named.items()}
        set_here = {one.name: getattr(config, one.name) for one in fields(cls)}
        return cls(**values | {name: value for name, value in set_here.items() if value is not None})


def _parsed(name: str, text: str) -> Any:
    if name not in _PARSERS:
        known = ", ".join(TAG_PREFIX + one for one in _PARSERS)
        raise RunOptionError(
            f"The run has the tag {TAG_PREFIX + name}, which is no option of packet assets; those are {known}. No packet was looked at. "
            "Correct the tag, or name it otherwise if it is your own."
        )
    parse, expected = _PARSERS[name]
    value = parse(text.strip())
    if value is None:
        raise RunOptionError(
            f"The run has the tag {TAG_PREFIX + name} with the value {text!r}; expected {expected}. No packet was looked at. Correct the tag."
        )
    return value


def _truth(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


def _count(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


_PARSERS: Final[Mapping[str, tuple[Callable[[str], Any], str]]] = {
    "force": (_truth, '"true" or "false"'),
    "limit": (_count, 'a number of packets, e.g. "10"'),
    "rows": (lambda text: text or None, "an SQL condition on tag columns, e.g. \"subject = 'm1'\""),
    "dry_run": (_truth, '"true" or "false"'),
    "confirm_recompute": (_truth, '"true" or "false"'),
}
