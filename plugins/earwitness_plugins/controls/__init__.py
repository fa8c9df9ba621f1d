"""Maps that know nothing of the classifier. They run in every suite and are never ranked.

A constant gain of .97 wins Average Drop and input fidelity on published tables: a method that does not beat these at
an equal budget of signal energy has shown nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ConfigurationError
from earwitness.explanation import Explanation, Mask, Relevance
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


def all_ones() -> ConstantGain:
    """The control that keeps everything."""
    return ConstantGain(gain=1.0)


def all_zeros() -> ConstantGain:
    """The control that keeps nothing."""
    return ConstantGain(gain=0.0)
