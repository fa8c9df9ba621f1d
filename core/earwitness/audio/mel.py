"""The parts of a log-mel front end, as plain settings: frames, filter bank, logarithm.

:class:`earwitness.audio.front_end.LogMel` puts them together. B rows, F STFT bins, N frames, M mel bands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from earwitness.errors import ConfigurationError, nearest

Window = Literal["hann", "hann_symmetric"]
Padding = Literal["constant", "reflect", "none"]
MelScale = Literal["htk", "slaney", "kaldi"]
MelNorm = Literal["slaney", "mean"]
Logarithm = Literal["ln", "log10", "db"]


@dataclass(frozen=True)
class Stft:
    """How a front end cuts a waveform into frames.

    Parameters
    ----------
    n_fft : int
        Length of the Fourier transform in samples, even.
    hop_length : int
        Samples between frames.
    win_length : int or None
        Length of the window in samples, at most ``n_fft``, which is also the default.
    window : {"hann", "hann_symmetric"}
        Periodic (librosa, torchaudio, TensorFlow) or symmetric (EfficientAT).
    padding : {"constant", "reflect", "none"}
        Centred frames, the signal's ends padded by ``n_fft // 2`` zeros or by reflection; or ``"none"``: uncentred
        frames of ``win_length`` samples, the first of which starts at sample 0 (TensorFlow, APNet).

    Raises
    ------
    ConfigurationError
        A value is out of range or unknown.
    """

    n_fft: int
    hop_length: int
    win_length: int | None = None
    window: Window = "hann"
    padding: Padding = "constant"

    def __post_init__(self) -> None:
        _one_of("window", self.window, get_args(Window))
        _one_of("padding", self.padding, get_args(Padding))
        lengths_fit = self.win_length is None or 1 < self.win_length <= self.n_fft
        if self.n_fft < 2 or self.n_fft % 2 or self.hop_length < 1 or not lengths_fit:
            raise ConfigurationError(
                f"An STFT needs an even n_fft, hop_length >= 1 and win_length between 2 and n_fft, got {self}."
            )


@dataclass(frozen=True)
class MelBands:
    """A bank of overlapping triangular filters.

    Parameters
    ----------
    n_mels : int
        M, the number of bands.
    f_min, f_max : float
        Lower edge of the first and upper edge of the last band in Hz; ``f_max=None`` is half the sampling rate.
    mel_scale : {"htk", "slaney", "kaldi"}
        Mel scale, and the axis along which a filter is a triangle: HTK's scale or Slaney's, triangles in Hz
        (``torchaudio.functional.melscale_fbanks``); or HTK's scale, triangles in *mel*, as in Kaldi and in TensorFlow
        (``torchaudio.compliance.kaldi.get_mel_banks``).
    norm : {None, "slaney", "mean"}
        Peaks of 1; or unit area in Hz (htk and slaney only); or a band is the weighted *mean* of its bins: its
        weights sum to 1.

    Raises
    ------
    ConfigurationError
        A value is out of range or unknown, or ``norm`` does not exist for ``mel_scale``.
    """

    n_mels: int
    f_min: float = 0.0
    f_max: float | None = None
    mel_scale: MelScale = "htk"
    norm: MelNorm | None = None

    def __post_init__(self) -> None:
        _one_of("mel_scale", self.mel_scale, get_args(MelScale))
        if self.norm is not None:
            _one_of("norm", self.norm, get_args(MelNorm))
        if self.mel_scale == "kaldi" and self.norm == "slaney":
            raise ConfigurationError("Kaldi's mel bands have no 'slaney' norm. Choose norm=None or norm='mean'.")
        if self.n_mels < (4 if self.mel_scale == "kaldi" else 1):
            raise ConfigurationError(f"Too few mel bands: {self.n_mels}. Kaldi's scale takes 4 or more, others 1.")
        if self.f_min < 0 or (self.f_max is not None and self.f_max <= self.f_min):
            raise ConfigurationError(f"Mel bands need 0 <= f_min < f_max, got {self.f_min} and {self.f_max} Hz.")

        object.__setattr__(self, "f_min", float(self.f_min))  # 0 and 0.0 are described, and hashed, alike

    def filters(self, n_fft: int, rate: int) -> Tensor:
        """Response of each band to each STFT bin.

        Parameters
        ----------
        n_fft : int
            Length of the Fourier transform in samples.
        rate : int
            Sampling rate in Hz.

        Returns
        -------
        Tensor (M, F), float32, >= 0
            F is ``n_fft // 2 + 1``. A band narrower than a bin may be zero throughout; torchaudio warns of it.
        """
        from torchaudio.compliance.kaldi import get_mel_banks
        from torchaudio.functional import melscale_fbanks

        filters: Tensor
        f_max = rate / 2 if self.f_max is None else self.f_max
        if self.mel_scale == "kaldi":
            no_warp = (100.0, -500.0, 1.0)  # vocal-tract edges in Hz, unused at a warp factor of 1
            filters, _ = get_mel_banks(self.n_mels, n_fft, float(rate), self.f_min, f_max, *no_warp)
            filters = nn.functional.pad(filters, (0, 1))  # Kaldi leaves the Nyquist bin out
        else:
            area = "slaney" if self.norm == "slaney" else None
            # torchaudio's bins end at `rate // 2`, half a Hz too low at odd rates. So ask for the bins up to `rate`
            # (of a signal at twice the rate), and keep the lower half.
            with _double_precision():
                bank = melscale_fbanks(n_fft + 1, self.f_min, f_max, self.n_mels, 2 * rate, area, self.mel_scale)
            filters = bank[: n_fft // 2 + 1].T.float()
        if self.norm == "mean":
            filters = filters / filters.sum(1, keepdim=True).clamp_min(torch.finfo(filters.dtype).tiny)
        return filters.contiguous()

    def centres_hz(self, rate: int) -> Tensor:
        """Frequencies of the triangles' peaks: Tensor (M,), float64, in Hz; equally spaced in mel."""
        import librosa

        f_max = rate / 2 if self.f_max is None else self.f_max
        edges = librosa.mel_frequencies(self.n_mels + 2, fmin=self.f_min, fmax=f_max, htk=self.mel_scale != "slaney")
        return torch.from_numpy(edges[1:-1].copy()).to(torch.float64)


@dataclass(frozen=True)
class Compression:
    """The logarithm, then ``(value + shift) / scale``.

    Parameters
    ----------
    log : {"ln", "log10", "db"}
        ``ln(x + floor)``, ``log10(x + floor)``, or decibels ``10 log10(max(x, floor))`` of a power, as
        ``librosa.power_to_db`` with a reference of 1.
    floor : float, > 0
        See above; librosa calls it ``amin``.
    top_db : float or None
        Decibels only: values below *each clip's* own maximum minus ``top_db`` are raised to that level.
    shift, scale : float
        In the units of the logarithm.

    Raises
    ------
    ConfigurationError
        A value is out of range or unknown, or ``top_db`` is given for another logarithm.
    """

    log: Logarithm
    floor: float
    top_db: float | None = None
    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _one_of("log", self.log, get_args(Logarithm))
        if self.floor <= 0 or self.scale == 0:
            raise ConfigurationError(f"A compression needs floor > 0 and scale != 0, got {self}.")
        if self.top_db is not None and (self.log != "db" or self.top_db < 0):
            raise ConfigurationError(f"top_db belongs to log='db' and must not be negative, got {self}.")

        for name in ("floor", "shift", "scale"):
            object.__setattr__(self, name, float(getattr(self, name)))  # 80 and 80.0 are described, and hashed, alike
        if self.top_db is not None:
            object.__setattr__(self, "top_db", float(self.top_db))

    def apply(self, mel: Tensor) -> Tensor:
        """Mel spectrogram (..., M, N), >= 0, to features (..., M, N)."""
        if self.log == "ln":
            level = torch.log(mel + self.floor)
        elif self.log == "log10":
            level = torch.log10(mel + self.floor)
        else:
            level = 10 * torch.log10(mel.clamp_min(self.floor))
            if self.top_db is not None:
                level = torch.maximum(level, level.amax((-2, -1), keepdim=True) - self.top_db)
        return (level + self.shift) / self.scale

    def undo(self, features: Tensor) -> Tensor:
        """Features (..., M, N) to mel spectrogram (..., M, N), >= 0; what was raised to a floor stays there."""
        level = features * self.scale - self.shift
        if self.log == "ln":
            return (torch.exp(level) - self.floor).clamp_min(0)
        if self.log == "log10":
            return (torch.pow(10.0, level) - self.floor).clamp_min(0)
        return torch.pow(10.0, level / 10)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"Unknown {name} {value!r}. {nearest(str(value), choices)}")


@contextlib.contextmanager
def _double_precision() -> Iterator[None]:
    """Let torchaudio compute a filter bank in float64.

    In float32 its filters are good to 3e-6 of their peak only: half a thousandth of a dB in a quiet band beside a loud
    one.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
