"""SkipPacket: what a function raises to leave a row out on purpose."""

from __future__ import annotations


class SkipPacket(Exception):  # noqa: N818  # not an error: it says that there is nothing to compute
    """Raised by a packet function to skip its row; remembered, and not called again for the same packet.

    Args:
        reason: why, for the record.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
