"""From a mask to what the classifier hears of it, differentiable and as cheap as it can be made.

The decoder's mask lies on a coarse grid: the classifier's own feature grid, or mel bands for networks that eat samples.
A passage leads it to features, and says what the mask keeps:

- :class:`BandPassage`: where the mask is a gain on the listening STFT, lifted by a fixed interpolation, and the front
  end sums bins in bands, all that is needed of a clip's STFT are a few coefficients for each *band*: no tensor of the
  STFT's size is ever masked.
- :class:`SpectrumPassage`: the ``spectrogram`` route in full, for masks that are exponents or binary.
- :class:`WaveformPassage`: sound and back, for such masks where the classifier's STFT is not the listening one, and for
  networks that eat samples.

B rows, F bins and N frames of the listening STFT, M bands and N' frames of the coarse grid.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Literal, Protocol

import torch
from torch import Tensor

from earwitness.audio.front_end import LogMel
from earwitness.audio.lifting import lift_mask, lower_relevance
from earwitness.audio.masking import apply_gain, mask_to_gain
from earwitness.audio.mel import MelBands
from earwitness.audio.stft import ListeningSTFT
from earwitness.classifier import AudioClassifier
from earwitness.errors import ConfigurationError
from earwitness.explanation import Scale
from earwitness.grid import Grid

MaskDomain = Literal["stft", "features"]

_BANDS_OF_SAMPLES = 64


class Passage(Protocol):
    """How masks of clips of one length reach a classifier."""

    def analysed(self, waveforms: Tensor) -> Tensor:
        """What is needed of clips (B, T), once and for all: Tensor (B, …)."""
        ...

    def spread(self, mask: Tensor) -> Tensor:
        """A coarse mask (B, M, N') on the grid where it is used."""
        ...

    def energy(self, clips: Tensor) -> Tensor:
        """Energy of the clips beneath the spread mask, of clips :meth:`analysed` for budgets; not negative."""
        ...

    def features(self, mask: Tensor, clips: Tensor) -> Tensor:
        """What the classifier gets of :meth:`analysed` clips under a spread mask: Tensor (B, 1, M, N')."""
        ...

    def heard_and_rest(self, mask: Tensor, clips: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`features` under a spread mask, and under what it leaves over."""
        ...

    def extent(self, mask: Tensor) -> Tensor:
        """Mean of a spread mask over the bins of the listening STFT, or over features: Tensor (B,)."""
        ...

    def level(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a spread mask where it can be above 0 at all: two of Tensor (B,)."""
        ...


def coarse_grid(classifier: AudioClassifier, n_samples: int) -> Grid:
    """The grid on which the decoder answers: that of the features, or mel bands at the listening STFT's frames."""
    own = classifier.feature_grid(n_samples)
    return _mel_grid(classifier.listening, n_samples) if own is None else own


@functools.lru_cache(maxsize=32)
def _mel_grid(listening: ListeningSTFT, n_samples: int) -> Grid:
    bands, fine = MelBands(_BANDS_OF_SAMPLES), listening.grid(n_samples)
    filters = bands.filters(listening.n_fft, listening.rate).double()
    return Grid(bands.centres_hz(listening.rate), fine.times_s, filters, fine.frequencies_hz, fine.reach_s)


def passage_of(
    classifier: AudioClassifier,
    n_samples: int,
    *,
    domain: MaskDomain,
    scale: Scale,
    binarize: bool = False,
    budgets: bool = False,
) -> Passage:
    """The cheapest passage for masks of a kind.

    Parameters
    ----------
    classifier : AudioClassifier
    n_samples : int
        Of the clips.
    domain : {"stft", "features"}
        Where the mask is a gain: on the listening STFT, or on the bands of the front end.
    scale : {"magnitude", "log1p"}
    binarize : bool
        Whether the spread mask will be binary.
    budgets : bool
        Whether masks will be warped to budgets, so that the energy must be known.

    Raises
    ------
    ConfigurationError
        A mask over features was asked for, and the classifier's features are no log-mel spectrogram.
    """
    listening, front_end = classifier.listening, classifier.front_end
    if domain == "features":
        if not isinstance(front_end, LogMel):
            raise ConfigurationError(
                f"A mask over features needs a log-mel front end; {classifier.name} has {type(front_end).__name__}. "
                "Use domain='stft'."
            )
        return FeaturePassage(classifier, n_samples, scale, budgets=budgets)
    if isinstance(front_end, LogMel) and scale == "magnitude" and not binarize:
        return BandPassage(classifier, n_samples, budgets=budgets)
    if not front_end.shares_stft(n_fft=listening.n_fft, hop_length=listening.hop_length, rate=listening.rate):
        return WaveformPassage(classifier, n_samples, scale)
    return SpectrumPassage(classifier, n_samples, scale)


class BandPassage:
    """Gains over bands, lifted to the STFT beneath them, without ever touching it.

    With the lifted gain Σ_j A_jf m_jt, band k of the features is Σ_f K_kf (Σ_j A_jf m_jt |S_ft|)^p for a magnitude
    (p = 1) or a power (p = 2). A is zero but for bands that overlap k, so that is a sum over the few j next to k, of
    m_jt (or of m_jt m_j't) times Σ_f K_kf A_jf (A_j'f) |S_ft|^p, which does not depend on the mask.

    S is the front end's own STFT. Where that is the listening STFT, this is :class:`SpectrumPassage` to rounding; where
    it is not, it is the sound's passage but for what a second analysis smears from frame to frame.
    """

    def __init__(self, classifier: AudioClassifier, n_samples: int, *, budgets: bool = False) -> None:
        assert isinstance(classifier.front_end, LogMel)
        self.front_end = classifier.front_end
        self.listening = classifier.listening
        self.budgets = budgets
        self.coarse = coarse_grid(classifier, n_samples)
        self.fine = self.listening.grid(n_samples)

    @functools.cached_property
    def _averages(self) -> Tensor:
        """A on the bins of the front end: Tensor (M, F)."""
        bins = self.coarse.filter_frequencies_hz
        assert bins is not None
        return _averages(self.coarse, bins).to(self.front_end.filters)

    @functools.cached_property
    def _shares(self) -> Tensor:
        """Of each band in the bins of the listening STFT: Tensor (M,)."""
        return _averages(self.coarse, self.fine.frequencies_hz).mean(1).to(self.front_end.filters)

    @functools.cached_property
    def _terms(self) -> list[tuple[int, ...]]:
        """Which bands next to one meet in it: a step for each factor of m."""
        overlap = (self.front_end.filters @ self._averages.T).cpu()
        apart = sorted(set((overlap > 0).nonzero().diff(dim=1).flatten().tolist()))
        return list(combinations_with_replacement(apart, self.front_end.power))

    def analysed(self, waveforms: Tensor) -> Tensor:
        """See :class:`Passage`: a map for each term, and for budgets one of the energy, (B, terms [+ 1], M, N')."""
        heard = self.front_end.spectrum(waveforms).abs() ** self.front_end.power
        maps = [self._weights(term) @ heard for term in self._terms]
        if self.budgets:
            maps.append(_energy_of_bands(waveforms, self.listening, self.coarse))
        return torch.stack(maps, dim=1)

    def spread(self, mask: Tensor) -> Tensor:
        """See :class:`Passage`: the mask itself."""
        return mask

    def energy(self, clips: Tensor) -> Tensor:
        """See :class:`Passage`."""
        assert self.budgets
        return clips[:, -1]

    def features(self, mask: Tensor, clips: Tensor) -> Tensor:
        """See :class:`Passage`."""
        moved = {step: _shifted(mask, step) for step in {step for term in self._terms for step in term}}
        bands = sum(
            clips[:, number] * math.prod([moved[step] for step in term[1:]], start=moved[term[0]])
            for number, term in enumerate(self._terms)
        )
        assert isinstance(bands, Tensor)
        return self.front_end.compression.apply(bands)[:, None]

    def heard_and_rest(self, mask: Tensor, clips: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Passage`."""
        return self.features(mask, clips), self.features(1 - mask, clips)

    def extent(self, mask: Tensor) -> Tensor:
        """See :class:`Passage`."""
        return (self._shares[:, None] * mask).sum(1).mean(1)

    def level(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Passage`."""
        return _level(mask)

    def _weights(self, term: tuple[int, ...]) -> Tensor:
        """Σ over the orders of a term of K_kf Π A_(k+step)f: Tensor (M, F)."""
        orders = math.factorial(len(term)) // math.prod(math.factorial(n) for n in Counter(term).values())
        return math.prod(
            [_shifted(self._averages[None], step)[0] for step in term], start=orders * self.front_end.filters
        )


class FeaturePassage:
    """Gains over the bands of the front end: the mask acts on the mel spectrogram, as in the published mel variant."""

    def __init__(self, classifier: AudioClassifier, n_samples: int, scale: Scale, *, budgets: bool = False) -> None:
        assert isinstance(classifier.front_end, LogMel)
        self.front_end = classifier.front_end
        self.listening = classifier.listening
        self.scale: Scale = scale
        self.budgets = budgets
        self.coarse = coarse_grid(classifier, n_samples)

    def analysed(self, waveforms: Tensor) -> Tensor:
        """See :class:`Passage`: the mel spectrogram as a magnitude, and for budgets the energy, (B, 1 or 2, M, N')."""
        maps = [self.front_end.decompress(self.front_end(waveforms))[:, 0] ** (1 / self.front_end.power)]
        if self.budgets:
            maps.append(_energy_of_bands(waveforms, self.listening, self.coarse))
        return torch.stack(maps, dim=1)

    def spread(self, mask: Tensor) -> Tensor:
        """See :class:`Passage`: the mask itself."""
        return mask

    def energy(self, clips: Tensor) -> Tensor:
        """See :class:`Passage`."""
        assert self.budgets
        return clips[:, 1]

    def features(self, mask: Tensor, clips: Tensor) -> Tensor:
        """See :class:`Passage`."""
        mel = clips[:, 0]
        passed = (mask_to_gain(mask, mel, self.scale) * mel) ** self.front_end.power
        return self.front_end.compression.apply(passed)[:, None]

    def heard_and_rest(self, mask: Tensor, clips: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Passage`."""
        return self.features(mask, clips), self.features(1 - mask, clips)

    def extent(self, mask: Tensor) -> Tensor:
        """See :class:`Passage`: over features."""
        return mask.mean((1, 2))

    def level(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Passage`."""
        return _level(mask)


class _LiftedPassage:
    """What passages have in common that lift the mask to the listening STFT."""

    def __init__(self, classifier: AudioClassifier, n_samples: int, scale: Scale) -> None:
        self.classifier = classifier
        self.scale: Scale = scale
        self.n_samples = n_samples
        self.coarse, self.fine = coarse_grid(classifier, n_samples), classifier.listening.grid(n_samples)

    def spread(self, mask: Tensor) -> Tensor:
        """See :class:`Passage`: (B, F, N)."""
        return lift_mask(mask, self.coarse, self.fine)

    def extent(self, mask: Tensor) -> Tensor:
        """See :class:`Passage`."""
        return mask.mean((1, 2))

    def level(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Passage`."""
        return _level(mask[:, self._reached])

    @functools.cached_property
    def _reached(self) -> Tensor:
        """Which bins get something of a mask that is lifted: Tensor (F,), bool."""
        return (_averages(self.coarse, self.fine.frequencies_hz) > 0).any(0)


class SpectrumPassage(_LiftedPassage):
    """Masks on the listening STFT, straight to the classifier's features."""

    def analysed(self, waveforms: Tensor) -> Tensor:
        """See :class:`Passage`: |S|, (B, F, N)."""
        return self.classifier.listening.forward(waveforms).abs()

    def energy(self, clips: Tensor) -> Tensor:
        """See :class:`Passage`."""
        return clips.square()

    def features(self, mask: Tensor, clips: Tensor) -> Tensor:
        """See :class:`Passage`."""
        passed = (mask_to_gain(mask, clips, self.scale) * clips)[:, :, : self.coarse.shape[1]]
        return self.classifier.front_end.from_stft(torch.complex(passed, torch.zeros_like(passed)))

    def heard_and_rest(self, mask: Tensor, clips: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Passage`."""
        return self.features(mask, clips), self.features(1 - mask, clips)


class WaveformPassage(_LiftedPassage):
    """Masks on the listening STFT, made audible, and heard by the classifier through its whole front end."""

    def analysed(self, waveforms: Tensor) -> Tensor:
        """See :class:`Passage`: S, (B, F, N), complex."""
        return self.classifier.listening.forward(waveforms)

    def energy(self, clips: Tensor) -> Tensor:
        """See :class:`Passage`."""
        return torch.view_as_real(clips).square().sum(3)

    def features(self, mask: Tensor, clips: Tensor) -> Tensor:
        """See :class:`Passage`."""
        return self.classifier.features(self._heard(mask, clips))

    def heard_and_rest(self, mask: Tensor, clips: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Passage`. What gains leave over is the recording less what is heard: that spares half the way."""
        if self.scale != "magnitude":
            return self.features(mask, clips), self.features(1 - mask, clips)
        heard = self._heard(mask, clips)
        rest = self.classifier.listening.inverse(clips, self.n_samples) - heard
        return self.classifier.features(heard), self.classifier.features(rest)

    def _heard(self, mask: Tensor, clips: Tensor) -> Tensor:
        gain = mask if self.scale == "magnitude" else mask_to_gain(mask, clips.abs(), self.scale)
        return self.classifier.listening.inverse(apply_gain(gain, clips), self.n_samples)


def _level(mask: Tensor) -> tuple[Tensor, Tensor]:
    cells = mask.flatten(1)
    return cells.mean(1), cells.std(1)


def _energy_of_bands(waveforms: Tensor, listening: ListeningSTFT, bands: Grid) -> Tensor:
    """The energy of the listening STFT of clips (B, T), shared out over bands: Tensor (B, M, N')."""
    energy = listening.forward(waveforms).abs().square()
    return lower_relevance(energy, listening.grid(waveforms.shape[1]), bands)


def _averages(bands: Grid, frequencies_hz: Tensor) -> Tensor:
    """What each of M bands contributes to each of F bins when a mask is lifted: A, Tensor (M, F), float32."""
    moment = bands.times_s[:1]
    at_once = replace(bands, times_s=moment)
    one_band_each = torch.eye(len(bands.frequencies_hz))[:, :, None]
    return lift_mask(one_band_each, at_once, Grid(frequencies_hz, moment))[:, :, 0]


def _shifted(mask: Tensor, step: int) -> Tensor:
    """Row k of the answer is row k + step of (B, M, …), and 0 where there is none."""
    if step == 0:
        return mask
    moved = torch.zeros_like(mask)
    if step > 0:
        moved[:, :-step] = mask[:, step:]
    else:
        moved[:, -step:] = mask[:, :step]
    return moved
