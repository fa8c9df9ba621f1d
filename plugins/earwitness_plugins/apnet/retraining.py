"""Training a refined network on."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from earwitness.artifacts import digest_of
from earwitness.clips import Dataset
from earwitness.errors import CheckpointError, ConfigurationError
from earwitness.fitting import Workspace, digest_of_data
from earwitness.identity import digest_of_tensors
from earwitness.protocols import Progress
from earwitness_plugins.apnet.configuration import Configuration, Recipe
from earwitness_plugins.apnet.course import Course
from earwitness_plugins.apnet.data import read_recordings
from earwitness_plugins.apnet.edits import Retrain
from earwitness_plugins.apnet.trained import TrainedAPNet

EPOCHS = 20
"""As many more the paper trains after leaving prototypes out. (The code's configurations say 200.)"""


@dataclass(frozen=True, eq=False)
class Retraining:
    """The data and the recipe by which networks are trained on.

    Attributes
    ----------
    configuration : Configuration
    recipe : Recipe
        Of the first training; epochs and learning rate are those of the edit.
    train : Dataset
    validation : Dataset or None
    device : torch.device
    folder : Path
        Where a checkpoint is kept: a training that was killed goes on from there.
    progress : callable (epochs done, epochs in all, text)
    """

    configuration: Configuration
    recipe: Recipe
    train: Dataset
    validation: Dataset | None
    device: torch.device
    folder: Path
    progress: Progress

    def edit(self, *, epochs: int, learning_rate: float | None, seed: int) -> Retrain:
        """The record of a training on these data; ``None`` keeps the learning rate.

        Raises
        ------
        ConfigurationError
            The learning rate is not positive and finite.
        """
        rate = self.recipe.learning_rate if learning_rate is None else learning_rate
        if not 0 < rate < math.inf:
            raise ConfigurationError(f"A learning rate is a positive number, such as 0.001; got {rate}.")
        return Retrain(epochs, rate, seed, *self._digests())

    def __call__(self, trained: TrainedAPNet, edit: Retrain) -> TrainedAPNet:
        """Do it.

        Raises
        ------
        CheckpointError
            The record is of other data, or the folder holds the checkpoint of another training.
        ConfigurationError, ClassifierError, DatasetError
            See :meth:`earwitness_plugins.apnet.explainer.APNet.train`.
        """
        if (edit.train, edit.validation) != self._digests():
            raise CheckpointError(
                "The history says that the network was trained again on other data than these. Give the same data set, "
                "with the same parameters."
            )
        recipe = replace(self.recipe, epochs=edit.epochs, learning_rate=edit.learning_rate)
        scaler = (trained.min_db, trained.max_db)
        clips = read_recordings(self.train, trained.labels, self.configuration, self.progress)
        held_out = None
        if self.validation is not None:
            held_out = read_recordings(self.validation, trained.labels, self.configuration, self.progress)
        state = digest_of_tensors(trained.network.state_dict())
        workspace = Workspace(self.folder, digest_of([state, asdict(edit)]))
        network = copy.deepcopy(trained.network)
        course = Course(self.configuration, recipe, scaler, trained.labels, self.device)
        better = course.run(network, clips, held_out, seed=edit.seed, workspace=workspace, progress=self.progress)
        workspace.clear()
        return better

    def _digests(self) -> tuple[str, str]:
        return digest_of_data(self.train), "" if self.validation is None else digest_of_data(self.validation)
