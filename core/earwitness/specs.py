"""What a plugin says about itself: frozen specs with lazy targets. Nothing here imports torch.

``earwitness list``, ``--help`` and completion read specs only; the target (``"package.module:Name"``) is imported when
the thing is first used.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from earwitness.errors import PluginError

API_VERSION = 1

Scope = Literal["post-hoc", "by-design", "control"]
Direction = Literal["higher", "lower", "neither"]
NEEDS = frozenset({"gradient", "convolution", "relu", "fit", "sources", "parts", "several-clips"})

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*(:\w+)?")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A named thing that a plugin offers.

    Attributes
    ----------
    name : str
        Lower-case letters, digits, ``-``, ``_`` and ``.``; unique per kind, or reached as ``distribution:name``. A
        member of a family that another library names has that library's name behind the family's,
        ``quantus:PixelFlipping``.
    target : str
        Where it lives, ``"package.module:Name"``; called with the user's parameters to build it.
    summary : str
        One line for ``earwitness list``.
    """

    name: str
    target: str
    summary: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise PluginError(f"A plugin's name must match {_NAME.pattern}, got {self.name!r}.")
        if not isinstance(self.target, str) or not re.fullmatch(r"[\w.]+:[\w.]+", self.target):
            raise PluginError(f"The target of {self.name!r} must read 'package.module:Name', got {self.target!r}.")
        if not isinstance(self.summary, str) or "\n" in self.summary:
            raise PluginError(f"The summary of {self.name!r} must be one line of text, got {self.summary!r}.")

    def load(self) -> Any:
        """Import and return the target (a class or a function).

        Raises
        ------
        PluginError
            The module cannot be imported or has no such attribute.
        """
        return load_target(self.target, what=f"{self.kind} {self.name!r}")

    @property
    def family(self) -> str:
        """What stands before the colon of the name, or nothing."""
        return self.name.rpartition(":")[0]

    @property
    def kind(self) -> str:
        """Singular noun of what this spec describes, e.g. ``"explainer"``."""
        return type(self).__name__.removesuffix("Spec").lower()


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the work on one chunk of clips takes on a cluster: cores, a share of one GPU (where the run is on GPUs at
    all), and memory in MB."""

    cpus: float = 1.0
    gpus: float = 0.25
    memory_mb: float = 1000.0

    def __post_init__(self) -> None:
        if not (self.cpus > 0 and self.gpus >= 0 and self.memory_mb >= 0) or (self.gpus > 1 and self.gpus % 1):
            raise PluginError(
                f"Resources are cpus > 0, gpus between 0 and 1 or a whole number, and memory_mb >= 0, got {self}."
            )


@dataclass(frozen=True, kw_only=True)
class ExplainerSpec(Spec):
    """An explanation method.

    ``scope`` is ``"post-hoc"`` (ranked), ``"by-design"`` (explains only itself: a table of its own) or ``"control"``
    (runs in every suite, never ranked). ``needs`` lets the host skip with a reason: ``gradient``, ``convolution``,
    ``relu``, ``fit``, ``sources``, ``several-clips``. ``paper`` is a citation. ``resources`` is what a cluster sets
    aside for it.
    """

    paper: str = ""
    scope: Scope = "post-hoc"
    needs: frozenset[str] = frozenset()
    resources: Resources = Resources()
    api: int = API_VERSION

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope not in get_args(Scope):
            raise PluginError(f"The scope of {self.name!r} must be one of {get_args(Scope)}, got {self.scope!r}.")
        if not isinstance(self.resources, Resources):
            raise PluginError(f"The resources of {self.name!r} must be a Resources object, got {self.resources!r}.")
        _check_needs_and_api(self, self.needs, self.api)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number per (clip, target) that a metric yields, and how it is read.

    ``aggregate`` is ``"mean"``, ``"median"`` or the target (``"package.module:function"``) of a function from rows (n,)
    to one number. ``headline`` columns enter the mean rank of the leaderboard.
    """

    name: str
    direction: Direction = "higher"
    aggregate: str = "mean"
    headline: bool = False
    summary: str = ""

    def __post_init__(self) -> None:
        if self.direction not in get_args(Direction):
            raise PluginError(
                f"The direction of column {self.name!r} must be one of {get_args(Direction)}, got {self.direction!r}."
            )


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Spec):
    """A score of explanations. Raise ``version`` whenever its numbers change: tables never mix versions.

    ``needs`` lets the host skip with a reason: ``sources`` (clips whose clean sources are known), ``parts`` (an
    explanation that has them), ``several-clips``.

    ``attribution_only`` metrics look at the explanation and the recording, and never ask the classifier: they are
    computed on the CPU, on a cluster with GPUs by workers that have none.

    ``refused`` says why a metric that people will ask for cannot be used here: it is listed as such, and whoever asks
    for it is told.
    """

    version: int = 1
    paper: str = ""
    columns: tuple[Column, ...] = ()
    needs: frozenset[str] = frozenset()
    attribution_only: bool = False
    refused: str = ""
    api: int = API_VERSION

    def load(self) -> Any:
        """See :meth:`Spec.load`; a refused metric raises its reason."""
        if self.refused:
            raise PluginError(f"The metric {self.name!r} cannot be used: {self.refused}")
        return super().load()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_needs_and_api(self, self.needs, self.api)
        if not self.columns:
            object.__setattr__(self, "columns", (Column(name=self.name),))
        if not all(isinstance(column, Column) for column in self.columns):
            raise PluginError(f"The columns of metric {self.name!r} must be Column objects, got {self.columns!r}.")
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise PluginError(f"Metric {self.name!r} names a column twice: {names}.")


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec(Spec):
    """A classifier that can be asked for by name. Calling the target returns an ``AudioClassifier``.

    ``retrain`` is the target (``"package.module:function"``) of a function that trains its network anew, see
    :class:`earwitness.protocols.Retrain`; empty where there is none, and remove-and-retrain is closed to it.
    """

    paper: str = ""
    retrain: str = ""

    def load_retrain(self) -> Any:
        """Import the function that trains its network anew.

        Raises
        ------
        PluginError
            There is none, or it cannot be imported.
        """
        if not self.retrain:
            raise PluginError(
                f"The classifier {self.name!r} does not say how it is trained anew. Use one that does, such as "
                "toy-cnn or esc10-cnn; one of your own says it by `retrain` in its ClassifierSpec."
            )
        return load_target(self.retrain, what=f"retrain of classifier {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """A data set that can be asked for by name. Calling the target returns a ``Dataset``."""

    paper: str = ""
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class CommandSpec(Spec):
    """A sub-command of ``earwitness``. The target is a ``click.Command``; its module is imported when it runs."""

    section: str = field(default="Commands")


def _check_needs_and_api(spec: Spec, needs: frozenset[str], api: int) -> None:
    unknown = set(needs) - NEEDS
    if isinstance(needs, str) or unknown:
        given = needs if isinstance(needs, str) else sorted(unknown)
        raise PluginError(
            f"{spec.kind} {spec.name!r} needs {given!r}; known needs, given as a set, are {sorted(NEEDS)}."
        )
    if api != API_VERSION:
        raise PluginError(f"{spec.kind} {spec.name!r} is written for API {api}; this is API {API_VERSION}.")


def load_target(target: str, *, what: str = "target") -> Any:
    """Import ``"package.module:Name"``.

    Parameters
    ----------
    target : str
        Module path and attribute, separated by a colon.
    what : str
        How to call it in the error message.

    Returns
    -------
    object
        The attribute.

    Raises
    ------
    PluginError
        The string has no colon, the module fails to import, or the attribute does not exist.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise PluginError(f"{what}: expected 'package.module:name', got {target!r}.")
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{what}: importing {module_name!r} failed with {type(error).__name__}: {error}. "
            "Is its package installed in this environment?"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise PluginError(f"{what}: module {module_name!r} has no attribute {attribute!r}.")
        found = getattr(found, part)
    return found
