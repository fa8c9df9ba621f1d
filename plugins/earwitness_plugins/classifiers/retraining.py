"""Training packaged classifiers again, from scratch, on feature maps that somebody has changed.

Remove-and-retrain asks for dozens of trainings, so these are short: a few minutes' recipe of fewer epochs, on feature
maps that are computed once. What they take from :mod:`earwitness_plugins.classifiers.architectures` is the network and
the optimiser's settings; recordings, and with them gains and noise, are out of its reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from earwitness.protocols import Progress
from earwitness_plugins.classifiers.architectures import ARCHITECTURES, Architecture
from earwitness_plugins.classifiers.augmentation import Augmentation
from earwitness_plugins.classifiers.training import TrainingRecipe, train_on_features

_ESC10 = replace(
    ARCHITECTURES["esc10-cnn"].recipe,
    epochs=20,
    batch_size=16,
    augmentation=Augmentation(shift=True, mix_share=0.3, dropped_bands=8, dropped_frames=60),
)
_TOY = replace(
    ARCHITECTURES["toy-cnn"].recipe,
    epochs=24,
    batch_size=8,
    averaging_steps=50,
    augmentation=Augmentation(shift=True),
)


def esc10_cnn(features: Tensor, labels: Tensor, *, seed: int, progress: Progress) -> nn.Module:
    """The network of ``esc10-cnn``, trained anew; see :class:`earwitness.protocols.Retrain`."""
    return _retrained(ARCHITECTURES["esc10-cnn"], _ESC10, features, labels, seed, progress)


def toy_cnn(features: Tensor, labels: Tensor, *, seed: int, progress: Progress) -> nn.Module:
    """The network of ``toy-cnn``, trained anew; see :class:`earwitness.protocols.Retrain`.

    Eight layers without a batch norm: from PyTorch's initial weights, whose outputs shrink in each layer, some seeds
    never leave chance on a few hundred clips. So it starts from those of He et al. (ICCV 2015), which do not shrink.
    """
    return _retrained(ARCHITECTURES["toy-cnn"], _TOY, features, labels, seed, progress, _he)


def _he(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _retrained(
    chosen: Architecture,
    recipe: TrainingRecipe,
    features: Tensor,
    labels: Tensor,
    seed: int,
    progress: Progress,
    initialise: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    network = chosen.network().to(features.device)
    found = train_on_features(
        network, features, labels, recipe=recipe, seed=seed, initialise=initialise, progress=progress
    )
    network.load_state_dict(found.state_dict)
    return network.eval()
