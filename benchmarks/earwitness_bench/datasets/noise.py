"""Noise: seeded generators, excerpts of recordings, and how loud noise has to be for a given SNR.

A noise is a function of length, rate and a seeded generator; it returns samples of unit RMS:

- :func:`white`: equal power per Hz;
- :func:`pink`: equal power per octave, from 20 Hz up;
- :func:`babble`: eight voice-like sources speaking at once; no word is said;
- :class:`NoiseFolder`: excerpts of one's own recordings.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal as filters
from torch import Tensor

from earwitness.audio.files import open_recording
from earwitness.errors import AudioError, DatasetError, SilentAudioError, nearest
from earwitness_bench.datasets.recordings import checksum, fingerprint, read_mono, resampled_length, sound_files

Array = NDArray[np.float64]
Noise = Callable[[int, int, np.random.Generator], Tensor]

GENERATOR_VERSION = 1
"""Part of the fingerprint of every clip with generated noise: raise it whenever a sample changes."""

LOWEST_HZ = 20
"""Pink noise has nothing below: power there would count, but not be heard."""
VOICES = 8

_EXCERPT_TRIES = 20


def white(n_samples: int, rate: int, generator: np.random.Generator) -> Tensor:
    """Gaussian white noise.

    Parameters
    ----------
    n_samples : int
        At least 2.
    rate : int
        In Hz; has no influence here.
    generator : numpy.random.Generator

    Returns
    -------
    Tensor (n_samples,), float32, RMS 1
    """
    return _unit_rms(generator.standard_normal(_checked(n_samples, rate)))


def pink(n_samples: int, rate: int, generator: np.random.Generator) -> Tensor:
    """Gaussian noise whose power falls with 1/f (3.01 dB an octave) from ``LOWEST_HZ`` to half the rate.

    Parameters
    ----------
    n_samples : int
        At least 2.
    rate : int
        In Hz.
    generator : numpy.random.Generator

    Returns
    -------
    Tensor (n_samples,), float32, RMS 1
    """
    spectrum = np.fft.rfft(generator.standard_normal(_checked(n_samples, rate)))
    frequencies = np.fft.rfftfreq(n_samples, 1 / rate)
    audible = frequencies >= min(LOWEST_HZ, frequencies[-1])
    spectrum[audible] /= np.sqrt(frequencies[audible])
    spectrum[~audible] = 0
    return _unit_rms(np.fft.irfft(spectrum, n_samples))


def babble(n_samples: int, rate: int, generator: np.random.Generator) -> Tensor:
    """Babble-like noise: the sum of eight voices, each a chain of syllables.

    A syllable lasts 1/8 to 1/2 s (so envelopes move at 2 to 8 Hz) and swells and fades; its sound is a pulse train of
    90 to 260 Hz, or for every fifth one a hiss, through three resonances where vowels have their formants.

    Parameters
    ----------
    n_samples : int
        At least 2.
    rate : int
        In Hz. Formants above half of it are left out.
    generator : numpy.random.Generator

    Returns
    -------
    Tensor (n_samples,), float32, RMS 1
    """
    _checked(n_samples, rate)
    return _unit_rms(np.sum([_voice(n_samples, rate, generator) for _ in range(VOICES)], axis=0))


NOISES: dict[str, Noise] = {"white": white, "pink": pink, "babble": babble}
"""The generators, by name."""


class NoiseFolder:
    """Random excerpts of a folder of recordings.

    Parameters
    ----------
    folder : path
        Searched with its sub-folders. Files that cannot be opened are passed over and named in ``notes``.

    Raises
    ------
    DatasetError
        There is no such folder, or it holds no sound file that can be opened.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        self.notes: list[str] = []
        self._recordings = []
        for path in sound_files(self.folder):
            try:
                self._recordings.append(open_recording(self.folder / path))
            except AudioError as error:
                self.notes.append(f"Passed over as noise: {error}")
        if not self._recordings:
            raise DatasetError(f"{self.folder} holds no sound file to take noise from. {' '.join(self.notes)}".strip())
        self.fingerprint = fingerprint(*(checksum(recording.path) for recording in self._recordings))

    def __call__(self, n_samples: int, rate: int, generator: np.random.Generator) -> Tensor:
        """An excerpt: a random recording from a random place on, resampled, repeated where it is too short.

        Parameters
        ----------
        n_samples : int
            At least 2.
        rate : int
            Of the excerpt, in Hz.
        generator : numpy.random.Generator

        Returns
        -------
        Tensor (n_samples,), float32, RMS 1

        Raises
        ------
        DatasetError
            Twenty excerpts in a row were silent.
        AudioError
            A recording is damaged.
        """
        _checked(n_samples, rate)
        for _ in range(_EXCERPT_TRIES):
            recording = self._recordings[generator.integers(len(self._recordings))]
            length = max(1, resampled_length(recording.n_frames, recording.rate, rate))
            start = int(generator.integers(max(1, length - n_samples + 1)))
            whole = read_mono(recording.path, rate, min(length, start + n_samples)).numpy()
            excerpt = np.resize(whole[start:], n_samples).astype(np.float64)
            if np.ptp(excerpt) > 1e-6:
                return _unit_rms(excerpt)
        raise DatasetError(
            f"{self.folder}: {_EXCERPT_TRIES} excerpts in a row were silent. Remove the silent recordings."
        )


def at_snr(signal: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """Scale a noise so that it lies ``snr_db`` below a signal.

    Parameters
    ----------
    signal, noise : Tensor (T,), float32
    snr_db : float
        10 log10 of the ratio of their energies over the whole clip.

    Returns
    -------
    Tensor (T,), float32
        The noise alone, to be added to the signal.

    Raises
    ------
    AudioError
        Their shapes differ, or ``snr_db`` is not finite.
    SilentAudioError
        One of them is silent: no gain gives that ratio.
    """
    if signal.shape != noise.shape or not np.isfinite(snr_db):
        shapes = f"{tuple(signal.shape)} and {tuple(noise.shape)}"
        raise AudioError(f"Expected signal and noise of one shape and a finite SNR in dB, got {shapes}, {snr_db!r} dB.")
    signal_energy, noise_energy = (float(x.double().square().sum()) for x in (signal, noise))
    if not signal_energy or not noise_energy:
        which = "signal" if not signal_energy else "noise"
        raise SilentAudioError(f"The {which} is silent, so it cannot be mixed at {snr_db:g} dB. Leave that clip out.")
    gain = math.sqrt(signal_energy / noise_energy) * math.pow(10, -snr_db / 20)
    return (noise.double() * gain).float()


def find_noise(name: str | os.PathLike[str]) -> tuple[str, Noise, str]:
    """A noise by name or folder.

    Parameters
    ----------
    name : str or path
        A key of ``NOISES``, or a folder of recordings.

    Returns
    -------
    name : str
        Short: the key, or the folder's last part.
    noise : callable
    fingerprint : str
        Changes whenever its samples would.

    Raises
    ------
    DatasetError
        It is neither.
    """
    if isinstance(name, str) and name in NOISES:
        return name, NOISES[name], fingerprint(name, GENERATOR_VERSION)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"There is no noise {str(name)!r}, nor such a folder. {nearest(str(name), NOISES)}")
    found = NoiseFolder(folder)
    return folder.resolve().name, found, found.fingerprint


def _checked(n_samples: int, rate: int) -> int:
    if n_samples < 2 or rate < 1:
        raise AudioError(f"Noise needs at least 2 samples and a rate in Hz, got {n_samples} samples at {rate} Hz.")
    return n_samples


def _unit_rms(samples: Array) -> Tensor:
    return torch.from_numpy((samples / np.sqrt(np.mean(samples**2))).astype(np.float32))


def _voice(n_samples: int, rate: int, generator: np.random.Generator) -> Array:
    pitch_hz = generator.uniform(90, 260)
    samples = np.zeros(n_samples)
    start = -int(generator.uniform(0, rate / 2))  # so that voices do not begin together
    while start < n_samples:
        length = max(2, int(rate / generator.uniform(2, 8)))
        syllable = _syllable(length, rate, pitch_hz * generator.uniform(0.85, 1.15), generator)
        if start + length > 0:
            samples[max(0, start) : start + length] += syllable[max(0, -start) : n_samples - start]
        start += length
    return samples


def _syllable(length: int, rate: int, pitch_hz: float, generator: np.random.Generator) -> Array:
    if generator.uniform() < 0.2:
        excitation = generator.standard_normal(length)
    else:
        glide = np.linspace(1, generator.uniform(0.8, 1.2), length)
        periods = np.floor(np.cumsum(pitch_hz * glide / rate) + generator.uniform())
        excitation = np.diff(periods, prepend=periods[0])
    sound = np.zeros(length)
    for low, high, bandwidth, gain in ((300, 800, 80, 1), (900, 2300, 120, 0.5), (2400, 3000, 160, 0.2)):
        formant_hz = generator.uniform(low, high)
        if formant_hz < 0.45 * rate:
            numerator, denominator = filters.iirpeak(formant_hz, formant_hz / bandwidth, fs=rate)
            sound += gain * filters.lfilter(numerator, denominator, excitation)
    level = np.sqrt(np.mean(sound**2))
    return sound * np.hanning(length) * generator.uniform(0.3, 1) / (level if level > 0 else 1)
