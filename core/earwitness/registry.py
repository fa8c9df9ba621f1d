"""The door: finds every plugin, keeps what is broken apart, and answers by name.

Tolerant on list, strict on use. Each distribution and each hook implementation is guarded: what fails is kept with its
distribution, version and reason, and the rest goes on. The loop is ours because pluggy's own is eager, stops at the
first broken plugin and skips duplicates silently; the hook specifications and their validation are pluggy's.

Core's own commands (``earwitness.hooks``) come in through the same loop, ahead of the entry points.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import pluggy

from earwitness import hookspecs
from earwitness.errors import PluginError, nearest
from earwitness.specs import ClassifierSpec, CommandSpec, DatasetSpec, ExplainerSpec, MetricSpec, Spec

ENTRY_POINT_GROUP = "earwitness"
OWN_DISTRIBUTION = "earwitness"
KINDS: dict[str, type[Spec]] = {
    "explainers": ExplainerSpec,
    "metrics": MetricSpec,
    "classifiers": ClassifierSpec,
    "datasets": DatasetSpec,
    "commands": CommandSpec,
}

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Origin:
    """Who offers a spec: a distribution, its version, and the module of its hooks."""

    distribution: str
    version: str
    module: str


@dataclass(frozen=True)
class Plugin:
    """A module of hooks that is installed but not yet imported.

    Attributes
    ----------
    origin : Origin
    name : str
        Of its entry point; unique within the distribution.
    load : callable
        Imports and returns the module.
    """

    origin: Origin
    name: str
    load: Callable[[], object]


@dataclass(frozen=True)
class Offer(Generic[S]):
    """A spec together with its origin."""

    spec: S
    origin: Origin

    @property
    def qualified_name(self) -> str:
        """``distribution:name``: unique even where two distributions offer the same name."""
        return f"{self.origin.distribution}:{self.spec.name}"


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin, or one of its hooks, that could not be used, and why."""

    origin: Origin
    reason: str


class Registry:
    """Every spec on offer, by kind.

    Parameters
    ----------
    plugins : iterable of Plugin
        See :func:`installed_plugins`.

    Attributes
    ----------
    broken : list of BrokenPlugin
        What could not be used. Nothing is raised for it until something of it is asked for.
    """

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self._offers: dict[str, list[Offer[Spec]]] = {kind: [] for kind in KINDS}
        self.broken: list[BrokenPlugin] = []
        manager = pluggy.PluginManager("earwitness")
        manager.add_hookspecs(hookspecs)
        for plugin in plugins:
            self._admit(manager, plugin)

    def _admit(self, manager: pluggy.PluginManager, plugin: Plugin) -> None:
        name = f"{plugin.origin.distribution}/{plugin.name}"
        try:
            module = plugin.load()
            manager.register(module, name=name)
            callers = manager.get_hookcallers(module)
            if not callers:
                raise PluginError("it has no hooks. Are its functions marked with @hookimpl?")
        except (Exception, SystemExit) as error:
            self.broken.append(BrokenPlugin(plugin.origin, _reason(error)))
            return
        for caller in callers:
            if caller.spec is None:
                reason = f"unknown hook {caller.name!r}. {nearest(caller.name, _hook_names())}"
                self.broken.append(BrokenPlugin(plugin.origin, reason))
        for kind in KINDS:
            self._collect(kind, getattr(manager.hook, f"earwitness_{kind}"), name, plugin.origin)

    def _collect(self, kind: str, hook: pluggy.HookCaller, plugin_name: str, origin: Origin) -> None:
        for implementation in hook.get_hookimpls():
            if implementation.plugin_name != plugin_name:
                continue
            try:
                for spec in cast(Iterable[object], implementation.function() or ()):
                    self._accept(kind, spec, origin)
            except (Exception, SystemExit) as error:
                self.broken.append(BrokenPlugin(origin, f"earwitness_{kind}: {_reason(error)}"))

    def _accept(self, kind: str, spec: object, origin: Origin) -> None:
        if not isinstance(spec, KINDS[kind]):
            raise PluginError(f"it must yield {KINDS[kind].__name__}, got {spec!r}")
        offer = Offer(spec, origin)
        if any(other.qualified_name == offer.qualified_name for other in self._offers[kind]):
            raise PluginError(f"{offer.qualified_name} is offered twice by the same distribution")
        self._offers[kind].append(offer)

    def offers(self, kind: str) -> list[Offer[Spec]]:
        """All offers of one kind (a key of ``KINDS``), sorted by name and distribution; colliding names included."""
        return sorted(self._offers[kind], key=lambda offer: (offer.spec.name, offer.origin.distribution))

    def shown_names(self, kind: str) -> dict[str, Offer[Spec]]:
        """All offers of one kind by the shortest name that is unique: ``dist:name`` where two offer the same one."""
        offers = self.offers(kind)
        often = Counter(offer.spec.name for offer in offers)
        return {(o.spec.name if often[o.spec.name] == 1 else o.qualified_name): o for o in offers}

    def named(self, kind: str, name: str) -> list[Offer[Spec]]:
        """All offers of one kind that go by a name, or else by ``distribution:name``: none, one, or several."""
        offers = self.offers(kind)
        distribution, _, bare = name.partition(":")
        return [offer for offer in offers if offer.spec.name == name] or [
            offer
            for offer in offers
            if offer.spec.name == bare and same_distribution(offer.origin.distribution, distribution)
        ]

    def find(self, kind: str, name: str) -> Offer[Spec]:
        """The one offer called ``name``.

        Parameters
        ----------
        kind : str
            ``"explainers"``, ``"metrics"``, ``"classifiers"``, ``"datasets"`` or ``"commands"``.
        name : str
            A name, or ``distribution:name`` where two distributions offer the same one.

        Raises
        ------
        PluginError
            Nobody offers it, or more than one distribution does.
        """
        found = self.named(kind, name)
        if len(found) == 1:
            return found[0]
        if found:
            names = " and ".join(sorted(offer.qualified_name for offer in found))
            raise PluginError(f"The {kind[:-1]} {name!r} is offered more than once: {names}. Name one of them in full.")
        message = f"There is no {kind[:-1]} {name!r}. {nearest(name, self._candidates(kind, name))}"
        if self.broken:
            broken = "; ".join(f"{b.origin.distribution} {b.origin.version} ({b.reason})" for b in self.broken)
            message += f" Something is broken in these plugins, so what they offer may be missing: {broken}."
        raise PluginError(message)

    def _candidates(self, kind: str, name: str) -> set[str]:
        """What may have been meant: members of the family, names in full, or plain names and one stand-in a family."""
        specs = [offer.spec for offer in self._offers[kind]]
        prefix, colon, _ = name.partition(":")
        if members := {spec.name for spec in specs if colon and spec.family == prefix}:
            return members
        if colon:
            return {spec.name for spec in specs} | {offer.qualified_name for offer in self._offers[kind]}
        return {f"{spec.family}:NAME" if spec.family else spec.name for spec in specs}

    def explainer(self, name: str) -> Offer[ExplainerSpec]:
        """The explainer called ``name``; see :meth:`find`."""
        return self.find("explainers", name)  # type: ignore[return-value]

    def metric(self, name: str) -> Offer[MetricSpec]:
        """The metric called ``name``; see :meth:`find`."""
        return self.find("metrics", name)  # type: ignore[return-value]

    def classifier(self, name: str) -> Offer[ClassifierSpec]:
        """The classifier called ``name``; see :meth:`find`."""
        return self.find("classifiers", name)  # type: ignore[return-value]

    def dataset(self, name: str) -> Offer[DatasetSpec]:
        """The data set called ``name``; see :meth:`find`."""
        return self.find("datasets", name)  # type: ignore[return-value]

    def command(self, name: str) -> Offer[CommandSpec]:
        """The command called ``name``; see :meth:`find`."""
        return self.find("commands", name)  # type: ignore[return-value]


def _hook_names() -> list[str]:
    return [f"earwitness_{kind}" for kind in KINDS]


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _canonical(distribution: str) -> str:
    """A distribution's name as packaging compares them: ``Acme_Sound`` and ``acme-sound`` are one."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def same_distribution(one: str, other: str) -> bool:
    """Whether two spellings name one distribution."""
    return _canonical(one) == _canonical(other)


def installed_plugins(*, allowed: Iterable[str] | None = None, switched_off: Iterable[str] = ()) -> Iterator[Plugin]:
    """Core's own hooks, then those of the installed distributions in a stable order.

    Parameters
    ----------
    allowed : iterable of str, optional
        Only these distributions. Default: the comma-separated ``EARWITNESS_PLUGINS``, or all where it is not set or
        empty. The ``earwitness`` distribution itself is always allowed.
    switched_off : iterable of str
        Distributions to leave out (``--no-plugin``). Core's own commands stay.
    """
    if allowed is None and os.environ.get("EARWITNESS_PLUGINS"):
        allowed = [name.strip() for name in os.environ["EARWITNESS_PLUGINS"].split(",")]
    permitted = None if allowed is None else {_canonical(name) for name in (*allowed, OWN_DISTRIBUTION)}
    refused = {_canonical(name) for name in switched_off}
    yield _own_plugin()
    for plugin in _entry_point_plugins():
        distribution = _canonical(plugin.origin.distribution)
        if distribution not in refused and (permitted is None or distribution in permitted):
            yield plugin


def plugin_distributions() -> list[str]:
    """Names of the installed distributions that have plugins, switched off or not."""
    return sorted({plugin.origin.distribution for plugin in _entry_point_plugins()})


def _own_plugin() -> Plugin:
    try:
        version = importlib.metadata.version(OWN_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that was never installed
        version = "unknown"
    module = "earwitness.hooks"
    return Plugin(Origin(OWN_DISTRIBUTION, version, module), "core", lambda: importlib.import_module(module))


@functools.cache
def _entry_point_plugins() -> tuple[Plugin, ...]:
    plugins: dict[tuple[str, str, str], Plugin] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        # Metadata is read from disk at each access, and lacks a name where an installation was interrupted.
        metadata = point.dist.metadata if point.dist else {"Name": None, "Version": None}
        origin = Origin(metadata["Name"] or "unknown", metadata["Version"] or "unknown", point.value)
        # One folder may stand twice on sys.path: the first one counts.
        plugins.setdefault((origin.distribution, point.name, point.value), Plugin(origin, point.name, point.load))
    return tuple(plugins[key] for key in sorted(plugins))


@functools.cache
def registry(switched_off: tuple[str, ...] = ()) -> Registry:
    """The registry of this process, built once.

    Parameters
    ----------
    switched_off : tuple of str
        Distributions to leave out.
    """
    return Registry(installed_plugins(switched_off=switched_off))
