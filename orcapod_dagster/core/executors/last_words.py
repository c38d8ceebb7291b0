"""LastWords: shows what a process wrote to its spools and could not pass on, because it died.

A crash in C code says on stderr why, in its last moment; while packets run in this process, that lies in a spool, which is gone
with the process. So a small process waits beside it, which does nothing unless this one dies.
"""

from __future__ import annotations

import logging
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Final

_log = logging.getLogger(__name__)
_MARK_BYTES: Final = 32
# Reads where the process was with each stream, and writes the rest to the streams that it has itself.
_CODE: Final = """
import os, struct, sys
life, mark, *files = map(int, sys.argv[1:])
if os.read(life, 1) == b"":
    _, out, _, err = struct.unpack("4q", os.pread(mark, 32, 0))
    for number, place, file in ((1, out, files[0]), (2, err, files[1])):
        while True:
            data = os.pread(file, 65536, place)
            if not data:
                break
            os.write(number, data)
            place += len(data)
"""


class LastWords:
    """Waits beside this process until it is closed, or this process dies.

    Args:
        files: descriptors of the spools of stdout and stderr.
    """

    def __init__(self, files: Sequence[int]) -> None:
        theirs, self._life = os.pipe()
        with tempfile.TemporaryFile() as shared:
            shared.write(bytes(_MARK_BYTES))
            shared.flush()
            self._memory = mmap.mmap(shared.fileno(), _MARK_BYTES)
            self._view = memoryview(self._memory)
            self.marks = self._view.cast("q")
            """Four int64, as `Capture` marks them."""
            handles = (theirs, shared.fileno(), *files)
            try:
                self._process = subprocess.Popen(  # noqa: S603  # this interpreter, with our own text
                    [sys.executable, "-I", "-S", "-c", _CODE, *map(str, handles)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=handles,
                    process_group=0,  # Ctrl-C in a terminal is not for it
                )
            except BaseException:
                self._give_back()
                raise
            finally:
                os.close(theirs)

    @classmethod
    def try_beside(cls, files: Sequence[int]) -> LastWords | None:
        """Return one, or None where no process can be started beside this one."""
        try:
            return cls(files) if sys.executable else None
        except OSError:
            _log.warning("Nothing waits to show what this process writes if it dies.", exc_info=True)
            return None

    def close(self) -> None:
        """End it; everything was passed on."""
        self._process.kill()
        self._process.wait()
        self._give_back()

    def _give_back(self) -> None:
        self.marks.release()
        self._view.release()
        self._memory.close()
        os.close(self._life)
