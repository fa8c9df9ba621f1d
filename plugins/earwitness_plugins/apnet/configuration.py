"""The settings of APNet, published, ours or any other: sizes, front end, recipe of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from earwitness.audio import dialects
from earwitness.errors import ConfigurationError, nearest
from earwitness.parameters import changed
from earwitness_plugins.apnet.front_end import PaddedLogMel, Windows
from earwitness_plugins.apnet.network import AudioPrototypeNetwork, Sizes, check_divides_by_four
from earwitness_plugins.classifiers.augmentation import Augmentation
from earwitness_plugins.classifiers.descent import one_cycle

PrototypeStart = Literal["uniform", "data"]
Schedule = Literal["constant", "one-cycle"]
HeardWindows = Literal["all", "random"]

_WARM_UP = 0.15  # share of the steps


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What the network hears and how large it is.

    Attributes
    ----------
    rate : int
        In Hz.
    n_fft, hop_length : int
        Of uncentred frames, in samples.
    n_mels, n_frames : int
        Size of the map that the network sees, each a multiple of four.
    channels : tuple of three int
        Filters of the encoder's convolutions.
    prototypes_per_class : int
    timeless : bool
        Prototypes say what sounds in a window, and not when; see :class:`~.network.Sizes`.

    Raises
    ------
    ConfigurationError
        A number is out of range, or the map does not divide by four.
    """

    rate: int
    n_fft: int
    hop_length: int
    n_mels: int
    n_frames: int
    channels: tuple[int, int, int]
    prototypes_per_class: int
    timeless: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        check_divides_by_four(self.n_mels, self.n_frames)
        if self.prototypes_per_class < 1:
            raise ConfigurationError(f"Each class needs a prototype, got {self.prototypes_per_class} per class.")
        if not isinstance(self.timeless, bool):  # the text "False" would count as true
            raise ConfigurationError(f"Prototypes are timeless or not: expected True or False, got {self.timeless!r}.")

    @property
    def n_samples(self) -> int:
        """Length of the window in samples: 89,088, 134,144 and 16,128 in the paper's settings."""
        return (self.n_frames - 1) * self.hop_length + self.n_fft

    @property
    def windows(self) -> Windows:
        """How a longer recording is cut: half of each window overlaps the next."""
        return Windows(self.n_frames, self.n_frames // 2)

    def front_end(self, min_db: float, max_db: float) -> PaddedLogMel:
        """The front end under a scaler that maps ``min_db`` and ``max_db`` to -1 and 1."""
        log_mel = dialects.apnet(
            rate=self.rate,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            n_mels=self.n_mels,
            min_db=min_db,
            max_db=max_db,
        )
        return PaddedLogMel(log_mel, self.n_frames)

    def network(self, n_classes: int) -> AudioPrototypeNetwork:
        """A network of this size; its weights are not yet initialised."""
        sizes = Sizes(
            n_classes=n_classes,
            n_prototypes=self.prototypes_per_class * n_classes,
            n_bands=self.n_mels,
            n_frames=self.n_frames,
            channels=self.channels,
            timeless=self.timeless,
        )
        return AudioPrototypeNetwork(sizes)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the network is trained. The loss is alpha l_c + beta l_p + gamma l_r (Eq. 10), each a mean as in the code.

    Attributes
    ----------
    epochs, batch_size : int
    learning_rate : float
        Of Adam, in Keras' form (see :mod:`earwitness_plugins.apnet.training`).
    alpha, beta, gamma : float
        Weights of the classification, prototype and reconstruction loss.
    patience : int
        Training stops after this many epochs without a better validation accuracy. The authors' setting of 100 stops
        after 99.
    unit_norm : bool
        After each step, the weights H of each latent band are divided by their norm over the prototypes (in the code,
        not in the paper).
    class_blocks : bool
        The classifier starts with a weight for each class' own block of prototypes, and its negative for the others (in
        the code, for UrbanSound8K only), instead of at random.
    block_weight : float, optional
        That weight; 1/n for blocks of n prototypes (published) where it is not given.
    prototypes : {"uniform", "data"}
        The prototypes start as small random numbers (published), or as latent maps of training clips of their class.
    first_distance : float, optional
        Where training clips begin from the nearest prototype: see :func:`~.objective.scale_latents`. As initialised
        (published) where it is not given.
    windows : {"all", "random"}
        A step hears every window of its clips, or a random one of each. In the paper a clip is a window.
    schedule : {"constant", "one-cycle"}
        The learning rate stays as it is (published), or rises during the first 15 % of the steps and falls along half
        a cosine.
    averaging_steps : int
        Memory, in steps, of the running average of the weights that is validated and kept; 1 averages nothing
        (published).
    decoder_epochs : int
        At the end, the decoder alone is trained on for so many epochs, on clips as they are; see
        :func:`~.finishing.teach_decoder`. None (0) is published.
    augmentation : Augmentation, optional
        Of the training clips (none is published). A dict of its attributes will do.

    Raises
    ------
    ConfigurationError
        A value is out of range or unknown.
    """

    epochs: int = 200
    batch_size: int = 256
    learning_rate: float = 1e-3
    alpha: float = 10.0
    beta: float = 5.0
    gamma: float = 5.0
    patience: int = 99
    unit_norm: bool = True
    class_blocks: bool = False
    block_weight: float | None = None
    prototypes: PrototypeStart = "uniform"
    first_distance: float | None = None
    windows: HeardWindows = "all"
    schedule: Schedule = "constant"
    averaging_steps: int = 1
    decoder_epochs: int = 0
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        if isinstance(self.augmentation, Mapping):
            object.__setattr__(self, "augmentation", changed(Augmentation(), self.augmentation, "augmentation"))
        counts = (self.epochs, self.batch_size, self.patience, self.averaging_steps)
        if min(counts) < 1 or not self.learning_rate > 0:
            raise ConfigurationError(
                f"Epochs, batch size, patience, averaging steps and learning rate must be positive, got {self}."
            )
        if min(self.alpha, self.beta, self.gamma, self.decoder_epochs) < 0:
            raise ConfigurationError(f"Weights of losses and decoder_epochs must not be negative, got {self}.")
        for name in ("block_weight", "first_distance"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigurationError(f"The recipe's {name} must be positive, got {value}.")
        for name, kind in (("prototypes", PrototypeStart), ("windows", HeardWindows), ("schedule", Schedule)):
            value, choices = getattr(self, name), get_args(kind)
            if value not in choices:
                raise ConfigurationError(f"The recipe's {name} cannot be {value!r}. {nearest(str(value), choices)}")

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of step 0, 1, …"""
        if self.schedule == "constant":
            return self.learning_rate
        return one_cycle(self.learning_rate, step, self.epochs * steps_per_epoch, warm_up=_WARM_UP)


PUBLISHED: dict[str, tuple[Configuration, Recipe]] = {
    "urbansound8k": (
        Configuration(
            rate=22050,
            n_fft=4096,
            hop_length=1024,
            n_mels=128,
            n_frames=84,
            channels=(32, 32, 32),
            prototypes_per_class=5,
        ),
        Recipe(batch_size=256, class_blocks=True),
    ),
    "medley-solos-db": (
        Configuration(
            rate=44100,
            n_fft=4096,
            hop_length=1024,
            n_mels=256,
            n_frames=128,
            channels=(48, 48, 48),
            prototypes_per_class=5,
        ),
        Recipe(batch_size=96),
    ),
    "speech-commands": (
        Configuration(
            rate=16000,
            n_fft=1024,
            hop_length=256,
            n_mels=80,
            n_frames=60,
            channels=(48, 48, 48),
            prototypes_per_class=3,
        ),
        Recipe(batch_size=128, alpha=2.0, beta=1.0, gamma=1.0),
    ),
}
"""Configuration and recipe of each data set of the paper; with 10, 8 and 35 classes the networks are the published."""


_ESC10 = (
    Configuration(
        rate=22050,
        n_fft=4096,
        hop_length=1024,
        n_mels=64,
        n_frames=84,
        channels=(32, 64, 64),
        prototypes_per_class=5,
        timeless=True,
    ),
    Recipe(
        epochs=100,
        batch_size=32,
        learning_rate=2e-3,
        beta=1.0,
        class_blocks=True,
        block_weight=1.0,
        prototypes="data",
        first_distance=0.2,
        windows="random",
        schedule="one-cycle",
        averaging_steps=50,
        decoder_epochs=30,
        augmentation=Augmentation(
            shift=True,
            gain_db=(-12.0, 6.0),
            mix_share=0.3,
            noise_share=0.3,
            noise_snr_db=(10.0, 30.0),
            dropped_bands=6,
            dropped_frames=15,
        ),
    ),
)
CONFIGURATIONS = {**PUBLISHED, "esc10": _ESC10}
"""The published ones, and one for a few hundred recordings: what it took to come near to opaque networks on ESC-10."""


def named(name: str) -> tuple[Configuration, Recipe]:
    """A configuration and its recipe by name; ConfigurationError if there is none of that name."""
    if name not in CONFIGURATIONS:
        raise ConfigurationError(f"There is no configuration {name!r}. {nearest(str(name), CONFIGURATIONS)}")
    return CONFIGURATIONS[name]
