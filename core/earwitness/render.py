"""From an explanation to a mask on the listening STFT, and to sound."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from earwitness.audio.budget import EnergyBudget
from earwitness.audio.lifting import (
    frame_mask,
    frame_relevance,
    lift_mask,
    lift_relevance,
    lower_mask,
    lower_relevance,
    share_out,
)
from earwitness.audio.masking import apply_gain, energy, mask_to_gain, rest_gain
from earwitness.audio.rules import Energy, Normalise, Rule
from earwitness.audio.stft import ListeningSTFT
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ExplanationError
from earwitness.explanation import Domain, Explanation, Route, Scale
from earwitness.grid import Grid

_ANALYSED, _ASKED = 2, 8
"""Rows that are masked and transformed at once, and that the classifier hears at once, on a CPU: what lies between then
stays in its cache. The spectrum of five seconds takes two megabytes."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A batch of recordings, analysed once, and the classifier that listens to parts of them.

    Parameters
    ----------
    classifier : AudioClassifier
    batch : Batch
    listening : ListeningSTFT
        At the batch's rate.
    route : {"waveform", "spectrogram"}
        How a mask reaches the classifier: through ISTFT and its whole front end (what is scored is what is heard), or
        straight into its features, where its STFT equals the listening one.

    Raises
    ------
    ExplanationError
        The route is not open for this classifier.
    """

    classifier: AudioClassifier
    batch: Batch
    listening: ListeningSTFT
    route: Route = "waveform"

    def __post_init__(self) -> None:
        if self.batch.rate != self.classifier.rate or self.listening.rate != self.classifier.rate:
            raise ExplanationError(
                f"{self.classifier.name} works at {self.classifier.rate} Hz; the batch is at {self.batch.rate} Hz and "
                f"the listening STFT at {self.listening.rate} Hz. Resample the clips first (`Clip.resampled`)."
            )
        if self.route == "spectrogram" and not self._shares_stft:
            raise ExplanationError(
                f"The spectrogram route needs a classifier whose STFT is the listening one; that of "
                f"{self.classifier.name} is not. Use the waveform route."
            )

    @property
    def n_samples(self) -> int:
        """T."""
        return self.batch.waveforms.shape[1]

    @property
    def silent(self) -> Tensor:
        """Rows (B,), bool, in which there is nothing to hear: every sample is the same."""
        waveforms = self.batch.waveforms
        return waveforms.amax(1) == waveforms.amin(1)

    @functools.cached_property
    def spectrum(self) -> Tensor:
        """S: Tensor (B, F, N), complex64."""
        return self.listening.forward(self.batch.waveforms)

    @functools.cached_property
    def magnitude(self) -> Tensor:
        """|S|: Tensor (B, F, N), float32."""
        return self.spectrum.abs()

    @functools.cached_property
    def original(self) -> Tensor:
        """What the classifier says, (B, C), to the whole recording, on the route."""
        return self.probabilities()

    @functools.cached_property
    def energy(self) -> Tensor:
        """Sum of |S|² over each recording: Tensor (B,), float64."""
        return energy(self.spectrum)

    def sound(self, gain: Tensor) -> Tensor:
        """The waveforms (B, T) of a gain (B, F, N)."""
        return self.masked(gain)[0]

    def masked(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        """What a gain (B, F, N) lets through: waveforms (B, T), and their sum of squared magnitudes (B,), float64."""

        def let_through(gain: Tensor, spectrum: Tensor) -> tuple[Tensor, Tensor]:
            product = apply_gain(gain, spectrum)
            return self.listening.inverse(product, self.n_samples), energy(product)

        waveforms, energies = _by_rows(_ANALYSED, let_through, gain, self.spectrum)
        return waveforms, energies

    @torch.no_grad()
    def probabilities(self, gain: Tensor | None = None) -> Tensor:
        """What the classifier says, (B, C), to a gain (B, F, N), on the route; ``None`` is the whole recording."""
        if gain is None:
            # The routes meet where nothing is masked: STFT and back is the recording, to rounding.
            if self._shares_stft:
                features = _by_rows(_ANALYSED, lambda spectrum: (self._features(spectrum),), self.spectrum)[0]
                return self._of_features(features)
            return self._of_sound(self.batch.waveforms)
        if self.route == "spectrogram":
            return self._of_features(self._features(apply_gain(gain, self.spectrum)))
        return self._of_sound(self.sound(gain))

    @torch.no_grad()
    def split(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        """What the classifier says, (B, C) each, to what a gain (B, F, N) keeps and to what it leaves, on the route."""
        if self.route == "spectrogram":
            return self.probabilities(gain), self.probabilities(1 - gain)
        heard = self.sound(gain)
        return self.answers(heard, self.batch.waveforms - heard)

    @torch.no_grad()
    def answers(self, heard: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """What the classifier says, (B, C) each, to what is heard and to what is left: two waveforms (B, T)."""
        if self._shares_stft and torch.equal(rest, self.batch.waveforms - heard):

            def both(heard: Tensor, recording: Tensor) -> tuple[Tensor, Tensor]:
                spectrum = self.listening.forward(heard)  # an STFT is linear: that of the rest is a difference
                return self._features(spectrum), self._features(recording - spectrum)

            of_heard, of_rest = _by_rows(_ANALYSED, both, heard, self.spectrum)
            return self._of_features(of_heard), self._of_features(of_rest)
        return self._of_sound(heard), self._of_sound(rest)

    def lift(self, values: Tensor, domain: Domain) -> Tensor:
        """A mask-like map in any domain -> (B, F, N), by averaging (see ``lift_mask``).

        Raises
        ------
        ExplanationError
            The map does not lie on the domain's grid, or the classifier has no such domain.
        """
        self._check_rows(values)
        if domain == "features":
            return lift_mask(values, self._feature_grid(), self.listening.grid(self.n_samples))
        if domain == "waveform":
            self._check_shape("map over samples", values, self.batch.waveforms)
            frames = frame_mask(values, self.listening.hop_length, self.spectrum.shape[2])
            return frames[:, None].expand(self.spectrum.shape)
        self._check_shape("map on the listening STFT", values, self.spectrum)
        return values

    def importance(self, explanation: Explanation) -> Tensor:
        """How much of each bin the method points at, before any rule: Tensor (B, F, N), in [0, 1].

        The gain of its own mask; else the positive part of its relevance over its maximum, lifted; else the ratio of
        the magnitudes of what it plays and of the recording.
        """
        if explanation.mask is not None:
            lifted = self.lift(explanation.mask.values, explanation.mask.domain).clamp(0, 1)
            return lifted if explanation.mask.scale == "magnitude" else mask_to_gain(lifted, self.magnitude, "log1p")
        if explanation.relevance is not None:
            return self.lift(Normalise()(explanation.relevance.values), explanation.relevance.domain)
        assert explanation.heard is not None
        self._check_shape("heard sound", explanation.heard, self.batch.waveforms)
        return (self.listening.forward(explanation.heard).abs() / self.magnitude.clamp_min(1e-12)).clamp(0, 1)

    def relevance_map(self, explanation: Explanation) -> Tensor:
        """Where the method's relevance lies: Tensor (B, F, N), signed, mass preserved.

        For methods that answer with a mask or with sound it is the magnitude that is heard.
        """
        relevance = explanation.relevance
        if relevance is None or explanation.mask is not None:
            return self.importance(explanation) * self.magnitude
        if relevance.domain == "stft":
            return self.lift(relevance.values, "stft")
        self._check_rows(relevance.values)
        if relevance.domain == "features":
            fine = self.listening.grid(self.n_samples)
            return lift_relevance(relevance.values, self._feature_grid(), fine, self.magnitude)
        self._check_shape("map over samples", relevance.values, self.batch.waveforms)
        frames = frame_relevance(relevance.values, self.listening.hop_length, self.magnitude.shape[2])
        return share_out(frames, self.magnitude)

    def on_stft(self, explanation: Explanation) -> Tensor:
        """What ranks the bins of the listening STFT: Tensor (B, F, N).

        Relevance as in :meth:`relevance_map`. A mask ranks by its own values, averaged, at whatever scale, and sound by
        the share of each bin that it plays: a constant mask has no preference, not even for what is loud.
        """
        if explanation.mask is not None:
            return self.lift(explanation.mask.values, explanation.mask.domain)
        return self.importance(explanation) if explanation.relevance is None else self.relevance_map(explanation)

    def on_features(self, explanation: Explanation) -> Tensor:
        """What ranks the cells of the classifier's feature map: Tensor (B, M, N').

        A map over features as it is. Other relevance is collected with its mass preserved, signed; other masks, and
        sound, are averaged, so that a constant stays constant (see :meth:`on_stft`).

        Raises
        ------
        ExplanationError
            The classifier has no feature map, or the map does not lie on the domain's grid.
        """
        coarse, fine = self._feature_grid(), self.listening.grid(self.n_samples)
        own = explanation.relevance if explanation.mask is None else explanation.mask
        if own is not None and own.domain == "features":
            expected = (len(self.batch), *coarse.shape)
            if tuple(own.values.shape) != expected:
                raise ExplanationError(f"A feature map must have shape {expected}, got {tuple(own.values.shape)}.")
            return own.values
        fine_map = self.on_stft(explanation)
        if explanation.mask is None and explanation.relevance is not None:
            return lower_relevance(fine_map, fine, coarse)
        return lower_mask(fine_map, fine, coarse, self.magnitude)

    def gain(self, explanation: Explanation, rule: Rule) -> Tensor:
        """The gain (B, F, N), in [0, 1], that a rule makes of an explanation; a method's own mask is kept as it is.

        A row that points at nothing has a gain of 0, whatever energy a rule would keep.
        """
        if isinstance(rule, Energy):
            importance = self.importance(explanation)
            pointing = (importance > 0).flatten(1).any(1)[:, None, None]
            return EnergyBudget(importance, self.magnitude).gain(rule.p, rule.form) * pointing
        if explanation.mask is None and explanation.relevance is not None:
            return self.lift(rule(explanation.relevance.values), explanation.relevance.domain).clamp(0, 1)
        return self.importance(explanation)

    @functools.cached_property
    def _shares_stft(self) -> bool:
        stft = self.listening
        return self.classifier.front_end.shares_stft(n_fft=stft.n_fft, hop_length=stft.hop_length, rate=stft.rate)

    def _features(self, spectrum: Tensor) -> Tensor:
        n_frames = self._feature_grid().shape[1]  # the listening STFT may have one more, past the end
        return self.classifier.front_end.from_stft(spectrum[:, :, :n_frames])

    def _of_features(self, features: Tensor) -> Tensor:
        logits = _by_rows(_ASKED, lambda some: (self.classifier.logits_of_features(some),), features)[0]
        return self.classifier.probabilities_of(logits)

    def _of_sound(self, waveforms: Tensor) -> Tensor:
        return _by_rows(_ASKED, lambda some: (self.classifier.probabilities(some),), waveforms)[0]

    def _feature_grid(self) -> Grid:
        grid = self.classifier.feature_grid(self.n_samples)
        if grid is None:
            raise ExplanationError(f"{self.classifier.name} has no feature map; answer in 'waveform' or 'stft'.")
        return grid

    def _check_rows(self, values: Tensor) -> None:
        if len(values) != len(self.batch):
            raise ExplanationError(f"The explanation has {len(values)} rows, but the batch has {len(self.batch)}.")

    @staticmethod
    def _check_shape(what: str, values: Tensor, like: Tensor) -> None:
        if values.shape != like.shape:
            raise ExplanationError(f"A {what} must have shape {tuple(like.shape)}, got {tuple(values.shape)}.")


def _by_rows(n_rows: int, function: Callable[..., tuple[Tensor, ...]], *batches: Tensor) -> tuple[Tensor, ...]:
    """Apply a function of batches to ``n_rows`` rows at a time on the CPU, and to all at once elsewhere."""
    if batches[0].device.type != "cpu":
        return function(*batches)
    pieces = [function(*rows) for rows in zip(*(torch.split(batch, n_rows) for batch in batches), strict=True)]
    return tuple(torch.cat(found) for found in zip(*pieces, strict=True))


@dataclass(frozen=True, eq=False)
class Rendering:
    """What is heard and what is left.

    Attributes
    ----------
    gain, rest_gain : Tensor (B, F, N), float32, in [0, 1]
    heard, rest : Tensor (B, T), float32
        At ``magnitude`` scale they sum to the recording.
    kept_energy : Tensor (B,)
        Share of the recording's energy in ``heard``.
    mean_mask : Tensor (B,)
        Mean gain over all bins.
    """

    gain: Tensor
    rest_gain: Tensor
    heard: Tensor
    rest: Tensor
    kept_energy: Tensor
    mean_mask: Tensor

    def select(self, rows: list[int]) -> Rendering:
        """Some of its rows."""
        return Rendering(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def render(scene: Scene, explanation: Explanation, rule: Rule, scale: Scale = "magnitude") -> Rendering:
    """Make an explanation audible.

    Parameters
    ----------
    scene : Scene
        The recordings, the classifier, the listening STFT and the route.
    explanation : Explanation
    rule : Rule
        Makes a mask of relevance; a method's own mask is kept as it is, except under ``Energy``.
    scale : {"magnitude", "log1p"}
        At which the mask that a rule makes of relevance is meant, and the complement of any gain is taken. A method's
        own mask has its own scale, converted exactly; a sound of its own has none.

    Returns
    -------
    Rendering
    """
    gain = scene.gain(explanation, rule)
    budgeted = isinstance(rule, Energy)
    answers_in_sound = explanation.mask is None and explanation.relevance is None
    own_sound = explanation.heard if answers_in_sound and not budgeted else None
    if explanation.mask is not None:
        scale = explanation.mask.scale
    elif own_sound is not None:
        scale = "magnitude"
    elif not budgeted:
        gain = mask_to_gain(gain, scene.magnitude, scale)
    rest = 1 - gain if scale == "magnitude" else rest_gain(gain, scene.magnitude, scale)
    masked, energy_kept = scene.masked(gain)
    heard = masked if own_sound is None else own_sound
    left = scene.batch.waveforms - heard if scale == "magnitude" else scene.sound(rest)
    return Rendering(gain, rest, heard, left, (energy_kept / scene.energy).float(), gain.mean((1, 2)))
