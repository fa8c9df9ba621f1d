"""Contestants: the explainers of a suite that are scored, and the controls beside them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from earwitness.errors import ConfigurationError
from earwitness.fitting import fitted_identity
from earwitness.parameters import resolved_parameters, takes
from earwitness.registry import Registry
from earwitness.specs import ExplainerSpec
from earwitness_bench.identity import plugin_identity
from earwitness_bench.suite import ExplainerEntry, Suite

CONTROLS = tuple(
    ExplainerEntry(name=f"earwitness:{name}", label=name)
    for name in ("uniform-noise", "loudness", "constant-gain", "all-ones", "all-zeros")
)
"""What runs in every suite, beside each method's own maps shuffled over clips. By their full names: another
distribution may offer its own ``loudness``."""

SHUFFLED = "shuffled"
"""Prefix of the control that gives each clip the map that a method made for another."""


@dataclass(frozen=True, eq=False)
class Contestant:
    """An explainer that is scored.

    Attributes
    ----------
    title : str
        Name in tables.
    entry, spec
        From the suite, and from its plugin.
    parameters : dict
        The entry's, with what the suite sets for all explainers.
    identity : dict
        All of it that can change numbers.
    fitted : Path or str or None
        Folder of the fitted explainer; or why it could not be fitted; None where nothing is fitted.
    shuffle_of : str or None
        For the control made of another contestant's maps: that one's title.
    """

    title: str
    entry: ExplainerEntry
    spec: ExplainerSpec
    parameters: dict[str, Any]
    identity: dict[str, Any]
    fitted: Path | str | None = None
    shuffle_of: str | None = None

    @property
    def is_control(self) -> bool:
        """Whether it is never ranked."""
        return self.spec.scope == "control" or self.shuffle_of is not None


def make_contestants(suite: Suite, registry: Registry, fitted: dict[str, Path | str]) -> list[Contestant]:
    """The suite's explainers and, if it wants them, the controls.

    Parameters
    ----------
    suite : Suite
    registry : Registry
    fitted : dict of str to Path or str
        By title: folders of the explainers that were fitted, or why they could not be.

    Raises
    ------
    ConfigurationError
        An explainer must be fitted, and the suite does not say to what; or an explainer has the name of a control.
    EarwitnessError
        An explainer or parameter does not exist.
    """
    contestants = [_contestant(suite, entry, registry, fitted.get(entry.title)) for entry in suite.explainers]
    if suite.controls:
        present = [contestant.identity for contestant in contestants]
        controls = [_contestant(suite, entry, registry, None) for entry in CONTROLS]
        methods = [contestant for contestant in contestants if not contestant.is_control]
        contestants += [control for control in controls if control.identity not in present]
        contestants += [
            replace(
                base,
                title=f"{SHUFFLED}: {base.title}",
                identity={**base.identity, "shuffled": True},
                shuffle_of=base.title,
            )
            for base in methods
        ]
    titles = Counter(contestant.title for contestant in contestants)
    taken = [title for title, count in titles.items() if count > 1]
    if taken:
        raise ConfigurationError(f"These explainers have the name of a control: {taken}. Give them another `label`.")
    return contestants


def explainer_parameters(suite: Suite, entry: ExplainerEntry, spec: ExplainerSpec) -> dict[str, Any]:
    """An explainer's parameters: those of its entry, and the suite's ``memory_mb`` where it takes one."""
    return ({"memory_mb": suite.memory_mb} if takes(spec, "memory_mb") else {}) | entry.parameters


def _contestant(suite: Suite, entry: ExplainerEntry, registry: Registry, fitted: Path | str | None) -> Contestant:
    offer = registry.explainer(entry.name)
    if "fit" in offer.spec.needs and entry.fit is None and not entry.checkpoint:
        raise ConfigurationError(
            f"{entry.title} must be fitted first. Say to which data: fit = {{ name = 'toy' }} in its [[explainers]]; "
            "or which fit to use: checkpoint = 'FOLDER'."
        )
    parameters = explainer_parameters(suite, entry, offer.spec)
    identity: dict[str, Any] = {
        "name": offer.qualified_name,
        "plugin": plugin_identity(offer),
        "parameters": resolved_parameters(offer.spec, parameters),
        "fitted": fitted_identity(fitted) if isinstance(fitted, Path) else fitted,
    }
    return Contestant(entry.title, entry, offer.spec, parameters, identity, fitted)
