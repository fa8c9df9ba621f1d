"""Faster ways to the same relevance, each with the conditions under which it is the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from zennit import rules as zennit_rules
from zennit.core import BasicHook, Hook, ParamMod

from earwitness_plugins.lrp.numerics import Numerics

_CONVOLVE = {nn.Conv1d: functional.conv1d, nn.Conv2d: functional.conv2d, nn.Conv3d: functional.conv3d}


@dataclass(frozen=True)
class Shortcut:
    """A faster hook, and where its result is the rule's.

    Attributes
    ----------
    hook : Hook
    non_negative : bool
        Valid for inputs >= 0.
    positive_outputs : bool
        Valid if relevance arrives at outputs > 0 only, as from a ReLU.
    unpadded : bool
        Valid if no zeros were put beside the signal ahead of the layer.
    """

    hook: Hook
    non_negative: bool = False
    positive_outputs: bool = False
    unpadded: bool = False


@dataclass(frozen=True)
class Branch:
    """Relevance by the contributions of one set of weights.

    Attributes
    ----------
    modifier : zennit.core.ParamMod
        From a layer's weights to these.
    coefficient : float
        Of the branch in the sum.
    sign : {1, -1, 0}
        That of all its outputs, for inputs >= 0; 0 where they have both.
    """

    modifier: ParamMod
    coefficient: float = 1.0
    sign: int = 0


class Branches(Hook):  # type: ignore[misc]
    """Input times its share, by a few sets of modified weights that all see the same input.

    Parameters
    ----------
    numerics : Numerics
    branches : Branch
        One or more.

    Attributes
    ----------
    repeated : bool
        Whether relevance will come down more than once: then outputs are kept and not computed again.
    """

    def __init__(self, numerics: Numerics, *branches: Branch) -> None:
        super().__init__()
        self._numerics, self._branches = numerics, branches
        self.repeated = False

    def backward(self, module: Any, grad_input: Any, grad_output: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Relevance of the output -> relevance of the input."""
        x, relevance = self.stored_tensors["input"][0].detach(), grad_output[0]
        found = [self._shared(number, module, x, relevance) for number in range(len(self._branches))]
        return (sum(found[1:], found[0]).mul_(x),)

    def _shared(self, number: int, module: Any, x: Tensor, relevance: Tensor) -> Tensor:
        coefficient = self._branches[number].coefficient
        leaf, outputs, denominators = self.stored_tensors.get(number) or self._run(number, module, x)
        if self.repeated:
            self.stored_tensors[number] = leaf, outputs, denominators
            weighted = relevance / denominators
        else:
            weighted = torch.div(relevance, denominators, out=denominators)  # large maps are slow to come by
        (found,) = torch.autograd.grad(outputs, leaf, weighted, retain_graph=self.repeated)
        return found if coefficient == 1 else found.mul_(coefficient)

    def _run(self, number: int, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        branch = self._branches[number]
        with ParamMod.ensure(branch.modifier)(module) as modified, torch.enable_grad():
            leaf = x.detach().requires_grad_()
            outputs = modified.forward(leaf)
        # In place: what is differentiated is a product with weights, which does not need its own result.
        denominators = outputs.detach()
        offset = branch.sign * self._numerics.stabiliser if branch.sign else self._numerics.offset(denominators)
        return leaf, outputs, denominators.add_(offset)


class SummedFlat(zennit_rules.Flat):  # type: ignore[misc]
    """Zennit's rule, for convolutions with the channels summed ahead: all of them have the same weights, ones."""

    def backward(self, module: Any, grad_input: Any, grad_output: tuple[Tensor, ...]) -> Any:
        """Relevance of the output -> relevance of the input."""
        if not _is_convolution(module):
            return super().backward(module, grad_input, grad_output)
        n_groups, n_channels = module.groups, module.in_channels // module.groups
        relevance = torch.unflatten(grad_output[0], 1, (n_groups, -1)).sum(2)
        like = torch.full_like(self.stored_tensors["input"][0][:, :n_groups], n_channels)
        shared = _shared_by_weights(self, module, torch.ones_like(module.weight[:n_groups, :1]), relevance, like)
        return (shared.repeat_interleave(n_channels, dim=1),)


class SharedWSquare(zennit_rules.WSquare):  # type: ignore[misc]
    """Zennit's rule, for convolutions with one denominator for all rows, because it does not depend on the input."""

    def __init__(self, stabiliser: float, zero_params: list[str] | None) -> None:
        super().__init__(stabiliser, zero_params)
        self._with_bias = zero_params is None

    def backward(self, module: Any, grad_input: Any, grad_output: tuple[Tensor, ...]) -> Any:
        """Relevance of the output -> relevance of the input."""
        if not _is_convolution(module):
            return super().backward(module, grad_input, grad_output)
        bias = module.bias**2 if self._with_bias and module.bias is not None else None
        ones = torch.ones_like(self.stored_tensors["input"][0])
        return (_shared_by_weights(self, module, module.weight**2, grad_output[0], ones, bias),)


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, tuple(_CONVOLVE))


def _shared_by_weights(
    hook: BasicHook, module: Any, weight: Tensor, relevance: Tensor, x: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Relevance (N, out, ...) shared out by the weights of a convolution alone; all rows of its input x are alike."""
    outputs = module._conv_forward(x[:1], weight, bias)
    weighted: Tensor = hook.gradient_mapper(relevance, [outputs])
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    padded = isinstance(module.padding, tuple) and module.padding_mode == "zeros"
    if padded and set(module.stride) == {1} and all(p <= r for p, r in zip(module.padding, reach, strict=True)):
        # Backwards through a convolution of stride 1 is a convolution, too, and runs faster as one.
        convolve = next(function for kind, function in _CONVOLVE.items() if isinstance(module, kind))
        turned = (
            torch.unflatten(weight, 0, (module.groups, -1)).transpose(1, 2).flatten(0, 1).flip(*range(2, weight.ndim))
        )
        back = tuple(r - p for p, r in zip(module.padding, reach, strict=True))
        if turned.shape[:2] == (1, 1):  # a convolution of one channel takes four times as long as one of a row each
            rows = weighted.transpose(0, 1)
            turned = turned.expand(len(weighted), *turned.shape[1:])
            return convolve(rows, turned, None, 1, back, module.dilation, len(weighted)).transpose(0, 1)
        shared: Tensor = convolve(weighted, turned, None, 1, back, module.dilation, module.groups)
        return shared
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(module._conv_forward(leaf, weight, None), leaf, weighted)[0]
