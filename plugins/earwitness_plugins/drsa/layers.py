"""Where a network can be looked into: layers whose output a ReLU has made non-negative."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from earwitness.classifier import AudioClassifier
from earwitness.errors import ClassifierError, ConfigurationError
from earwitness_plugins.lrp.propagation import Propagation

_RECTIFIERS = (nn.ReLU, nn.ReLU6)
_COMPLETE = 1e-3
"""What may be missing from the sum of parts at a layer that is chosen by itself: rounding, where maps cancel out."""


@dataclass(frozen=True)
class Layer:
    """A layer that ran once, and whose output is rectified.

    Attributes
    ----------
    name : str
        Dotted.
    kind : type
    has_places : bool
        Whether its output has time or frequency axes behind the channels.
    """

    name: str
    kind: type
    has_places: bool


def rectified_layers(classifier: AudioClassifier, features: Tensor) -> list[Layer]:
    """Layers whose output is never negative, in the order in which they finish.

    They are the ReLUs themselves, and whatever hands on a ReLU's output: max pooling, or a block that ends in a
    functional ReLU. Layers that run more than once in a pass are not among them.

    Parameters
    ----------
    classifier : AudioClassifier
    features : Tensor (B, 1, M, N') or (B, 1, T)
        An input, to see what runs.
    """
    return _looked_at(classifier, features)[0]


def _looked_at(classifier: AudioClassifier, features: Tensor) -> tuple[list[Layer], Counter[str]]:
    """The rectified layers, and how often each layer runs."""
    found: dict[str, Layer] = {}
    runs: Counter[str] = Counter()

    def look(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _inputs: object, output: object) -> None:
            runs[name] += 1
            if isinstance(output, Tensor) and output.ndim >= 2 and _is_rectified(module, output):
                found[name] = Layer(name, type(module), output.ndim > 2)

        return hook

    def forget() -> None:
        found.clear()
        runs.clear()

    modules = [(name, module) for name, module in classifier.network.named_modules() if name]
    handles = [module.register_forward_hook(look(name)) for name, module in modules]
    # A classifier's first pass may be preceded by one that tries its network: count the last pass only.
    handles.append(classifier.network.register_forward_pre_hook(lambda *_: forget()))
    try:
        with torch.no_grad():
            classifier.logits_of_features(features)
    finally:
        for handle in handles:
            handle.remove()
    return [layer for name, layer in found.items() if runs[name] == 1], runs


def choose_layer(propagation: Propagation, classifier: AudioClassifier, features: Tensor, name: str | None) -> str:
    """The named layer, once it is known to be fit for the purpose; or, without a name, the middle one.

    The middle one is of the ReLUs with a map over time and frequency, or, where a network has none as modules, of the
    other such rectified layers. Early layers are too local and the last ones too coarse for sounds that overlap. Where
    parts at the middle one do not sum to the whole (see :func:`missing_from_parts`), it is the nearest at which they
    do.

    Parameters
    ----------
    propagation : Propagation
        The rules of LRP.
    classifier : AudioClassifier
    features : Tensor (B, 1, M, N') or (B, 1, T)
        The first clip is looked at.
    name : str or None

    Returns
    -------
    str

    Raises
    ------
    ClassifierError
        There is no such layer.
    ConfigurationError
        Its output is not rectified (those that are, are named), or there is no layer to choose from, or only such at
        which parts do not sum to the whole.
    NotApplicableError
        LRP has no rule for something in the network.
    """
    if name is not None:
        classifier.layer(name)
    layers, runs = _looked_at(classifier, features)
    names = [layer.name for layer in layers]
    if name in names:
        return str(name)
    if name is not None:
        kind, ran = type(classifier.layer(name)).__name__, runs[name]
        why = (
            "is not that of one: it is negative in places, or never 0"
            if ran == 1
            else f"is not one map: it runs {ran} times in a pass"
        )
        raise ConfigurationError(
            f"DRSA takes relevance apart behind a ReLU; the output of layer {name!r} ({kind}) of {classifier.name} "
            f"{why}. {_offer(names)}"
        )
    maps = [layer for layer in layers if layer.has_places]
    if not maps:
        raise ConfigurationError(
            f"{classifier.name} has no layer behind a ReLU with a map over time and frequency. {_offer(names)}"
        )
    own = [layer.name for layer in maps if issubclass(layer.kind, _RECTIFIERS)] or [layer.name for layer in maps]
    middle = len(own) // 2
    for place in sorted(range(len(own)), key=lambda place: (abs(place - middle), -place)):
        if missing_from_parts(propagation, classifier, features[:1], own[place]) < _COMPLETE:
            return own[place]
    raise ConfigurationError(
        f"At no layer of {classifier.name} behind a ReLU do parts of the relevance sum to the whole: signals pass all "
        f"of them by, or the rules give relevance to inactive units. To take it apart all the same, name one. "
        f"{_offer(names)}"
    )


def missing_from_parts(propagation: Propagation, classifier: AudioClassifier, features: Tensor, layer: str) -> float:
    """How much of the decision's relevance no part at a layer can have: the largest difference of the map from the sum
    of parts, over the map's largest value.

    There are two reasons for more than rounding. Signals pass the layer by, as in the block of a residual network. Or
    the rule of what follows the layer looks at weights alone (``flat``, ``wsquare``) and gives relevance to units that
    are inactive, which have no context.

    Parameters
    ----------
    propagation : Propagation
    classifier : AudioClassifier
    features : Tensor (B, 1, M, N') or (B, 1, T)
    layer : str
        Rectified.
    """
    with torch.no_grad():
        target = classifier.logits_of_features(features).argmax(1)
    with propagation.hidden(classifier, features, target, layer) as hidden:
        whole = hidden.whole()
        parts = hidden.lower(hidden.relevance * (hidden.activation > 0))
    largest = whole.abs().max().clamp_min(torch.finfo(whole.dtype).tiny)
    return float((parts - whole).abs().max() / largest)


def check_rectified(classifier: AudioClassifier, layer: str, activation: Tensor) -> None:
    """Raise ClassifierError if activations are negative after all, on other clips than the first."""
    lowest = float(activation.min())
    if lowest < 0:
        raise ClassifierError(
            f"The output of layer {layer!r} of {classifier.name} goes down to {lowest:.3g}; DRSA needs activations "
            "behind a ReLU. Name another layer."
        )


def _is_rectified(module: nn.Module, output: Tensor) -> bool:
    if not output.is_floating_point() or bool((output < 0).any()):
        return False
    # A sigmoid is positive too, but never zero.
    return isinstance(module, _RECTIFIERS) or bool((output == 0).any())


def _offer(names: list[str]) -> str:
    return f"Layers behind a ReLU are {', '.join(names)}." if names else "It has no layer behind a ReLU."
