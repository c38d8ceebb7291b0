"""Snapshot: the keys of all records that match, as of one moment, the newest of each."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from orcapod_dagster.core.arrow import count_up, first_of_each, pc
from orcapod_dagster.core.hashing import split_lanes
from orcapod_dagster.core.sources import TableSource


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The keys of all records that match, as of one moment, each once.

    Attributes:
        keys: input packet hashes, `fixed_size_binary[16]`, no two alike.
        positions: where the newest record of each stands in `source`, or None when they are 0, 1, 2, …
        source: the pinned records.
        all_keys: the hashes of all records that were looked at, also of such as do not match; in no order.
        state: `ResultCache.state`, from before the records were looked at: what was added since is in no snapshot of it.
    """

    keys: pa.Array
    positions: pa.Array | None
    source: TableSource
    all_keys: pa.Array
    state: str

    @classmethod
    def of(
        cls,
        keys: pa.Array,
        stamps: pa.Array,
        mask: pa.Array,
        positions: pa.Array | None,
        source: TableSource,
        state: str,
    ) -> Snapshot:
        """Drop what does not match and, where keys may repeat, all records of a key but the newest.

        Args:
            keys, stamps, mask: per record that was looked at, its input packet hash, when it was stored, and whether it matches.
            positions, source, state: as of the snapshot, of these records.
        """
        all_keys = keys
        if not pc.all(mask).as_py():
            positions = _taken(positions, pc.indices_nonzero(mask))
            keys, stamps = keys.filter(mask), stamps.filter(mask)
        if len(keys) > 1 and pc.count_distinct(split_lanes(keys).a).as_py() < len(keys):
            order = pc.sort_indices(pa.table([stamps], names=["t"]), [("t", "descending")])
            newest = order.filter(first_of_each(keys.take(order)))
            keys, positions = keys.take(newest), _taken(positions, newest)
        return cls(keys, positions, source, all_keys, state)

    def find(self, hashes: pa.Array) -> pa.Array:
        """Return, per hash, the position of its newest record in `source`; null where there is none."""
        if len(hashes) == len(self.keys) and hashes.equals(self.keys):
            found = count_up(len(hashes))
        else:
            found = pc.index_in(hashes, value_set=self.keys).cast(pa.int64())
        return found if self.positions is None else pc.take(self.positions, found)


def _taken(positions: pa.Array | None, rows: pa.Array) -> pa.Array:
    """Return the positions of these rows, of which None stands for 0, 1, 2 and so on."""
    return rows.cast(pa.int64()) if positions is None else positions.take(rows)
