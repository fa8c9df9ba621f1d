"""Published log-mel settings, one function a dialect. Each call returns a new :class:`LogMel`."""

from __future__ import annotations

from earwitness.audio.front_end import LogMel
from earwitness.audio.mel import Compression, MelBands, Stft
from earwitness.errors import ConfigurationError


def yamnet() -> LogMel:
    """YAMNet (tensorflow/models, research/audioset/yamnet): 16 kHz, 64 bands, a frame each 10 ms.

    The network eats patches of 96 frames with time before frequency: segmenting and transposing are its own affair.
    """
    return LogMel(
        rate=16000,
        stft=Stft(512, 160, win_length=400, padding="none"),
        bands=MelBands(64, 125.0, 7500.0, mel_scale="kaldi"),
        compression=Compression("ln", 1e-3),
        power=1,
    )


def efficientat() -> LogMel:
    """EfficientAT (Schmid et al., ICASSP 2023), mn04 among others: 32 kHz, 128 bands, a frame each 10 ms."""
    return LogMel(
        rate=32000,
        stft=Stft(1024, 320, win_length=800, window="hann_symmetric", padding="reflect"),
        bands=MelBands(128, 0.0, 15000.0, mel_scale="kaldi"),
        compression=Compression("ln", 1e-5, shift=4.5, scale=5.0),
        preemphasis=0.97,
    )


def apnet(*, rate: int, n_fft: int, hop_length: int, n_mels: int, min_db: float, max_db: float) -> LogMel:
    """APNet (Zinemanas et al., Electronics 2021) for any data set: uncentred power in decibels, scaled to [-1, 1].

    Parameters
    ----------
    rate : int
        In Hz.
    n_fft, hop_length : int
        In samples.
    n_mels : int
    min_db, max_db : float
        Smallest and largest value in dB over the training set: the stored scaler, which maps them to -1 and 1.

    Raises
    ------
    ConfigurationError
        The scaler is empty, or another value is out of range.
    """
    if not min_db < max_db:
        raise ConfigurationError(f"A min-max scaler needs min_db < max_db, got {min_db} and {max_db} dB.")
    return LogMel(
        rate=rate,
        stft=Stft(n_fft, hop_length, padding="none"),
        bands=MelBands(n_mels, norm="slaney"),
        compression=Compression("db", 1e-10, top_db=80.0, shift=-(min_db + max_db) / 2, scale=(max_db - min_db) / 2),
    )


def apnet_urbansound8k(*, min_db: float, max_db: float) -> LogMel:
    """APNet for UrbanSound8K: 22.05 kHz, 128 bands, a frame each 46 ms. Scaler: see :func:`apnet`."""
    return apnet(rate=22050, n_fft=4096, hop_length=1024, n_mels=128, min_db=min_db, max_db=max_db)


def apnet_medley_solos(*, min_db: float, max_db: float) -> LogMel:
    """APNet for Medley-solos-DB: 44.1 kHz, 256 bands, a frame each 23 ms. Scaler: see :func:`apnet`."""
    return apnet(rate=44100, n_fft=4096, hop_length=1024, n_mels=256, min_db=min_db, max_db=max_db)


def apnet_speech_commands(*, min_db: float, max_db: float) -> LogMel:
    """APNet for Speech Commands: 16 kHz, 80 bands, a frame each 16 ms. Scaler: see :func:`apnet`."""
    return apnet(rate=16000, n_fft=1024, hop_length=256, n_mels=80, min_db=min_db, max_db=max_db)


def drsa_toy() -> LogMel:
    """The synthetic task of the DRSA audio thesis: 16 kHz, 64 HTK bands of the magnitude, a frame each 15 ms.

    The thesis pads by reflection. Here the ends are padded by zeros, as in the listening STFT, so that the spectrogram
    route is open.
    """
    return LogMel(
        rate=16000,
        stft=Stft(480, 240),
        bands=MelBands(64),
        compression=Compression("log10", 1e-7),
        power=1,
    )
