"""What an audio prototype network is trained for, and where it starts.

N rows, M prototypes, K classes, F' latent bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from earwitness.errors import ConfigurationError
from earwitness_plugins.apnet.configuration import Recipe
from earwitness_plugins.apnet.network import AudioPrototypeNetwork, Output

_EPSILON = 1e-7  # Keras' own, under the norm
_CHUNK = 16


@dataclass(frozen=True, eq=False)
class Losses:
    """The three losses, scalars, each a mean as in the published code.

    Attributes
    ----------
    classification : Tensor
        l_c (Eq. 9), in nats.
    reconstruction : Tensor
        l_r (Eq. 3), over all cells too; the paper sums over them.
    prototype : Tensor
        l_p (Eq. 5), of distances that are means over latent bands; the paper sums over them.
    """

    classification: Tensor
    reconstruction: Tensor
    prototype: Tensor

    def total(self, recipe: Recipe) -> Tensor:
        """alpha l_c + beta l_p + gamma l_r (Eq. 10)."""
        weighted = recipe.alpha * self.classification + recipe.beta * self.prototype
        return weighted + recipe.gamma * self.reconstruction


def losses(output: Output, features: Tensor, targets: Tensor) -> Losses:
    """The losses of a batch.

    Parameters
    ----------
    output : Output
    features : Tensor (N, 1, F, T)
        What is to be reconstructed.
    targets : Tensor (N, K), float32
        Probabilities of the classes.

    Returns
    -------
    Losses
    """
    distances = output.distances.mean(2)
    return Losses(
        classification=functional.cross_entropy(output.logits, targets),
        reconstruction=functional.mse_loss(output.reconstruction, features),
        prototype=distances.amin(1).mean() + distances.amin(0).mean(),
    )


def normalise_frequency_weights(network: AudioPrototypeNetwork) -> None:
    """Divide the weights H of each latent band by their norm over the prototypes, in place (Keras' UnitNorm)."""
    with torch.no_grad():
        weights = network.frequency_weights
        weights.div_(_EPSILON + weights.square().sum(0, keepdim=True).sqrt())


def initialise(network: AudioPrototypeNetwork, recipe: Recipe, generator: torch.Generator) -> None:
    """Start a network anew, in place, as the published code does.

    Convolutions and classifier are Glorot uniform with zero biases, prototypes uniform in [-0.05, 0.05], the weights H
    of the sum 1/F'. With ``recipe.class_blocks``, see :func:`class_block_weights`.

    Parameters
    ----------
    network : AudioPrototypeNetwork
        On the CPU.
    recipe : Recipe
    generator : torch.Generator
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                assert module.bias is not None
                module.bias.zero_()
        network.prototypes.uniform_(-0.05, 0.05, generator=generator)
        network.frequency_weights.fill_(1 / network.frequency_weights.shape[1])
        nn.init.xavier_uniform_(network.class_weights, generator=generator)
        if recipe.class_blocks:
            n_prototypes, n_classes = network.class_weights.shape
            blocks = class_block_weights(n_prototypes, n_classes, generator, weight=recipe.block_weight)
            network.class_weights.copy_(blocks)


def class_block_weights(
    n_prototypes: int, n_classes: int, generator: torch.Generator, *, weight: float | None = None
) -> Tensor:
    """W with a weight for each class' own block of prototypes, its negative elsewhere, plus noise in [-0.05, 0.05].

    A block has n = floor(M/K) prototypes, and the weight is 1/n unless another is given.

    Returns
    -------
    Tensor (M, K), float32
        What is left over of the prototypes belongs to no class.

    Raises
    ------
    ConfigurationError
        There are fewer prototypes than classes: a class would have none.
    """
    own = n_prototypes // n_classes
    if own < 1:
        raise ConfigurationError(f"{n_prototypes} prototypes for {n_classes} classes leave classes without any.")
    weight = 1 / own if weight is None else weight
    weights = torch.full((n_prototypes, n_classes), -weight)
    for index in range(n_classes):
        weights[own * index : own * (index + 1), index] = weight
    return weights + (torch.rand(n_prototypes, n_classes, generator=generator) - 0.5) / 10


def start_from_data(network: AudioPrototypeNetwork, features: Tensor, classes: Tensor, seed: torch.Generator) -> None:
    """Put each class' block of prototypes on latent maps of its own training windows, in place.

    Parameters
    ----------
    network : AudioPrototypeNetwork
    features : Tensor (N, 1, F, T)
    classes : Tensor (N,), int64
        Every class has a window. One with fewer windows than prototypes repeats them.
    seed : torch.Generator
    """
    n_classes = network.class_weights.shape[1]
    own = len(network.prototypes) // n_classes
    with torch.no_grad():
        for index in range(n_classes):
            rows = (classes.cpu() == index).nonzero().flatten()
            drawn = rows[torch.randperm(len(rows), generator=seed).repeat(-(-own // len(rows)))[:own]]
            latent = network.encoder(features[drawn.to(features.device)])
            network.prototypes[own * index : own * (index + 1)] = latent


def scale_latents(network: AudioPrototypeNetwork, features: Tensor, distance: float) -> None:
    """Scale the latent space, in place, until windows are at a distance from the prototype that is nearest.

    Similarities exp(-D) that begin near 0 or 1 have no gradient. The decoder undoes the scale, so windows decode as
    before. Where all windows are prototypes, nothing is changed.

    Parameters
    ----------
    network : AudioPrototypeNetwork
        As :func:`initialise` leaves it: without biases, so that a scaled convolution gives scaled maps.
    features : Tensor (N, 1, F, T)
    distance : float
        Mean over windows and bands.
    """
    with torch.no_grad():
        nearest = [network.distances(network.encoder(chunk)).amin(1) for chunk in torch.split(features, _CHUNK)]
        scale = (distance / torch.cat(nearest).mean()).sqrt()
        if bool(scale.isfinite()):
            network.prototypes.mul_(scale)
            network.encoder.conv3.weight.mul_(scale)
            network.decoder.deconv1.weight.div_(scale)
