"""How an audio prototype network comes to its answer: which prototype, which band, which moment.

    logit_k = Σ_j W_jk Ŝ_j = Σ_j Σ_f W_jk H_j[f] S_j[f]

has no bias, so it is taken apart exactly, by prototypes and by bands. S_j[f] = exp(-Σ_t d_j[f,t]) is one number for
all of a band's time, where d_j[f,t] = Σ_c (Z - P_j)² are the squared distances of the cells. To take it apart over
time, the recording is compared with silence, d⁰: the change S - S⁰ is shared out in proportion to how much nearer to
the prototype each cell is than silence would be,

    S_j[f] - S⁰_j[f] = Σ_t (d⁰_j[f,t] - d_j[f,t]) · L(S, S⁰),   L the logarithmic mean.

This is exact, and it is what integrated gradients give along the straight way between the distances (all cells of a
band have the same gradient at every point of it): no sampling, no network in between. A cell that sounds like the
prototype's is evidence, a sound where the prototype has none is counter-evidence, and common silence is nothing.

A timeless prototype is compared with what comes of the maxima over time. There is one cell for all of a band, and its
evidence lies where those maxima are; see :func:`whereabouts`.

R windows, M prototypes, K classes, F' bands and T' frames of the latent map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from earwitness_plugins.apnet.network import KERNEL, AudioPrototypeNetwork, check_distances, similarity

CLOSE = 0.01
"""A window in which no prototype reaches this similarity in any band is like none of them. With the authors' weights
white noise stays below 0.003, where all classes are equally probable, and other inputs reach 0.9."""


@dataclass(frozen=True, eq=False)
class Reasoning:
    """What windows of recordings have in common with the prototypes.

    Attributes
    ----------
    similarities : Tensor (R, M, F')
        S, in [0, 1].
    evidence : Tensor (R, M, F', T')
        What each cell adds to S: sums over time to S - S⁰.
    frequency_weights : Tensor (M, F')
        H.
    class_weights : Tensor (M, K)
        W.
    """

    similarities: Tensor
    evidence: Tensor
    frequency_weights: Tensor
    class_weights: Tensor

    @property
    def weighted(self) -> Tensor:
        """Ŝ (R, M): how similar each prototype is. Not a fraction: H is not one, and may be negative."""
        return (self.similarities * self.frequency_weights).sum(2)

    @property
    def closest(self) -> Tensor:
        """The largest similarity of any prototype in any band: (R,), in [0, 1]."""
        return self.similarities.amax((1, 2))

    def contributions(self) -> Tensor:
        """W_jk H_j[f] S_j[f], of every prototype and band to every class: (R, M, F', K). They sum to the logits."""
        by_band = self.similarities * self.frequency_weights
        return by_band[..., None] * self.class_weights[:, None]

    def contributions_to(self, target: Tensor) -> Tensor:
        """Those to one class of each row, (R,), int64: (R, M, F')."""
        return self.similarities * self._weights(target)

    def relevance_of(self, target: Tensor) -> Tensor:
        """What each cell adds to a class' logit, by prototype: (R, M, F', T'). They sum to logit - logit of silence."""
        return self.evidence * self._weights(target)[..., None]

    def _weights(self, target: Tensor) -> Tensor:
        return self.class_weights.T[target][:, :, None] * self.frequency_weights


@torch.no_grad()
def reason(network: AudioPrototypeNetwork, windows: Tensor, silence: Tensor) -> Reasoning:
    """Compare windows with the prototypes, cell by cell.

    Parameters
    ----------
    network : AudioPrototypeNetwork
    windows : Tensor (R, 1, F, T)
    silence : Tensor (R, 1, F, T)
        What each would be if nothing sounded.

    Returns
    -------
    Reasoning
        float64.

    Raises
    ------
    AudioError, ClassifierError
        Distances are NaN; see :func:`~.network.check_distances`.
    """
    encoder = network.encoder
    found, nothing = encoder.pooled(windows), encoder.pooled(silence)
    heard, silent = (cell_distances(encoder.compared(each), network.prototypes) for each in (found, nothing))
    for distances, features in ((heard, windows), (silent, silence)):
        check_distances(distances, features)
    total, total_silent = heard.sum(3), silent.sum(3)
    slope = mean_similarity(total, total_silent)
    evidence = (silent - heard) * slope[..., None]
    if network.sizes.timeless:
        evidence = evidence * whereabouts(found, nothing)[:, None]
    return Reasoning(
        similarities=similarity(total),
        evidence=evidence,
        frequency_weights=network.frequency_weights.double(),
        class_weights=network.class_weights.double(),
    )


def cell_distances(latent: Tensor, prototypes: Tensor) -> Tensor:
    """d_ij[f,t] = Σ_c (Z_i - P_j)²: maps (R, C, F', T') and (M, C, F', T') to (R, M, F', T'), float64, >= 0."""
    z, p = latent.double().permute(2, 3, 0, 1), prototypes.double().permute(2, 3, 0, 1)
    squared = z.square().sum(3)[..., None] + p.square().sum(3)[..., None, :] - 2 * z @ p.transpose(2, 3)
    return squared.clamp_min(0).permute(2, 3, 0, 1)


def whereabouts(heard: Tensor, silent: Tensor) -> Tensor:
    """When the maxima over time were heard that timeless prototypes are compared with.

    All channels count of the bands that the last convolution makes one of, each by how far its maximum is from that of
    silence; equal maxima share. Where nothing is other than in silence, all frames are alike.

    Parameters
    ----------
    heard, silent : Tensor (R, C, F', T')
        What goes into the last convolution, of windows and of silence.

    Returns
    -------
    Tensor (R, F', T'), float64
        Sums to 1 over time.
    """
    highest = heard.amax(3, keepdim=True)
    maxima = (heard == highest).double()
    apart = (highest - silent.amax(3, keepdim=True)).abs().double()
    by_band = (apart * maxima / maxima.sum(3, keepdim=True)).sum(1)
    seen = functional.avg_pool2d(by_band, (KERNEL, 1), stride=1, padding=(KERNEL // 2, 0))
    total = seen.sum(2, keepdim=True)
    return torch.where(total > 0, seen / torch.where(total > 0, total, 1), 1 / seen.shape[2])


def mean_similarity(distances: Tensor, silent: Tensor) -> Tensor:
    """Logarithmic mean of exp(-distances) and exp(-silent), the mean of S along the straight way between the two."""
    difference = (silent - distances).abs()
    larger = torch.exp(-torch.minimum(distances, silent))
    shape = -torch.expm1(-difference) / torch.where(difference > 0, difference, 1)
    return larger * torch.where(difference > 0, shape, 1)


def on_features(cells: Tensor) -> Tensor:
    """Maps (..., F', T') of the latent space on the features (..., F, T): each cell shared out over its 4 x 4.

    The two poolings put them there. What a cell sees around is wider, by the convolutions.
    """
    return cells.repeat_interleave(4, dim=-2).repeat_interleave(4, dim=-1) / 16
