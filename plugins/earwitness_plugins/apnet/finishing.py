"""What is left to learn once the network decides as well as it can: to decode what it compares with."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.errors import ClassifierError
from earwitness.protocols import Progress
from earwitness_plugins.apnet.configuration import Recipe
from earwitness_plugins.apnet.network import AudioPrototypeNetwork

_CHUNK = 16
_PEAK = 1e-3


def teach_decoder(
    network: AudioPrototypeNetwork, windows: Tensor, recipe: Recipe, *, seed: int, progress: Progress
) -> None:
    """Train the decoder on, alone, for ``recipe.decoder_epochs``: windows as they are, not augmented.

    While the whole network learns from mixed and cut recordings, its decoder learns to blur. Encoder, prototypes and
    all weights of the decision stay as they are, so logits and distances do too, to the last bit. Adam's learning rate
    falls from 0.001 along half a cosine.

    Parameters
    ----------
    network : AudioPrototypeNetwork
        Its decoder is changed in place.
    windows : Tensor (N, 1, F, T)
        On the network's device.
    recipe : Recipe
    seed : int
        Of the order of windows.
    progress : callable (epochs done, epochs in all, text)

    Raises
    ------
    ClassifierError
        The loss is no longer finite. The decoder is as it was.
    """
    if not recipe.decoder_epochs:
        return
    before = {name: value.clone() for name, value in network.decoder.state_dict().items()}
    network.requires_grad_(False)
    decoder = network.decoder.requires_grad_(True)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=_PEAK)
    generator = torch.Generator().manual_seed(seed)
    n_steps, step = recipe.decoder_epochs * math.ceil(len(windows) / _CHUNK), 0
    for epoch in range(recipe.decoder_epochs):
        total = 0.0
        for rows in torch.split(torch.randperm(len(windows), generator=generator), _CHUNK):
            features = windows[rows.to(windows.device)]
            encoding = network.encoder.encode(features)
            loss = functional.mse_loss(decoder(encoding.latent, encoding.masks), features)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for group in optimiser.param_groups:
                group["lr"] = _PEAK * 0.5 * (1 + math.cos(math.pi * step / n_steps))
            optimiser.step()
            step += 1
            total += loss.item() * len(rows)
        if not math.isfinite(total):
            decoder.load_state_dict(before)
            raise ClassifierError(
                f"The decoder's loss is {total} in epoch {epoch + 1} of its own {recipe.decoder_epochs}. Leave them "
                "out: decoder_epochs=0."
            )
        done = f"decoder alone, reconstruction {total / len(windows):.4f}"
        progress(epoch + 1, recipe.decoder_epochs, done)
    network.requires_grad_(True)
