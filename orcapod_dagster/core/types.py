"""Schema and ContentHash: the two value types that every other module speaks of."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


class Schema(Mapping[str, Any]):
    """Names and Python types of the columns of a datagram; immutable.

    A column may be optional: its packet function's parameter has a default, so an input may lack it.

    Args:
        fields: column name → Python type (`T | None` for a nullable column), in order. In place of a Python type there may
            be an Arrow type or an Arrow field.
        optional: names of columns that an input may lack.
    """

    __slots__ = ("_fields", "_optional")

    def __init__(
        self, fields: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), optional: Iterable[str] = ()
    ) -> None:
        self._fields: dict[str, Any] = dict(fields)
        self._optional: frozenset[str] = frozenset(optional)

    @property
    def optional(self) -> frozenset[str]:
        """Names of columns that an input may lack."""
        return self._optional

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Schema):
            return self._fields == other._fields and self.optional == other.optional
        if isinstance(other, Mapping):
            return self._fields == dict(other) and not self.optional  # pyright: ignore[reportUnknownArgumentType]
        return NotImplemented

    def __hash__(self) -> int:
        return hash((frozenset(self._fields), self.optional))

    def __repr__(self) -> str:
        return (
            f"Schema({self._fields!r})"
            if not self.optional
            else f"Schema({self._fields!r}, optional={set(self.optional)!r})"
        )

    def select(self, names: Iterable[str]) -> Schema:
        """Return the schema of these columns, in the order of `names`."""
        wanted = list(names)
        return Schema({name: self._fields[name] for name in wanted}, self.optional & set(wanted))


@dataclass(frozen=True, slots=True)
class ContentHash:
    """A content hash that says by which rules it was made.

    Attributes:
        method: name and version of the encoding, e.g. `"orcapod.packet.v1"`.
        digest: the hash itself.
    """

    method: str
    digest: bytes

    def __str__(self) -> str:
        return f"{self.method}:{self.digest.hex()}"

    def to_hex(self, length: int | None = None) -> str:
        """Return the digest in hexadecimal, cut to `length` characters where given."""
        return self.digest.hex()[:length]

    def to_base64(self) -> str:
        """Return the digest in URL-safe base64 without padding."""
        return base64.urlsafe_b64encode(self.digest).rstrip(b"=").decode()

    @classmethod
    def from_string(cls, text: str) -> ContentHash:
        """Read what `str()` wrote.

        Raises:
            ValueError: the text is not `method:hex`.
        """
        method, separator, digest = text.rpartition(":")
        if not separator or not method:
            raise ValueError(f"Not a content hash: {text!r}. Expected 'method:hex'.")
        return cls(method, bytes.fromhex(digest))
