"""Storage options: credentials kept out of sight, commits kept safe, errors of a store told without either.

Dagster keeps the configuration of resources in its own database. So a credential that was written into the code is
replaced, where resources take it, by a text that stands for it (`hide_options`), and comes back only where a store is
opened (`options_for`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any, Final

from orcapod_dagster.core.errors import StorageError

_S3: Final = ("s3://", "s3a://")
_OFF: Final = frozenset({"0", "f", "false", "n", "no", "off", ""})
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_QUERY: Final = re.compile(r"(\w+://[^\s?\"'<>]*)\?[^\s\"'<>]*")
_USER: Final = re.compile(r"(\w+://)[^\s/@]+@")
_STORE: Final = re.compile(r"Generic \w+ error|Error performing|HTTP error")
_LONGEST: Final = 400
_STORE_LINES: Final = 6

_HARMLESS: Final = re.compile(
    r"region|endpoint|bucket|container|account_name|allow_http|allow_invalid|timeout|retries|backoff|conditional_put|rename|"
    r"copy_if|virtual_hosted|checksum|skip_signature|user_agent|http1|http2|pool|max_|unsigned|path_style",
    re.IGNORECASE,
)
_HIDDEN: Final = "hidden:"
_hidden: dict[str, str] = {}
_lock: Final = threading.Lock()


def hide_options(storage_options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the options with a stand-in for each credential; the credentials stay in this process.

    Names that are known to hold no credential keep their values; anything that is not plain text (a reference to an
    environment variable) stays as it is.
    """
    if storage_options is None:
        return None
    return {name: _hide(name, value) for name, value in storage_options.items()}


def _hide(name: str, value: Any) -> Any:
    if type(value) is not str or value.startswith(_HIDDEN):
        return value
    if _HARMLESS.search(name) and not set("@?") & set(value):
        return value
    return hide_text(name, value)


def hide_text(name: str, value: str) -> str:
    """Return a stand-in for a text, which stays in this process; `name` says what it is."""
    if value.startswith(_HIDDEN):
        return value
    with _lock:
        for known, credential in _hidden.items():
            if credential == value and known.startswith(f"{_HIDDEN}{name}:"):
                return known
        # Counted, not digested: a digest would confirm a guess. The same code gives the same names in every process.
        stand_in = f"{_HIDDEN}{name}:{len(_hidden) + 1}"
        _hidden[stand_in] = value
        return stand_in


def revealed_text(value: str) -> str | None:
    """Return what a stand-in stands for, None where another process keeps it; a text that is no stand-in as it is."""
    return _hidden.get(value) if value.startswith(_HIDDEN) else value


def _revealed(uri: str, name: str, value: str) -> str:
    found = revealed_text(value)
    if found is None:
        raise StorageError(
            f"{uri}: the storage option {name!r} was given in another process, which kept it to itself. Give it by an environment "
            f'variable: storage_options={{"{name}": dg.EnvVar("...")}}.'
        )
    return found


def options_for(uri: str, storage_options: Mapping[str, str] | None) -> dict[str, str] | None:
    """Return the options to open a table with, credentials included; commits to S3 rest on conditional writes.

    Raises:
        StorageError: an option takes away what keeps two writers from overwriting each other's commits.
    """
    options = {name: _revealed(uri, name, value) for name, value in (storage_options or {}).items()}
    if uri.startswith(_S3):
        by_name = {key.lower().removeprefix("aws_"): (key, str(value).lower()) for key, value in options.items()}
        unsafe, value = by_name.get("s3_allow_unsafe_rename", ("", ""))
        if value not in _OFF:
            raise StorageError(
                f"{uri}: the storage option {unsafe!r} lets two writers overwrite each other's commits, so rows would be lost. "
                "Remove it; commits use conditional writes, which S3 and its common substitutes have."
            )
        put, value = by_name.get("conditional_put", ("", ""))
        if value == "disabled":
            raise StorageError(
                f"{uri}: the storage option {put!r} is 'disabled', but without conditional writes two writers overwrite each "
                "other's commits. Remove it, or set it to 'etag'."
            )
        if not put:
            options["aws_conditional_put"] = "etag"
    return options or None


def told(error: BaseException) -> str:
    """Return an error's text for people: no rows, no query strings (they may hold signatures), no user names in URLs."""
    text = _COLOUR.sub("", str(error))
    lines = [line.strip(" ↳\t") for line in text.splitlines() if line.strip() and "<?xml" not in line]
    if not lines:
        return type(error).__name__
    # What an object store says stands in the lines below; below other errors there may be rows.
    shown = " · ".join(lines[:_STORE_LINES]) if _STORE.search(text) else lines[0]
    return f"{type(error).__name__}: {without_credentials(shown)[:_LONGEST]}"


def without_credentials(text: str) -> str:
    """Return a text without user names, passwords and query strings in its URLs."""
    return _USER.sub(r"\1…@", _QUERY.sub(r"\1?…", text))
