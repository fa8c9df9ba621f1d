"""A classifier whose layers lose what they learnt, one after the other, from the output down to the input.

A layer is a module with parameters, or with statistics of what it saw, together with the batch norm that directly
follows it. Randomised, it is as its ``reset_parameters`` leaves it, a batch norm as it was before training; so a
network and its folded copy (:mod:`earwitness.folding`) lose the same. What a layer draws depends on the seed and on its
name alone.

Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3.1 (cascading randomisation).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from earwitness.classifier import AudioClassifier
from earwitness.errors import ConfigurationError, NotApplicableError
from earwitness.folding import Folded, normalised_layers
from earwitness.random import stream_seed


@dataclass(frozen=True, eq=False)
class Randomised:
    """A stage of the cascade.

    Attributes
    ----------
    layers : tuple of str
        Dotted names of those that were randomised at this stage, after all of the stages before.
    classifier : AudioClassifier
        With networks of its own.
    """

    layers: tuple[str, ...]
    classifier: AudioClassifier


def stages(classifier: AudioClassifier, features: Tensor, most: int) -> list[tuple[str, ...]]:
    """Which layers each stage of the cascade randomises.

    Parameters
    ----------
    classifier : AudioClassifier
    features : Tensor (1, 1, M, N') or (1, 1, T)
        Of any recording, to see in which order layers run.
    most : int
        The most stages: of a network with more layers, each stage takes several.

    Returns
    -------
    list of tuple of str
        From the output to the input. Layers that never run as a module come with the last stage.

    Raises
    ------
    ConfigurationError
        ``most`` is not positive.
    NotApplicableError
        The network has no layers, or one that cannot be initialised anew.
    """
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ConfigurationError(f"A cascade has a whole number of stages, at least 1; got {most!r}.")
    modules = dict(classifier.network.named_modules())
    layers = [name for name, module in modules.items() if _has_learnt(module)]
    fixed = [
        f"{name or 'itself'} ({type(module).__name__})" for name in layers if not _anew(module := modules[name], 0)
    ]
    if fixed or not layers:
        what = "these layers have no reset_parameters() that resets all of theirs: " + ", ".join(fixed[:4])
        what = what if fixed else "there are no layers"
        raise NotApplicableError(f"The network of {classifier.name} cannot be randomised: {what}.")
    with_layer = set(normalised_layers(classifier.network).values())
    ran = _order(classifier, features, modules)
    wanted = sorted(layers, key=lambda name: -ran.get(name, -1))
    wanted = [name for name in wanted if name not in with_layer]
    return [tuple(map(str, group)) for group in np.array_split(wanted, min(most, len(wanted)))]


def cascade(classifier: AudioClassifier, features: Tensor, *, seed: int, most: int) -> Iterator[Randomised]:
    """Randomise a classifier stage by stage; the classifier itself stays as it is.

    Parameters
    ----------
    classifier, features, most
        See :func:`stages`, also for what is raised.
    seed : int
    """
    norms = normalised_layers(classifier.network)
    network = classifier.network
    for names in stages(classifier, features, most):
        network = copy.deepcopy(network)
        modules = dict(network.named_modules(remove_duplicate=False))
        for name in names:
            _randomise(modules[name], stream_seed(seed, "randomised layer", name))
            if name in norms:
                _forget_normalisation(modules[name], modules[norms[name]])
        yield Randomised(names, classifier.with_network(network))


def _has_learnt(module: nn.Module) -> bool:
    own = next(module.parameters(recurse=False), None)
    return own is not None or getattr(module, "running_mean", None) is not None


@torch.no_grad()
def _anew(module: nn.Module, seed: int) -> nn.Module | None:
    """A copy as its initialisation leaves it; None where that leaves some of its parameters as they were, or is none.

    Drawn on the CPU and in the usual layout: the same numbers on every device.
    """
    fresh = copy.deepcopy(module).to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    reset = getattr(fresh, "reset_parameters", None) or getattr(fresh, "_reset_parameters", None)
    if not callable(reset):
        return None
    for parameter in fresh.parameters(recurse=False):
        parameter.fill_(torch.nan)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        reset()
    return None if any(bool(each.isnan().any()) for each in fresh.parameters(recurse=False)) else fresh


def _randomise(module: nn.Module, seed: int) -> None:
    fresh = _anew(module, seed)
    assert fresh is not None
    module.load_state_dict(fresh.state_dict())


@torch.no_grad()
def _forget_normalisation(layer: nn.Module, norm: nn.Module) -> None:
    """A batch norm that has seen nothing. Folding may have given its layer a bias, which is 0 then, so it always is."""
    if not isinstance(norm, Folded):
        _randomise(norm, 0)
    if isinstance(layer.bias, Tensor):
        layer.bias.zero_()


@torch.no_grad()
def _order(classifier: AudioClassifier, features: Tensor, modules: dict[str, nn.Module]) -> dict[str, int]:
    """When each module ran first."""
    ran: dict[str, int] = {}

    def note(name: str, _module: nn.Module, _inputs: object) -> None:
        ran.setdefault(name, len(ran))

    handles = [module.register_forward_pre_hook(partial(note, name)) for name, module in modules.items()]
    try:
        classifier.logits_of_features(features)
    finally:
        for handle in handles:
            handle.remove()
    return ran
