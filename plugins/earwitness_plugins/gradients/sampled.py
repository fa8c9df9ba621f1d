"""Methods that average gradients at random points: SmoothGrad and GradientSHAP.

Each clip draws from its own stream, so a batch of one gives the same numbers as its row of a larger batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ConfigurationError
from earwitness.explanation import Explanation
from earwitness.random import Random
from earwitness_plugins.gradients.inputs import (
    MEMORY_MB,
    AttributionInput,
    InputDomain,
    check_count,
    check_domain,
    check_memory,
    explained,
    gradient_at,
)


class SmoothGrad:
    """Mean of |gradient| over noisy copies of the input (Smilkov et al., 2017, section 3).

    Parameters
    ----------
    domain : {"features", "waveform"}
    n_samples : int
        Noisy copies (the paper sees little change past 50).
    noise_share : float
        Standard deviation of the noise over the span (maximum minus minimum) of each input; the paper's 10-20 %.
    memory_mb : float
        What the network may keep for its gradient at once.
    """

    def __init__(
        self,
        *,
        domain: InputDomain = "features",
        n_samples: int = 32,
        noise_share: float = 0.15,
        memory_mb: float = MEMORY_MB,
    ) -> None:
        self.domain = check_domain(domain)
        self.n_samples = check_count("smoothgrad", "n_samples", n_samples, 1)
        self.noise_share = _check_noise(noise_share)
        self.memory_mb = check_memory(memory_mb)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""

        def attribute(piece: AttributionInput) -> Tensor:
            def some(numbers: range) -> Tensor:
                return gradient_at(piece, piece.values + self.noise_share * _noise(piece, numbers)).abs().sum(0)

            return _mean(some, self.n_samples, piece.copies_at_once)

        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb
        )
        return explained(given, attribute)


class GradientShap:
    """Expected gradients between silence and the noisy input (Lundberg and Lee, 2017; Erion et al., 2021, Eq. 3).

    Each sample takes the input plus noise, x' = x + e, a point on the line from silence s to it,
    p = s + a (x' - s) with a uniform in [0, 1), and (x' - s) times the gradient at p. With no noise and many samples
    this is integrated gradients.

    Parameters
    ----------
    domain : {"features", "waveform"}
    n_samples : int
    noise_share : float
        Standard deviation of the noise over the span (maximum minus minimum) of each input.
    memory_mb : float
        What the network may keep for its gradient at once.

    Notes
    -----
    The diagnostic ``completeness_gap`` is |sum of relevance - (logit(x) - logit(silence))|.
    """

    def __init__(
        self,
        *,
        domain: InputDomain = "features",
        n_samples: int = 32,
        noise_share: float = 0.05,
        memory_mb: float = MEMORY_MB,
    ) -> None:
        self.domain = check_domain(domain)
        self.n_samples = check_count("gradient-shap", "n_samples", n_samples, 1)
        self.noise_share = _check_noise(noise_share)
        self.memory_mb = check_memory(memory_mb)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""

        def attribute(piece: AttributionInput) -> Tensor:
            def some(numbers: range) -> Tensor:
                difference = piece.values + self.noise_share * _noise(piece, numbers) - piece.silence
                places = torch.stack([piece.random.uniform(f"place {number}") for number in numbers]).to(difference)
                places = places.reshape(*places.shape, *[1] * (difference.ndim - 2))
                return (difference * gradient_at(piece, piece.silence + places * difference)).sum(0)

            return _mean(some, self.n_samples, piece.copies_at_once)

        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb
        )
        return explained(given, attribute, baseline=given.silence)


def _noise(given: AttributionInput, numbers: range) -> Tensor:
    """Normal noise for these samples, (K, B, ...), as wide as the span of each row's input."""
    values = given.values
    axes = tuple(range(1, values.ndim))
    span = values.amax(axes, keepdim=True) - values.amin(axes, keepdim=True)
    drawn = [given.random.normal(f"noise {number}", *values.shape[1:]) for number in numbers]
    return torch.stack(drawn).to(values) * span


def _mean(some: Callable[[range], Tensor], n_samples: int, at_once: int) -> Tensor:
    """Mean over all samples of what ``some`` sums over a few."""
    starts = range(0, n_samples, at_once)
    total = sum(some(range(start, min(start + at_once, n_samples))) for start in starts)
    assert isinstance(total, Tensor)
    return total / n_samples


def _check_noise(noise_share: float) -> float:
    if not 0 <= noise_share < float("inf"):
        raise ConfigurationError(f"noise_share must be 0 or more (a share of the input's span), got {noise_share!r}.")
    return float(noise_share)
