"""Dagster resources as parameters of packet functions: made anew in each worker, from their class and unresolved configuration.

What Dagster resolved in this process stays here. A worker gets the class of a resource and its values as the definitions have
them, an environment variable by its name; it resolves them there, and sets the resource up and tears it down as Dagster does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

import dagster as dg

from orcapod_dagster._compat import configurable, fields_of
from orcapod_dagster.core.errors import DefinitionError
from orcapod_dagster.core.identity import variable_name
from orcapod_dagster.core.worker_state import WorkerState
from orcapod_dagster.spec import PacketAssetSpec


def with_resources_of_step(spec: PacketAssetSpec, context: Any) -> PacketAssetSpec:
    """Return what was declared, with the resources of a step; `context` is that of an asset or of an asset check."""
    definitions, resources = context.op_execution_context.job_def.resource_defs, context.resources
    return with_resources(spec, definitions, context.run.run_config, lambda key: getattr(resources, key))


def with_resources(
    spec: PacketAssetSpec, definitions: Mapping[str, Any], run_config: Mapping[str, Any], held: Callable[[str], Any]
) -> PacketAssetSpec:
    """Return what was declared, with the resources that its function takes as parameters.

    Args:
        spec: the asset.
        definitions: key → resource, as the definitions have it.
        run_config: of the run; what it says of a resource goes before what the definitions say.
        held: gives a resource by its key as this process has it, set up by Dagster.

    Raises:
        DefinitionError: there is no resource of a parameter's name.
    """
    if not spec.function.resources:
        return spec
    config = {key: one["config"] for key, one in (run_config.get("resources") or {}).items() if "config" in one}
    states: dict[str, WorkerState] = {}
    for name in spec.function.resources:
        if name not in definitions:
            raise DefinitionError(
                f"{spec.key.to_user_string()}: parameter {name!r} is a Dagster resource, and the definitions have none of this key. "
                f"Add resources={{{name!r}: ...}}."
            )
        states[name] = _state(name, definitions, config, held)
    return replace(spec, function=spec.function.with_worker_state(states))


def _state(
    name: str, definitions: Mapping[str, Any], config: Mapping[str, Any], held: Callable[[str], Any]
) -> WorkerState:
    recipes: dict[str, Recipe] = {}
    if not _collect(name, definitions, recipes):
        return WorkerState(Held(name, held), code=())
    classes = [kind for recipe in recipes.values() for kind in recipe.classes()]
    configuration = {
        key if key.startswith(f"{name}.") else f"{name}.{key}": value
        for place, recipe in recipes.items()
        for key, value in {**recipe.counted(f"{place}."), **_counted(config.get(place) or {}, f"{place}.")}.items()
    }
    used = {key: {"config": config[key]} for key in recipes if key in config}
    return WorkerState(rebuilding(name, recipes, used), code=classes, configuration=configuration)


# ---------------------------------------------------------------------------- how a resource is made


class Recipe(NamedTuple):
    """How a configurable resource is made.

    Attributes:
        kind: its class.
        values: its fields as they were given: an environment variable as `EnvVar`, a nested resource as a recipe, or as a
            `Reference` where the run's configuration completes it.
        is_partial: whether the run's configuration completes it.
    """

    kind: type
    values: Mapping[str, Any]
    is_partial: bool

    def counted(self, prefix: str) -> dict[str, Any]:
        """Return what counts of its configuration, by dotted name: an environment variable by its name, not by its value."""
        found: dict[str, Any] = {}
        for name, value in self.values.items():
            if isinstance(value, Recipe):
                found |= value.counted(f"{prefix}{name}.")
            elif not isinstance(value, Reference):
                found |= _counted({name: value}, prefix)
        return found

    def classes(self) -> list[type]:
        """Return its class, and those of nested resources."""
        nested = [value for value in self.values.values() if isinstance(value, Recipe)]
        return [self.kind, *(kind for one in nested for kind in one.classes())]

    def references(self) -> list[str]:
        """Return the keys of the resources that it takes from the definitions."""
        found = [value.key for value in self.values.values() if isinstance(value, Reference)]
        nested = [value for value in self.values.values() if isinstance(value, Recipe)]
        return [*found, *(key for one in nested for key in one.references())]

    def plain(self) -> tuple[Any, ...]:
        """Return it as plain values, which travel without this module."""
        values = {
            name: value.plain() if isinstance(value, Recipe) else ("reference", value.key) if isinstance(value, Reference) else value
            for name, value in self.values.items()
        }  # fmt: skip
        nested = frozenset(name for name, value in self.values.items() if isinstance(value, Recipe | Reference))
        return "recipe", self.kind, values, nested, self.is_partial


class Reference(NamedTuple):
    """A resource that has a key of its own in the definitions."""

    key: str


def _collect(key: str, definitions: Mapping[str, Any], recipes: dict[str, Recipe]) -> bool:
    """Collect the recipes of a resource and of those that it refers to; tell whether all are configurable ones."""
    if key in recipes:
        return True
    resource = configurable(definitions[key])
    if resource is None:
        return False
    recipes[key] = _recipe(resource, definitions)
    return all(_collect(other, definitions, recipes) for other in recipes[key].references())


def _recipe(resource: Any, definitions: Mapping[str, Any]) -> Recipe:
    kind, values, is_partial = fields_of(resource)
    return Recipe(kind, {name: _ingredient(value, definitions) for name, value in values.items()}, is_partial)


def _ingredient(value: Any, definitions: Mapping[str, Any]) -> Any:
    resource = configurable(value)
    if resource is None:
        return value
    made = resource.get_resource_definition()
    for key, one in definitions.items():
        if one is resource or one is made:
            return Reference(key)
    return _recipe(resource, definitions)


def _counted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{name}": _nameable(value) for name, value in values.items()}


def _nameable(value: Any) -> Any:
    """Return a configured value as run configuration would say it; so that both ways to configure count alike."""
    if (variable := variable_name(value)) is not None:
        return {"env": variable}
    if isinstance(value, dg.Config):
        return _counted({name: getattr(value, name) for name in type(value).model_fields})
    if isinstance(value, Mapping):
        return _counted(value)
    return [_nameable(one) for one in value] if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------------------- what makes it in a worker


def rebuilding(name: str, recipes: Mapping[str, Recipe], config: Mapping[str, Any]) -> Callable[[], Any]:
    """Return a factory that makes a resource in whatever process; it travels without this package.

    Args:
        name: key of the resource. recipes: of it and those that it refers to, by key.
        config: run configuration of them, by key.
    """
    plain = {key: recipe.plain() for key, recipe in recipes.items()}

    def resource() -> Generator[Any, None, None]:
        import dagster

        made: dict[str, Any] = {}

        def of_key(key: str) -> Any:
            if key not in made:
                made[key] = of_recipe(plain[key])
            return made[key]

        def of_recipe(recipe: Any) -> Any:
            if recipe[0] == "reference":
                return of_key(recipe[1])
            _, kind, values, nested, is_partial = recipe
            fields = {field: of_recipe(value) if field in nested else value for field, value in values.items()}
            return kind.configure_at_launch(**fields) if is_partial else kind(**fields)

        with dagster.build_resources({key: of_key(key) for key in plain}, resource_config=config) as built:
            yield getattr(built, name)

    kind = recipes[name].kind
    resource.__qualname__, resource.__module__ = kind.__qualname__, kind.__module__
    vars(resource)["made_of"] = tuple(made for recipe in recipes.values() for made in recipe.classes())
    return resource


class Held:
    """A resource that is no `ConfigurableResource`: it is used as this process has it, and cannot be made in another.

    Args:
        key: of the resource. get: gives it by its key.
    """

    made_of = ()

    def __init__(self, key: str, get: Callable[[str], Any]) -> None:
        self._key = key
        self._get = get

    def __call__(self) -> Any:
        """Return it; Dagster tears it down, so it is in nothing that would be closed or left."""
        key, get = self._key, self._get

        def resource() -> Generator[Any, None, None]:
            yield get(key)

        return resource()

    def __reduce__(self) -> NoReturn:
        raise DefinitionError(
            f"Resource {self._key!r} is no ConfigurableResource, so it cannot be made anew in a worker, and what it holds does not "
            "travel. Make it a ConfigurableResource, give the parameter per_worker(...), or use the local executor."
        )
