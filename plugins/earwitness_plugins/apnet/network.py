"""The audio prototype network: autoencoder, prototype layer, weighted sum, classifier without bias.

N rows, F bands and T frames of the input, F', T' and C of the latent map (F/4 and T/4 as published: two poolings halve
both axes), M prototypes, K classes.
Frequency before time, channels before both; the paper has time first and channels last.

References
----------
Zinemanas, Rocamora, Miron, Font and Serra, "An interpretable deep learning model for automatic sound classification",
Electronics 2021, 10, 850. Where paper and published code differ, this is the code: unpooling is nearest neighbour times
a mask, and ties give several ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from earwitness.errors import AudioError, ClassifierError, ConfigurationError

Poolings = tuple[tuple[int, int], tuple[int, int]]
POOLINGS: Poolings = ((2, 2), (2, 2))
"""Bands and frames of the two max poolings, as published."""
KERNEL = 5
SLOPE = 0.3  # of LeakyReLU below zero: Keras' default, which the published networks were trained with


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large a network is.

    Attributes
    ----------
    n_classes, n_prototypes : int
        K and M.
    n_bands, n_frames : int
        F and T of the input, each a multiple of what the poolings take together.
    channels : tuple of three int
        Filters of the encoder's convolutions; the last is C.
    poolings : ((int, int), (int, int))
        Bands and frames of the encoder's two max poolings.

    Raises
    ------
    ConfigurationError
        A number is not positive, or the poolings do not divide the map.
    """

    n_classes: int
    n_prototypes: int
    n_bands: int
    n_frames: int
    channels: tuple[int, int, int]
    poolings: Poolings = POOLINGS

    def __post_init__(self) -> None:
        if len(self.channels) != 3:
            raise ConfigurationError(f"The encoder has three convolutions, got the channels {self.channels}.")
        if min(self.n_classes, self.n_prototypes, *self.channels) < 1:
            raise ConfigurationError(f"Classes, prototypes and channels must be positive, got {self}.")
        check_divides(self.n_bands, self.n_frames, self.poolings)

    @property
    def latent(self) -> tuple[int, int, int]:
        """(C, F', T')."""
        bands, frames = cell_size(self.poolings)
        return self.channels[2], self.n_bands // bands, self.n_frames // frames


def cell_size(poolings: Poolings) -> tuple[int, int]:
    """Bands and frames of the input in one cell of the latent map."""
    (bands, frames), (more_bands, more_frames) = poolings
    return bands * more_bands, frames * more_frames


def check_divides(n_bands: int, n_frames: int, poolings: Poolings) -> None:
    """Raise ConfigurationError unless the poolings divide both axes."""
    if [len(each) for each in poolings] != [2, 2] or min(min(each) for each in poolings) < 1:
        raise ConfigurationError(f"Poolings are two pairs of bands and frames, such as {POOLINGS}; got {poolings}.")
    for what, size, cell in zip(("bands", "frames"), (n_bands, n_frames), cell_size(poolings), strict=True):
        if size < cell or size % cell:
            near = max(cell, size - size % cell)
            raise ConfigurationError(
                f"An input of {size} {what} does not divide by {cell}, which two poolings make one of. Take {near} or "
                f"{near + cell} {what}."
            )


@dataclass(frozen=True, eq=False)
class Encoding:
    """What the encoder makes of an input.

    Attributes
    ----------
    latent : Tensor (N, C, F', T')
        Z; behind a LeakyReLU, so unbounded.
    masks : tuple of two Tensor, bool
        Where the values of a pool, (N, C0, F, T) and (N, C1, …), reached their maximum; ties are all true.
    pooled : tuple of two Tensor
        The maxima.
    """

    latent: Tensor
    masks: tuple[Tensor, Tensor]
    pooled: tuple[Tensor, Tensor]


class Encoder(nn.Module):
    """Three convolutions with LeakyReLU, the first two with max pooling."""

    def __init__(self, channels: tuple[int, int, int], poolings: Poolings = POOLINGS) -> None:
        super().__init__()
        first, second, third = channels
        self.conv1 = nn.Conv2d(1, first, KERNEL, padding=KERNEL // 2)
        self.leaky1 = nn.LeakyReLU(SLOPE)
        self.pool1 = nn.MaxPool2d(poolings[0])
        self.conv2 = nn.Conv2d(first, second, KERNEL, padding=KERNEL // 2)
        self.leaky2 = nn.LeakyReLU(SLOPE)
        self.pool2 = nn.MaxPool2d(poolings[1])
        self.conv3 = nn.Conv2d(second, third, KERNEL, padding=KERNEL // 2)
        self.leaky3 = nn.LeakyReLU(SLOPE)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, 1, F, T) to the latent map (N, C, F', T')."""
        return self._maps(features)[-1]

    def with_masks(self, features: Tensor) -> Encoding:
        """The same, with the masks of its poolings kept."""
        first, pooled, second, pooled_again, latent = self._maps(features)
        masks = pooling_mask(first, pooled), pooling_mask(second, pooled_again)
        return Encoding(latent, masks, (pooled, pooled_again))

    def _maps(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        first = self.leaky1(self.conv1(features))
        pooled = self.pool1(first)
        second = self.leaky2(self.conv2(pooled))
        pooled_again = self.pool2(second)
        return first, pooled, second, pooled_again, self.leaky3(self.conv3(pooled_again))


class Decoder(nn.Module):
    """Three transposed convolutions, unpooling by mask before the second and the third."""

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        first, second, third = channels
        self.deconv1 = nn.ConvTranspose2d(third, second, KERNEL, padding=KERNEL // 2)
        self.leaky1 = nn.LeakyReLU(SLOPE)
        self.deconv2 = nn.ConvTranspose2d(second, first, KERNEL, padding=KERNEL // 2)
        self.leaky2 = nn.LeakyReLU(SLOPE)
        self.deconv3 = nn.ConvTranspose2d(first, 1, KERNEL, padding=KERNEL // 2)

    def forward(self, latent: Tensor, masks: tuple[Tensor, Tensor]) -> Tensor:
        """Latent map (N, C, F', T') and masks of an :class:`Encoding` to features (N, 1, F, T), in (-1, 1)."""
        hidden = self.leaky1(unpool(self.deconv1(latent), masks[1]))
        hidden = self.leaky2(unpool(self.deconv2(hidden), masks[0]))
        return torch.tanh(self.deconv3(hidden))


@dataclass(frozen=True, eq=False)
class Output:
    """All that a training step needs.

    Attributes
    ----------
    logits : Tensor (N, K)
    reconstruction : Tensor (N, 1, F, T)
    distances : Tensor (N, M, F')
    """

    logits: Tensor
    reconstruction: Tensor
    distances: Tensor


class AudioPrototypeNetwork(nn.Module):
    """Compares an input with M prototypes, band by band, and decides by their weighted similarities.

    ``encoder.conv3`` is the last convolutional map. As built, weights are those of PyTorch and say nothing; see
    :func:`earwitness_plugins.apnet.objective.initialise`.

    Parameters
    ----------
    sizes : Sizes

    Attributes
    ----------
    prototypes : Parameter (M, C, F', T')
        P, in the latent space.
    frequency_weights : Parameter (M, F')
        H, the weighted sum's.
    class_weights : Parameter (M, K)
        W, the classifier's.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.poolings = sizes.poolings
        self.encoder = Encoder(sizes.channels, sizes.poolings)
        self.decoder = Decoder(sizes.channels)
        self.prototypes = nn.Parameter(torch.zeros(sizes.n_prototypes, *sizes.latent))
        self.frequency_weights = nn.Parameter(torch.zeros(sizes.n_prototypes, sizes.latent[1]))
        self.class_weights = nn.Parameter(torch.zeros(sizes.n_prototypes, sizes.n_classes))

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], poolings: Poolings = POOLINGS) -> AudioPrototypeNetwork:
        """The network, of any size, that a state dict belongs to; no weight tells how it pools.

        Raises
        ------
        ClassifierError
            A tensor is missing, unknown, of another shape than the others ask for, or not finite.
        """
        try:
            channels = tuple(len(state[f"encoder.conv{number}.weight"]) for number in (1, 2, 3))
            n_prototypes, _, *latent = state["prototypes"].shape
            n_bands, n_frames = _map_of(latent, poolings)
            sizes = Sizes(
                n_classes=state["class_weights"].shape[1],
                n_prototypes=n_prototypes,
                n_bands=n_bands,
                n_frames=n_frames,
                channels=channels,  # type: ignore[arg-type]
                poolings=poolings,
            )
            network = cls(sizes)
            network.load_state_dict(dict(state))
        except (KeyError, IndexError, ValueError, RuntimeError) as error:
            raise ClassifierError(f"These are not the weights of an audio prototype network: {error}.") from error
        broken = [name for name, value in state.items() if not bool(value.isfinite().all())]
        if broken:
            raise ClassifierError(f"Weights with NaN or infinity: {', '.join(broken)}. Take an earlier checkpoint.")
        return network

    @property
    def sizes(self) -> Sizes:
        """How large the network is."""
        n_prototypes, channels, *latent = self.prototypes.shape
        n_bands, n_frames = _map_of(latent, self.poolings)
        return Sizes(
            n_classes=self.class_weights.shape[1],
            n_prototypes=n_prototypes,
            n_bands=n_bands,
            n_frames=n_frames,
            channels=(self.encoder.conv1.out_channels, self.encoder.conv2.out_channels, channels),
            poolings=self.poolings,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, 1, F, T), scaled to about [-1, 1], to logits (N, K).

        Raises
        ------
        ClassifierError
            The map has another size than the network was built for.
        """
        self._check(features)
        return self.logits_of(similarity(self.distances(self.encoder(features))))

    def outputs(self, features: Tensor) -> Output:
        """All three outputs of a training step."""
        self._check(features)
        encoding = self.encoder.with_masks(features)
        distances = self.distances(encoding.latent)
        reconstruction = self.decoder(encoding.latent, encoding.masks)
        return Output(self.logits_of(similarity(distances)), reconstruction, distances)

    def distances(self, latent: Tensor) -> Tensor:
        """D_ij[f] = Σ_t,c (Z_i - P_j)² (inside Eq. 6): latent maps (N, C, F', T') to (N, M, F'), >= 0.

        Multiplied out in float64, because the differences of all pairs would not fit into memory: exact to 1e-12.
        """
        z, p = _by_band(latent), _by_band(self.prototypes)  # (F', N, TC), (F', M, TC)
        products = z @ p.transpose(1, 2)
        squared = z.square().sum(2)[:, :, None] + p.square().sum(2)[:, None] - 2 * products
        return squared.clamp_min(0).permute(1, 2, 0).to(latent.dtype)

    def weighted(self, similarities: Tensor) -> Tensor:
        """Ŝ_ij = Σ_f H_j[f] S_ij[f] (Eq. 7): similarities (N, M, F') to (N, M)."""
        return (similarities * self.frequency_weights).sum(2)

    def logits_of(self, similarities: Tensor) -> Tensor:
        """Similarities (N, M, F') to logits Ŝ W (N, K), before the softmax of Eq. 8."""
        return self.weighted(similarities) @ self.class_weights

    def _check(self, features: Tensor) -> None:
        n_bands, n_frames = _map_of(self.prototypes.shape[2:], self.poolings)
        if features.ndim != 4 or tuple(features.shape[1:]) != (1, n_bands, n_frames):
            raise ClassifierError(
                f"This audio prototype network takes maps of shape (N, 1, {n_bands}, {n_frames}), got "
                f"{tuple(features.shape)}. Cut or pad the recording to its window, frequency before time."
            )


def similarity(distances: Tensor) -> Tensor:
    """S = exp(-D) (Eq. 6), in [0, 1]."""
    return torch.exp(-distances)


def check_distances(distances: Tensor, features: Tensor) -> None:
    """Refuse distances that are NaN: nothing would be near or far by them. Infinite ones say that nothing is near.

    Parameters
    ----------
    distances : Tensor (N, ...)
    features : Tensor (N, 1, F, T)
        What they are of.

    Raises
    ------
    AudioError
        The features are NaN or infinite already.
    ClassifierError
        They overflow in the network.
    """
    broken = distances.flatten(1).isnan().any(1)
    if not bool(broken.any()):
        return
    said = f"The distances to the prototypes are NaN in {int(broken.sum())} of {len(broken)} windows"
    if not bool(features[broken.to(features.device)].isfinite().all()):
        raise AudioError(f"{said}: their features are NaN or infinite. Are the samples in [-1, 1]? Scale them down.")
    raise ClassifierError(
        f"{said}: they overflow in the encoder. Its weights are too large: undo the last edit, or train again with a "
        "lower learning rate."
    )


def pooling_mask(values: Tensor, pooled: Tensor) -> Tensor:
    """Where ``values`` (N, C, F, T) reach the maxima of their pools, (N, C, F'', T''); ties are all true."""
    with torch.no_grad():
        return values >= enlarged(pooled, values.shape[2:])


def unpool(values: Tensor, mask: Tensor) -> Tensor:
    """Each cell of ``values`` (N, C, F'', T''), copied to where its pool had its maximum; zero elsewhere."""
    return enlarged(values, mask.shape[2:]) * mask


def enlarged(values: Tensor, size: Sequence[int]) -> Tensor:
    """Each cell of ``values`` (N, C, …, …) repeated until there are ``size``, a multiple of what there is."""
    return functional.interpolate(values, size=tuple(size), mode="nearest")


def _map_of(latent: Sequence[int], poolings: Poolings) -> tuple[int, int]:
    """(F, T) of the input, from (F', T')."""
    bands, frames = cell_size(poolings)
    return bands * latent[0], frames * latent[1]


def _by_band(maps: Tensor) -> Tensor:
    """(N, C, F', T') -> (F', N, C·T'), float64."""
    return maps.double().permute(2, 0, 1, 3).flatten(2)
