"""What the host demands of a network's outputs: finite logits, one for each label."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from earwitness.errors import ClassifierError

_SQUASHING = ("SigmoidBackward", "SoftmaxBackward", "HardsigmoidBackward")
_RESHAPING = (
    *("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Permute", "Transpose", "T", "Select", "Slice", "Clone"),
    *("Alias", "Expand", "ToCopy", "Mean", "Max", "Amax", "Clamp", "ClampMin", "ClampMax"),
)


def check_shape(outputs: Any, *, n_rows: int, n_classes: int, name: str) -> None:
    """Refuse what is not a tensor (B, C).

    Raises
    ------
    ClassifierError
        It is another type or shape, or C is not the number of labels.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[0] != n_rows:
        given = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ClassifierError(
            f"The network of {name} must return logits of shape ({n_rows}, {n_classes}), got {given}. "
            "Wrap it in a module that returns only the logits, one row for each input."
        )
    if outputs.shape[1] != n_classes:
        raise ClassifierError(
            f"The network of {name} has {outputs.shape[1]} outputs, but {n_classes} labels were given."
        )


def check_logits(network: nn.Module, inputs: Tensor, *, n_classes: int, multilabel: bool, name: str) -> None:
    """Refuse outputs that have the wrong shape, are not finite, or are probabilities already.

    Logits may fall in [0, 1] by chance, so that alone is no evidence. It takes values in [0, 1] on the inputs and on
    two kinds of noise, and beside that either rows that sum to 1, or a sigmoid or softmax at the end of the graph.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    inputs : Tensor (B, ...)
        What it eats; the first two rows are enough.
    n_classes : int
    multilabel : bool
        Decides where there is no graph to look at.
    name : str
        The classifier's.

    Raises
    ------
    ClassifierError
        See above.
    """
    with torch.inference_mode(False), torch.enable_grad():
        probe = inputs[:2].detach().clone().requires_grad_()
        own = network(probe.clone())
    check_shape(own, n_rows=len(probe), n_classes=n_classes, name=name)
    if not bool(torch.isfinite(own).all()):
        raise ClassifierError(f"The network of {name} returns NaN or infinite values. Are its weights damaged?")
    with torch.no_grad():
        noise = torch.randn(probe.shape, generator=torch.Generator().manual_seed(0)).to(probe)
        all_outputs = torch.cat([own.detach(), network(probe + noise), network(-probe - noise)])
    if bool((all_outputs < 0).any()) or bool((all_outputs > 1).any()):
        return
    sum_to_one = n_classes > 1 and bool(((all_outputs.sum(1) - 1).abs() < 1e-3).all())
    black_box = own.grad_fn is None
    if sum_to_one or _ends_in_probabilities(own) or (black_box and multilabel):
        last, setting = ("softmax", False) if sum_to_one else ("sigmoid", True)
        hint = "" if multilabel == setting else f" Then say multilabel={setting}."
        raise ClassifierError(
            f"The network of {name} returns probabilities, not logits. Remove its final {last}: earwitness applies it "
            f"once, in the host.{hint}"
        )


def _ends_in_probabilities(outputs: Tensor) -> bool:
    """Whether the last thing that happened to the outputs, shapes and means aside, was a sigmoid or softmax."""
    node = outputs.grad_fn
    while node is not None:
        operation = node.name()
        if operation.startswith(_SQUASHING):
            return True
        if operation.partition("Backward")[0] not in _RESHAPING:
            return False
        node = node.next_functions[0][0]
    return False
