"""Names that users choose → folder names that lead nowhere else."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from orcapod_dagster.core.errors import LakeError

_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]|^[._]|\.$")
_UNSAFE_LEFT = re.compile(r"[^A-Za-z0-9_.\-=]|^[._]|\.$|=(?![0-9A-F]{2}|$)")
_MAX_BYTES = 200
RESULTS_FOLDER: Final = ".orcapod"
LOG_FOLDER: Final = "_delta_log"


def safe_component(name: str) -> str:
    """Return a folder name for any text; different texts give different names.

    Letters, digits, `-`, and inner `_` and `.` stay; any other character becomes `=XX` per UTF-8 byte. A leading `_` or
    `.` does, too, for such folders belong to a Delta table itself (`_delta_log`) or to the lake (`.orcapod`): the table of
    the asset `a/b` lies in the folder of `a`. No percent sign is used, for delta-rs decodes it once too often. A name too
    long for a file system is cut and ends in a digest.
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


def component_name(folder: str) -> str | None:
    """Return the text whose folder name this is; `None` where it is none, or the name was too long and cut."""
    if _UNSAFE_LEFT.search(folder) or "==" in folder:
        return None
    if folder == "=":
        return ""
    encoded = re.sub(r"=([0-9A-F]{2})", lambda match: f"%{match[1]}", folder)
    name = unquote_to_bytes(encoded).decode("utf-8", "surrogatepass")
    return name if safe_component(name) == folder else None


def join_uri(root: str, parts: Sequence[str]) -> str:
    """Return the URI of a table's folder below `root`, each part made safe.

    Raises:
        LakeError: the root has a percent sign, which delta-rs reads as an encoding and so writes elsewhere than it reads;
            or a folder on the way is not what its name says, as `refuse_strange_folder` tells.
    """
    if "%" in root:
        raise LakeError(
            f"root_uri {root!r} has a percent sign, with which delta-rs mixes up folders. Use another name."
        )
    folders = [safe_component(part) for part in parts]
    refuse_strange_folder(root, [*folders, LOG_FOLDER])
    return "/".join([root.rstrip("/"), *folders])


def local_path(uri: str) -> Path | None:
    """Return the local folder of a URI, or `None` for an object store."""
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    return None if "://" in uri else Path(uri)


def refuse_strange_folder(root: str, folders: Sequence[str]) -> None:
    """Refuse a folder below a local root that is not what its name says; costs two looks at the disk per folder.

    Args:
        root: the lake, which may itself be a link, or lie behind one. On an object store nothing is looked at.
        folders: from the root down, as they are called on the disk; those that do not exist yet are fine.

    Raises:
        LakeError: one of them is a symbolic link, which leads out of the lake or to another table; or the file system
            does not tell upper case from lower, and the folder is that of another name.
    """
    at = local_path(root)
    if at is None:
        return
    for folder in folders:
        parent, at = at, at / folder
        try:
            found = os.lstat(at)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise LakeError(f"{at}: {error.strerror}. Check that the name can be one of a folder there.") from error
        if stat.S_ISLNK(found.st_mode):
            raise LakeError(
                f"{at} is a symbolic link to {at.readlink()}. Links below the root are not followed, for a table behind one would "
                "lie outside of the lake, or be that of two assets. Put a folder in its place; the root itself may be a link."
            )
        if _is_of_other_case(parent, folder, found):
            raise LakeError(
                f"{at} cannot be told from a folder whose name differs in upper and lower case only, on this file system. "
                "Give one of the two assets another name."
            )


def _is_of_other_case(parent: Path, name: str, found: os.stat_result) -> bool:
    """Tell whether a folder that was found is there under another spelling only."""
    try:
        twin = os.lstat(parent / name.swapcase())
    except OSError:
        return False
    same = (twin.st_dev, twin.st_ino) == (found.st_dev, found.st_ino) and name.swapcase() != name
    return same and all(one.name != name for one in parent.iterdir())


def results_root(root_uri: str) -> str:
    """Return where the results of a lake lie: a folder that no asset key can take.

    Raises:
        LakeError: it is a symbolic link.
    """
    refuse_strange_folder(root_uri, [RESULTS_FOLDER])
    return f"{root_uri.rstrip('/')}/{RESULTS_FOLDER}"
