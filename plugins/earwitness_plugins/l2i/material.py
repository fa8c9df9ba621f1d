"""What the interpreter is trained on: computed from each clip once, since classifier and dictionary are frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from earwitness.batching import plan_chunks
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Dataset
from earwitness_plugins.hidden_maps import hidden_maps


@dataclass(frozen=True, eq=False)
class Rows:
    """Clips of one length, as the losses need them.

    Attributes
    ----------
    maps : three Tensors (B, C, H, W), float32
        Hidden maps, through half precision.
    probabilities : Tensor (B, C)
        The classifier's.
    projections : Tensor (B, K, N)
        WᵀX, of the log1p spectrogram X.
    energy : Tensor (B,)
        ‖X‖².
    """

    maps: tuple[Tensor, ...]
    probabilities: Tensor
    projections: Tensor
    energy: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return (*self.maps, self.probabilities, self.projections, self.energy)


class Material:
    """The clips of a data set, kept in half precision as far as the memory allows; the others are computed each time.

    What is computed is that of each clip alone: convolutions differ in the last bits between batch sizes, and a fit
    that is resumed must see what it saw before.

    Parameters
    ----------
    classifier : AudioClassifier
    layers : sequence of three str
    patterns : Tensor (F, K)
        W.
    dataset : Dataset
    """

    def __init__(
        self,
        classifier: AudioClassifier,
        layers: Sequence[str],
        patterns: Tensor,
        dataset: Dataset,
    ) -> None:
        self.classifier = classifier
        self.layers = tuple(layers)
        self.patterns = patterns
        self.dataset = dataset
        self.kept_mb = 0.0
        self._kept: dict[int, Rows] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def prepare(self, memory_mb: float) -> Iterator[int]:
        """Compute the clips and keep as many as fit; yields how many are done."""
        for index in range(len(self)):
            rows = self._compute(index)
            own_mb = sum(tensor.nbytes for tensor in rows.tensors) / 1e6
            if self.kept_mb + own_mb <= memory_mb:
                self.kept_mb += own_mb
                self._kept[index] = rows
            yield index + 1

    def chunks(self, size: int, *, seed: int | None = None) -> list[tuple[int, ...]]:
        """Indices of batches of equal length; with a seed, of shuffled clips."""
        return plan_chunks(self.dataset.entries, size, seed=seed)

    def batch(self, indices: Sequence[int]) -> Rows:
        """Some clips of one length."""
        rows = [self._kept.get(index) or self._compute(index) for index in indices]
        *maps, probabilities, projections, energy = (
            torch.cat([row.tensors[place] for row in rows]).float() for place in range(len(rows[0].tensors))
        )
        return Rows(tuple(maps), probabilities, projections, energy)

    def _compute(self, index: int) -> Rows:
        clip = self.dataset[index].resampled(self.classifier.rate)
        waveforms = Batch.of([clip], device=self.classifier.device).waveforms
        with torch.no_grad():
            hidden = hidden_maps(self.classifier, self.classifier.features(waveforms), self.layers)
        spectrogram = torch.log1p(self.classifier.listening.forward(waveforms).abs())
        energy = spectrogram.double().square().sum((1, 2)).float()
        maps = tuple(_halved(values) for values in hidden.maps)
        probabilities = self.classifier.probabilities_of(hidden.logits)
        return Rows(maps, probabilities, self.patterns.T @ spectrogram, energy)


def _halved(maps: Tensor) -> Tensor:
    """In half precision, unless a value is too large for it."""
    halved = maps.half()
    return halved if bool(torch.isfinite(halved).all()) else maps
