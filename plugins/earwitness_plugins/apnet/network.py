"""The audio prototype network: autoencoder, prototype layer, weighted sum, classifier without bias.

N rows, F bands and T frames of the input, F' = F/4, T' = T/4 and C of the latent map, M prototypes, K classes.
Frequency before time, channels before both; the paper has time first and channels last.

References
----------
Zinemanas, Rocamora, Miron, Font and Serra, "An interpretable deep learning model for automatic sound classification",
Electronics 2021, 10, 850. Where paper and published code differ, this is the code: unpooling is nearest neighbour times
a mask, and ties give several ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from earwitness.errors import AudioError, ClassifierError, ConfigurationError

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
        F and T of the input, each a multiple of four: two poolings halve both axes.
    channels : tuple of three int
        Filters of the encoder's convolutions; the last is C.
    timeless : bool
        Prototypes have one frame, and are compared with what the encoder makes of the maxima over time: it does not
        matter when a sound comes. As published they have T'.

    Raises
    ------
    ConfigurationError
        A number is not positive, or the map does not divide by four.
    """

    n_classes: int
    n_prototypes: int
    n_bands: int
    n_frames: int
    channels: tuple[int, int, int]
    timeless: bool = False

    def __post_init__(self) -> None:
        if len(self.channels) != 3:
            raise ConfigurationError(f"The encoder has three convolutions, got the channels {self.channels}.")
        if min(self.n_classes, self.n_prototypes, *self.channels) < 1:
            raise ConfigurationError(f"Classes, prototypes and channels must be positive, got {self}.")
        check_divides_by_four(self.n_bands, self.n_frames)

    @property
    def latent(self) -> tuple[int, int, int]:
        """(C, F', T')."""
        return self.channels[2], self.n_bands // 4, self.n_frames // 4

    @property
    def prototype(self) -> tuple[int, int, int]:
        """(C, F', T''), with 1 for T'' where prototypes are timeless, else T'."""
        channels, n_bands, n_frames = self.latent
        return channels, n_bands, 1 if self.timeless else n_frames


def check_divides_by_four(n_bands: int, n_frames: int) -> None:
    """Raise ConfigurationError unless both axes are positive multiples of four."""
    for what, size in (("bands", n_bands), ("frames", n_frames)):
        if size < 4 or size % 4:
            near = max(4, size - size % 4)
            raise ConfigurationError(
                f"An input of {size} {what} does not divide by four, but two poolings halve it twice. Take {near} or "
                f"{near + 4} {what}."
            )


@dataclass(frozen=True, eq=False)
class Encoding:
    """What the encoder makes of an input.

    Attributes
    ----------
    latent : Tensor (N, C, F', T')
        Z; behind a LeakyReLU, so unbounded.
    compared : Tensor (N, C, F', T'')
        What is compared with prototypes: Z, or its timeless counterpart.
    masks : (Tensor (N, C0, F, T), Tensor (N, C1, F/2, T/2)), bool
        Where each cell of a 2 x 2 pool reached its maximum; ties are all true.
    """

    latent: Tensor
    compared: Tensor
    masks: tuple[Tensor, Tensor]


class Encoder(nn.Module):
    """Three convolutions with LeakyReLU, the first two with 2 x 2 max pooling."""

    def __init__(self, channels: tuple[int, int, int], *, timeless: bool = False) -> None:
        super().__init__()
        first, second, third = channels
        self.timeless = timeless
        self.conv1 = nn.Conv2d(1, first, KERNEL, padding=KERNEL // 2)
        self.leaky1 = nn.LeakyReLU(SLOPE)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(first, second, KERNEL, padding=KERNEL // 2)
        self.leaky2 = nn.LeakyReLU(SLOPE)
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(second, third, KERNEL, padding=KERNEL // 2)
        self.leaky3 = nn.LeakyReLU(SLOPE)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, 1, F, T) to what is compared with prototypes, (N, C, F', T'')."""
        return self.compared(self.pooled(features))

    def pooled(self, features: Tensor) -> Tensor:
        """Features (N, 1, F, T) to what the last convolution takes in, (N, C1, F', T')."""
        return self._maps(features)[-1]

    def compared(self, pooled: Tensor) -> Tensor:
        """What the last convolution takes in to what is compared with prototypes, (N, C, F', T'')."""
        return self._last(pooled.amax(3, keepdim=True) if self.timeless else pooled)

    def encode(self, features: Tensor) -> Encoding:
        """The same, with all that a decoder needs."""
        first, pooled, second, pooled_again = self._maps(features)
        latent = self._last(pooled_again)
        compared = self.compared(pooled_again) if self.timeless else latent
        return Encoding(latent, compared, (pooling_mask(first, pooled), pooling_mask(second, pooled_again)))

    def _maps(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first = self.leaky1(self.conv1(features))
        pooled = self.pool1(first)
        second = self.leaky2(self.conv2(pooled))
        return first, pooled, second, self.pool2(second)

    def _last(self, pooled: Tensor) -> Tensor:
        latent: Tensor = self.leaky3(self.conv3(pooled))
        return latent


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

    ``encoder.conv3`` is the last convolutional map; where prototypes are timeless, it has one frame, and
    ``encoder.conv2`` is the last with time. As built, weights are those of PyTorch and say nothing; see
    :func:`earwitness_plugins.apnet.objective.initialise`.

    Parameters
    ----------
    sizes : Sizes

    Attributes
    ----------
    prototypes : Parameter (M, C, F', T'')
        P, in the latent space; T'' is T', or 1 where they are timeless.
    frequency_weights : Parameter (M, F')
        H, the weighted sum's.
    class_weights : Parameter (M, K)
        W, the classifier's.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.encoder = Encoder(sizes.channels, timeless=sizes.timeless)
        self.decoder = Decoder(sizes.channels)
        self.n_frames = sizes.n_frames
        self.prototypes = nn.Parameter(torch.zeros(sizes.n_prototypes, *sizes.prototype))
        self.frequency_weights = nn.Parameter(torch.zeros(sizes.n_prototypes, sizes.latent[1]))
        self.class_weights = nn.Parameter(torch.zeros(sizes.n_prototypes, sizes.n_classes))

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], *, n_frames: int | None = None) -> AudioPrototypeNetwork:
        """The network, of any size, that a state dict belongs to.

        Timeless prototypes do not say how many frames a window has, so ``n_frames`` must.

        Raises
        ------
        ClassifierError
            A tensor is missing, unknown, of another shape than the others ask for, or not finite.
        ConfigurationError
            ``n_frames`` does not divide by four.
        """
        try:
            channels = tuple(len(state[f"encoder.conv{number}.weight"]) for number in (1, 2, 3))
            n_prototypes, _, n_bands, own_frames = state["prototypes"].shape
            n_frames = 4 * own_frames if n_frames is None else n_frames
            sizes = Sizes(
                n_classes=state["class_weights"].shape[1],
                n_prototypes=n_prototypes,
                n_bands=4 * n_bands,
                n_frames=n_frames,
                channels=channels,  # type: ignore[arg-type]
                timeless=own_frames == 1 < n_frames // 4,
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
        n_prototypes, channels, n_bands, _ = self.prototypes.shape
        return Sizes(
            n_classes=self.class_weights.shape[1],
            n_prototypes=n_prototypes,
            n_bands=4 * n_bands,
            n_frames=self.n_frames,
            channels=(self.encoder.conv1.out_channels, self.encoder.conv2.out_channels, channels),
            timeless=self.encoder.timeless,
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
        encoding = self.encoder.encode(features)
        distances = self.distances(encoding.compared)
        reconstruction = self.decoder(encoding.latent, encoding.masks)
        return Output(self.logits_of(similarity(distances)), reconstruction, distances)

    def distances(self, compared: Tensor) -> Tensor:
        """D_ij[f] = Σ_t,c (Z_i - P_j)² (inside Eq. 6): what is compared, (N, C, F', T''), to (N, M, F'), >= 0.

        Multiplied out in float64, because the differences of all pairs would not fit into memory: exact to 1e-12.
        """
        z, p = _by_band(compared), _by_band(self.prototypes)  # (F', N, TC), (F', M, TC)
        products = z @ p.transpose(1, 2)
        squared = z.square().sum(2)[:, :, None] + p.square().sum(2)[:, None] - 2 * products
        return squared.clamp_min(0).permute(1, 2, 0).to(compared.dtype)

    def weighted(self, similarities: Tensor) -> Tensor:
        """Ŝ_ij = Σ_f H_j[f] S_ij[f] (Eq. 7): similarities (N, M, F') to (N, M)."""
        return (similarities * self.frequency_weights).sum(2)

    def logits_of(self, similarities: Tensor) -> Tensor:
        """Similarities (N, M, F') to logits Ŝ W (N, K), before the softmax of Eq. 8."""
        return self.weighted(similarities) @ self.class_weights

    def _check(self, features: Tensor) -> None:
        n_bands, n_frames = 4 * self.prototypes.shape[2], self.n_frames
        if features.ndim != 4 or tuple(features.shape[1:]) != (1, n_bands, n_frames):
            raise ClassifierError(
                f"This audio prototype network takes maps of shape (N, 1, {n_bands}, {n_frames}), got "
                f"{tuple(features.shape)}. Cut or pad the recording to its window, frequency before time."
            )


def with_time_of(prototypes: Tensor, other: Encoding) -> Tensor:
    """Prototypes (N, C, F', T'') as latent maps (N, C, F', T'), to be decoded with the masks of others, one each.

    A timeless prototype takes the course over time of the other, moved by how far the two are apart.
    """
    return prototypes if other.compared is other.latent else prototypes + (other.latent - other.compared)


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
    """Where ``values`` (N, C, F, T) reach the maximum of their 2 x 2 pool, (N, C, F/2, T/2); ties are all true."""
    with torch.no_grad():
        return values >= functional.interpolate(pooled, scale_factor=2.0, mode="nearest")


def unpool(values: Tensor, mask: Tensor) -> Tensor:
    """Each cell of ``values`` (N, C, F/2, T/2), copied to where its pool had its maximum; zero elsewhere."""
    return functional.interpolate(values, scale_factor=2.0, mode="nearest") * mask


def _by_band(maps: Tensor) -> Tensor:
    """(N, C, F', T'') -> (F', N, C·T''), float64."""
    return maps.double().permute(2, 0, 1, 3).flatten(2)
