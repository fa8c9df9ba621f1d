"""Layer-wise relevance propagation once more, without Zennit: slow, one output at a time, close to the formulas.

A layer is its dense matrix, found by sending unit vectors through it, so that nothing here knows about convolutions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]
Contributions = list[tuple[float, Array, float]]
"""Parts of one output: a coefficient, what each input contributes, and what the bias does."""


def dense(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Weights (n_out, n_in) and bias (n_out,) of a linear layer for inputs of a shape, batch axis aside."""
    n_in = int(np.prod(shape))
    with torch.no_grad():
        bias = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten().numpy()
        columns = layer(torch.eye(n_in, dtype=torch.float64).reshape(n_in, *shape)).flatten(1).numpy()
    return (columns - bias).T, bias


def connections(layer: nn.Module, shape: tuple[int, ...]) -> Array:
    """1 where an input of a layer reaches an output, else 0: (n_out, n_in)."""
    alike = copy.deepcopy(layer)
    for parameter in alike.parameters():
        nn.init.ones_(parameter)
    return dense(alike, shape)[0].round()


def contributions(rule: str, gamma: float, low: float, high: float) -> Callable[..., Contributions]:
    """x (n_in,), w (n_in,), b of one output and which inputs reach it -> the rule's parts."""

    def plus(v: Array) -> Array:
        return np.where(v > 0, v, 0.0)

    def minus(v: Array) -> Array:
        return np.where(v < 0, v, 0.0)

    def epsilon(x: Array, w: Array, b: float, reach: Array, z: float) -> Contributions:
        return [(1.0, x * w, b)]

    def generalised_gamma(x: Array, w: Array, b: float, reach: Array, z: float) -> Contributions:
        if z == 0:
            return []
        favoured, other = (plus, minus) if z > 0 else (minus, plus)
        share = plus(x) * (w + gamma * favoured(w)) + minus(x) * (w + gamma * other(w))
        return [(1.0, share, b + gamma * float(favoured(np.array(b))))]

    def zplus(x: Array, w: Array, b: float, reach: Array, z: float) -> Contributions:
        return [(1.0, plus(x * w), max(b, 0.0))]

    def alpha2_beta1(x: Array, w: Array, b: float, reach: Array, z: float) -> Contributions:
        return [(2.0, plus(x * w), max(b, 0.0)), (-1.0, minus(x * w), min(b, 0.0))]

    def zbox(x: Array, w: Array, b: float, reach: Array, z: float) -> Contributions:
        return [(1.0, x * w - low * plus(w) - high * minus(w), b - max(b, 0.0) - min(b, 0.0))]

    def wsquare(x: Array, w: Array, b: float, reach: Array, z: float) -> Contributions:
        return [(1.0, w**2, b**2)]

    def flat(x: Array, w: Array, b: float, reach: Array, z: float) -> Contributions:
        return [(1.0, reach, 0.0)]

    known = (epsilon, generalised_gamma, zplus, alpha2_beta1, zbox, wsquare, flat)
    names = ("epsilon", "gamma", "zplus", "alpha-beta", "zbox", "wsquare", "flat")
    return dict(zip(names, known, strict=True))[rule]


def layer_by_hand(
    rule: str,
    layer: nn.Module,
    x: Tensor,
    relevance: Tensor,
    *,
    stabiliser: float,
    zero_bias: bool,
    gamma: float = 0.25,
    bounds: tuple[float, float] = (-3.0, 3.0),
) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance of a layer's output -> that of its input, with the shares of bias and stabiliser.

    Parameters
    ----------
    x : Tensor (N, ...), float64
    relevance : Tensor (N, ...), float64
        Of the shape of the output.

    Returns
    -------
    Tensor (N, ...), Tensor (N,), Tensor (N,)
    """
    shape = tuple(x.shape[1:])
    weights, biases = dense(layer, shape)
    reach = connections(layer, shape)
    parts_of = contributions(rule, gamma, *bounds)
    found = np.zeros((len(x), weights.shape[1]))
    bias_share, stabiliser_share = np.zeros(len(x)), np.zeros(len(x))
    for n, row in enumerate(x.flatten(1).numpy()):
        for k, upper in enumerate(relevance[n].flatten().numpy()):
            z = float(row @ weights[k] + biases[k])
            left = upper
            for coefficient, share, bias in parts_of(row, weights[k], float(biases[k]), reach[k], z):
                kept = 0.0 if zero_bias else bias
                whole = share.sum() + kept
                denominator = whole + (stabiliser if whole >= 0 else -stabiliser)
                found[n] += coefficient * share / denominator * upper
                bias_share[n] += coefficient * kept / denominator * upper
                left -= coefficient * whole / denominator * upper
            stabiliser_share[n] += left
    return torch.from_numpy(found).reshape(x.shape), torch.from_numpy(bias_share), torch.from_numpy(stabiliser_share)


def average_by_hand(average: nn.Module, x: Tensor, relevance: Tensor, stabiliser: float) -> Tensor:
    """An average shares relevance out in proportion to the values that were averaged."""
    return layer_by_hand("epsilon", average, x, relevance, stabiliser=stabiliser, zero_bias=True)[0]


def largest_by_hand(x: Tensor, relevance: Tensor, side: int) -> Tensor:
    """Max pooling over squares without overlap: (N, C, H, W), each square's relevance goes to its largest value."""
    found = torch.zeros_like(x)
    n_rows, n_channels, height, width = relevance.shape
    for n in range(n_rows):
        for c in range(n_channels):
            for i in range(height):
                for j in range(width):
                    square = x[n, c, i * side : (i + 1) * side, j * side : (j + 1) * side]
                    place = int(square.flatten().argmax())
                    found[n, c, i * side + place // square.shape[1], j * side + place % square.shape[1]] = relevance[
                        n, c, i, j
                    ]
    return found
