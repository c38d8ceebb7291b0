"""Without the rights of root, to whom no file system denies anything; containers run tests as root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def unprivileged() -> Generator[Path, None, None]:
    """Be a user to whom files can be denied, within the block; gives a folder that belongs to this user."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(_NOBODY)
    # Not pytest's, which only its own user may enter.
    folder = Path(tempfile.mkdtemp(prefix="orcapod-test-", dir="/tmp"))
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)
