"""Recordings and rectangular batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import soxr
import torch
from torch import Tensor

from earwitness.errors import AudioError


@dataclass(frozen=True, eq=False)
class Source:
    """A clean component of a mixture.

    Attributes
    ----------
    waveform : Tensor (T,), float32
        At the level it has in the mixture: the sources of a clip sum to its waveform.
    label : str or None
        The class this component is evidence for; ``None`` for noise and distractors.
    """

    waveform: Tensor
    label: str | None = None


@dataclass(frozen=True, eq=False)
class Clip:
    """One mono recording.

    Attributes
    ----------
    waveform : Tensor (T,), float32
        Samples, nominally in [-1, 1].
    rate : int
        Sampling rate in Hz.
    clip_id : str
        Stable identity.
    group : str
        The source recording it was cut from: statistics resample groups, not clips.
    labels : tuple of str
        Its classes, if known: one, or several in multilabel data.
    sources : dict of str to Source
        The clean components, if known.

    Raises
    ------
    AudioError
        The waveform is not float, not mono, empty or not finite, or the rate is not positive.
    """

    waveform: Tensor
    rate: int
    clip_id: str
    group: str = ""
    labels: tuple[str, ...] = ()
    sources: dict[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.waveform.is_floating_point():
            raise AudioError(
                f"Clip {self.clip_id!r}: expected float samples in [-1, 1], got {self.waveform.dtype}. "
                "Divide integers by their maximum."
            )
        if self.waveform.ndim != 1:
            raise AudioError(
                f"Clip {self.clip_id!r}: expected a mono waveform of shape (T,), got {tuple(self.waveform.shape)}. "
                "Average the channels first."
            )
        if self.waveform.numel() == 0 or not bool(torch.isfinite(self.waveform).all()):
            wrong = "there are no samples" if self.waveform.numel() == 0 else "there are NaN or infinite samples"
            raise AudioError(f"Clip {self.clip_id!r}: {wrong}. Export it again from its source.")
        if self.rate <= 0:
            raise AudioError(f"Clip {self.clip_id!r}: expected a sampling rate in Hz, got {self.rate}.")
        if not self.group:
            object.__setattr__(self, "group", self.clip_id)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.waveform.shape[0] / self.rate

    def resampled(self, rate: int) -> Clip:
        """The same clip, sources included, at another rate in Hz."""
        if rate == self.rate:
            return self
        sources = {
            name: replace(source, waveform=resample(source.waveform, self.rate, rate))
            for name, source in self.sources.items()
        }
        return replace(self, waveform=resample(self.waveform, self.rate, rate), rate=rate, sources=sources)


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips of equal length. The host buckets by length and never pads.

    Attributes
    ----------
    waveforms : Tensor (B, T), float32
    rate : int
        Sampling rate in Hz.
    clips : tuple of Clip, length B
        Where the rows come from; their own waveforms are the rows.
    """

    waveforms: Tensor
    rate: int
    clips: tuple[Clip, ...]

    @classmethod
    def of(cls, clips: Sequence[Clip], *, device: torch.device | str = "cpu") -> Batch:
        """Stack clips of one rate and one length.

        Raises
        ------
        AudioError
            There is none, or rates or lengths differ.
        """
        if not clips:
            raise AudioError("A batch needs at least one clip.")
        kinds = {(clip.rate, clip.waveform.shape[0]) for clip in clips}
        if len(kinds) > 1:
            raise AudioError(f"A batch needs clips of one rate and one length, got (rate, samples) {sorted(kinds)}.")
        waveforms = torch.stack([clip.waveform for clip in clips]).to(device=device, dtype=torch.float32)
        return cls(waveforms, clips[0].rate, tuple(clips))

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def clip_ids(self) -> tuple[str, ...]:
        """Identity of each row."""
        return tuple(clip.clip_id for clip in self.clips)

    def select(self, rows: Sequence[int]) -> Batch:
        """Some of its rows, as a batch."""
        return Batch(self.waveforms[list(rows)], self.rate, tuple(self.clips[row] for row in rows))

    def target_sources(self, labels: Sequence[str]) -> Tensor | None:
        """What each row holds of its target class: Tensor (B, T), or None where a row's sources are not known.

        Parameters
        ----------
        labels : sequence of str, length B
            The target label of each row. A row with known sources of which none has that label yields zeros.
        """
        if not all(clip.sources for clip in self.clips):
            return None
        rows = []
        for clip, label in zip(self.clips, labels, strict=True):
            own = [source.waveform for source in clip.sources.values() if source.label == label]
            rows.append(torch.stack(own).sum(0) if own else torch.zeros_like(clip.waveform))
        return torch.stack(rows).to(self.waveforms)


@dataclass(frozen=True)
class Entry:
    """What is known of a clip before its samples are read.

    Attributes
    ----------
    clip_id, group : str
        See :class:`Clip`.
    labels : tuple of str
    n_samples : int
        Length at the data set's rate.
    fingerprint : str
        Changes whenever the samples would: a checksum of the file and of how it is cut, or a generator's seed.
    """

    clip_id: str
    group: str
    labels: tuple[str, ...]
    n_samples: int
    fingerprint: str


@runtime_checkable
class Dataset(Protocol):
    """An ordered, finite set of clips at one rate.

    ``entries`` lists them without reading a sample; ``dataset[i]`` reads clip i. ``labels`` are all classes, in order.
    ``notes`` are things a reader of the results should know, such as clips that were cropped or padded.
    """

    labels: tuple[str, ...]
    rate: int
    entries: Sequence[Entry]
    notes: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip: ...


def resample(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """Change the sampling rate with soxr's high-quality resampler.

    Parameters
    ----------
    waveform : Tensor (T,), float32
    rate, new_rate : int
        In Hz.

    Returns
    -------
    Tensor (T * new_rate / rate, to the nearest integer,), float32
        On the waveform's device.
    """
    if rate == new_rate:
        return waveform
    samples = waveform.detach().to("cpu", torch.float32).numpy()
    return torch.from_numpy(soxr.resample(samples, rate, new_rate, quality="HQ")).to(waveform.device)
