"""What trainings of different networks have in common: a learning rate that rises and falls, and averaged weights."""

from __future__ import annotations

import math

import torch
from torch import nn


def one_cycle(peak: float, step: int, n_steps: int, *, warm_up: float) -> float:
    """A learning rate that rises linearly from 0 to its peak and falls to 0 along half a cosine.

    Parameters
    ----------
    peak : float
    step : int
        0, 1, … ``n_steps`` - 1.
    n_steps : int
    warm_up : float, in (0, 1)
        Share of all steps during which it rises.
    """
    done = (step + 0.5) / n_steps
    if done < warm_up:
        return peak * done / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, *, steps_taken: int, memory: int) -> None:
    """Take the weights of one more step into a running average (Izmailov et al., UAI 2018; here exponential).

    Parameters
    ----------
    average : nn.Module
        A copy of the network; changed in place. What is counted rather than measured is copied.
    network : nn.Module
    steps_taken : int
        This one included.
    memory : int
        The average keeps 1 - 1/memory of itself, and is the plain mean before there are that many steps.
    """
    weight = 1 / min(steps_taken, memory)
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, weight)
        else:
            mean.copy_(value)
