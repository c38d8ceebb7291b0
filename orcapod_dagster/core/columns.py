"""Names of the columns that this package adds, and the prefixes it reserves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from orcapod_dagster.core.errors import DefinitionError

META_PREFIX: Final = "__"
SOURCE_PREFIX: Final = "_source_"
TAG_PREFIX: Final = "_tag_"
RESERVED_PREFIXES: Final = (META_PREFIX, SOURCE_PREFIX, TAG_PREFIX)

RECORD_ID: Final = "__record_id"
INPUT_HASH: Final = "__input_packet_hash"
PACKET_HASH: Final = "packet_hash"
"""The same in tables in which nothing is looked up by it, so that no index of it is made."""
VARIATION_PREFIX: Final = "__pf_var_"
SIGNATURE_HASH: Final = VARIATION_PREFIX + "function_signature_hash"
CONTENT_HASH: Final = VARIATION_PREFIX + "function_content_hash"
EXECUTION_PREFIX: Final = "__pf_exec_"
ENVIRONMENT_HASH: Final = "__pf_environment_hash"
TIMESTAMP: Final = "__pod_ts"
DURATION: Final = "__pod_duration"
COMPUTED: Final = "__computed"
CONTEXT_KEY: Final = "_context_key"
RESERVED_NAMES: Final = (CONTEXT_KEY,)

DESCRIPTIONS: Final[Mapping[str, str]] = {
    RECORD_ID: "UUIDv7 of the stored result",
    INPUT_HASH: "content hash of the packet that the function consumed",
    VARIATION_PREFIX + "function_name": "the function that made the result",
    SIGNATURE_HASH: "hash of its parameters, defaults and annotations",
    CONTENT_HASH: "hash of the code and constants that decide the result",
    VARIATION_PREFIX + "git_hash": "commit of the code's repository; -dirty and -untracked for uncommitted changes",
    EXECUTION_PREFIX + "executor_type": "where the function ran: local, process_pool, ray.v0",
    EXECUTION_PREFIX + "executor_info": "what the executor says of itself",
    EXECUTION_PREFIX + "python_version": "of the run",
    EXECUTION_PREFIX + "extra_info": "Dagster run, job, step, partition, host, git, versions of the inputs",
    TIMESTAMP: "when the result was stored",
    DURATION: "seconds that the function took for this packet",
    CONTEXT_KEY: "version of the rules of conversion and hashing",
}
"""Column of an asset table that this package adds → what it holds, for people."""


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


# ---------------------------------------------------------------------------- kinds of columns of a datagram

ColumnKind = Literal["data", "meta", "source", "system_tags", "context"]
"""What a column of a datagram is, told by its name; all but `"data"` have reserved names."""

KIND_PREFIXES: Final[dict[ColumnKind, str]] = {
    "meta": META_PREFIX,
    "source": SOURCE_PREFIX,
    "system_tags": TAG_PREFIX,
}


def column_kind(name: str) -> ColumnKind:
    """Return what a column with this name is."""
    if name == CONTEXT_KEY:
        return "context"
    for kind, prefix in KIND_PREFIXES.items():
        if name.startswith(prefix):
            return kind
    return "data"


def prefixed(name: str, kind: ColumnKind) -> str:
    """Return the name of a column of this kind with its prefix, which may be there already."""
    prefix = KIND_PREFIXES[kind]
    return name if name.startswith(prefix) else prefix + name


@dataclass(frozen=True, slots=True)
class ColumnConfig:
    """Which columns beside the data a datagram gives.

    Where a kind takes names, `True` means all columns of the kind, and a collection those named, with or without the
    prefix. A kind that a datagram does not have (`source` of a tag) adds nothing.

    Attributes:
        meta: columns `__<name>`.
        source: columns `_source_<column>` of a packet: one per data column, null where nothing is known.
        system_tags: columns `_tag_<name>` of a tag.
        context: the column `_context_key`.
    """

    meta: bool | Collection[str] = False
    source: bool | Collection[str] = False
    system_tags: bool | Collection[str] = False
    context: bool = False

    def __post_init__(self) -> None:
        for kind in KIND_PREFIXES:
            value = getattr(self, kind)
            if isinstance(value, str):
                raise TypeError(f"{kind}={value!r} is one string; give a collection of names, e.g. [{value!r}].")

    @classmethod
    def all(cls) -> ColumnConfig:
        """Return the configuration that leaves nothing out."""
        return cls(meta=True, source=True, system_tags=True, context=True)

    @classmethod
    def of(cls, columns: ColumnConfig | Mapping[str, Any] | None) -> ColumnConfig:
        """Return the configuration that a mapping from kind to choice spells; data alone for `None`."""
        return columns if isinstance(columns, ColumnConfig) else cls(**(columns or {}))

    def choose(self, kind: ColumnKind, names: Collection[str]) -> list[str]:
        """Return those of a kind's columns that are wanted, in their order.

        Raises:
            KeyError: a name is wanted that is not there.
        """
        wanted = getattr(self, kind)
        if isinstance(wanted, bool):
            return list(names) if wanted else []
        asked = {prefixed(name, kind) for name in wanted}
        unknown = sorted(asked.difference(names))
        if unknown:
            raise KeyError(f"No {kind} column {unknown[0]!r}; there are {list(names)}.")
        return [name for name in names if name in asked]
