"""The smallest fitted explainer: what a class has more of than the others, on average.

It knows the training data and nothing of the decision, so it is a useful yardstick; and it proves the fitting contract
(checkpoint, resume, save, load) at the least cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.batching import iterate, plan_chunks
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Dataset
from earwitness.errors import CheckpointError, ConfigurationError, ExplanationError
from earwitness.explanation import Explanation, Relevance
from earwitness.fitting import Workspace
from earwitness.protocols import Progress
from earwitness.random import Random


class ClassMean:
    """Mean feature map of the target class minus the mean over classes, the same for every recording.

    Parameters
    ----------
    n_frames : int
        Columns of the stored maps; a recording's own columns are interpolated from them, start to end.
    chunk_size : int
        Clips per batch while fitting; a checkpoint is kept every eight batches.
    """

    def __init__(self, *, n_frames: int = 64, chunk_size: int = 16) -> None:
        if n_frames < 1 or chunk_size < 1:
            raise ConfigurationError(f"n_frames and chunk_size must be positive, got {n_frames} and {chunk_size}.")
        self.n_frames = n_frames
        self.chunk_size = chunk_size
        self._means: Tensor | None = None  # (C, M, n_frames)

    def fit(
        self,
        classifier: AudioClassifier,
        train: Dataset,
        *,
        validation: Dataset | None,
        random: int,
        workspace: Workspace,
        progress: Progress,
    ) -> None:
        """Average the features of each class. There is nothing random in it, and nothing to validate."""
        absent = set(classifier.labels) - {label for entry in train.entries for label in entry.labels}
        if absent:
            raise ConfigurationError(f"The training data have no clip of {sorted(absent)}: every class needs one.")
        n_chunks = len(plan_chunks(train.entries, self.chunk_size))
        sums, counts, start = self._resume(workspace)
        for number, batch in iterate(train, classifier.rate, self.chunk_size, start=start, device=classifier.device):
            with torch.no_grad():
                maps = self._maps(classifier, batch)
            if sums is None or counts is None:
                sums = torch.zeros(len(classifier.labels), *maps.shape[1:], dtype=torch.float64)
                counts = torch.zeros(len(classifier.labels), dtype=torch.float64)
            member = torch.tensor(
                [[float(label in clip.labels) for label in classifier.labels] for clip in batch.clips],
                dtype=torch.float64,
            )
            sums += torch.einsum("bc,bmn->cmn", member, maps)
            counts += member.sum(0)
            if number % 8 == 7:
                workspace.save_checkpoint({"sums": sums, "counts": counts}, chunk=number + 1)
            progress(number + 1, n_chunks, "averaging")
        assert sums is not None
        assert counts is not None
        self._means = (sums / counts[:, None, None]).float()

    @staticmethod
    def _resume(workspace: Workspace) -> tuple[Tensor | None, Tensor | None, int]:
        kept = workspace.load_checkpoint()
        return (None, None, 0) if kept is None else (kept[0]["sums"], kept[0]["counts"], int(kept[1]["chunk"]))

    def _maps(self, classifier: AudioClassifier, batch: Batch) -> Tensor:
        if classifier.feature_grid(batch.waveforms.shape[1]) is None:
            raise ConfigurationError(f"class-mean needs feature maps; {classifier.name} eats samples.")
        features = classifier.features(batch.waveforms)[:, 0]
        return functional.interpolate(features, self.n_frames, mode="linear", align_corners=False).double().cpu()

    def state(self) -> Mapping[str, Tensor]:
        """The class means, (C, M, n_frames)."""
        if self._means is None:
            raise CheckpointError("class-mean has not been fitted.")
        return {"means": self._means}

    def load_state(self, state: Mapping[str, Tensor]) -> Self:
        """Take up class means."""
        self._means = state["means"]
        return self

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""
        if self._means is None:
            raise ExplanationError(
                "class-mean must be fitted first: earwitness fit class-mean --classifier … --dataset … --out FOLDER, "
                "then --checkpoint FOLDER."
            )
        grid = classifier.feature_grid(batch.waveforms.shape[1])
        assert grid is not None
        means = self._means.to(batch.waveforms)
        difference = (means - means.mean(0))[target]
        stretched = functional.interpolate(difference, grid.shape[1], mode="linear", align_corners=False)
        return Explanation(target, relevance=Relevance(stretched, "features"))
