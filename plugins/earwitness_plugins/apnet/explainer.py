"""APNet as a classifier that explains itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Dataset
from earwitness.errors import CheckpointError
from earwitness.explanation import Example, ExampleBands, Explanation, Parts, Relevance
from earwitness.fitting import Workspace
from earwitness.parameters import changed
from earwitness.protocols import Progress
from earwitness.random import Random, stream_seed
from earwitness_plugins.apnet.configuration import Configuration, Recipe, named
from earwitness_plugins.apnet.course import Course
from earwitness_plugins.apnet.data import Recordings, check_complete, fit_scaler, labelled_windows, read_recordings
from earwitness_plugins.apnet.local import PrototypeClassifier, Reasoned
from earwitness_plugins.apnet.network import AudioPrototypeNetwork
from earwitness_plugins.apnet.objective import initialise, scale_latents, start_from_data
from earwitness_plugins.apnet.reasoning import CLOSE
from earwitness_plugins.apnet.trained import TrainedAPNet

EXAMPLES = 5
"""Of the prototypes, this many of the most similar are given as examples."""


class APNet:
    """A network that compares a recording with stored sounds, and says which, in which bands, and how much each counts.

    Parameters
    ----------
    configuration : {"urbansound8k", "medley-solos-db", "speech-commands", "esc10"}
        The one to start from: one of the three that are published, or ours for a few hundred recordings.
    model : dict, optional
        Other sizes or another front end: attributes of :class:`~.configuration.Configuration`.
    training : dict, optional
        Another recipe: attributes of :class:`~.configuration.Recipe`.

    Raises
    ------
    ConfigurationError
        A name is unknown, a value out of range, or the map does not divide by four.

    Notes
    -----
    Relevance is on the features; how a similarity is taken apart over time, see :mod:`~.reasoning`. Where a recording
    has several windows, their maps are summed, each times its share of the evidence: p_w / Σ p_w, which is the slope of
    the logarithm of the mean probability. Parts are the prototypes, their weights what they contribute to the logit;
    their maps sum to the relevance. Examples are the prototypes that are most similar, as sound; a row in which no
    prototype is close has none.

    Diagnostics: ``closest_similarity``, the largest similarity of any prototype in any band, in [0, 1];
    ``no_prototype_is_close``, 1 where it is below 0.01; ``additivity_gap``, the largest |difference| between the log
    probabilities that the contributions sum to and the classifier's.
    """

    def __init__(
        self,
        *,
        configuration: str = "urbansound8k",
        model: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        base, recipe = named(configuration)
        self.configuration: Configuration = changed(base, model or {}, "model")
        self.recipe: Recipe = changed(recipe, training or {}, "training")
        self._trained: TrainedAPNet | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the name of the configuration stands for, with all changes to it."""
        return {"configuration": asdict(self.configuration), "recipe": asdict(self.recipe)}

    @property
    def trained(self) -> TrainedAPNet:
        """What was learnt.

        Raises
        ------
        CheckpointError
            Nothing yet.
        """
        if self._trained is None:
            raise CheckpointError(
                "apnet must be trained first: earwitness fit apnet --dataset … --out DIR, then --checkpoint DIR."
            )
        return self._trained

    @property
    def n_parameters(self) -> int:
        """How many numbers were learnt."""
        return self.trained.n_parameters

    @property
    def epoch(self) -> int:
        """The epoch whose weights were kept, from 1."""
        return self.trained.epoch

    def train(
        self,
        train: Dataset,
        *,
        validation: Dataset | None,
        random: int,
        device: torch.device,
        workspace: Workspace,
        progress: Progress,
    ) -> None:
        """Fit the scaler, train the network, decode its prototypes; see :meth:`~.course.Course.run`.

        Raises
        ------
        ConfigurationError
            A class has no training clip, or the clips are silent.
        ClassifierError
            A clip has no class or an unknown one, or the loss is no longer finite.
        DatasetError
            A clip has several classes.
        AudioError
            A clip's features are NaN or infinite.
        """
        check_complete(train.labels, train)
        clips = read_recordings(train, train.labels, self.configuration, progress)
        held_out = None
        if validation is not None:
            held_out = read_recordings(validation, train.labels, self.configuration, progress)
        scaler = fit_scaler(clips, self.configuration, device)
        course = Course(self.configuration, self.recipe, scaler, tuple(train.labels), device)
        network = self._started(clips, course, seed=random)
        self._trained = course.run(network, clips, held_out, seed=random, workspace=workspace, progress=progress)

    def _started(self, clips: Recordings, course: Course, *, seed: int) -> AudioPrototypeNetwork:
        """A network before its first step."""
        network = self.configuration.network(len(course.labels))
        generator = torch.Generator().manual_seed(stream_seed(seed, "apnet-start"))
        initialise(network, self.recipe, generator)
        network.to(course.device)
        if self.recipe.prototypes == "uniform" and self.recipe.first_distance is None:
            return network
        windows, _ = labelled_windows(clips, course.front_end, self.configuration, course.device)
        if self.recipe.prototypes == "data":
            classes = clips.classes.repeat_interleave(len(windows) // len(clips.classes))
            start_from_data(network, windows, classes, generator)
        if self.recipe.first_distance is not None:
            scale_latents(network, windows, self.recipe.first_distance)
        return network

    def state(self) -> Mapping[str, Tensor]:
        """See :meth:`TrainedAPNet.tensors`."""
        return self.trained.tensors()

    def restore(self, state: Mapping[str, Tensor], labels: Sequence[str]) -> Self:
        """Take up what was learnt."""
        trained = TrainedAPNet.of_tensors(state, labels)
        sizes, wanted = trained.network.sizes, self.configuration
        if (sizes.n_bands, sizes.n_frames) != (wanted.n_mels, wanted.n_frames):
            raise CheckpointError(
                f"This network hears {sizes.n_bands} bands x {sizes.n_frames} frames, not {wanted.n_mels} x "
                f"{wanted.n_frames}. Train again."
            )
        self._trained = trained
        return self

    def as_classifier(self) -> AudioClassifier:
        """What was learnt, as a classifier."""
        return self.trained.as_classifier(self.configuration)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.SelfExplaining`. Without a checkpoint there are no examples.

        Raises
        ------
        NotApplicableError
            The classifier is no APNet, or its labels are regrouped.
        AudioError, ClassifierError
            Distances to the prototypes are NaN, by the recording or by the network.
        CheckpointError
            It is not the one of this explainer's checkpoint.
        """
        own = PrototypeClassifier.of(classifier)
        if self._trained is not None and not torch.equal(
            own.network.prototypes.cpu(), self._trained.network.prototypes.cpu()
        ):
            raise CheckpointError(
                f"The prototypes of {classifier.name} are not those of this explainer's checkpoint. Leave the "
                "checkpoint out, or the classifier."
            )
        with torch.no_grad():
            return self._explain(own, batch, target)

    def _explain(self, own: PrototypeClassifier, batch: Batch, target: Tensor) -> Explanation:
        features = own.classifier.features(batch.waveforms)
        reasoned = own.reason(features, target)
        whole = own.map_of(reasoned.cells.sum(2), features)
        return Explanation(
            target,
            relevance=Relevance(whole.float(), "features"),
            parts=Parts(
                names=self._names(own),
                weights=reasoned.contributions.sum(2).float(),
                selected=torch.ones(reasoned.contributions.shape[:2], dtype=torch.bool, device=target.device),
                map=lambda number: Relevance(own.map_of(reasoned.cells[:, :, number], features).float(), "features"),
            ),
            examples=self._examples(own, reasoned, batch),
            diagnostics={
                "closest_similarity": reasoned.closest.float(),
                "no_prototype_is_close": (reasoned.closest < CLOSE).float(),
                "additivity_gap": own.gap(reasoned, features).float(),
            },
        )

    def _names(self, own: PrototypeClassifier) -> tuple[str, ...]:
        count = range(len(own.network.prototypes))
        if self._trained is None or self._trained.gallery is None:
            return tuple(f"prototype {j + 1}" for j in count)
        return tuple(self._trained.gallery.name(j, self._trained.labels) for j in count)

    def _examples(self, own: PrototypeClassifier, reasoned: Reasoned, batch: Batch) -> tuple[tuple[Example, ...], ...]:
        trained = self._trained
        if trained is None or trained.gallery is None:
            return ()
        bands_hz = own.band_frequencies(batch.waveforms.shape[1])
        weights = reasoned.contributions.sum(2).cpu()
        bands, contributions = reasoned.similarities.float().cpu(), reasoned.contributions.float().cpu()
        scores = reasoned.weighted.cpu()
        rows = []
        for row, closest in enumerate(reasoned.closest.tolist()):
            nearest = scores[row].argsort(descending=True, stable=True)[:EXAMPLES].tolist() if closest >= CLOSE else []
            rows.append(
                tuple(
                    Example(
                        name=trained.gallery.name(j, trained.labels),
                        similarity=float(scores[row, j]),
                        contribution=float(weights[row, j]),
                        waveform=trained.gallery.sounds[j],
                        rate=own.classifier.rate,
                        bands=ExampleBands(bands_hz, bands[row, j], contributions[row, j]),
                    )
                    for j in nearest
                )
            )
        return tuple(rows)
