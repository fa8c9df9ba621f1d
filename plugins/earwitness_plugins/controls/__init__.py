"""Maps that know nothing of the classifier. Most run in every suite; none is ever ranked.

A constant gain of .97 wins Average Drop and input fidelity on published tables: a method that does not beat these at
an equal budget of signal energy has shown nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ConfigurationError
from earwitness.explanation import Explanation, Mask, Parts, Relevance
from earwitness.random import Random


class UniformNoise:
    """A mask of independent uniform numbers in [0, 1), from each clip's own stream."""

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""
        stft = classifier.listening
        noise = random.uniform("uniform-noise", stft.n_bins, stft.n_frames(batch.waveforms.shape[1]))
        return Explanation(target, mask=Mask(noise.to(batch.waveforms), "stft"))


class Loudness:
    """The recording's own magnitude as relevance: whatever is loud matters."""

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""
        return Explanation(target, relevance=Relevance(classifier.listening.forward(batch.waveforms).abs(), "stft"))


class ConstantGain:
    """The same mask value everywhere: the recording, a little quieter.

    Parameters
    ----------
    gain : float
        In [0, 1]. 1 keeps everything ("all-ones"), 0 nothing ("all-zeros").
    """

    def __init__(self, *, gain: float = 0.97) -> None:
        if not 0 <= gain <= 1:
            raise ConfigurationError(f"gain must lie in [0, 1], got {gain}.")
        self.gain = gain

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""
        stft = classifier.listening
        shape = (len(batch), stft.n_bins, stft.n_frames(batch.waveforms.shape[1]))
        return Explanation(target, mask=Mask(torch.full(shape, self.gain).to(batch.waveforms), "stft"))


class NoiseParts:
    """Maps of white noise as parts, and their sum as relevance, from each clip's own stream.

    Scores of several parts are worth something only beside it: patches that any of sixteen noisy maps asks for are
    soon all of them.

    Parameters
    ----------
    k : int
        Parts. They lie on the classifier's feature map, where it has one, else on the listening STFT.
    """

    def __init__(self, *, k: int = 4) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ConfigurationError(f"k is a number of parts, at least 1; got {k!r}.")
        self.k = k

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""
        n_samples = batch.waveforms.shape[1]
        grid = classifier.feature_grid(n_samples)
        shape = (classifier.listening.grid(n_samples) if grid is None else grid).shape

        def part(number: int) -> Relevance:
            noise = random.normal(f"noise-part {number}", *shape).to(batch.waveforms)
            return Relevance(noise, "stft" if grid is None else "features")

        maps = [part(number) for number in range(self.k)]
        weights = torch.stack([one.values.sum((1, 2)) for one in maps], dim=1)
        parts = Parts(
            names=tuple(f"noise {number + 1}" for number in range(self.k)),
            weights=weights,
            selected=torch.ones_like(weights, dtype=torch.bool),
            map=part,
        )
        whole = torch.stack([one.values for one in maps]).sum(0)
        return Explanation(target, relevance=Relevance(whole, maps[0].domain), parts=parts)


def all_ones() -> ConstantGain:
    """The control that keeps everything."""
    return ConstantGain(gain=1.0)


def all_zeros() -> ConstantGain:
    """The control that keeps nothing."""
    return ConstantGain(gain=0.0)
