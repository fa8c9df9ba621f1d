"""Folding batch norm wherever it directly follows a layer when the network runs, as in a ResNet.

Core folds what stands side by side in a Sequential; here the tensors that flow say what follows what.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from earwitness.folding import TOLERANCE, Folded

_FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_by_order_of_execution(network: nn.Module, probe: Tensor) -> nn.Module:
    """A copy in which each batch norm that eats the output of one convolution or linear layer is folded into it.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; not touched.
    probe : Tensor (N, ...)
        An input, on which the outputs of the two may differ by at most 1e-4 of the largest |logit|.

    Returns
    -------
    nn.Module
        The network itself where there is nothing to fold or the outputs would change.
    """
    with torch.no_grad():
        pairs, plain = _pairs(network, probe)
        if not pairs:
            return network
        folded = copy.deepcopy(network)
        for layer, norm in pairs.items():
            _replace(folded, layer, _fused(folded.get_submodule(layer), folded.get_submodule(norm)))
            _replace(folded, norm, Folded())
        same = (folded(probe.clone()) - plain).abs().max() <= TOLERANCE * plain.abs().max()
    return folded.requires_grad_(False) if bool(same) else network


def _pairs(network: nn.Module, probe: Tensor) -> tuple[dict[str, str], Tensor]:
    """Names of layers and of the batch norms that eat their outputs, each of which runs once; and the logits."""
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # so that no address is given out twice
    eaten: list[tuple[str, str]] = []
    handles = []

    def note_output(name: str, output: Tensor) -> None:
        made[id(output)] = name
        kept.append(output)

    for name, module in network.named_modules():
        if isinstance(module, _FOLDABLE):
            handles.append(module.register_forward_hook(lambda _m, _i, output, name=name: note_output(name, output)))
        elif isinstance(module, _NORMS) and module.running_mean is not None:
            handles.append(
                module.register_forward_pre_hook(lambda _m, i, name=name: eaten.append((made.get(id(i[0]), ""), name)))
            )
    try:
        outputs: Tensor = network(probe.clone())
    finally:
        for handle in handles:
            handle.remove()
    layers, norms = Counter(layer for layer, _ in eaten), Counter(norm for _, norm in eaten)
    runs = Counter(made.values())
    return {layer: norm for layer, norm in eaten if layer and layers[layer] == norms[norm] == runs[layer] == 1}, outputs


def _fused(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """In float64, because small variances make large weights."""
    fuse: Any = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
    dtype = next(layer.parameters()).dtype
    fused: nn.Module = fuse(copy.deepcopy(layer).double(), copy.deepcopy(norm).double())
    return fused.to(dtype)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
