"""What a dotted name in own code stands for, found in source alone: a binding, a module, or another library's name."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from orcapod_dagster.core.identity.modules import (
    ModuleSource,
    absolute_name,
    find_module,
    find_spec,
)
from orcapod_dagster.core.identity.names import Chain, ImportedName, imported_names
from orcapod_dagster.core.identity.own_code import OwnCode
from orcapod_dagster.core.identity.statements import Effect, changes_itself, same_objects


@dataclass(frozen=True, slots=True)
class Bound:
    """A name that statements of an own module bind; `rest` are attributes of what it stands for."""

    module: ModuleSource
    name: str
    rest: Chain = ()


@dataclass(frozen=True, slots=True)
class WholeModule:
    """An own module itself."""

    module: ModuleSource


@dataclass(frozen=True, slots=True)
class Loaded:
    """A name of an own module that has no source (compiled, or bytecode alone)."""

    module: str
    rest: Chain


@dataclass(frozen=True, slots=True)
class Library:
    """A dotted name of code that is not the user's own."""

    dotted: str
    local: tuple[str, str] | None = None
    """The own module, and the name, under which it was imported at module level."""
    imported: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A name (`"*"` for star imports) of an own module that more than one import may bind, or one under a condition."""

    module: ModuleSource
    name: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name that nothing binds."""

    dotted: str


Resolved = Bound | WholeModule | Loaded | Library | Choice | Unknown


@dataclass(slots=True)
class Resolver:
    """Resolves names within the own code of one function, and finds the statements that change what they stand for."""

    own: OwnCode
    reached: dict[str, ModuleSource] = field(default_factory=dict[str, ModuleSource])
    """Modules that are imported, directly or not, when the modules are imported that were looked into."""
    _found: dict[str, ModuleSource | None] = field(default_factory=dict[str, ModuleSource | None])
    _open: set[tuple[str, Chain]] = field(default_factory=set[tuple[str, Chain]])

    def find(self, name: str) -> ModuleSource | None:
        """Return the source of a module of own code."""
        if name not in self._found:
            self._found[name] = find_module(name)
        return self._found[name]

    def reach(self, module: ModuleSource) -> None:
        """Note a module, the packages around it and all of own code that they import."""
        pending = [module]
        while pending:
            one = pending.pop()
            if one.name in self.reached:
                continue
            self.reached[one.name] = one
            names = [one.name.rpartition(".")[0]]
            for found in one.imports:
                target = absolute_name(found, one.package)
                names += [target, f"{target}.{found.attribute}"] if found.attribute else _with_parents(target)
            own = (self.find(name) for name in dict.fromkeys(names) if name and self.own.covers(name))
            pending += [source for source in own if source is not None]

    def resolve(self, module: ModuleSource, chain: Chain) -> list[Resolved]:
        """Return what a name at the top level of a module stands for; nothing where no statement binds it."""
        key = (module.name, chain)
        if key in self._open:  # modules may import all of each other
            return []
        self._open.add(key)
        try:
            return list(self._resolve(module, chain))
        finally:
            self._open.remove(key)

    def _resolve(self, module: ModuleSource, chain: Chain) -> Iterator[Resolved]:
        self.reach(module)
        bindings = module.bindings.get(chain[0])
        yield from self._resolve_star(module, chain)
        if bindings is None:
            return
        if any(not isinstance(b.statement, ast.Import | ast.ImportFrom) for b in bindings):
            yield Bound(module, chain[0], chain[1:])
        for binding in bindings:
            if isinstance(binding.statement, ast.Import | ast.ImportFrom):
                for name, found in imported_names(binding.statement):
                    if name == chain[0]:
                        yield from self.resolve_import(found, module, chain[1:], (module.name, name))
        imports = [b for b in bindings if isinstance(b.statement, ast.Import | ast.ImportFrom)]
        if imports and (len(bindings) > 1 or imports[0].guards):
            yield Choice(module, chain[0])

    def _resolve_star(self, module: ModuleSource, chain: Chain) -> Iterator[Resolved]:
        rebound = module.rebound_after(chain[0]) if module.stars else 0
        for star, line in module.stars:
            target = absolute_name(star, module.package)
            if line < rebound:
                return
            if not self.own.covers(target):
                if chain[0] not in module.bindings and not hasattr(builtins, chain[0]):
                    yield Library(f"{target}.{'.'.join(chain)}", (module.name, "*"), target)
                continue
            source = self.find(target)
            if source is not None and source.exports(chain[0]):
                found = self.resolve(source, chain)
                yield from found
                if found and line not in module.certain_lines:
                    yield Choice(module, "*")
                if line in module.certain_lines and source.rebound_after(chain[0]):
                    return  # star imports above this one bring nothing of that name

    def resolve_import(
        self, found: ImportedName, importer: ModuleSource | str, rest: Chain, local: tuple[str, str] | None = None
    ) -> Iterator[Resolved]:
        """Yield what an imported name stands for; `importer` is a module, or the package that dots are relative to."""
        target = absolute_name(found, importer if isinstance(importer, str) else importer.package)
        member: Chain = (found.attribute,) if found.attribute and found.attribute != "*" else ()
        if not self.own.covers(target):
            imported = ".".join((target, *member))
            yield Library(".".join((target, *member, *rest)), local, imported)
            return
        parts: Chain = (*member, *rest)
        while True:
            source = self.find(target)
            if parts[:1] == ("__dict__",):
                parts = ()
            if source is not None:
                self.reach(source)
                found_here = self.resolve(source, parts) if parts else [WholeModule(source)]
                if found_here:
                    yield from found_here
                    return
            if parts and self._exists(".".join((target, *parts[:1]))):
                target, parts = ".".join((target, *parts[:1])), parts[1:]
                continue
            if source is None:
                yield Loaded(target, parts)
            elif "__getattr__" in source.bindings:
                yield Bound(source, "__getattr__")
            else:
                yield Unknown(".".join((target, *parts[:1])))
            return

    def _exists(self, module: str) -> bool:
        return module in sys.modules or self.find(module) is not None or find_spec(module) is not None

    # ------------------------------------------------------------------ what changes names from outside

    def targets(self, module: ModuleSource, effect: Effect) -> Iterator[tuple[str, str]]:
        """Yield (module, name) of every name of own code that an effect may change."""
        for chain in effect.changed:
            yield from ((b.module.name, b.name) for b in self._same_object(module, chain))
        for chain in effect.called:
            for bound in self.resolve(module, chain):
                if isinstance(bound, Bound):
                    yield from self._changed_by_call(bound)

    def _same_object(self, module: ModuleSource, chain: Chain) -> list[Bound]:
        """Return the names that stand for one object with a name: `A = B = []`, or `B = A`."""
        found: list[Bound] = []
        pending = [(module, chain)]
        while pending:
            where, one = pending.pop()
            for bound in self.resolve(where, one):
                if not isinstance(bound, Bound) or any(
                    b.module is bound.module and b.name == bound.name for b in found
                ):
                    continue
                found.append(bound)
                for binding in bound.module.bindings[bound.name]:
                    pending += [(bound.module, other) for other in same_objects(binding.statement)]
        return found

    def _changed_by_call(self, bound: Bound) -> Iterator[tuple[str, str]]:
        for binding in bound.module.bindings[bound.name]:
            statement = binding.statement
            if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            for name in changes_itself(statement):
                found = self.resolve(bound.module, (name,))
                yield from ((b.module.name, b.name) for b in found if isinstance(b, Bound))


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]
