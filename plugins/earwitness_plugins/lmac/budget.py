"""Masks at a given share of the recording's energy, differentiable: the warp under which maps are compared.

At equal budgets, a map M is judged by what M ** g lets through, with g such that the budget of energy is kept. So what
counts is the order of the cells, and how far they lie apart; the map's own level cancels out. There is one map for all
budgets, hence nothing that a decoder could condition on.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LOG_EXPONENTS = 12.0
_STEPS = 24
_NEAR = 1e-4  # of the budget


def warped(log_mask: Tensor, energy: Tensor, budget: Tensor) -> Tensor:
    """log(M ** g), with the g at which M ** g keeps a share of the energy.

    The gradient is that of the whole map: a cell that rises makes g rise, and so lowers all others.

    Parameters
    ----------
    log_mask : Tensor (B, F, N), float32, < 0
        Of a mask that is nowhere 1, such as a sigmoid's.
    energy : Tensor (B, F, N), float32, >= 0
        Beneath it. Rows without energy keep g = 1.
    budget : Tensor (B,), float32, in (0, 1)
        Shares to keep; reached to 1e-3, within what exponents from e ** -12 to e ** 12 can do.

    Returns
    -------
    Tensor (B, F, N), float32, <= 0
    """
    flat, mass = log_mask.flatten(1), energy.flatten(1)
    total = mass.sum(1, keepdim=True)
    share = mass / torch.where(total > 0, total, 1)
    exponent = torch.where(total > 0, _exponent(flat.detach(), share, budget[:, None].to(flat)), 1.0)
    # One Newton step from the solution moves nothing, and its derivative is that of the implicit function g(M).
    kept = share * torch.exp(2 * exponent * flat)
    slope = (2 * kept * flat).sum(1, keepdim=True).detach()
    residual = kept.sum(1, keepdim=True) - kept.sum(1, keepdim=True).detach()
    follows = exponent - residual / torch.where(slope < 0, slope, -torch.inf)
    return (follows * flat).reshape(log_mask.shape)


@torch.no_grad()
def _exponent(log_mask: Tensor, share: Tensor, budget: Tensor) -> Tensor:
    """g of each row, (B, 1): bisection of log g, sped up by Newton steps of the logarithm of what is kept."""
    low = torch.full_like(budget, -_LOG_EXPONENTS)
    high, log_g = -low, torch.zeros_like(budget)
    for _ in range(_STEPS):
        g = log_g.exp()
        powers = share * torch.exp(2 * g * log_mask)
        kept = powers.sum(1, keepdim=True)
        too_much = kept > budget
        low, high = torch.where(too_much, log_g, low), torch.where(too_much, high, log_g)
        slope = 2 * g * (powers * log_mask).sum(1, keepdim=True) / kept
        newton = log_g - (kept.log() - budget.log()) / slope
        found = (kept / budget - 1).abs() < _NEAR
        if bool(found.all()):
            break
        moved = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
        log_g = torch.where(found, log_g, moved)  # a row that has arrived waits: its neighbours do not change it
    return log_g.exp()
