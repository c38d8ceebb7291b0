"""Names that users choose → folder names that lead nowhere else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from orcapod_dagster.core.errors import LakeError

_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]|^\.")
_MAX_BYTES = 200
RESULTS_FOLDER: Final = ".orcapod"


def safe_component(name: str) -> str:
    """Return a folder name for any text; different texts give different names.

    Letters, digits, `_`, `-` and inner dots stay; any other character, and a leading dot, becomes `=XX` per UTF-8
    byte. No percent sign is used, for delta-rs decodes it once too often. A name too long for a file system is cut
    and ends in a digest.
    """
    encoded = _UNSAFE.sub(
        lambda match: "".join(f"={byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass")), name
    )
    if not encoded:
        return "="
    if len(encoded) > _MAX_BYTES:
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return f"{encoded[: _MAX_BYTES - 40]}=={digest}"
    return encoded


def join_uri(root: str, parts: Sequence[str]) -> str:
    """Return the URI of a folder below `root`, each part made safe.

    Raises:
        LakeError: the root has a percent sign, which delta-rs reads as an encoding and so writes elsewhere than it reads.
    """
    if "%" in root:
        raise LakeError(
            f"root_uri {root!r} has a percent sign, with which delta-rs mixes up folders. Use another name."
        )
    return "/".join([root.rstrip("/"), *map(safe_component, parts)])


def results_root(root_uri: str) -> str:
    """Return where the results of a lake lie: a folder that no asset key can take."""
    return f"{root_uri.rstrip('/')}/{RESULTS_FOLDER}"
