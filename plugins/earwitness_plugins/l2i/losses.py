"""What the interpreter is trained for: to decide as the classifier does, and to explain the sound (Parekh et al.,
eq. 1 to 4).

The published weights, alpha = 10 and beta = 0.8, mean something only with the reductions of the authors' code: the
reconstruction is a mean over bins and frames, the activations' L1 norm a mean over patterns and frames (the equations
write sums), and the cross-entropy a sum over classes, as in the equations, also for several labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Schedule = Literal["constant", "code"]

_DOUBLED_FROM = 20
"""Epoch, counted from 1, at which the authors' code doubles the weight of fidelity."""


@dataclass(frozen=True)
class LossWeights:
    """What each loss counts.

    Attributes
    ----------
    alpha : float
        Of the reconstruction.
    beta : float
        Of the L1 norm of the activations.
    schedule : {"constant", "code"}
        ``code`` does what the authors' code does and their paper does not say: it doubles the weight of fidelity from
        epoch 20 on, and, for several labels, takes the mean over classes in place of the sum. That leaves fidelity a
        weight of 1/C, too little for a few hundred clips.
    """

    alpha: float = 10.0
    beta: float = 0.8
    schedule: Schedule = "constant"

    def total(
        self, fidelity: Tensor, reconstruction: Tensor, sparsity: Tensor, *, epoch: int, n_decisions: int
    ) -> Tensor:
        """The weighted sum of the three losses.

        Parameters
        ----------
        fidelity, reconstruction, sparsity : Tensor ()
        epoch : int
            From 1.
        n_decisions : int
            C for several labels, each a decision of its own; else 1.
        """
        weight = 1.0
        if self.schedule == "code":
            weight = (2 if epoch >= _DOUBLED_FROM else 1) / n_decisions
        return weight * fidelity + self.alpha * reconstruction + self.beta * sparsity


def fidelity_loss(logits: Tensor, probabilities: Tensor, *, multilabel: bool) -> Tensor:
    """How far the interpreter's decision is from the classifier's.

    Parameters
    ----------
    logits : Tensor (B, C)
        The interpreter's.
    probabilities : Tensor (B, C), in [0, 1]
        The classifier's.
    multilabel : bool
        Binary cross-entropies (eq. 2); else cross-entropy of two distributions (eq. 1). Sum over classes, mean over
        rows.

    Returns
    -------
    Tensor (), in nats
    """
    if multilabel:
        return functional.binary_cross_entropy_with_logits(logits, probabilities, reduction="sum") / len(logits)
    return -(probabilities * torch.log_softmax(logits, dim=1)).sum(1).mean()


def reconstruction_loss(activations: Tensor, projections: Tensor, gram: Tensor, energy: Tensor, n_bins: int) -> Tensor:
    """Mean of (X - WH)² over rows, bins and frames (eq. 3), from products in which the bins are summed already.

    ‖X - WH‖² = ‖X‖² - 2 <WᵀX, H> + <WᵀW H, H>: the spectrogram itself is not needed, and a step costs a fifth.

    Parameters
    ----------
    activations : Tensor (B, K, N)
        H.
    projections : Tensor (B, K, N)
        WᵀX, of the log1p spectrogram X.
    gram : Tensor (K, K)
        WᵀW.
    energy : Tensor (B,)
        ‖X‖².
    n_bins : int
        F.

    Returns
    -------
    Tensor ()
    """
    products = (activations * (gram @ activations - 2 * projections)).sum((1, 2))
    return ((energy + products) / (n_bins * activations.shape[2])).mean()


def sparsity_loss(activations: Tensor) -> Tensor:
    """Mean of the activations (B, K, N), which are not negative, over all axes: their L1 norm as coded."""
    return activations.mean()
