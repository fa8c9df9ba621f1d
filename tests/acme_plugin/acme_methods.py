"""Acme's explainer and metric."""

from __future__ import annotations

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.context import Context
from earwitness.errors import ConfigurationError
from earwitness.explanation import Explanation, Mask
from earwitness.random import Random


class Midband:
    """Keeps a band of frequencies, whatever the classifier says.

    Parameters
    ----------
    low_hz, high_hz : float
        Edges of the band, in Hz.
    """

    def __init__(self, low_hz: float = 300.0, high_hz: float = 3400.0) -> None:
        if not 0 <= low_hz < high_hz:
            raise ConfigurationError(f"A band needs 0 <= low_hz < high_hz, got {low_hz} and {high_hz}.")
        self.low_hz = low_hz
        self.high_hz = high_hz

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """Return a mask (B, F, N) on the listening STFT: 1 inside the band, 0 outside."""
        grid = classifier.listening.grid(batch.waveforms.shape[1])
        inside = (grid.frequencies_hz >= self.low_hz) & (grid.frequencies_hz <= self.high_hz)
        mask = inside.to(batch.waveforms)[None, :, None].expand(len(batch), *grid.shape).contiguous()
        return Explanation(target=target, mask=Mask(mask, "stft"))


class Roughness:
    """Mean absolute step between neighbouring bins of the importance map, in [0, 1]; 0 for a constant map."""

    def score(self, explanation: Explanation, context: Context) -> dict[str, Tensor]:
        """Two columns of (B,) values."""
        importance = context.importance
        return {
            "roughness_frequency": _mean_step(importance, dim=1),
            "roughness_time": _mean_step(importance, dim=2),
        }


def _mean_step(maps: Tensor, dim: int) -> Tensor:
    if maps.shape[dim] < 2:
        return torch.zeros(maps.shape[0])
    return maps.diff(dim=dim).abs().flatten(1).mean(1).cpu()
