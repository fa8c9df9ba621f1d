"""Front ends: what stands between a waveform and a network.

Audio classifiers speak many dialects of the log-mel spectrogram: other windows, paddings, mel scales, logarithms.
:class:`LogMel` is one differentiable module with an option for each difference that a supported classifier needs;
:mod:`earwitness.audio.dialects` holds the published settings. :class:`Identity` serves networks that eat samples, and
:class:`FrontEnd` is the protocol that both, and a front end of your own, fulfil.

Conventions: B rows, T samples, F STFT bins, N frames, M mel bands; frequency before time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from earwitness.audio.frames import power_of, spectrum_of_frames
from earwitness.audio.mel import Compression, MelBands, Stft
from earwitness.errors import AudioError, ClassifierError, ConfigurationError, nearest
from earwitness.grid import Grid


@runtime_checkable
class FrontEnd(Protocol):
    """Waveform to features, differentiable. Any callable with these members serves; no base class is needed."""

    @property
    def rate(self) -> int:
        """Sampling rate in Hz of the waveforms it takes."""
        ...

    @property
    def min_samples(self) -> int:
        """Length in samples of the shortest waveform that yields one frame."""
        ...

    def __call__(self, waveforms: Tensor) -> Tensor:
        """Waveforms (B, T) to features (B, 1, M, N), or (B, 1, T) for samples."""
        ...

    def from_stft(self, spectrum: Tensor) -> Tensor:
        """Listening STFT (B, F, N), complex, to features (B, 1, M, N); asked only where :meth:`shares_stft` is true."""
        ...

    def shares_stft(self, n_fft: int, hop_length: int, rate: int) -> bool:
        """Whether its STFT is the listening STFT with these numbers (samples, samples, Hz)."""
        ...

    def grid(self, n_samples: int) -> Grid | None:
        """Axes of the features of a waveform of ``n_samples``; None where features are samples."""
        ...

    def describe(self) -> dict[str, Any]:
        """Every parameter, defaults resolved, as plain JSON."""
        ...


class LogMel(nn.Module):
    """Log-mel spectrogram of any dialect, differentiable with respect to the waveform.

    The steps are: pre-emphasis, STFT, magnitude or power, mel bands, logarithm, affine scaling. Its tables are no part
    of a ``state_dict``, so it can stand in front of published weights.

    Parameters
    ----------
    rate : int
        Sampling rate in Hz.
    stft : Stft
        Frames and window.
    bands : MelBands
        Filter bank.
    compression : Compression
        Logarithm and scaling.
    power : {1, 2}
        What the bands sum: the STFT's magnitude, or its square.
    preemphasis : float, in [0, 1)
        Coefficient c of ``y[n] = x[n + 1] - c * x[n]``, one sample shorter than x; 0 leaves the waveform alone.

    Raises
    ------
    ConfigurationError
        A value is out of range, or decibels are asked of a magnitude.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        *,
        rate: int,
        stft: Stft,
        bands: MelBands,
        compression: Compression,
        power: Literal[1, 2] = 2,
        preemphasis: float = 0.0,
    ) -> None:
        super().__init__()
        f_max = rate / 2 if bands.f_max is None else bands.f_max
        if rate <= 0 or f_max > rate / 2:
            raise ConfigurationError(f"Mel bands up to {f_max} Hz need a rate of at least twice that, got {rate} Hz.")
        if power not in (1, 2) or not 0 <= preemphasis < 1:
            raise ConfigurationError(f"Expected power 1 or 2 and preemphasis in [0, 1), got {power} and {preemphasis}.")
        if compression.log == "db" and power == 1:
            raise ConfigurationError("Decibels are taken of a power: use power=2, or another logarithm.")
        self.rate = rate
        self.stft = replace(stft, win_length=stft.win_length or stft.n_fft)
        self.bands = replace(bands, f_max=float(f_max))
        self.compression = compression
        self.power = int(power)
        self.preemphasis = float(preemphasis)
        self.win_length = stft.win_length or stft.n_fft
        window = torch.hann_window(self.win_length, periodic=stft.window == "hann")
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", self.bands.filters(stft.n_fft, rate), persistent=False)

    @property
    def min_samples(self) -> int:
        """Length in samples of the shortest waveform that yields one frame."""
        shortest = {"constant": 1, "reflect": self.stft.n_fft // 2 + 1, "none": self.win_length}
        return shortest[self.stft.padding] + bool(self.preemphasis)

    def n_frames(self, n_samples: int) -> int:
        """N, the number of frames of a waveform of ``n_samples``; AudioError if it is shorter than ``min_samples``."""
        _check_length(n_samples, self.min_samples, self.rate)
        framed = n_samples - bool(self.preemphasis) - (self.win_length if self.stft.padding == "none" else 0)
        return 1 + framed // self.stft.hop_length

    def forward(self, waveforms: Tensor) -> Tensor:
        """Waveform to features.

        Parameters
        ----------
        waveforms : Tensor (B, T), float32
            Samples, nominally in [-1, 1]; computed in the module's own precision.

        Returns
        -------
        Tensor (B, 1, M, N), float32
            Frequency before time. The gradient is finite everywhere, digital silence included.

        Raises
        ------
        AudioError
            The shape is not (B, T), the type is no float, or T is less than ``min_samples``.
        """
        return self._features(self.spectrum(waveforms))

    def spectrum(self, waveforms: Tensor) -> Tensor:
        """The STFT that the features are made of, after pre-emphasis and with this front end's own frames.

        Parameters
        ----------
        waveforms : Tensor (B, T), float32

        Returns
        -------
        Tensor (B, F, N), complex64

        Raises
        ------
        AudioError
            As :meth:`forward`.
        """
        _check_waveforms(waveforms, self.min_samples, self.rate)
        signal = waveforms.to(self.window.dtype)
        if self.preemphasis:
            signal = signal[:, 1:] - self.preemphasis * signal[:, :-1]
        # A short window lies in the middle of n_fft samples. Without padding the first frame starts with it, so silence
        # stands before; that moves only the phase, which is dropped.
        spare, padding = self.stft.n_fft - self.win_length, self.stft.padding
        middle = (spare // 2, spare - spare // 2)
        margins, mode = (middle, "constant") if padding == "none" else ((self.stft.n_fft // 2,) * 2, padding)
        padded = functional.pad(signal[:, None], margins, mode=mode)[:, 0]
        return spectrum_of_frames(padded, functional.pad(self.window, middle), self.stft.hop_length)

    def from_stft(self, spectrum: Tensor) -> Tensor:
        """Features of an STFT that was taken, and perhaps masked, elsewhere: the ``spectrogram`` route.

        Parameters
        ----------
        spectrum : Tensor (B, F, N), complex64
            STFT of the raw waveform, centred; see :meth:`shares_stft`.

        Returns
        -------
        Tensor (B, 1, M, N), float32

        Raises
        ------
        ClassifierError
            This front end's own STFT is uncentred or taken after pre-emphasis, so that no STFT of the raw waveform can
            stand for it; or the shape or type of ``spectrum`` is not as above.
        """
        if self.preemphasis or self.stft.padding == "none":
            reason = "is taken after pre-emphasis" if self.preemphasis else "is not centred"
            raise ClassifierError(
                f"The spectrogram route is closed: this front end's STFT {reason}. Use the waveform route."
            )
        n_bins = self.filters.shape[1]
        if spectrum.ndim != 3 or spectrum.shape[1] != n_bins or not spectrum.is_complex():
            raise ClassifierError(
                f"Expected a complex STFT of shape (B, {n_bins}, N) (n_fft {self.stft.n_fft}), "
                f"got {tuple(spectrum.shape)} of {spectrum.dtype}."
            )
        return self._features(spectrum)

    def decompress(self, features: Tensor) -> Tensor:
        """Undo logarithm and scaling: features (..., M, N) to mel spectrogram (..., M, N), >= 0.

        The result sums magnitudes or powers, as ``power`` says; :func:`earwitness.audio.inversion.mel_to_magnitude`
        takes it from there. What ``floor`` or ``top_db`` raised stays raised.
        """
        return self.compression.undo(features)

    def shares_stft(self, n_fft: int, hop_length: int, rate: int) -> bool:
        """Whether this front end's STFT is the listening STFT: raw waveform, periodic Hann, centred, zero padded.

        Parameters
        ----------
        n_fft, hop_length : int
            Frame length and hop of the listening STFT in samples.
        rate : int
            Its sampling rate in Hz.
        """
        listening = Stft(n_fft, hop_length, win_length=n_fft)
        return not self.preemphasis and self.stft == listening and self.rate == rate

    def grid(self, n_samples: int) -> Grid:
        """Axes of the features of a waveform of ``n_samples``.

        Returns
        -------
        Grid
            Rows at the centres of the mel bands in Hz, with their filters; columns at the frames' centres in seconds:
            the peak of the window and, after pre-emphasis, half a sample later, the middle of its two taps.

        Raises
        ------
        AudioError
            ``n_samples`` is less than ``min_samples``.
        """
        periodic = self.stft.window == "hann"
        peak = (self.win_length if periodic else self.win_length - 1) / 2
        if self.stft.padding != "none":
            peak += (self.stft.n_fft - self.win_length) // 2 - self.stft.n_fft // 2
        if self.preemphasis:
            peak += 0.5
        frames = torch.arange(self.n_frames(n_samples), dtype=torch.float64)
        bins = torch.arange(self.filters.shape[1], dtype=torch.float64)
        return Grid(
            frequencies_hz=self.bands.centres_hz(self.rate),
            times_s=(frames * self.stft.hop_length + peak) / self.rate,
            filters=self.filters.to("cpu", torch.float64),
            filter_frequencies_hz=bins * self.rate / self.stft.n_fft,
            reach_s=(self.win_length + bool(self.preemphasis)) / 2 / self.rate,
        )

    def describe(self) -> dict[str, Any]:
        """Every parameter, defaults resolved, as plain, flat JSON; :func:`from_description` builds the twin."""
        return {
            "type": "LogMel",
            "rate": self.rate,
            **asdict(self.stft),
            **asdict(self.bands),
            **asdict(self.compression),
            "power": self.power,
            "preemphasis": self.preemphasis,
        }

    def _features(self, spectrum: Tensor) -> Tensor:
        size = spectrum.abs() if self.power == 1 else power_of(spectrum)
        return self.compression.apply(self.filters @ size.to(self.filters.dtype)).unsqueeze(1)


class Identity(nn.Module):
    """Front end of a network that eats samples.

    Parameters
    ----------
    rate : int
        Sampling rate in Hz.
    """

    min_samples: int = 1

    def __init__(self, *, rate: int) -> None:
        super().__init__()
        if rate <= 0:
            raise ConfigurationError(f"A sampling rate in Hz must be positive, got {rate}.")
        self.rate = rate

    def forward(self, waveforms: Tensor) -> Tensor:
        """Waveforms (B, T), float, to (B, 1, T), unchanged; AudioError for another shape or type."""
        _check_waveforms(waveforms, self.min_samples, self.rate)
        return waveforms.unsqueeze(1)

    def from_stft(self, spectrum: Tensor) -> Tensor:
        """Always raises ClassifierError: the network takes samples, so there is no spectrogram route."""
        raise ClassifierError("The spectrogram route is closed: this classifier takes samples. Use the waveform route.")

    def shares_stft(self, n_fft: int, hop_length: int, rate: int) -> bool:
        """False: there is no STFT."""
        return False

    def grid(self, n_samples: int) -> None:
        """None: samples have no rows and columns."""
        return

    def describe(self) -> dict[str, Any]:
        """Every parameter as plain JSON; :func:`from_description` builds the twin."""
        return {"type": "Identity", "rate": self.rate}


def from_description(description: Mapping[str, Any]) -> LogMel | Identity:
    """Rebuild a front end from what its ``describe`` returned.

    Raises
    ------
    ConfigurationError
        The type is unknown, or a parameter is missing, unknown or out of range.
    """
    options = dict(description)
    kind = options.pop("type", None)
    try:
        if kind == "Identity":
            return Identity(**options)
        if kind == "LogMel":
            for name, part in (("stft", Stft), ("bands", MelBands), ("compression", Compression)):
                options[name] = part(**{field.name: options.pop(field.name) for field in fields(part)})
            return LogMel(**options)
    except (TypeError, KeyError) as error:
        raise ConfigurationError(f"Not the description of a {kind} front end: {error}. Got {description}.") from error
    raise ConfigurationError(f"Unknown type of front end {kind!r}. {nearest(str(kind), ['LogMel', 'Identity'])}")


def _check_waveforms(waveforms: Tensor, min_samples: int, rate: int) -> None:
    if waveforms.ndim != 2:
        raise AudioError(
            f"Expected waveforms of shape (B, T), got {tuple(waveforms.shape)}. "
            "One recording is a batch of one: add an axis with waveform[None]."
        )
    if not waveforms.is_floating_point():
        raise AudioError(f"Expected float samples in [-1, 1], got {waveforms.dtype}. Divide integers by their maximum.")
    _check_length(waveforms.shape[1], min_samples, rate)


def _check_length(n_samples: int, min_samples: int, rate: int) -> None:
    if n_samples < min_samples:
        raise AudioError(
            f"The recording has {n_samples} samples ({1000 * n_samples / rate:.1f} ms), but this front end's first "
            f"frame needs {min_samples} ({1000 * min_samples / rate:.1f} ms at {rate} Hz). Give a longer recording."
        )
