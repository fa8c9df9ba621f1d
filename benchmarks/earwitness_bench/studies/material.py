"""What a study of one explainer works with: whom it asks, about which clips, and how it fits and explains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from earwitness.batching import load_batch, plan_chunks
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Dataset
from earwitness.context import Context
from earwitness.fitting import fit
from earwitness.protocols import Explainer, Fittable, Progress
from earwitness.random import Random, stream_seed
from earwitness.registry import Registry
from earwitness_bench.identity import environment, plugin_identity
from earwitness_bench.isolation import isolated


@dataclass(frozen=True, eq=False)
class Material:
    """A classifier, the clips that it is asked about, and the plugins.

    Attributes
    ----------
    classifier : AudioClassifier
    dataset : Dataset
    registry : Registry
    """

    classifier: AudioClassifier
    dataset: Dataset
    registry: Registry

    def identity(self, explainer: str) -> dict[str, Any]:
        """Of what every cell of a study depends on: machine kind and libraries, explainer, classifier."""
        offer = self.registry.explainer(explainer)
        return {
            "environment": environment(self.classifier.device),
            "explainer": [offer.qualified_name, plugin_identity(offer)],
            "classifier": self.classifier.checksum,
        }

    def identity_of_clips(self, clips: Sequence[int]) -> list[list[Any]]:
        """Of some clips, in their order."""
        entries = [self.dataset.entries[number] for number in clips]
        return [[entry.clip_id, entry.fingerprint] for entry in entries]

    def fitted(
        self,
        explainer: str,
        train: Dataset,
        folder: Path,
        *,
        parameters: Mapping[str, Any],
        seed: int,
        progress: Progress = lambda done, total, text: None,
    ) -> Fittable:
        """An explainer, fitted to clips; found in its folder where it was fitted before.

        Raises
        ------
        EarwitnessError
            See :func:`earwitness.fitting.fit`.
        """
        device = self.classifier.device
        with isolated(seed, device):
            # A copy of the classifier: a fit that touches its weights leaves the one that is asked alone.
            own = self.classifier.to(device)
            return fit(
                self.registry, explainer, own, train, folder, parameters=parameters, seed=seed, progress=progress
            )

    def batches(self, clips: Sequence[int], chunk_size: int) -> Iterator[tuple[Sequence[int], Batch]]:
        """Clips, so many at once and those of one length together; and the places in ``clips`` of each."""
        entries = [self.dataset.entries[number] for number in clips]
        for chunk in plan_chunks(entries, chunk_size):
            numbers = [clips[place] for place in chunk]
            yield chunk, load_batch(self.dataset, numbers, self.classifier.rate, device=self.classifier.device)

    def explained(self, explainer: Explainer, batch: Batch, target: torch.Tensor, *, study: str, seed: int) -> Context:
        """Explain a batch.

        Parameters
        ----------
        explainer : Explainer
        batch : Batch of B clips
        target : Tensor (B,), int64
            Classes.
        study : str
            Its name seeds what an explainer draws besides its ``Random``.
        seed : int
        """
        random = Random(seed, batch.clip_ids)
        with isolated(stream_seed(seed, study, *batch.clip_ids), self.classifier.device):
            explanation = explainer.explain(self.classifier, batch, target=target, random=random)
        return Context(self.classifier, batch, explanation, random=random)
