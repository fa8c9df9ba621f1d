"""A course of training: from recordings to a network with its prototypes decoded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from earwitness.fitting import Workspace
from earwitness.protocols import Progress
from earwitness.random import stream_seed
from earwitness_plugins.apnet.configuration import Configuration, Recipe
from earwitness_plugins.apnet.data import Recordings, checked_features, labelled_windows
from earwitness_plugins.apnet.finishing import teach_decoder
from earwitness_plugins.apnet.front_end import PaddedLogMel
from earwitness_plugins.apnet.network import AudioPrototypeNetwork
from earwitness_plugins.apnet.trained import TrainedAPNet, make_gallery
from earwitness_plugins.apnet.training import train_network
from earwitness_plugins.classifiers.training_data import TrainingData


@dataclass(frozen=True)
class Course:
    """How networks of one kind are trained.

    Attributes
    ----------
    configuration : Configuration
    recipe : Recipe
    scaler : (float, float)
        Smallest and largest value in dB.
    labels : tuple of str
    device : torch.device
    """

    configuration: Configuration
    recipe: Recipe
    scaler: tuple[float, float]
    labels: tuple[str, ...]
    device: torch.device

    @property
    def front_end(self) -> PaddedLogMel:
        """The front end under the scaler, on the device."""
        return self.configuration.front_end(*self.scaler).to(self.device)

    def run(
        self,
        network: AudioPrototypeNetwork,
        clips: Recordings,
        held_out: Recordings | None,
        *,
        seed: int,
        workspace: Workspace,
        progress: Progress,
    ) -> TrainedAPNet:
        """Train a network on from where it is, and decode its prototypes.

        Parameters
        ----------
        network : AudioPrototypeNetwork
            Changed in place.
        clips, held_out : Recordings
            To learn from, and to select by; see :func:`~.training.train_network`.
        seed : int
        workspace : Workspace
        progress : callable (epochs done, epochs in all, text)

        Raises
        ------
        ClassifierError
            The loss is no longer finite.
        AudioError
            Features of the held-out clips are NaN or infinite.
        """
        front_end, validation = self.front_end, None
        if held_out is not None:
            validation = (checked_features(held_out, front_end, self.device), held_out.classes.to(self.device))
        result = train_network(
            network.to(self.device),
            TrainingData((clips.waveforms, clips.classes), front_end, self.device, self.recipe.augmentation),
            self.configuration.windows,
            recipe=self.recipe,
            seed=stream_seed(seed, "apnet-order"),
            validation=validation,
            workspace=workspace,
            progress=progress,
        )
        best = AudioPrototypeNetwork.of_state(result.state_dict, n_frames=network.n_frames)
        trained = TrainedAPNet(best, *self.scaler, self.labels, result.epoch, result.curves)
        windows, clip_ids = labelled_windows(clips, front_end, self.configuration, self.device)
        teach_decoder(
            best.to(self.device), windows, self.recipe, seed=stream_seed(seed, "apnet-decoder"), progress=progress
        )
        progress(self.recipe.epochs, self.recipe.epochs, "decoding prototypes")
        own = trained.as_classifier(self.configuration).to(self.device)
        return trained.with_gallery(make_gallery(own, windows, clip_ids, seed=seed))
