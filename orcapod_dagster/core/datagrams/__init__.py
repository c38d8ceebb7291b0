"""Datagrams: immutable single rows with a schema; packets and tags are such."""

from orcapod_dagster.core.datagrams.datagram import Datagram
from orcapod_dagster.core.datagrams.packet import Packet
from orcapod_dagster.core.datagrams.record_ids import new_record_ids
from orcapod_dagster.core.datagrams.tag import Tag

__all__ = ["Datagram", "Packet", "Tag", "new_record_ids"]

# They belong to this package, however it is cut: pickles, and the hashes of functions that hold one of the classes, name their module.
for _kind in (Datagram, Packet, Tag):
    _kind.__module__ = __name__
