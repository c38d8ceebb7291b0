"""Counting: which stored results and outcomes count for a function as it is now.

Those that the match policy names; those of versions of the code that were accepted as equal; those that were stored under a
former name; those whose output types have grown since. Nothing is copied: the tables of such results are read beside the
function's own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.acceptance import Acceptance, AcceptanceStore
from orcapod_dagster.core.casting import unencoded_schema
from orcapod_dagster.core.code_store import CodeStore
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.equivalence import Change, Related, equivalents, holds_for, touches
from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.hashing import PACKET_METHOD
from orcapod_dagster.core.identity import Environment, text_but_for_return
from orcapod_dagster.core.matching import Constraints, MatchPolicy, match_constraints
from orcapod_dagster.core.outcomes import OutcomeLog
from orcapod_dagster.core.packet_function import PythonPacketFunction
from orcapod_dagster.core.result_cache import ResultCache, record_schema
from orcapod_dagster.core.sources import TableSource
from orcapod_dagster.core.widening import WidenedSource, widenings

_BY_CODE: Final = ("content", "environment")


@dataclass(frozen=True, slots=True)
class RelatedTable:
    """A table of results of a former name, or of output types that have grown since.

    Attributes:
        uri: of the function that they were stored under. source: its records, with the columns and types of now.
        state: changes whenever records are added. widened: whether it has other output types.
    """

    uri: tuple[str, ...]
    source: TableSource
    state: str
    widened: bool


class Counting:
    """What counts for one function under one match policy; looked up once, until `refresh`.

    Args:
        function: as it is.
        cache, outcomes: of the function; these are told which further tables to read.
        match: the policy.
        assumed: acceptances that are taken to hold beside those of the lake.

    Raises:
        DefinitionError: as `refuse_former_names`.
    """

    def __init__(
        self,
        function: PythonPacketFunction,
        cache: ResultCache,
        outcomes: OutcomeLog | None,
        match: MatchPolicy,
        assumed: Sequence[Acceptance] = (),
    ) -> None:
        refuse_former_names(function, match, function.canonical_function_name)
        self._assumed = tuple(assumed)
        self._function = function
        self._cache = cache
        self._outcomes = outcomes
        self._match: MatchPolicy = match
        self._contents: dict[str, frozenset[str]] = {}
        self._related: list[RelatedTable] | None = None

    def refresh(self) -> None:
        """Look again, at the next question."""
        self._contents.clear()
        self._related = None

    def contents(self, content_hash: str) -> frozenset[str]:
        """Return the content hashes that count as this one, which is the function's own; itself among them."""
        related = self._look()
        if self._match not in _BY_CODE:
            return frozenset([content_hash])
        if content_hash not in self._contents:
            self._contents[content_hash] = self._find_contents(content_hash, related)
        return self._contents[content_hash]

    @functools.cached_property
    def environment(self) -> Environment:
        """The Python and the distributions that the function's code refers to; looked up when first asked, for that takes time."""
        return self._function.get_environment()

    def constraints(self, variation: Mapping[str, str], environment: str | None = None) -> Constraints:
        """Return what a stored result must have to count.

        Where further versions of the code count, the signature is not asked for. What it says of the parameters is in the
        hash of the input, their defaults included; order, kinds and the return annotation are in the content hash; the output
        types in the place of the results. So no result of another signature could be taken for one of this.

        Args:
            variation: what the function is.
            environment: as `match_constraints` takes it; by default that of now, where the policy asks for it.
        """
        if environment is None:
            environment = self.environment.environment_hash if self._match == "environment" else ""
        wanted = match_constraints(self._match, variation, environment)
        found = self.contents(variation["function_content_hash"])
        if len(found) == 1:
            return wanted
        kept = {column: value for column, value in wanted.items() if column != names.SIGNATURE_HASH}
        return {**kept, names.CONTENT_HASH: tuple(sorted(found))}

    def identity(self, variation: Mapping[str, str]) -> str:
        """Return a text that says which results count, to be compared by `covers`."""
        wanted = self.constraints(variation)
        values = {name: [value] if isinstance(value, str) else sorted(value) for name, value in wanted.items()}
        return json.dumps([[*self._cache.record_path, self._match, PACKET_METHOD], values], sort_keys=True)

    def state(self) -> str:
        """Return a text that changes whenever results are added that may count, in further tables too."""
        self._look()
        return self._cache.state()

    # ------------------------------------------------------------------ further tables

    def _look(self) -> list[RelatedTable]:
        if self._related is None:
            # Without the code, nothing tells a wider type from another function; so the types must be the same.
            widened = self._match in _BY_CODE
            self._related = list(related_tables(self._cache, self._function, widened=widened))
            self._cache.beside = tuple(one.source for one in self._related)
            self._cache.beside_state = "+".join(one.state for one in self._related)
            self._cache.beside_schema = _target_schema(self._function)
            if self._outcomes is not None:
                start = self._outcomes.path[: -len(self._function.uri)]
                self._outcomes.beside = tuple((*start, *one.uri) for one in self._related)
        return self._related

    # ------------------------------------------------------------------ further versions of the code

    def _find_contents(self, content_hash: str, related: Sequence[RelatedTable]) -> frozenset[str]:
        function = self._function
        widened = any(one.widened for one in related)
        called = [function.canonical_function_name, *function.formerly]
        standing = AcceptanceStore(self._cache.database).standing()
        accepted = [one for one in (*standing, *self._assumed) if holds_for(called, one)]
        if not accepted and not widened and not function.formerly:
            return frozenset([content_hash])
        codes = [function.get_function_code(), *map(function.get_function_code, function.formerly)]
        current = {one.content_hash: {key: part.digest for key, part in one.parts.items()} for one in codes}
        if not widened and not touches(current, accepted):
            return frozenset([content_hash, *current])
        store = CodeStore(self._cache.database)
        known = {one.content_hash: one for one in store.codes_of(called)}
        bodies = {one.content_hash: one.sources.get("body") for one in known.values()}
        bodies |= {one.content_hash: one.parts["body"].source for one in codes if "body" in one.parts}
        digests = {one.content_hash: one.digests for one in known.values()}
        return equivalents(current, digests, accepted, self._but_for_return(bodies) if widened else None) | {
            content_hash
        }

    def _but_for_return(self, bodies: Mapping[str, str | None]) -> Related:
        function = self._function
        text_of = text_but_for_return(function.function, function.formerly)

        @functools.cache
        def text(content_hash: str) -> str | None:
            source = bodies.get(content_hash)
            return None if source is None else text_of(source)

        def related(one: str, other: str, left: Mapping[str, Change]) -> bool:
            return set(left) == {"body"} and (found := text(one)) is not None and found == text(other)

        return related


def refuse_former_names(function: PythonPacketFunction, match: MatchPolicy, owner: str) -> None:
    """Refuse former names under a policy that does not ask for the code.

    Args:
        function: as it is. match: the policy. owner: whom a message names.

    Raises:
        DefinitionError: the function has former names, and by the policy whatever is called so now would count as it.
    """
    if function.formerly and match not in _BY_CODE:
        raise DefinitionError(
            f"{owner}: formerly={list(function.formerly)} does not go with match={match!r}, which does not ask for the code: results "
            "of any function that bears the former name, now or later, would be taken for its own. Give match='content' or "
            "'environment', or leave formerly out."
        )


def covers(now: str, said: str) -> bool:
    """Tell whether all results that counted then, by their `identity`, count now; another text says that none does."""
    try:
        (place, values), (other_place, other_values) = json.loads(now), json.loads(said)
    except ValueError:
        return False
    # A column that is not asked for, as the signature where several versions of the code count, may hold anything.
    return place == other_place and all(
        name in other_values and set(other_values[name]) <= set(values[name]) for name in values
    )


def related_tables(cache: ResultCache, function: PythonPacketFunction, *, widened: bool) -> list[RelatedTable]:
    """Open the tables of results of former names, and of such output types as have grown into those of now.

    Args:
        cache: of the function; a place that does not end in its `uri` has no further tables.
        function: as it is.
        widened: whether those of other output types are asked for.
    """
    uri = function.uri
    if cache.record_path[-len(uri) :] != uri:
        return []
    start, target = cache.record_path[: -len(uri)], _target_schema(function)
    found: list[RelatedTable] = []
    for name in dict.fromkeys([uri[0], *function.formerly]):
        for schema_hash in cache.database.children((*start, name)):
            other = (name, schema_hash, *uri[2:])
            if other == uri or (uri[1] != schema_hash and not widened):
                continue
            if (one := _open(cache.database, start, other, target, uri)) is not None:
                found.append(one)
    return found


def _open(
    database: ArrowDatabase, start: tuple[str, ...], uri: tuple[str, ...], target: pa.Schema, own: tuple[str, ...]
) -> RelatedTable | None:
    source = database.source((*start, *uri))
    if source is None:
        return None
    grown = widenings(
        *([field for field in schema if not names.is_reserved(field.name)] for schema in (source.schema, target))
    )
    if grown is None:
        return None
    checked = [name for name, how in grown.items() if how == "some"]
    state = database.state((*start, *uri))
    return RelatedTable(uri, WidenedSource(source, target, checked), state, uri[1] != own[1])


def _target_schema(function: PythonPacketFunction) -> pa.Schema:
    return unencoded_schema(record_schema(function.output_arrow_schema))
