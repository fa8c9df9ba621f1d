"""Noise for training clips, from each clip's own random stream: generated, excerpts of a folder of recordings, or other
clips of the same data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
import torch
from torch import Tensor

from earwitness.artifacts import digest_of
from earwitness.audio.files import Recording, open_recording
from earwitness.clips import resample
from earwitness.downloads import sha256_of
from earwitness.errors import AudioError, ConfigurationError
from earwitness.random import Random
from earwitness_plugins.classifiers.augmentation import coloured_noise

GENERATED = {"white": 0.0, "pink": 0.5, "brown": 1.0}
"""Exponent a of each generated noise, whose amplitude falls as 1/f^a."""

CLIPS = "clips"
"""Other training clips as noise: nothing that a classifier has to do with is more like what it knows."""

_SUFFIXES = frozenset(f".{name.lower()}" for name in soundfile.available_formats()) | {".aif", ".oga", ".opus"}


class Noise(Protocol):
    """Where noise comes from."""

    def __call__(self, n_samples: int, rate: int, generator: torch.Generator) -> Tensor:
        """Noise of ``n_samples`` at ``rate`` Hz: Tensor (T,), float32, of any level, perhaps silent."""
        ...


@dataclass(frozen=True)
class GeneratedNoise:
    """Gaussian noise whose amplitude falls as 1/f^slope."""

    slope: float

    def __call__(self, n_samples: int, rate: int, generator: torch.Generator) -> Tensor:
        """See :class:`Noise`."""
        return coloured_noise(torch.tensor([self.slope]), n_samples, generator)[0]


@dataclass(frozen=True)
class OtherClips:
    """Random excerpts of clips, repeated if too short.

    Attributes
    ----------
    clips : sequence of int
        Indices to choose from.
    own : int
        The one that gets the noise, which is never chosen.
    waveform : callable int -> Tensor (T,), float32
        At the rate of what gets the noise.
    """

    clips: Sequence[int]
    own: int
    waveform: Callable[[int], Tensor]

    def __call__(self, n_samples: int, rate: int, generator: torch.Generator) -> Tensor:
        """See :class:`Noise`."""
        place = int(torch.randint(len(self.clips), (), generator=generator))
        if self.clips[place] == self.own:
            place = (place + 1) % len(self.clips)
        waveform = self.waveform(self.clips[place])
        start = int(torch.randint(max(1, len(waveform) - n_samples + 1), (), generator=generator))
        return torch.from_numpy(np.resize(waveform[start : start + n_samples].numpy(), n_samples))


@dataclass(frozen=True)
class NoiseFolder:
    """Random excerpts of recordings, at whatever rate they are: resampled, channels averaged, repeated if too short."""

    recordings: tuple[Recording, ...]

    @property
    def checksum(self) -> str:
        """SHA-256 (hex) over the contents of all files, in order."""
        return digest_of([sha256_of(recording.path) for recording in self.recordings])

    def __call__(self, n_samples: int, rate: int, generator: torch.Generator) -> Tensor:
        """See :class:`Noise`."""
        recording = self.recordings[int(torch.randint(len(self.recordings), (), generator=generator))]
        wanted = -(-n_samples * recording.rate // rate)
        start = int(torch.randint(max(1, recording.n_frames - wanted + 1), (), generator=generator))
        try:
            with soundfile.SoundFile(recording.path) as file:
                file.seek(start)
                samples = file.read(wanted, dtype="float32", always_2d=True).mean(axis=1)
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(
                f"{recording.path} cannot be decoded at sample {start}. Remove it from the noise."
            ) from error
        if not len(samples) or not np.isfinite(samples).all():
            raise AudioError(f"{recording.path} is empty or not finite at sample {start}. Remove it from the noise.")
        excerpt = resample(torch.from_numpy(np.resize(samples, wanted)), recording.rate, rate)
        return torch.from_numpy(np.resize(excerpt.numpy(), n_samples))


def find_noise(name: str) -> Noise:
    """A generated noise by its name, or that of a folder.

    Raises
    ------
    ConfigurationError
        There is neither such a noise nor such a folder, or the folder has no recording that can be opened, or only
        silent ones.
    """
    if name in GENERATED:
        return GeneratedNoise(GENERATED[name])
    folder = Path(name).expanduser()
    if not name or not folder.is_dir():  # Path("") would be where the fit was started
        raise ConfigurationError(
            f"noise must be one of {', '.join((*GENERATED, CLIPS))}, or a folder; there is no {name!r}."
        )
    found, problems = [], []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES):
        try:
            recording = open_recording(path)
            if recording.is_constant():
                raise AudioError(f"{path} is silent.")
            found.append(recording)
        except AudioError as error:
            problems.append(str(error))
    if not found:
        reason = " ".join(problems[:3]) or "It has no sound file."
        raise ConfigurationError(f"The folder {name} has no recording to take noise from. {reason}")
    return NoiseFolder(tuple(found))


def with_noise(
    waveforms: Tensor, noises: Sequence[Noise], snr_db: float, *, rate: int, random: Random, draw: str
) -> tuple[Tensor, Tensor]:
    """Add noise at a ratio of energies; where the sum exceeds 1, all of it is scaled down by its peak.

    Parameters
    ----------
    waveforms : Tensor (B, T), float32
    noises : sequence of Noise
        One for each row.
    snr_db : float
        10 log10 of the clip's energy over the noise's.
    rate : int
        In Hz.
    random : Random
        Of the rows.
    draw : str
        The name of the draw; the same name gives the same noise again.

    Returns
    -------
    noisy : Tensor (B, T), float32
        Silent noise adds nothing.
    clean : Tensor (B, T), float32
        The clips at the level that they have in it.
    """
    generators = random.generators(f"noise {draw}")
    drawn = [noise(waveforms.shape[1], rate, generator) for noise, generator in zip(noises, generators, strict=True)]
    added = torch.stack(drawn).to(waveforms)
    level, own = (each.square().sum(1, keepdim=True).sqrt() for each in (waveforms, added))
    noisy = waveforms + added * (level * 10 ** (-snr_db / 20) / torch.where(own > 0, own, torch.inf))
    peak = noisy.abs().amax(1, keepdim=True).clamp_min(1)
    return noisy / peak, waveforms / peak
