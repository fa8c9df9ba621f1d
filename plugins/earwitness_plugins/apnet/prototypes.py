"""What the prototypes of a network are: their classes, their nearest recordings, their pictures and their sounds.

N windows of recordings, M prototypes, C, F', T' of the latent map, F bands and T frames of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from earwitness.audio.front_end import LogMel
from earwitness.audio.inversion import griffin_lim, mel_to_magnitude
from earwitness.errors import ConfigurationError
from earwitness_plugins.apnet.network import AudioPrototypeNetwork, similarity

Nearness = Literal["similarity", "distance"]

_CHUNK = 16


@dataclass(frozen=True, eq=False)
class Nearest:
    """The recording that comes nearest to each prototype.

    Attributes
    ----------
    rows : Tensor (M,), int64
        Which window.
    similarity : Tensor (M,), float32
        Ŝ of the two.
    """

    rows: Tensor
    similarity: Tensor


@torch.no_grad()
def nearest_windows(network: AudioPrototypeNetwork, windows: Tensor, nearness: Nearness = "similarity") -> Nearest:
    """Find each prototype's nearest window.

    Parameters
    ----------
    network : AudioPrototypeNetwork
    windows : Tensor (N, 1, F, T)
    nearness : {"similarity", "distance"}
        Largest Ŝ, as in the code; or smallest Σ_f D, as in the paper. They differ where H is uneven.

    Raises
    ------
    ConfigurationError
        There is no window.
    """
    if not len(windows):
        raise ConfigurationError("Prototypes are compared with recordings, and there is none.")
    scores, similarities = [], []
    for chunk in torch.split(windows, _CHUNK):
        distances = network.distances(network.encoder(chunk.to(network.prototypes.device)))
        similarities.append(network.weighted(similarity(distances)))
        scores.append(similarities[-1] if nearness == "similarity" else -distances.sum(2))
    rows = torch.cat(scores).argmax(0)
    return Nearest(rows, torch.cat(similarities).gather(0, rows[None])[0])


@torch.no_grad()
def decode_prototypes(network: AudioPrototypeNetwork, windows: Tensor) -> Tensor:
    """The features of each prototype.

    Parameters
    ----------
    network : AudioPrototypeNetwork
    windows : Tensor (M, 1, F, T)
        Of which the pooling masks are taken: each prototype's nearest.

    Returns
    -------
    Tensor (M, 1, F, T), in (-1, 1)
    """
    device = network.prototypes.device
    decoded = [
        network.decoder(latents, network.encoder.with_masks(chunk.to(device)).masks)
        for latents, chunk in zip(_chunks(network.prototypes), _chunks(windows), strict=True)
    ]
    return torch.cat(decoded)


@torch.no_grad()
def classes_of_latents(network: AudioPrototypeNetwork) -> Tensor:
    """What the classifier says to each prototype as it stands in the latent space (as in the code): (M,), int64."""
    return network.logits_of(similarity(network.distances(network.prototypes))).argmax(1)


@torch.no_grad()
def classes_of_decoded(network: AudioPrototypeNetwork, decoded: Tensor) -> Tensor:
    """What the network says to each decoded prototype (as in the paper): features (M, 1, F, T) to (M,), int64."""
    return torch.cat([network(chunk) for chunk in _chunks(decoded)]).argmax(1)


@torch.no_grad()
def similarity_between(network: AudioPrototypeNetwork) -> Tensor:
    """Ŝ of each prototype, in row i, with each prototype, in column j, by the weights H of j: Tensor (M, M)."""
    return network.weighted(similarity(network.distances(network.prototypes)))


@torch.no_grad()
def sounds_of(decoded: Tensor, log_mel: LogMel, *, seed: int) -> Tensor:
    """Decoded prototypes as sound: inverse scaler, mel inversion, Griffin-Lim.

    Parameters
    ----------
    decoded : Tensor (M, 1, F, T)
    log_mel : LogMel
        The front end with its scaler.
    seed : int
        Of the first phases.

    Returns
    -------
    Tensor (M, (T - 1) · hop_length), float32, in [-1, 1]
        At the front end's rate. A sound that is louder than full scale is turned down to it.
    """
    stft = log_mel.stft
    length = (decoded.shape[-1] - 1) * stft.hop_length
    sounds = []
    for chunk in _chunks(decoded):
        mel = log_mel.decompress(chunk[:, 0])
        magnitude = mel_to_magnitude(mel, log_mel.filters, method="nnls", power=2)
        sounds.append(
            griffin_lim(magnitude, n_fft=stft.n_fft, hop_length=stft.hop_length, length=length, seed=seed).float()
        )
    waveforms = torch.cat(sounds)
    return waveforms / waveforms.abs().amax(1, keepdim=True).clamp_min(1)


def _chunks(values: Tensor) -> Iterator[Tensor]:
    yield from torch.split(values, _CHUNK)
