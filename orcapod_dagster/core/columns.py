"""Names of the columns that this package adds, and the prefixes it reserves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from orcapod_dagster.core.errors import DefinitionError

META_PREFIX: Final = "__"
SOURCE_PREFIX: Final = "_source_"
TAG_PREFIX: Final = "_tag_"
RESERVED_PREFIXES: Final = (META_PREFIX, SOURCE_PREFIX, TAG_PREFIX)

RECORD_ID: Final = "__record_id"
INPUT_HASH: Final = "__input_packet_hash"
VARIATION_PREFIX: Final = "__pf_var_"
EXECUTION_PREFIX: Final = "__pf_exec_"
TIMESTAMP: Final = "__pod_ts"
DURATION: Final = "__pod_duration"
COMPUTED: Final = "__computed"
CONTEXT_KEY: Final = "_context_key"
RESERVED_NAMES: Final = (CONTEXT_KEY,)


def is_reserved(name: str) -> bool:
    """Tell whether a column name belongs to this package."""
    return name.startswith(RESERVED_PREFIXES) or name in RESERVED_NAMES


def refuse_reserved(names: Iterable[str], owner: str) -> None:
    """Refuse user columns whose names this package reserves.

    Args:
        names: the user's column names.
        owner: who declares them, for the message ("function 'f'").

    Raises:
        DefinitionError: names the columns and the reserved prefixes.
    """
    bad = sorted(name for name in names if is_reserved(name))
    if bad:
        reserved = ", ".join(repr(p) for p in (*RESERVED_PREFIXES, *RESERVED_NAMES))
        raise DefinitionError(
            f"{owner} has columns with reserved names: {', '.join(bad)}. Names that begin with or are "
            f"{reserved} belong to orcapod-dagster. Rename these columns."
        )
