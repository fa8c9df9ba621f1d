"""The door: finds every plugin, keeps what is broken apart, and answers by name.

Tolerant on list, strict on use. Each distribution and each hook implementation is guarded: what fails is kept with its
distribution, version and reason, and the rest goes on. The loop is ours because pluggy's own is eager, stops at the
first broken plugin and skips duplicates silently; the hook specifications and their validation are pluggy's.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import pluggy

from earwitness import hookspecs
from earwitness.errors import PluginError, nearest
from earwitness.specs import ClassifierSpec, CommandSpec, DatasetSpec, ExplainerSpec, MetricSpec, Spec

ENTRY_POINT_GROUP = "earwitness"
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
    entry_points : iterable of importlib.metadata.EntryPoint
        The plugins' hook modules, one per entry point.
    """

    def __init__(self, entry_points: Iterable[importlib.metadata.EntryPoint]) -> None:
        self._offers: dict[str, list[Offer[Spec]]] = {kind: [] for kind in KINDS}
        self.broken: list[BrokenPlugin] = []
        manager = pluggy.PluginManager("earwitness")
        manager.add_hookspecs(hookspecs)
        for entry_point in entry_points:
            self._admit(manager, entry_point)

    def _admit(self, manager: pluggy.PluginManager, entry_point: importlib.metadata.EntryPoint) -> None:
        distribution = entry_point.dist
        origin = Origin(
            distribution.name if distribution else "unknown",
            distribution.version if distribution else "unknown",
            entry_point.value,
        )
        name = f"{origin.distribution}/{entry_point.name}"
        try:
            module = entry_point.load()
            manager.register(module, name=name)
            for hook in manager.get_hookcallers(module) or []:
                if hook.spec is None:
                    raise PluginError(f"unknown hook {hook.name!r}. {nearest(hook.name, _hook_names())}")
        except (Exception, SystemExit) as error:
            self.broken.append(BrokenPlugin(origin, f"{type(error).__name__}: {error}"))
            return
        for kind in KINDS:
            self._collect(kind, getattr(manager.hook, f"earwitness_{kind}"), name, origin)

    def _collect(self, kind: str, hook: pluggy.HookCaller, plugin_name: str, origin: Origin) -> None:
        for implementation in hook.get_hookimpls():
            if implementation.plugin_name != plugin_name:
                continue
            try:
                for spec in implementation.function() or ():
                    if not isinstance(spec, KINDS[kind]):
                        raise PluginError(f"earwitness_{kind} must yield {KINDS[kind].__name__}, got {spec!r}")
                    self._offers[kind].append(Offer(spec, origin))
            except (Exception, SystemExit) as error:
                self.broken.append(BrokenPlugin(origin, f"earwitness_{kind}: {type(error).__name__}: {error}"))

    def offers(self, kind: str) -> list[Offer[Spec]]:
        """All offers of one kind (a key of ``KINDS``), sorted by name and distribution; colliding names included."""
        return sorted(self._offers[kind], key=lambda offer: (offer.spec.name, offer.origin.distribution))

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
        distribution, colon, bare = name.rpartition(":")
        found = [
            offer
            for offer in self._offers[kind]
            if offer.spec.name == bare and (not colon or offer.origin.distribution == distribution)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            names = " and ".join(sorted(offer.qualified_name for offer in found))
            raise PluginError(f"The {kind[:-1]} {bare!r} is offered more than once: {names}. Name one of them in full.")
        known = {offer.spec.name for offer in self._offers[kind]} | {o.qualified_name for o in self._offers[kind]}
        shown = known if colon else {offer.spec.name for offer in self._offers[kind]}
        message = f"There is no {kind[:-1]} {name!r}. {nearest(name, shown)}"
        if self.broken:
            broken = "; ".join(f"{b.origin.distribution} {b.origin.version} ({b.reason})" for b in self.broken)
            message += f" These plugins are broken and offer nothing: {broken}."
        raise PluginError(message)

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


def installed_entry_points(
    *, allowed: Iterable[str] | None = None, switched_off: Iterable[str] = ()
) -> Iterator[importlib.metadata.EntryPoint]:
    """Entry points of the installed plugins, in a stable order.

    Parameters
    ----------
    allowed : iterable of str, optional
        Only these distributions. Default: the comma-separated ``EARWITNESS_PLUGINS``, or all where it is not set.
        The ``earwitness`` distribution itself is always allowed.
    switched_off : iterable of str
        Distributions to leave out (``--no-plugin``).
    """
    if allowed is None and os.environ.get("EARWITNESS_PLUGINS"):
        allowed = [name.strip() for name in os.environ["EARWITNESS_PLUGINS"].split(",")]
    permitted = None if allowed is None else {*allowed, "earwitness"}
    refused = set(switched_off)
    seen = set()
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    for point in sorted(points, key=lambda p: (p.dist.name if p.dist else "", p.name)):
        distribution = point.dist.name if point.dist else "unknown"
        identity = (distribution, point.name, point.value)  # one folder may stand twice on sys.path
        if distribution in refused or identity in seen or (permitted is not None and distribution not in permitted):
            continue
        seen.add(identity)
        yield point


@functools.cache
def registry(switched_off: tuple[str, ...] = ()) -> Registry:
    """The registry of this process, built once.

    Parameters
    ----------
    switched_off : tuple of str
        Distributions to leave out.
    """
    return Registry(installed_entry_points(switched_off=switched_off))
