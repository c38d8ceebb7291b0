"""The names of own code as its source binds them: from one statement to all that it names."""

from __future__ import annotations

import ast
import builtins
import types
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from orcapod_dagster.core.identity.environment import (
    decides_nothing,
    environment_value,
    is_environment_variables,
)
from orcapod_dagster.core.identity.modules import ModuleSource, absolute_name
from orcapod_dagster.core.identity.names import Names, imported_names, names_of
from orcapod_dagster.core.identity.own_code import OwnCode
from orcapod_dagster.core.identity.parts import CodePart, digest_of
from orcapod_dagster.core.identity.resolve import (
    Bound,
    Choice,
    Library,
    Loaded,
    Resolved,
    Resolver,
    WholeModule,
)
from orcapod_dagster.core.identity.statements import Binding
from orcapod_dagster.core.identity.syntax import Definition, dump, dump_literal, is_empty
from orcapod_dagster.core.identity.values import NOT_COUNTED

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_MODULE_NAMES: Final = frozenset(
    {"__name__", "__doc__", "__package__", "__spec__", "__path__", "__builtins__", "__class__"}
)


@dataclass(slots=True)
class Name:
    """A name of a module that counts, with all statements that make what it stands for."""

    module: ModuleSource
    name: str
    bindings: list[tuple[ModuleSource, Binding]]


class SourceWalk(ABC):
    """Collects parts by the names that source uses.

    Args:
        own: the own code of the function.
        ignore: names that do not count.

    Attributes:
        parts: the parts by key, after `finish`.
        reports: what cannot be seen through or comes from the environment, by name, with a sentence each.
        libraries: top-level modules of others that the code refers to.
        ignored: the names of `ignore` that were met.
    """

    def __init__(self, own: OwnCode, ignore: Iterable[str] = ()) -> None:
        self.parts: dict[str, CodePart] = {}
        self.reports: dict[str, str] = {}
        self.libraries: set[str] = set()
        self.ignored: set[str] = set()
        self._ignore = frozenset(ignore)
        self._resolver = Resolver(own)
        self._names: dict[tuple[str, str], Name] = {}
        self._nothing: set[tuple[str, str]] = set()
        self._choices: set[tuple[str, str]] = set()
        self._indexed: set[str] = set()
        self._effects: dict[tuple[str, str], list[tuple[ModuleSource, Binding]]] = {}
        self._queue: deque[Callable[[], None]] = deque()
        self._late: deque[Callable[[], None]] = deque()

    @abstractmethod
    def _add_loaded(self, found: Loaded) -> None:
        """Count a name of an own module that has no source."""

    def finish(self) -> None:
        """Make the parts of all names found."""
        for name in self._names.values():
            self._finish_name(name)

    def _drain(self) -> None:
        while self._queue or self._late:
            while self._queue:
                self._queue.popleft()()
                if not self._queue:
                    self._find_effects()
            if self._late:
                self._late.popleft()()
        self._find_effects()
        if self._queue:
            self._drain()

    # ------------------------------------------------------------------ parts and reports

    def _put(self, kind: str, name: str, text: str, source: str | None = None) -> None:
        if text != NOT_COUNTED and not self._is_ignored(name):
            part = CodePart(kind, name, digest_of(text), source)
            self.parts[part.key] = part

    def _is_ignored(self, name: str) -> bool:
        for ignored in self._ignore:
            if name == ignored or name.endswith("." + ignored):
                self.ignored.add(ignored)
                return True
        return False

    def _report(self, name: str, sentence: str) -> None:
        if not self._is_ignored(name):
            self.reports.setdefault(name, sentence)

    # ------------------------------------------------------------------ names

    def _follow_names(self, module: ModuleSource, names: Names, skip: frozenset[str] = frozenset()) -> None:
        """Count the names that code of a module uses, as its source binds them."""
        for name in names.dynamic:
            self._report_dynamic(module.name, name)
        for chain in sorted(names.chains):
            if chain[0] in skip:
                continue
            if chain[0] in names.imports:
                found = self._resolver.resolve_import(names.imports[chain[0]], module, chain[1:])
            else:
                found = self._resolver.resolve(module, chain)
            resolved = list(found)
            for one in resolved:
                self._add_resolved(one, names.variables_of(chain))
            if not resolved:
                self._add_unbound(module.name, chain[0])

    def _add_unbound(self, module: str, name: str) -> None:
        if name == "__file__":
            self._report("__file__", "is another path on another machine; only the expression counts")
        elif name not in _MODULE_NAMES and not hasattr(builtins, name):
            self._put("unknown", f"{module}.{name}".strip("."), "unknown")

    def _report_dynamic(self, module: str, name: str) -> None:
        self._report(name, f"in {module or 'the code'} finds code by a name that is computed, which cannot be followed")

    def _add_resolved(self, found: Resolved, variables: Iterable[str] = ()) -> None:
        if isinstance(found, Bound):
            self._add_name(found)
        elif isinstance(found, WholeModule):
            self._add_whole(found.module)
        elif isinstance(found, Library):
            self._note_library(found, variables)
        elif isinstance(found, Loaded):
            self._add_loaded(found)
        elif isinstance(found, Choice):
            self._add_choice(found.module, found.name)
        else:
            self._put("unknown", found.dotted, "unknown")

    def _add_name(self, bound: Bound) -> None:
        module, key = bound.module, (bound.module.name, bound.name)
        if key in self._names or key in self._nothing or self._is_ignored(f"{module.name}.{bound.name}"):
            return
        self._resolver.reach(module)
        bindings = [b for b in module.bindings[bound.name] if not isinstance(b.statement, ast.Import | ast.ImportFrom)]
        if all(decides_nothing(module.maker_of(b.statement)) for b in bindings):
            self._nothing.add(key)
            return
        self._names[key] = Name(module, bound.name, [])
        for binding in bindings:
            self._add_binding(self._names[key], module, binding)
        for source, binding in self._effects.get(key, []):
            self._add_binding(self._names[key], source, binding)

    def _add_choice(self, module: ModuleSource, name: str) -> None:
        """Count which import binds a name, and the conditions under which it does."""
        if (module.name, name) in self._choices:
            return
        self._choices.add((module.name, name))
        texts: dict[str, str] = {}
        bindings = module.bindings[name] if name != "*" else module.statements
        for binding in bindings:
            statement, guards = binding.statement, self._guards_text(module, binding)
            if isinstance(statement, ast.Import | ast.ImportFrom):
                bound = [found for one, found in imported_names(statement) if one == name]
                targets = [f"{absolute_name(found, module.package)}.{found.attribute}" for found in bound]
            else:
                targets = [] if name == "*" else ["own"]
            texts.update({f"{guards}{target}": target for target in targets})
            for guard in binding.guards if targets else ():
                self._queue.append(partial(self._follow_names, module, names_of([guard])))
        chosen = len(texts) > 1 or any(text != target for text, target in texts.items())
        if chosen and not all(map(decides_nothing, texts.values())):
            self._put("import", f"{module.name}.{name}", "\n".join(texts))

    def _add_binding(self, name: Name, module: ModuleSource, binding: Binding) -> None:
        if any(known is binding for _, known in name.bindings):
            return
        name.bindings.append((module, binding))
        for guard in binding.guards:
            self._queue.append(partial(self._follow_names, module, names_of([guard])))
        statement = binding.statement
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.value is not None
        ):
            # The annotation of a constant decides nothing.
            self._queue.append(partial(self._follow_names, module, names_of([statement.value], module.keeps)))
        else:
            self._queue.append(partial(self._follow_names, module, module.names_in(statement)))
        for chain in module.changed_in(binding.statement):
            for found in self._resolver.resolve(module, chain):
                self._changes(found)

    def _find_effects(self) -> None:
        """Find the statements of newly reached modules that change names which count."""
        for name, module in list(self._resolver.reached.items()):
            if name in self._indexed:
                continue
            self._indexed.add(name)
            for effect in module.effects:
                for target in self._resolver.targets(module, effect):
                    self._effects.setdefault(target, []).append((module, effect.binding))
                    if target in self._names:
                        self._add_binding(self._names[target], module, effect.binding)

    def _note_library(self, found: Library, variables: Iterable[str] = ()) -> None:
        top = found.dotted.partition(".")[0]
        self.libraries.add(top)
        if self._resolver.own.origin(top) == "beside":
            self._report(
                top,
                f"is code that does not count, for it is not of the function's package; own_code=[{top!r}] counts it",
            )
        if found.local is not None and not decides_nothing(found.imported):
            self._put("import", ".".join(found.local), found.imported)
        value = environment_value(found.dotted)
        if value is None:
            return
        if is_environment_variables(value):
            for variable in variables:
                self._report(variable, "is an environment variable; only the expression that reads it counts")
            if variables:
                return
        self._report(value, "differs between machines or runs; only the expression counts")

    def _add_whole(self, module: ModuleSource) -> None:
        """Count all of a module that is passed about as a value."""
        if not module.file or f"module {module.name}" in self.parts or self._is_ignored(module.name):
            return
        tree = ast.Module([b.statement for b in module.statements], [])
        self._put("module", module.name, dump(tree, keeper(module)), module.text)
        for name in module.bindings:
            self._queue.append(partial(self._add_all, module, name))

    def _add_all(self, module: ModuleSource, name: str) -> None:
        for found in self._resolver.resolve(module, (name,)):
            if not isinstance(found, WholeModule):
                self._add_resolved(found)

    # ------------------------------------------------------------------ state that changes

    def _changes(self, found: Resolved) -> None:
        if not isinstance(found, Bound):
            return
        bindings = [b.statement for b in found.module.bindings[found.name]]
        starts_empty = all(isinstance(s, ast.Assign | ast.AnnAssign) and is_empty(s.value) for s in bindings)
        makers = [found.module.maker_of(b.statement) for b in found.module.bindings[found.name]]
        if not starts_empty and not all(map(decides_nothing, makers)):
            name = f"{found.module.name}.{found.name}"
            self._report(name, "changes while the code runs; it counts as it is written")

    # ------------------------------------------------------------------ texts of names

    def _finish_name(self, name: Name) -> None:
        if not name.bindings:
            return
        ordered = sorted(name.bindings, key=lambda pair: (pair[0] is not name.module, pair[0].name))
        texts = [self._binding_text(module, binding) for module, binding in ordered]
        own = [b.statement for b in name.module.bindings[name.name]]
        definitions = [statement for statement in own if isinstance(statement, Definition)]
        kind = "constant"
        if definitions:
            kind = "class" if isinstance(definitions[0], ast.ClassDef) else "helper"
        source = "\n".join(module.source_of([b.statement]) for module, b in ordered) if definitions else None
        self._put(kind, f"{name.module.name}.{name.name}", "\n".join(texts), source)

    def _guards_text(self, module: ModuleSource, binding: Binding) -> str:
        return "".join(f"if {dump(guard, keeper(module))}:" for guard in binding.guards)

    def _binding_text(self, module: ModuleSource, binding: Binding) -> str:
        keep = keeper(module)
        guards = self._guards_text(module, binding)
        statement = binding.statement
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if all(isinstance(target, ast.Name) for target in targets):
                return guards + (dump_literal(statement.value) or dump(statement.value, keep))
        return guards + module.text_of(statement)


_NOWHERE: Final = ModuleSource("", "", "", "", ast.Module([], []))


def keeper(module: ModuleSource | None, scope: dict[str, Any] | None = None) -> Callable[[ast.expr], bool]:
    """Return what tells whether a decorator counts, by the module's imports or by what a running namespace holds."""
    if module is not None or scope is None:
        return (module or _NOWHERE).keeps

    def keeps(decorator: ast.expr) -> bool:
        root, *rest = _NOWHERE.dotted(decorator).split(".")
        value = scope.get(root)
        where = (getattr(value, "__module__", None), getattr(value, "__qualname__", None))
        start = value.__name__ if isinstance(value, types.ModuleType) else ".".join(filter(None, where)) or root
        return _NOWHERE.keeps(ast.Name(".".join((start, *rest))))

    return keeps
