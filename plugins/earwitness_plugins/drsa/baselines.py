"""The ways to choose subspaces: DRSA itself and what it is compared with.

====== ==========================================================================================================
drsa   maximises J (see :mod:`earwitness_plugins.drsa.objective`)
dsa    the same with activations in place of contexts: subspaces of the data, not of the decision
prca   principal relevant components: eigenvectors of mean_n (a c' + c a'), largest first. Its first block is the
       subspace of the paper, the other blocks together are the residue
pca    eigenvectors of mean_n a a' (not centred), largest first
random rotated at random, seeded
====== ==========================================================================================================

PRCA and PCA have their relevance in the first block, so J, which asks for it everywhere, is low for them and says
nothing about them. J depends on K and D: compare it at equal K and layer only.

Source: Chormai et al., IEEE TPAMI 2024.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from earwitness_plugins.drsa.objective import Vectors, value_and_gradient
from earwitness_plugins.drsa.subspaces import Fit, Method, Report, Subspaces, fit_subspaces, random_starts

Kind = Literal["drsa", "dsa", "prca", "pca", "random"]


def choose_subspaces(
    kind: Kind,
    vectors: Vectors,
    sizes: tuple[int, ...],
    *,
    generator: torch.Generator,
    restarts: int = 3,
    method: Method = "adaptive",
    report: Report = lambda step, objective: None,
) -> Fit:
    """Subspaces of one of the kinds above.

    Parameters
    ----------
    kind : {"drsa", "dsa", "prca", "pca", "random"}
    vectors : Vectors
    sizes : tuple of int, length K
    generator : torch.Generator
        Of the starts, on the CPU.
    restarts : int
        Starts of ``drsa`` and ``dsa``.
    method : {"adaptive", "paper"}
        Of ``drsa`` and ``dsa``.
    report : callable

    Returns
    -------
    Fit
        With J of ``drsa``, whatever was maximised; the curves are those of what was.
    """
    if kind in ("drsa", "dsa"):
        seen = vectors if kind == "drsa" else Vectors(vectors.activations, vectors.activations, vectors.n_rows)
        starts = random_starts(vectors.dimensions, restarts, generator)
        found = fit_subspaces(seen, sizes, starts, method=method, report=report)
        return found if kind == "drsa" else _judged(found.subspaces, vectors, found.curves)
    if kind == "random":
        basis = random_starts(vectors.dimensions, 1, generator)[0]
    else:
        other = vectors.contexts if kind == "prca" else vectors.activations
        _, basis = principal_components(vectors.activations, other)
    return _judged(Subspaces(basis.cpu(), sizes), vectors, None)


def principal_components(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, (D,), and eigenvectors, (D, D), of sum_n (l r' + r l'), largest first, float64."""
    product = left.double().T @ right.double()
    values, vectors = torch.linalg.eigh(product + product.T)
    return values.flip(0), vectors.flip(1)


def _judged(subspaces: Subspaces, vectors: Vectors, curves: Tensor | None) -> Fit:
    basis = subspaces.basis.to(vectors.activations)[None]
    objective = value_and_gradient(basis, vectors, subspaces.sizes)[0]
    return Fit(subspaces, float(objective), objective[:, None].float().cpu() if curves is None else curves)
