"""Instances of Dagster are made in a third of the time, for the tests make many hundreds of them."""

from __future__ import annotations

from alembic.config import Config
from alembic.script import ScriptDirectory

_of_config = ScriptDirectory.from_config
_made: dict[str | None, ScriptDirectory] = {}


def _once(config: Config) -> ScriptDirectory:
    place = config.get_main_option("script_location")
    if place not in _made:
        _made[place] = _of_config(config)
    return _made[place]


def read_migrations_once() -> None:
    """Keep what Alembic reads of Dagster's migrations: to stamp a new database it executes the scripts of all of them, each time."""
    ScriptDirectory.from_config = staticmethod(_once)  # pyright: ignore[reportAttributeAccessIssue]
