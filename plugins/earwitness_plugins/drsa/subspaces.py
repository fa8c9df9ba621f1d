"""Orthogonal subspaces and how they are fitted: the paper's fixed steps, and steps that adapt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from earwitness.errors import ExplanationError
from earwitness_plugins.drsa.objective import Vectors, subspace_relevance, value_and_gradient

Method = Literal["adaptive", "paper"]

PAPER_STEPS = 5000
"""Steps of the paper's procedure."""

_LARGEST_STEP = 256.0
_GROWTH, _CUT = 1.3, 0.4
_PATIENCE, _GAIN = 40, 1e-5
"""A restart ends when the last 40 steps gained less than this share of its objective."""
_MOST_STEPS = 5000
_ORTHOGONAL = 1e-5

Report = Callable[[int, float], None]
"""Called after each step with the number of steps and the best objective."""


@dataclass(frozen=True, eq=False)
class Subspaces:
    """K orthogonal subspaces that together are the whole space.

    Attributes
    ----------
    basis : Tensor (D, D), float64
        U, orthogonal; its columns block by block.
    sizes : tuple of int, length K
        Columns of each block.
    """

    basis: Tensor
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        deviation = orthogonality_gap(self.basis)
        if not deviation < _ORTHOGONAL:
            raise ExplanationError(
                f"The fitted basis is not orthogonal: U'U differs from I by {deviation:.2g}. This is a defect of the "
                "fit; please report it with its settings."
            )

    @property
    def members(self) -> Tensor:
        """Which columns of the basis belong to each subspace: Tensor (K, D), bool."""
        block = torch.repeat_interleave(torch.tensor(self.sizes))
        return block[None] == torch.arange(len(self.sizes))[:, None]

    def relevance(self, vectors: Vectors) -> Tensor:
        """R_nk of the live vectors: Tensor (N', K)."""
        basis = self.basis.to(vectors.activations)[None]
        return subspace_relevance(basis, vectors.activations, vectors.contexts, self.sizes)[0]

    def ordered(self, vectors: Vectors) -> tuple[Subspaces, Tensor]:
        """The same subspaces by falling mean relevance, and that mean, (K,): sum of signed R_nk over N."""
        mean = self.relevance(vectors).double().sum(0) / vectors.n_rows
        order = mean.argsort(descending=True, stable=True).tolist()
        blocks = torch.split(self.basis, list(self.sizes), dim=1)
        basis = torch.cat([blocks[k] for k in order], dim=1)
        return Subspaces(basis, tuple(self.sizes[k] for k in order)), mean[order]


@dataclass(frozen=True, eq=False)
class Fit:
    """What a fit found.

    Attributes
    ----------
    subspaces : Subspaces
        Of the best restart.
    objective : float
        Its J.
    curves : Tensor (S, I), float32
        J of each restart after 0, 1, … steps; NaN after the restart has ended.
    """

    subspaces: Subspaces
    objective: float
    curves: Tensor


def random_starts(dimensions: int, count: int, generator: torch.Generator) -> Tensor:
    """Independent orthogonal matrices, uniform over rotations and reflections: Tensor (count, D, D), float64."""
    normal = torch.randn(count, dimensions, dimensions, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    starts: Tensor = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
    return starts


def polar(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices: (S, D, D) -> (S, D, D).

    By singular values: the Gram matrix's eigenvalues, as in the published code, square the condition number. In single
    precision LAPACK gives some large matrices up, which then go through double precision.
    """
    try:
        left, _, right = torch.linalg.svd(matrices)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if matrices.dtype == torch.float64:
            raise
        return polar(matrices.double()).to(matrices.dtype)
    nearest: Tensor = left @ right
    return nearest


def orthogonality_gap(basis: Tensor) -> float:
    """Largest |U'U - I| of (..., D, D)."""
    gram = basis.transpose(-1, -2) @ basis
    return float((gram - torch.eye(basis.shape[-1]).to(basis)).abs().max())


def fit_subspaces(
    vectors: Vectors,
    sizes: tuple[int, ...],
    starts: Tensor,
    *,
    method: Method = "adaptive",
    steps: int | None = None,
    report: Report = lambda step, objective: None,
) -> Fit:
    """Maximise J from several starts and keep the best.

    Parameters
    ----------
    vectors : Vectors
    sizes : tuple of int, length K
    starts : Tensor (S, D, D)
        Orthogonal.
    method : {"adaptive", "paper"}
        See :func:`adaptive_ascent` and :func:`paper_ascent`.
    steps : int, optional
        At most (``adaptive``) or exactly (``paper``) so many; 5000 by default.
    report : callable

    Returns
    -------
    Fit

    Raises
    ------
    ExplanationError
        The result is not orthogonal to 1e-5.
    """
    starts = starts.to(vectors.activations)
    if method == "paper":
        basis, curves = paper_ascent(vectors, sizes, starts, PAPER_STEPS if steps is None else steps, report)
    else:
        basis, curves = adaptive_ascent(vectors, sizes, starts, _MOST_STEPS if steps is None else steps, report)
    final, _ = value_and_gradient(basis, vectors, sizes)
    best = int(final.argmax())
    exact = polar(basis[best, None].double())[0]
    if orthogonality_gap(basis[best]) > _ORTHOGONAL:  # what was maximised was no rotation: no polar step may hide it
        exact = basis[best].double()
    return Fit(Subspaces(exact.cpu(), sizes), float(final[best]), curves)


def paper_ascent(
    vectors: Vectors, sizes: tuple[int, ...], starts: Tensor, steps: int, report: Report = lambda step, objective: None
) -> tuple[Tensor, Tensor]:
    """U <- polar(U + dJ/dU), a fixed number of times (Chormai et al., 2024).

    Returns
    -------
    basis : Tensor (S, D, D)
    curves : Tensor (S, steps + 1), float32
        J before each step, and at the end.
    """
    basis, curves = starts, []
    for step in range(steps):
        value, gradient = value_and_gradient(basis, vectors, sizes)
        curves.append(value)
        basis = polar(basis + gradient)
        report(step + 1, float(value.max()))
    curves.append(value_and_gradient(basis, vectors, sizes)[0])
    return basis, torch.stack(curves, dim=1).float().cpu()


def adaptive_ascent(
    vectors: Vectors, sizes: tuple[int, ...], starts: Tensor, steps: int, report: Report = lambda step, objective: None
) -> tuple[Tensor, Tensor]:
    """U <- polar(U + step · dJ/dU) where that is a gain; the step grows after a gain and shrinks after a loss.

    Each restart has its own step and ends when it no longer gains (1e-5 of J in 40 steps).

    Returns
    -------
    basis : Tensor (S, D, D)
    curves : Tensor (S, I), float32
        Never falling; NaN after a restart has ended.
    """
    basis = starts.clone()
    value, gradient = value_and_gradient(basis, vectors, sizes)
    size = torch.ones_like(value)
    running = torch.arange(len(basis), device=basis.device)
    curves = [value.clone()]
    for step in range(1, steps + 1):
        trial = polar(basis[running] + size[running, None, None] * gradient[running])
        new_value, new_gradient = value_and_gradient(trial, vectors, sizes)
        gained = new_value > value[running]
        better = running[gained]
        basis[better], value[better], gradient[better] = trial[gained], new_value[gained], new_gradient[gained]
        size[running] *= torch.where(gained, _GROWTH, _CUT)
        size.clamp_(max=_LARGEST_STEP)
        curve = torch.full_like(value, torch.nan)
        curve[running] = value[running]
        curves.append(curve)
        report(step, float(value.max()))
        if step >= _PATIENCE:
            running = running[value[running] - curves[step - _PATIENCE][running] >= _GAIN * value[running]]
        if not len(running):
            break
    return basis, torch.stack(curves, dim=1).float().cpu()
