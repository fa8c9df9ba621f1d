"""Folding batch normalisation into the convolution or linear layer before it, for speed.

A folded, channels-last convolution network runs about twice as fast on a CPU. Folding is done in float64 on a copy and
kept only if the outputs stay the same.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

TOLERANCE = 1e-4
"""Largest accepted change of the outputs, relative to the largest |logit|."""


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy in which each BatchNorm that directly follows a convolution or linear layer in a Sequential is folded.

    Layer names stay; a folded BatchNorm becomes an ``nn.Identity``. The copy is in evaluation mode; the network itself
    is not touched.
    """
    folded = copy.deepcopy(network).eval().double()
    for parent in folded.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        children = list(parent.named_children())
        for (name, layer), (next_name, norm) in pairwise(children):
            if isinstance(layer, nn.Conv1d | nn.Conv2d) and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                fused: nn.Module = fuse_conv_bn_eval(layer, norm)
            elif isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
                fused = fuse_linear_bn_eval(layer, norm)
            else:
                continue
            setattr(parent, name, fused)
            setattr(parent, next_name, nn.Identity())
    return folded.float()


def prepared(network: nn.Module, probe: Tensor) -> nn.Module:
    """The folded, channels-last network where it is equivalent, else the network itself.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    probe : Tensor (B, ...)
        An input on which the two are compared.

    Returns
    -------
    nn.Module
        Whose outputs on ``probe`` differ by at most 1e-4 of the largest |logit|.
    """
    if not any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules()):
        return network
    try:
        folded = fold_batch_norm(network)
        for parameter in folded.parameters():
            parameter.requires_grad_(False)
        if probe.ndim == 4:
            folded = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            plain, fast = network(probe), folded(probe)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        return network  # exotic modules: correctness before speed
    largest = plain.abs().max().clamp_min(1e-6)
    return folded if bool((plain - fast).abs().max() <= TOLERANCE * largest) else network
