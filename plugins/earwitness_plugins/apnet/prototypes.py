"""What the prototypes of a network are: their classes, their nearest recordings, their pictures and their sounds.

N windows of recordings, M prototypes, C, F', T' of the latent map, F bands and T frames of the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from earwitness.audio.front_end import LogMel
from earwitness.audio.inversion import griffin_lim, mel_to_magnitude
from earwitness.errors import ConfigurationError
from earwitness_plugins.apnet.network import AudioPrototypeNetwork, check_distances, similarity, with_time_of

Nearness = Literal["similarity", "distance"]

LEVEL = 0.5
"""Peak of every prototype's sound: they are compared by what they are, not by how loud."""

_CHUNK = 16


@dataclass(frozen=True, eq=False)
class Comparison:
    """How near recordings are to prototypes.

    Attributes
    ----------
    similarity : Tensor (N, M), float32
        Ŝ.
    distance : Tensor (N, M), float32
        Σ_f D.
    """

    similarity: Tensor
    distance: Tensor

    def order(self, nearness: Nearness = "similarity") -> Tensor:
        """Windows by how near they are to each prototype, the nearest first: (N, M), int64.

        By the largest Ŝ, as in the code, and among equals the smallest distance; or by the smallest distance, as in the
        paper. They differ where H is uneven.
        """
        by_distance = self.distance.argsort(dim=0, stable=True)
        if nearness == "distance":
            return by_distance
        similar = self.similarity.gather(0, by_distance).argsort(dim=0, descending=True, stable=True)
        return by_distance.gather(0, similar)


@torch.no_grad()
def compare(network: AudioPrototypeNetwork, windows: Tensor) -> Comparison:
    """Compare recordings with prototypes.

    Parameters
    ----------
    network : AudioPrototypeNetwork
    windows : Tensor (N, 1, F, T)

    Raises
    ------
    ConfigurationError
        There is no window.
    AudioError, ClassifierError
        Distances are NaN; see :func:`~.network.check_distances`.
    """
    if not len(windows):
        raise ConfigurationError("Prototypes are compared with recordings, and there is none.")
    distances = []
    for chunk in _chunks(windows):
        distances.append(network.distances(network.encoder(chunk.to(network.prototypes.device))))
        check_distances(distances[-1], chunk)
    similarities = torch.cat([network.weighted(similarity(each)) for each in distances])
    return Comparison(similarities, torch.cat([each.sum(2) for each in distances]))


@dataclass(frozen=True)
class Neighbour:
    """A recording that is near to a prototype: in that of its windows which is nearest.

    Attributes
    ----------
    clip_id : str
    similarity, distance : float
        Ŝ and Σ_f D of the two.
    """

    clip_id: str
    similarity: float
    distance: float


def neighbours(comparison: Comparison, clip_ids: Sequence[str], count: int) -> tuple[tuple[Neighbour, ...], ...]:
    """The recordings that are most similar to each prototype, the most similar first, each once.

    Parameters
    ----------
    comparison : Comparison
    clip_ids : sequence of str, length N
        Of each window.
    count : int
        As many of each, or fewer where there are no more.
    """
    similarities, distances = comparison.similarity.T.tolist(), comparison.distance.T.tolist()
    found = []
    for j, rows in enumerate(comparison.order().T.tolist()):
        best: dict[str, int] = {}
        for row in rows:
            if len(best) == count:
                break
            best.setdefault(clip_ids[row], row)
        found.append(tuple(Neighbour(name, similarities[j][row], distances[j][row]) for name, row in best.items()))
    return tuple(found)


@torch.no_grad()
def decode_prototypes(network: AudioPrototypeNetwork, windows: Tensor) -> Tensor:
    """The features of each prototype.

    Parameters
    ----------
    network : AudioPrototypeNetwork
    windows : Tensor (M, 1, F, T)
        Each prototype's nearest: its pooling masks are taken, and, where prototypes are timeless, its course over time.

    Returns
    -------
    Tensor (M, 1, F, T), in (-1, 1)
    """
    decoded = []
    for prototypes, chunk in zip(_chunks(network.prototypes), _chunks(windows), strict=True):
        nearest = network.encoder.encode(chunk.to(prototypes.device))
        decoded.append(network.decoder(with_time_of(prototypes, nearest), nearest.masks))
    return torch.cat(decoded)


@torch.no_grad()
def reconstructed(network: AudioPrototypeNetwork, windows: Tensor) -> Tensor:
    """Windows (N, 1, F, T) through encoder and decoder: (N, 1, F, T), in (-1, 1)."""
    encodings = (network.encoder.encode(chunk.to(network.prototypes.device)) for chunk in _chunks(windows))
    return torch.cat([network.decoder(encoding.latent, encoding.masks) for encoding in encodings])


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


def levelled(sounds: Tensor) -> Tensor:
    """Sounds (M, T) with a peak of ``LEVEL``; silence stays silence."""
    peaks = sounds.abs().amax(1, keepdim=True)
    return sounds * torch.where(peaks > 0, LEVEL / peaks, 0)


def _chunks(values: Tensor) -> Iterator[Tensor]:
    yield from torch.split(values, _CHUNK)
