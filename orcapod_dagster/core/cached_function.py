"""CachedPacketFunction: a packet function that looks its results up before it computes, and stores what it computed."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.contexts import Context
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.datagrams import Datagram, Packet
from orcapod_dagster.core.errors import InputError, OrcapodError
from orcapod_dagster.core.files import FileMemory, FileReader, Looks
from orcapod_dagster.core.hashing import hash_rows
from orcapod_dagster.core.matching import MatchPolicy, match_constraints
from orcapod_dagster.core.result_cache import ResultCache
from orcapod_dagster.core.stand_ins import PacketFunctionWrapper


class CachedPacketFunction(PacketFunctionWrapper):
    """A packet function that computes each input packet once.

    Args:
        packet_function: what computes.
        result_database: where results are kept.
        record_path_prefix: names before the function's `uri` in the record path.
        match: which stored result counts as the same computation.
    """

    def __init__(
        self,
        packet_function: Any,
        result_database: ArrowDatabase,
        record_path_prefix: Sequence[str] = (),
        *,
        match: MatchPolicy = "content",
    ) -> None:
        super().__init__(packet_function)
        self.match: MatchPolicy = match
        self.cache = ResultCache(result_database, (*record_path_prefix, *packet_function.uri))

    @functools.cached_property
    def _files(self) -> FileReader:
        function = self.packet_function
        owner = f"function {function.canonical_function_name!r}"
        return FileReader(function.input_packet_schema, owner, FileMemory(self.cache.database))

    @property
    def record_path(self) -> tuple[str, ...]:
        """Where the records lie in the database."""
        return self.cache.record_path

    def set_auto_flush(self, on: bool = True) -> None:
        """Say whether each result is durable when its call returns."""
        self.cache.auto_flush = on

    def call(
        self, packet: Packet, logger: Any = None, *, skip_cache_lookup: bool = False, skip_cache_insert: bool = False
    ) -> Packet | None:
        """Return the output packet, from the cache where it holds one; meta `__computed` tells which.

        Raises:
            InputError: a file that the packet names cannot be read, or changed while the function ran.
        """
        consumed = self._consume(packet)
        cached = None if skip_cache_lookup else self._find(consumed)
        if cached is not None:
            return cached
        return self._keep(consumed, self.packet_function.call(packet, logger), skip_cache_insert)

    async def async_call(
        self, packet: Packet, logger: Any = None, *, skip_cache_lookup: bool = False, skip_cache_insert: bool = False
    ) -> Packet | None:
        """As `call`, from inside a running event loop."""
        consumed = self._consume(packet)
        cached = None if skip_cache_lookup else self._find(consumed)
        if cached is not None:
            return cached
        return self._keep(consumed, await self.packet_function.async_call(packet, logger), skip_cache_insert)

    def _keep(self, consumed: _Consumed, output: Packet | None, skip_insert: bool) -> Packet | None:
        if output is None:
            return None
        if consumed.looks is not None:
            changed = self._files.changed(consumed.columns, consumed.looks)
            if changed:
                raise InputError(changed[0])
        if not skip_insert:
            self._store(consumed, output)
        return output.with_meta_columns(computed=True)

    def record_packet(self, input_packet: Packet, output_packet: Packet, skip_duplicates: bool = False) -> None:
        """Store a result that was computed elsewhere."""
        consumed = self._consume(input_packet)
        if skip_duplicates and self.cache.lookup_hash(consumed.input_hash) is not None:
            return
        self._store(consumed, output_packet)

    def _store(self, consumed: _Consumed, output: Packet) -> None:
        function = self.packet_function
        context = Context.of(
            Datagram(function.get_function_variation_data(), function.get_function_variation_data_schema()),
            Datagram(function.get_execution_data(), function.get_execution_data_schema()),
            function.get_environment().environment_hash,
        )
        self.cache.store_hash(consumed.input_hash, output, context)
        if self.cache.auto_flush:
            self._files.flush()

    def get_cached_output_for_packet(self, packet: Packet) -> Packet | None:
        """Return the stored output of a packet, or `None`."""
        return self._find(self._consume(packet))

    def _find(self, consumed: _Consumed) -> Packet | None:
        function = self.packet_function
        constraints = match_constraints(
            self.match, function.get_function_variation_data(), function.get_environment().environment_hash
        )
        found = self.cache.lookup_hash(consumed.input_hash, constraints)
        if found is None:
            return None
        everything = found.as_table(columns=names.ColumnConfig.all())
        return Packet(everything, function.output_packet_schema).with_source(function.uri)

    def get_all_cached_outputs(self, include_system_columns: bool = False) -> pa.Table | None:
        """Return all stored outputs, or `None`."""
        return self.cache.get_all_records(include_system_columns)

    def _consume(self, packet: Packet) -> _Consumed:
        """Hash the packet as the function consumes it: its columns, of the parameters' types, files by their content."""
        bound = self.packet_function.bind_packet(packet)
        if not bound:
            raise OrcapodError(
                f"{self.packet_function.canonical_function_name} takes no parameters, so there is nothing to look up by."
            )
        if not self._files.names:
            return _Consumed(hash_rows(bound), bound)
        columns, looks, problems = self._files.contents(bound)
        if problems:
            raise InputError(problems[0])
        return _Consumed(hash_rows(columns), bound, looks)


@dataclass(frozen=True, slots=True)
class _Consumed:
    """One packet as its function consumes it: the hash, an array of one, the columns, and how its files looked."""

    input_hash: pa.Array
    columns: Mapping[str, pa.Array]
    looks: Looks | None = None
