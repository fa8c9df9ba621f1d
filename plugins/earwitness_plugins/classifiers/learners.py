"""What cross-validation trains: recipes that make a classifier of clips, of whatever kind it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from earwitness.artifacts import save_tensors
from earwitness.clips import Dataset
from earwitness.device import usable_device
from earwitness.errors import ConfigurationError, nearest
from earwitness.fitting import fit_facts, resolved_settings, train
from earwitness.parameters import build, changed
from earwitness.protocols import Progress
from earwitness.registry import Registry
from earwitness_plugins.classifiers.architectures import ARCHITECTURES, Architecture, train_on
from earwitness_plugins.classifiers.evaluation import evaluate

WEIGHTS, TRAINED, CHECKPOINT = "weights.safetensors", "trained", "checkpoint.safetensors"
"""What a training leaves in its folder: a packaged architecture's weights, or what ``earwitness fit`` leaves; and the
checkpoint of an unfinished training of the first kind."""

_BATCH = 16  # clips in one pass of an evaluation


@dataclass(frozen=True)
class Learnt:
    """What one training came to.

    Attributes
    ----------
    accuracy : dict of str to float, in [0, 1]
        On the ``validation`` and on the ``test`` data.
    epoch : int or None
        The epoch whose weights were kept, from 1; None where the method does not say.
    n_parameters : int
        Of the network.
    seconds : float
        Of the session that finished it.
    """

    accuracy: dict[str, float]
    epoch: int | None
    n_parameters: int
    seconds: float


class Learner(Protocol):
    """A recipe, and the device that it is followed on."""

    @property
    def device(self) -> str:
        """As PyTorch names it."""
        ...

    def settings(self) -> dict[str, Any]:
        """All that decides what is learnt, but for data and seed, as plain values."""
        ...

    def learn(self, data: Mapping[str, Dataset], folder: Path, *, seed: int, progress: Progress) -> Learnt:
        """Train, keep what was learnt, and measure it. One that was killed goes on from its last epoch.

        Parameters
        ----------
        data : dict
            ``train``, ``validation`` (selects the epoch) and ``test`` (looked at once, at the end).
        folder : Path
            Of this training alone.
        seed : int
        progress : callable (done, total, text)
        """
        ...

    def tidy(self, folder: Path) -> None:
        """The result is safe: remove what only an unfinished training needs."""
        ...


@dataclass(frozen=True)
class PackagedLearner:
    """A packaged architecture, trained as ``earwitness train-classifier`` does it.

    Attributes
    ----------
    name : str
    architecture : Architecture
    device : str
    """

    name: str
    architecture: Architecture
    device: str

    def settings(self) -> dict[str, Any]:
        """See :class:`Learner`."""
        return {"architecture": self.name, "recipe": asdict(self.architecture.recipe)}

    def learn(self, data: Mapping[str, Dataset], folder: Path, *, seed: int, progress: Progress) -> Learnt:
        """See :class:`Learner`."""
        started = time.monotonic()
        result, accuracy = train_on(
            self.architecture,
            data,
            seed=seed,
            checkpoint=folder / CHECKPOINT,
            device=self.device,
            progress=progress,
        )
        save_tensors(folder / WEIGHTS, result.state_dict)
        count = sum(parameter.numel() for parameter in self.architecture.network().parameters())
        return Learnt(accuracy, result.epoch, count, round(time.monotonic() - started, 1))

    def tidy(self, folder: Path) -> None:
        """See :class:`Learner`."""
        for path in (folder / CHECKPOINT, *folder.glob(f".{CHECKPOINT}.*")):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class SelfExplainingLearner:
    """A classifier that explains itself, trained as ``earwitness fit`` does it.

    Attributes
    ----------
    name : str
        Of the explainer.
    parameters : dict
    device : str
    plugins : Registry
    """

    name: str
    parameters: Mapping[str, Any]
    device: str
    plugins: Registry

    def settings(self) -> dict[str, Any]:
        """See :class:`Learner`."""
        offer = self.plugins.explainer(self.name)
        return resolved_settings(offer, build(offer.spec, self.parameters), self.parameters)

    def learn(self, data: Mapping[str, Dataset], folder: Path, *, seed: int, progress: Progress) -> Learnt:
        """See :class:`Learner`."""
        trained = train(
            self.plugins,
            self.name,
            data["train"],
            folder / TRAINED,
            validation=data["validation"],
            parameters=self.parameters,
            seed=seed,
            device=self.device,
            progress=progress,
        )
        classifier = trained.as_classifier().to(self.device)
        accuracy = {
            split: evaluate(classifier, data[split], batch_size=_BATCH, progress=progress).accuracy
            for split in ("validation", "test")
        }
        count = sum(parameter.numel() for parameter in classifier.network.parameters())
        return Learnt(accuracy, getattr(trained, "epoch", None), count, fit_facts(folder / TRAINED)["seconds"])

    def tidy(self, folder: Path) -> None:
        """See :class:`Learner`; the host of :func:`earwitness.fitting.train` has done it."""


def learner(name: str, *, plugins: Registry, parameters: Mapping[str, Any], device: str) -> Learner:
    """The recipe called ``name``.

    Parameters
    ----------
    name : str
        A packaged architecture, or an explainer of scope ``by-design``.
    plugins : Registry
    parameters : dict
        Of the explainer; of an architecture, settings of its :class:`~.training.TrainingRecipe`.
    device : str

    Raises
    ------
    PluginError
        More than one distribution offers an explainer of this name.
    ConfigurationError
        There is none, it is an explainer of other classifiers, a parameter is unknown or not valid, or the device
        cannot be used.
    """
    usable_device(device)
    if name in ARCHITECTURES:
        architecture = ARCHITECTURES[name]
        recipe = changed(architecture.recipe, parameters, f"The recipe of {name}")
        return PackagedLearner(name, replace(architecture, recipe=recipe), device)
    _check_by_design(name, plugins)
    build(plugins.explainer(name).spec, parameters)  # so that a wrong value is refused before any data are read
    return SelfExplainingLearner(name, parameters, device, plugins)


def _check_by_design(name: str, plugins: Registry) -> None:
    if plugins.named("explainers", name):
        scope = plugins.explainer(name).spec.scope
        if scope != "by-design":
            raise ConfigurationError(
                f"{name!r} explains other classifiers (scope {scope}) and is none itself, so it has no accuracy. "
                f"{_choices('', plugins)}"
            )
        return
    raise ConfigurationError(
        f"There is no packaged architecture, and no classifier that explains itself, called {name!r}. "
        f"{_choices(name, plugins)}"
    )


def _choices(name: str, plugins: Registry) -> str:
    own = {shown for shown in plugins.shown_names("explainers") if plugins.explainer(shown).spec.scope == "by-design"}
    return nearest(name, own | ARCHITECTURES.keys())
