"""What disentangled relevant subspace analysis maximises, and its gradient, for all restarts at once.

Notation: a_n activation and c_n context of vector n (n = 1..N, D dimensions), U orthogonal, U_k its k-th block of
columns, k = 1..K::

    R_nk = sum over the block of (U_k' a_n) (U_k' c_n)                       relevance of subspace k
    J(U) = ( mean_k sqrt( sqrt( mean_n max(R_nk, 0)^2 ) ) )^2                soft-min over subspaces, exponent 1/2

The soft-min asks every subspace to be relevant, and the square within favours subspaces that are relevant for few
vectors, and then strongly.

Source: Chormai et al., IEEE TPAMI 2024, with means in place of sums, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from earwitness.errors import ConfigurationError

_ROWS_AT_ONCE = 2048
"""Vectors in one matrix product: their projections stay in a CPU's cache."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """What subspaces are fitted to.

    Attributes
    ----------
    activations, contexts : Tensor (N', D), floating
        Rows that can have relevance.
    n_rows : int
        N >= N', the number of rows that means are taken over: rows in which either vector is zero have no relevance
        under any U, so they are left out and counted.
    """

    activations: Tensor
    contexts: Tensor
    n_rows: int

    @classmethod
    def normalised(cls, activations: Tensor, contexts: Tensor) -> Vectors:
        """Vectors of comparable size: each of the two divided by its root mean square over all entries and by D^(1/4).

        Parameters
        ----------
        activations, contexts : Tensor (N, D), floating
            Dead rows included.

        Raises
        ------
        ConfigurationError
            All vectors are dead, or fewer are alive than they have dimensions.
        """
        dead = (activations == 0).all(1) | (contexts == 0).all(1)
        if bool(dead.all()):
            raise ConfigurationError(
                f"all {len(dead)} vectors are dead: activations or their contexts are zero. Name another layer."
            )
        n_live = len(dead) - int(dead.sum())
        if n_live < activations.shape[1]:
            raise ConfigurationError(
                f"{n_live} vectors ({len(dead) - n_live} more are dead) are too few for {activations.shape[1]} "
                "dimensions. Give more clips, or more locations of each."
            )
        live = [_normalised(values)[~dead] for values in (activations, contexts)]
        return cls(live[0], live[1], len(dead))

    @property
    def dimensions(self) -> int:
        """D."""
        return self.activations.shape[1]


def _normalised(values: Tensor) -> Tensor:
    root_mean_square = values.double().square().mean().sqrt().to(values.dtype)
    normalised: Tensor = values / root_mean_square / values.shape[1] ** 0.25
    return normalised


def block_sizes(dimensions: int, k: int) -> tuple[int, ...]:
    """Columns of each of K blocks. Where K does not divide D, the first D mod K blocks have one more.

    Raises
    ------
    ConfigurationError
        K is not from 1 to D.
    """
    if not 1 <= k <= dimensions:
        raise ConfigurationError(f"k must lie between 1 and the {dimensions} dimensions of the layer, got {k}.")
    small, more = divmod(dimensions, k)
    return (small + 1,) * more + (small,) * (k - more)


def subspace_relevance(basis: Tensor, activations: Tensor, contexts: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """R_nk of all restarts.

    Parameters
    ----------
    basis : Tensor (S, D, D)
        U of each of S restarts.
    activations, contexts : Tensor (N, D)
    sizes : tuple of int, length K
        Columns of each block.

    Returns
    -------
    Tensor (S, N, K)
    """
    return _block_sums((activations @ basis) * (contexts @ basis), sizes)


def value_and_gradient(basis: Tensor, vectors: Vectors, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """J and dJ/dU, of all restarts.

    A subspace without any positive relevance has no gradient (that of the soft-min is infinite there).

    Parameters
    ----------
    basis : Tensor (S, D, D)
    vectors : Vectors
    sizes : tuple of int, length K

    Returns
    -------
    Tensor (S,), >= 0, and Tensor (S, D, D)
    """
    n_starts, dimensions, _ = basis.shape
    columns = basis.transpose(0, 1).reshape(dimensions, -1)  # one product for all restarts
    block = torch.repeat_interleave(torch.tensor(sizes, device=basis.device))
    squares = basis.new_zeros(n_starts, len(sizes))
    slope = torch.zeros_like(columns)
    for activations, contexts in zip(
        torch.split(vectors.activations, _ROWS_AT_ONCE), torch.split(vectors.contexts, _ROWS_AT_ONCE), strict=True
    ):
        shape = (len(activations), n_starts, dimensions)
        in_a, in_c = (activations @ columns).reshape(shape), (contexts @ columns).reshape(shape)
        positive = _block_sums(in_a * in_c, sizes).clamp_min_(0)
        squares += positive.square().sum(0)
        weights = positive[:, :, block]
        slope.addmm_(activations.T, in_c.mul_(weights).flatten(1))
        slope.addmm_(contexts.T, in_a.mul_(weights).flatten(1))
    mean_squares = squares / vectors.n_rows
    roots = mean_squares.sqrt().sqrt()
    mean_root = roots.mean(1, keepdim=True)
    # dJ/dR_nk = coefficient_k · max(R_nk, 0)
    rate = torch.where(mean_squares > 0, mean_squares.clamp_min(torch.finfo(basis.dtype).tiny).pow(-0.75), 0)
    coefficient = mean_root * rate / (len(sizes) * vectors.n_rows)
    gradient = slope.reshape(dimensions, n_starts, dimensions).transpose(0, 1) * coefficient[:, None, block]
    return mean_root[:, 0].square(), gradient


def _block_sums(values: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """(..., D) -> (..., K)."""
    if len(set(sizes)) == 1:
        return values.reshape(*values.shape[:-1], len(sizes), sizes[0]).sum(-1)
    return torch.stack([piece.sum(-1) for piece in torch.split(values, list(sizes), dim=-1)], dim=-1)
