"""A training step of APNet against the same convolutions without its prototype layer.

    python benchmarks/perf/apnet.py

Both are the same autoencoder on 24 windows and ten classes, one step of the optimiser on cross-entropy and
reconstruction: the one published for UrbanSound8K on 128 bands x 104 frames (5 s of ESC-10), and the one for ESC-10
with its timeless prototypes. Ours has 50 prototypes, frequency-dependent similarity, the prototype loss and the
constraint on the weights; the other a linear layer on the latent map.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace

import torch
from side_by_side import gate, ratios
from torch import Tensor, nn
from torch.nn import functional

from earwitness_plugins.apnet.configuration import Configuration, Recipe, named
from earwitness_plugins.apnet.network import Decoder, Encoder
from earwitness_plugins.apnet.objective import initialise, losses, normalise_frequency_weights
from earwitness_plugins.apnet.training import keras_step

N_WINDOWS, N_FRAMES, N_CLASSES, N_CLIPS = 24, 104, 10, 240


class WithoutPrototypes(nn.Module):
    """Encoder, decoder and a linear layer."""

    def __init__(self, channels: tuple[int, int, int], n_latent: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(channels), Decoder(channels)
        self.head = nn.Linear(n_latent, N_CLASSES)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 1, F, T) to logits and reconstruction."""
        encoding = self.encoder.encode(features)
        return self.head(encoding.latent.flatten(1)), self.decoder(encoding.latent, encoding.masks)


def main() -> int:
    """Print the table; 1 if the bound is missed."""
    of_us8k, us8k_recipe = named("urbansound8k")
    fast = [
        measured("urbansound8k", replace(of_us8k, n_frames=N_FRAMES), us8k_recipe),
        measured("esc10", *named("esc10")),
    ]
    return 0 if all(fast) else 1


def measured(name: str, configuration: Configuration, recipe: Recipe) -> bool:
    """Whether one network is fast enough."""
    draw = torch.Generator().manual_seed(0)
    network = configuration.network(N_CLASSES)
    initialise(network, recipe, draw)
    other = WithoutPrototypes(configuration.channels, math.prod(network.sizes.latent))
    features = torch.rand(N_WINDOWS, 1, configuration.n_mels, configuration.n_frames, generator=draw) * 2 - 1
    targets = torch.eye(N_CLASSES)[torch.arange(N_WINDOWS) % N_CLASSES]
    optimisers = [torch.optim.Adam(net.parameters()) for net in (network, other)]

    def with_prototypes() -> None:
        descend(optimisers[0], losses(network.outputs(features), features, targets).total(recipe))
        normalise_frequency_weights(network)

    def without_prototypes() -> None:
        logits, reconstruction = other(features)
        each = functional.cross_entropy(logits, targets), functional.mse_loss(reconstruction, features)
        descend(optimisers[1], recipe.alpha * each[0] + recipe.gamma * each[1])

    median, _ = ratios(without_prototypes, with_prototypes, rounds=8)
    started = time.perf_counter()
    with_prototypes()
    seconds = (time.perf_counter() - started) * N_CLIPS / N_WINDOWS
    gate(f"APNet, {name}: seconds for an epoch of {N_CLIPS} windows", seconds)
    return gate(f"APNet, {name}: samples per second while training, of those without prototypes", median, at_least=0.8)


def descend(optimiser: torch.optim.Adam, loss: Tensor) -> None:
    """A step down the loss."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    keras_step(optimiser, 1)


if __name__ == "__main__":
    sys.exit(main())
