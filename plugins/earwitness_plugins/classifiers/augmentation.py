"""Training clips made harder: quieter, shifted, mixed, noisy, with regions missing, or replaced by nothing at all.

Explanations play a classifier what is left of a recording. It should know that sounds can be quiet, that bands and
moments can be missing, and that silence is no evidence for any class. All functions work on whole batches and draw from
one generator. B rows, T samples, C classes, M bands, N frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from earwitness.errors import ConfigurationError

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How clips are changed while training. The defaults change nothing but the gain, by 0 dB.

    Attributes
    ----------
    shift : bool
        Rotate each clip by a random number of samples.
    gain_db : (float, float)
        Gain in dB, uniform in this range.
    mix_share : float, in [0, 1]
        Share of clips that are mixed with another one ("mixup"), waveform and target alike. The other's weight is
        sin²(πu/2) with uniform u, that is Beta(1/2, 1/2): mostly near 0 or 1.
    noise_share : float, in [0, 1]
        Share of clips that get noise of a random colour: amplitude falls as 1/f^a, a uniform from 0 (white) to 1.
    noise_snr_db : (float, float)
        Ratio of clip to noise in dB (mean power over the clip), uniform in this range.
    void_share : float, in [0, 1]
        Share of clips that are replaced by nothing (half of them digital silence, half noise alone) and whose target is
        the same for all classes.
    void_level_db : (float, float)
        Level of that noise in dB, root mean square, re 1; uniform in this range.
    dropped_bands, dropped_frames : int
        One run of neighbouring bands and one of frames are silenced in each clip's features: as many as a uniform draw
        from 0 up to this number, rounded either way.
    """

    shift: bool = False
    gain_db: Range = (0.0, 0.0)
    mix_share: float = 0.0
    noise_share: float = 0.0
    noise_snr_db: Range = (0.0, 30.0)
    void_share: float = 0.0
    void_level_db: Range = (-80.0, -30.0)
    dropped_bands: int = 0
    dropped_frames: int = 0

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if name.endswith("_share") and not 0 <= value <= 1:
                raise ConfigurationError(f"{name} is a share of clips, between 0 and 1; got {value}.")
            if name.endswith("_db") and not (len(value) == 2 and value[0] <= value[1]):
                raise ConfigurationError(f"{name} must be (lowest, highest) in dB; got {value}.")
            if name.startswith("dropped_") and value < 0:
                raise ConfigurationError(f"{name} must not be negative; got {value}.")


def augment_waveforms(
    waveforms: Tensor, targets: Tensor, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Shift, gain, mix, replace by nothing and add noise, in this order.

    Parameters
    ----------
    waveforms : Tensor (B, T), float32
        Not changed.
    targets : Tensor (B, C), float32
        Probabilities of the classes.
    augmentation : Augmentation
    generator : torch.Generator
        On the CPU, as the tensors are.

    Returns
    -------
    waveforms : Tensor (B, T), float32
        Not clipped to [-1, 1].
    targets : Tensor (B, C), float32
    """
    n_rows = len(waveforms)
    if augmentation.shift:
        waveforms = _rotated(waveforms, generator)
    waveforms = waveforms * _decibels(n_rows, augmentation.gain_db, generator)
    if augmentation.mix_share:
        waveforms, targets = _mixed(waveforms, targets, augmentation.mix_share, generator)
    void = _some(n_rows, augmentation.void_share, generator)
    targets = torch.where(void, torch.full_like(targets, 1 / targets.shape[1]), targets)
    noise_levels = _noise_levels(waveforms, void, augmentation, generator)
    return _with_noise(waveforms * ~void, noise_levels, generator), targets


def augment_features(
    features: Tensor, targets: Tensor, silence: Tensor, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Shift, mix and drop regions of feature maps: what can be done where the recordings are not at hand.

    Parameters
    ----------
    features : Tensor (B, 1, M, N)
        Not changed.
    targets : Tensor (B, C), float32
        Probabilities of the classes, on the device of ``features``.
    silence : Tensor, broadcasts to ``features``
        What a dropped region becomes.
    augmentation : Augmentation
        Of which ``shift`` (by frames), ``mix_share`` and what is dropped count.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    features : Tensor (B, 1, M, N)
    targets : Tensor (B, C), float32
    """
    if augmentation.shift:
        n_rows, n_frames = len(features), features.shape[3]
        offsets = torch.randint(n_frames, (n_rows, 1), generator=generator)
        places = ((torch.arange(n_frames) + offsets) % n_frames).to(features.device)
        features = features.gather(3, places[:, None, None].expand(features.shape))
    if augmentation.mix_share:
        mixed, targets = _mixed(features.flatten(1), targets, augmentation.mix_share, generator)
        features = mixed.reshape(features.shape)
    return drop_regions(features, silence, augmentation, generator), targets


def drop_regions(features: Tensor, silence: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Silence a run of bands and a run of frames of each clip.

    Parameters
    ----------
    features : Tensor (B, 1, M, N)
        Not changed.
    silence : Tensor, broadcasts to ``features``
        Features of digital silence: what a mask of zeros leaves.
    augmentation : Augmentation
    generator : torch.Generator

    Returns
    -------
    Tensor (B, 1, M, N)
    """
    n_rows, _, n_bands, n_frames = features.shape
    if augmentation.dropped_bands:
        bands = _runs(n_rows, n_bands, augmentation.dropped_bands, generator)
        features = torch.where(bands[:, None, :, None].to(features.device), silence, features)
    if augmentation.dropped_frames:
        frames = _runs(n_rows, n_frames, augmentation.dropped_frames, generator)
        features = torch.where(frames[:, None, None, :].to(features.device), silence, features)
    return features


def coloured_noise(slopes: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
    """Periodic Gaussian noise of unit root mean square.

    Parameters
    ----------
    slopes : Tensor (B,), float32
        Exponent a of each row: amplitude falls as 1/f^a. 0 is white, 0.5 pink, 1 brown.
    n_samples : int
        T, at least 2. The lowest thousandth of the spectrum is flat, so that slow swings do not outweigh the rest.
    generator : torch.Generator

    Returns
    -------
    Tensor (B, T), float32
    """
    n_bins = n_samples // 2 + 1
    spectrum = torch.view_as_complex(torch.randn(len(slopes), n_bins, 2, generator=generator))
    log_frequency = torch.arange(n_bins, dtype=torch.float32).clamp_min(max(1.0, n_bins / 1000)).log()
    noise: Tensor = torch.fft.irfft(spectrum * torch.exp(-slopes[:, None] * log_frequency), n=n_samples)
    noise = noise / noise.square().mean(1, keepdim=True).sqrt()
    return noise


def _uniform(n_rows: int, bounds: Range, generator: torch.Generator) -> Tensor:
    """(B, 1) numbers in the range."""
    low, high = bounds
    return low + (high - low) * torch.rand(n_rows, 1, generator=generator)


def _decibels(n_rows: int, bounds: Range, generator: torch.Generator) -> Tensor:
    """(B, 1) amplitude factors whose level is uniform in a range of dB."""
    return torch.pow(10.0, _uniform(n_rows, bounds, generator) / 20)


def _some(n_rows: int, share: float, generator: torch.Generator) -> Tensor:
    """(B, 1) bool, each true with this probability."""
    return torch.rand(n_rows, 1, generator=generator) < share


def _rotated(waveforms: Tensor, generator: torch.Generator) -> Tensor:
    n_rows, n_samples = waveforms.shape
    offsets = torch.randint(n_samples, (n_rows, 1), generator=generator)
    return waveforms.gather(1, (torch.arange(n_samples) + offsets) % n_samples)


def _mixed(waveforms: Tensor, targets: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    n_rows = len(waveforms)
    others = torch.randperm(n_rows, generator=generator).to(waveforms.device)
    weight = torch.sin(_uniform(n_rows, (0.0, math.pi / 2), generator)).square()
    weight = (weight * _some(n_rows, share, generator)).to(waveforms.device)
    return torch.lerp(waveforms, waveforms[others], weight), torch.lerp(targets, targets[others], weight)


def _noise_levels(waveforms: Tensor, void: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """(B, 1) root mean square of the noise that each row gets; 0 is none."""
    n_rows = len(waveforms)
    level = waveforms.square().mean(1, keepdim=True).sqrt()
    noise = level / _decibels(n_rows, augmentation.noise_snr_db, generator)
    noise = noise * _some(n_rows, augmentation.noise_share, generator)
    alone = _decibels(n_rows, augmentation.void_level_db, generator) * _some(n_rows, 0.5, generator)
    return torch.where(void, alone, noise)


def _with_noise(waveforms: Tensor, levels: Tensor, generator: torch.Generator) -> Tensor:
    noisy = levels.flatten().nonzero().flatten()
    if len(noisy) == 0:
        return waveforms
    slopes = _uniform(len(noisy), (0.0, 1.0), generator).flatten()
    noise = coloured_noise(slopes, waveforms.shape[1], generator)
    return waveforms.index_add(0, noisy, noise * levels[noisy])


def _runs(n_rows: int, size: int, longest: int, generator: torch.Generator) -> Tensor:
    """(B, size) bool, true on a run of at most ``longest`` neighbours."""
    length = _uniform(n_rows, (0.0, float(min(longest, size))), generator)
    start = _uniform(n_rows, (0.0, 1.0), generator) * (size - length)
    places = torch.arange(size)
    return (places >= start) & (places < start + length)
