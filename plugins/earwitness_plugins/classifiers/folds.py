"""A data set in folds, and how they take turns: all but two are trained on, one selects, one tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from earwitness.clips import Dataset
from earwitness.errors import ConfigurationError, DatasetError
from earwitness.loading import load_dataset
from earwitness.parameters import resolved_parameters, takes
from earwitness.registry import Registry

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Fold:
    """One turn of a rotation.

    Attributes
    ----------
    test, validation : int
        Numbers of folds.
    train : tuple of int
    """

    test: int
    validation: int
    train: tuple[int, ...]

    def of(self, split: str) -> list[int]:
        """The folds that a split (``train``, ``validation`` or ``test``) is made of."""
        return {"train": list(self.train), "validation": [self.validation], "test": [self.test]}[split]


def rotation(folds: tuple[int, ...]) -> tuple[Fold, ...]:
    """Every fold tests once; the one before it, in a circle, selects; the others are trained on.

    Parameters
    ----------
    folds : tuple of int
        At least three, each once.

    Raises
    ------
    ConfigurationError
        There are fewer, or one comes twice.
    """
    if len(folds) < 3 or len(set(folds)) < len(folds):
        raise ConfigurationError(
            "A rotation needs at least three folds, each once: one to test, one to select by, the others to train on; "
            f"got {list(folds)}."
        )
    return tuple(
        Fold(test, folds[place - 1], tuple(fold for fold in folds if fold not in (test, folds[place - 1])))
        for place, test in enumerate(folds)
    )


@dataclass(frozen=True)
class FoldedData:
    """A data set that has folds.

    Attributes
    ----------
    name : str
        Of the data set.
    parameters : dict
        Its own, without ``folds``.
    folds : tuple of int
        In the order of their rotation.
    plugins : Registry

    Raises
    ------
    PluginError
        There is no such data set.
    ConfigurationError
        It has no folds or no such parameter, or ``parameters`` name the folds too; see also :func:`rotation`.
    """

    name: str
    parameters: Mapping[str, Any]
    folds: tuple[int, ...]
    plugins: Registry

    def __post_init__(self) -> None:
        spec = self.plugins.dataset(self.name).spec
        if not takes(spec, "folds"):
            raise ConfigurationError(
                f"The data set {self.name!r} has no folds (no parameter `folds`), so there is nothing to rotate. Take "
                "one that has, such as esc10; `earwitness list datasets` names all."
            )
        if "folds" in self.parameters:
            raise ConfigurationError(
                f"The folds take turns: leave folds={self.parameters['folds']!r} out of the data set's parameters, and "
                "give those to rotate by --folds."
            )
        resolved_parameters(spec, {**self.parameters, "folds": []})
        rotation(self.folds)

    def settings(self) -> dict[str, Any]:
        """What the clips depend on, as plain values."""
        offer = self.plugins.dataset(self.name)
        resolved = resolved_parameters(offer.spec, {**self.parameters, "folds": []})
        own = {name: value for name, value in resolved.items() if name != "folds"}
        return {"dataset": offer.qualified_name, "parameters": own, "folds": list(self.folds)}

    def load(self, fold: Fold) -> dict[str, Dataset]:
        """The clips of one turn: ``train``, ``validation`` and ``test``.

        Raises
        ------
        DatasetError
            The files are not there, a fold has no clips, a clip has not exactly one class, or one is in two of the
            three.
        """
        splits = {
            split: load_dataset(
                self.name, parameters={**self.parameters, "folds": fold.of(split)}, plugins=self.plugins
            )
            for split in SPLITS
        }
        for split, dataset in splits.items():
            wrong = [entry for entry in dataset.entries if len(entry.labels) != 1]
            if wrong:
                raise DatasetError(
                    f"{self.name}: {len(wrong)} of {len(dataset)} {split} clips have not exactly one class, such as "
                    f"{wrong[0].clip_id!r} ({', '.join(wrong[0].labels) or 'none'}). Accuracy asks for one."
                )
        ids = {split: {entry.clip_id for entry in dataset.entries} for split, dataset in splits.items()}
        if both := ids["test"] & (ids["train"] | ids["validation"]):
            raise DatasetError(
                f"{self.name}: {len(both)} clips of fold {fold.test}, such as {min(both)!r}, are in other folds too: "
                "the test would have been heard in training."
            )
        if both := ids["validation"] & ids["train"]:
            raise DatasetError(
                f"{self.name}: {len(both)} clips of fold {fold.validation}, such as {min(both)!r}, are in folds "
                f"{list(fold.train)} too: the epoch would be chosen by clips that were trained on."
            )
        return splits
