"""The parts of a function's code: each named, so that a change can be told by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CONTENT_METHOD: Final = "python.content.v2"


@dataclass(frozen=True, slots=True)
class CodePart:
    """One thing that decides a function's result.

    Attributes:
        kind: `"body"`, `"default"`, `"closure"`, `"wrapper"`, `"argument"`, `"state"`, `"helper"`, `"class"`, `"constant"`,
            `"module"`, `"import"`, `"declared"`, `"outputs"`, `"per_worker"`, `"identity"`, `"configuration"` or `"unknown"`.
        name: what it is: a parameter, a variable, or the qualified name; empty for the body and the outputs.
        digest: SHA-256 of its text, in hexadecimal.
        source: its lines as written; `None` for values, which are never kept, and for code without source.
    """

    kind: str
    name: str
    digest: str
    source: str | None = None

    @property
    def key(self) -> str:
        """Kind and name, unique within one function."""
        return f"{self.kind} {self.name}".strip()


def digest_of(text: str) -> str:
    """Return the digest of a part's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def content_hash_of(digests: Mapping[str, str]) -> str:
    """Return the content hash over the digests of all parts by key."""
    text = "\n".join(f"{key}={digest}" for key, digest in sorted(digests.items()))
    return f"{CONTENT_METHOD}:{digest_of(text)}"
