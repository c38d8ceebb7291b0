"""InfrastructureError: what this package raises where a packet is called, when not the packet is to blame.

Sent to workers by value, so it imports nothing but the standard library. It is told by its qualified name, for a worker
may have made the class anew.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Generator
from typing import Final

INFRASTRUCTURE_CLASS: Final = f"{__name__}.InfrastructureError"
"""Its kind: with its module, for users may have a class of that name, which is a packet's failure as any other."""
DEAD_MOUNT: Final = frozenset(
    {
        errno.ENOTCONN,
        errno.ESTALE,
        errno.ESHUTDOWN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
        errno.ENODEV,
    }
)
"""What a file system answers that is not there any more, whatever is asked for. A bad block of one file (EIO) is not among them."""


class InfrastructureError(Exception):
    """The run ends with it, whatever packet ran, and that packet is neither failed nor tried."""


@contextlib.contextmanager
def storing(what: str) -> Generator[None]:
    """Tell errors of storing something of ours from those of the packet.

    Args:
        what: is stored, and where, for the message.

    Raises:
        InfrastructureError: the operating system refused.
    """
    try:
        yield
    except OSError as error:
        raise InfrastructureError(f"{what}: {error}. Make room, or give back the right to write there.") from error
