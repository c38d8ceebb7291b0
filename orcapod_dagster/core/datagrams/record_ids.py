"""Record ids: UUIDv7s, made many at a time."""

from __future__ import annotations

import os
import time
import uuid

_VERSION_7 = bytes(0x70 | (byte & 0x0F) for byte in range(256))
_VARIANT = bytes(0x80 | (byte & 0x3F) for byte in range(256))


def new_record_ids(count: int) -> bytes:
    """Return `count` fresh UUIDv7s (RFC 9562), 16 bytes each, one after another."""
    milliseconds = (time.time_ns() // 1_000_000).to_bytes(6, "big")
    ids = bytearray(os.urandom(16 * count))
    for position, byte in enumerate(milliseconds):
        ids[position::16] = bytes([byte]) * count
    ids[6::16] = ids[6::16].translate(_VERSION_7)
    ids[8::16] = ids[8::16].translate(_VARIANT)
    return bytes(ids)


def as_uuid(value: str | uuid.UUID | bytes | None) -> uuid.UUID | None:
    """Return a record id, whichever way it is given."""
    if value is None or isinstance(value, uuid.UUID):
        return value
    return uuid.UUID(bytes=value) if isinstance(value, bytes) else uuid.UUID(value)
