"""One step of Sparse-NMF, by coordinate descent (HALS) or by the multiplicative rules of its authors.

Both lessen ``½‖X - WH‖² + mu ΣH`` over W, H >= 0 with columns of W of unit L2 norm (Le Roux, Weninger and Hershey,
"Sparse NMF - half-baked or well done?", MERL TR2015-023, with the Euclidean distance).

The step of H is one of each frame for itself. The step of W needs the frames only through HXᵀ and HHᵀ: summed over
blocks of frames, these two make it exact however the frames come in.

Conventions: R restarts side by side, F bins, K patterns, n frames of a block. Patterns are rows here, ``Wᵀ`` (R, K, F).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

MethodName = Literal["hals", "multiplicative"]

_FLOOR = 1e-9
"""The least denominator of the multiplicative rules, as published."""

_ACTIVATION_SWEEPS, _PATTERN_SWEEPS = 4, 2
"""Of HALS, over all rows: a sweep costs little beside the two products with the spectrogram."""

_GROUP = 16
"""Rows whose mutual influence is tracked one by one; that of all others comes in one product, which is faster."""


@dataclass(frozen=True, eq=False)
class Sums:
    """What the step of W, and the objective, must know of all frames.

    Attributes
    ----------
    cross : Tensor (R, K, F), float64
        HXᵀ.
    gram : Tensor (R, K, K), float64
        HHᵀ.
    total : Tensor (R,), float64
        ΣH.
    """

    cross: Tensor
    gram: Tensor
    total: Tensor

    @classmethod
    def of(cls, block: Tensor, activations: Tensor) -> Self:
        """Those of one block (F, n) with activations (R, K, n)."""
        n_restarts, n_patterns, _ = activations.shape
        cross = (activations.flatten(0, 1) @ block.T).reshape(n_restarts, n_patterns, -1)
        gram = activations @ activations.mT
        return cls(cross.double(), gram.double(), activations.sum((1, 2), dtype=torch.float64))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.cross + other.cross, self.gram + other.gram, self.total + other.total)

    def objective(self, patterns: Tensor, energy: float, sparsity: float) -> Tensor:
        """½‖X - WH‖² + mu ΣH: Tensor (R,), float64, from ``energy`` = ½‖X‖²."""
        rows = patterns.double()
        fit = (self.cross * rows).sum((1, 2)) - 0.5 * (self.gram * (rows @ rows.mT)).sum((1, 2))
        return energy - fit + sparsity * self.total


@dataclass(frozen=True)
class Method:
    """How a step is done.

    Attributes
    ----------
    activations : callable (activations (R, K, n), projected WᵀX (R, K, n), gram WᵀW (R, K, K), sparsity) -> (R, K, n)
    patterns : callable (patterns (R, K, F), Sums, free (K,) bool) -> (R, K, F)
        Rows that are not free stay as they are.
    screens : bool
        Whether quiet frames get exact zeros, so that they may be left out; see :func:`audible`.
    extrapolates : bool
        Whether momentum speeds it up.
    halved : bool
        Whether the distance that is watched for the end has its ½. The published code prints, and ends by, a cost
        without it, ‖X - WH‖² + mu ΣH, although its updates lessen the objective with it.
    """

    activations: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    patterns: Callable[[Tensor, Sums, Tensor], Tensor]
    screens: bool
    extrapolates: bool
    halved: bool

    def watched(self, objective: Tensor, sums: Sums, sparsity: float) -> Tensor:
        """The value that ends a descent once it settles: Tensor (R,), float64."""
        return objective if self.halved else 2 * objective - sparsity * sums.total


def audible(block: Tensor, sparsity: float) -> Tensor:
    """Frames of (F, n) that any patterns of unit norm can explain at all: Tensor (n,), bool.

    Where ‖x‖ <= mu, every wᵀx is at most mu, so that h = 0 is the minimum.
    """
    loud: Tensor = torch.linalg.vector_norm(block, dim=0) > sparsity
    return loud


def energy_of(block: Tensor) -> float:
    """½‖X‖², summed in float64."""
    pieces: tuple[Tensor, ...] = torch.split(block, 64)  # which stay in cache
    return 0.5 * sum(float(rows.double().square().sum()) for rows in pieces)


def project(patterns: Tensor, block: Tensor) -> Tensor:
    """WᵀX of a block (F, n): Tensor (R, K, n)."""
    n_restarts, n_patterns, _ = patterns.shape
    return (patterns.flatten(0, 1) @ block).reshape(n_restarts, n_patterns, -1)


def rescale(activations: Tensor, projected: Tensor, gram: Tensor, sparsity: float) -> Tensor:
    """Activations (R, K, n), each frame times the factor >= 0 that is best for it; a start may be of any scale."""
    slope = (activations * (projected - sparsity)).sum(1, keepdim=True)
    curvature = (activations * (gram @ activations)).sum(1, keepdim=True)
    return activations * (slope.clamp_min(0) / curvature.clamp_min(torch.finfo(curvature.dtype).tiny))


def descend_activations(
    activations: Tensor, projected: Tensor, gram: Tensor, sparsity: float, sweeps: int = _ACTIVATION_SWEEPS
) -> Tensor:
    """Coordinate descent over the rows of H: h_k <- max(0, h_k + w_kᵀX - mu - (WᵀW)_k H).

    Parameters
    ----------
    activations : Tensor (R, K, n), >= 0
    projected : Tensor (R, K, n)
        WᵀX.
    gram : Tensor (R, K, K)
        WᵀW, ones on its diagonal.
    sparsity : float
    sweeps : int
        Times that each row is visited.

    Returns
    -------
    Tensor (R, K, n), >= 0
        With exact zeros.
    """
    rows = activations.clone()
    evidence = projected - sparsity
    for _ in range(sweeps):
        for first in range(0, rows.shape[1], _GROUP):
            group = slice(first, first + _GROUP)
            slopes = torch.baddbmm(evidence[:, group], gram[:, group], rows, alpha=-1)
            rows[:, group] = _descended(rows[:, group], slopes, gram[:, group, group])
    return rows


def _descended(rows: Tensor, slopes: Tensor, gram: Tensor) -> Tensor:
    """The rows of a group (R, g, n), visited one after the other; ``slopes`` (R, g, n) is taken over."""
    targets = slopes.add_(rows)
    for k in range(rows.shape[1]):
        moved = targets[:, k].clamp_min_(0)
        change = moved - rows[:, k]
        targets[:, k + 1 :].addcmul_(gram[:, k + 1 :, k, None], change[:, None], value=-1)
    return targets


def descend_patterns(patterns: Tensor, sums: Sums, free: Tensor) -> Tensor:
    """Each pattern in turn becomes the best one on the non-negative unit sphere, the others given.

    With p = (HXᵀ)_k - Σ_{j≠k} (HHᵀ)_kj w_j, the objective falls with wᵀp alone: see :func:`on_sphere`. A pattern that
    never sounds stays as it is.
    """
    rows = patterns.clone()
    cross, gram = sums.cross.to(rows), sums.gram.to(rows)
    others = gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
    sounds = (gram.diagonal(dim1=1, dim2=2) > 0)[..., None]
    numbers = free.nonzero().flatten().tolist()
    for _ in range(_PATTERN_SWEEPS):
        for k in numbers:
            pull = torch.baddbmm(cross[:, k : k + 1], others[:, k : k + 1], rows, alpha=-1)[:, 0]
            rows[:, k] = torch.where(sounds[:, k], on_sphere(pull), rows[:, k])
    return rows


def on_sphere(pull: Tensor) -> Tensor:
    """The w >= 0 with ‖w‖ = 1 and the largest wᵀp: Tensor (..., F) for ``pull`` p (..., F).

    max(0, p), normalised; where no entry is positive, the unit vector at the largest one.
    """
    highest, where = pull.max(-1, keepdim=True)
    scaled = pull.clamp_min(0) / torch.where(highest > 0, highest, 1)  # squares of small numbers would vanish
    norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    corner = torch.zeros_like(pull).scatter_(-1, where, 1)
    return torch.where(highest > 0, scaled / norm.clamp_min(1), corner)


def multiply_activations(activations: Tensor, projected: Tensor, gram: Tensor, sparsity: float) -> Tensor:
    """H <- H · WᵀX / (WᵀWH + mu)."""
    return _flushed(activations * projected / (gram @ activations + sparsity).clamp_min(_FLOOR))


def multiply_patterns(patterns: Tensor, sums: Sums, free: Tensor) -> Tensor:
    """W <- W · (XHᵀ + W ⊙ 1(WHHᵀ ⊙ W)) / (WHHᵀ + W ⊙ 1(XHᵀ ⊙ W)), columns normalised; H is not rescaled."""
    cross, gram = sums.cross.to(patterns), sums.gram.to(patterns)
    modelled = gram @ patterns
    numerator = cross + patterns * (modelled * patterns).sum(-1, keepdim=True)
    denominator = modelled + patterns * (cross * patterns).sum(-1, keepdim=True)
    moved = normalised(_flushed(patterns * numerator / denominator.clamp_min(_FLOOR)))
    return torch.where(free[:, None], moved, patterns)


def _flushed(values: Tensor) -> Tensor:
    """With zeros for denormal numbers, which make a processor many times slower."""
    return functional.threshold(values, torch.finfo(values.dtype).tiny, 0.0)


def normalised(patterns: Tensor) -> Tensor:
    """Rows (..., F) divided by their L2 norm."""
    norm: Tensor = torch.linalg.vector_norm(patterns, dim=-1, keepdim=True)
    return patterns / norm.clamp_min(torch.finfo(norm.dtype).tiny)


METHODS: dict[str, Method] = {
    "hals": Method(descend_activations, descend_patterns, screens=True, extrapolates=True, halved=True),
    "multiplicative": Method(multiply_activations, multiply_patterns, screens=False, extrapolates=False, halved=False),
}
