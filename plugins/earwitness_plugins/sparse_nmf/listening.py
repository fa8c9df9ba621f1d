"""What a pattern sounds like: its share of the recording in which it is strongest.

A pattern has no phase and no rhythm, so a sound made from it alone is a steady buzz. Its share of a real recording has
both: gain ``w_k h_k / Σ_j w_j h_j`` on the listening STFT, as a part of an explanation would be heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from earwitness.batching import load_batch, plan_chunks
from earwitness.clips import Dataset
from earwitness.errors import SilentAudioError
from earwitness.protocols import Progress
from earwitness.random import stream_seed
from earwitness_plugins.sparse_nmf.dictionary import Dictionary
from earwitness_plugins.sparse_nmf.factorisation import encode

EXCERPT_S = 2.0
"""Of a sound, at most."""

_WINDOW_S = 0.5
_CLIPS_SEARCHED = 200
_CLIPS_AT_ONCE = 8
_PEAK = 0.5


@dataclass(frozen=True, eq=False)
class PatternSound:
    """A pattern, heard.

    Attributes
    ----------
    clip_id : str
        The recording it is heard in.
    start_s : float
        Where the excerpt begins.
    waveform : Tensor (T,), float32
        The pattern's share, its peak at one half.
    gain : float
        By which it was multiplied for that.
    """

    clip_id: str
    start_s: float
    waveform: Tensor
    gain: float


@dataclass(frozen=True, eq=False)
class Places:
    """Where each of K patterns is strongest, on average over half a second.

    Attributes
    ----------
    clips : Tensor (K,), int64
        Index into the data set; -1 for a pattern that is nowhere active.
    frames : Tensor (K,), int64
        The middle.
    """

    clips: Tensor
    frames: Tensor


def strongest_places(
    dictionary: Dictionary, dataset: Dataset, *, seed: int = 0, progress: Progress = lambda done, total, text: None
) -> Places:
    """Look for each pattern in a data set, in up to 200 clips."""
    stft = dictionary.stft
    order = sorted(range(len(dataset)), key=lambda index: (stream_seed(seed, dataset.entries[index].clip_id), index))
    searched = sorted(order[:_CLIPS_SEARCHED])
    width = max(1, round(_WINDOW_S * stft.rate / stft.hop_length))
    strengths = torch.zeros(len(dictionary))
    clips, frames = torch.full((2, len(dictionary)), -1)
    done = 0
    for chunk in plan_chunks([dataset.entries[index] for index in searched], _CLIPS_AT_ONCE):
        indices = torch.tensor([searched[place] for place in chunk])
        activations = activations_of(dictionary, load_batch(dataset, indices.tolist(), stft.rate).waveforms)
        means = torch.nn.functional.avg_pool1d(activations, width, 1, width // 2)
        strongest, middle = means.max(-1)
        value, row = strongest.max(0)
        better = value > strengths
        strengths = torch.where(better, value, strengths)
        clips = torch.where(better, indices[row], clips)
        frames = torch.where(better, middle.gather(0, row[None])[0], frames)
        done += len(chunk)
        progress(done, len(searched), "looking for the patterns in the clips")
    return Places(clips, frames)


def activations_of(dictionary: Dictionary, waveforms: Tensor) -> Tensor:
    """H of recordings (B, T) at the dictionary's rate: Tensor (B, K, N)."""
    spectrograms = torch.log1p(dictionary.stft.forward(waveforms).abs())
    return encode(spectrograms, dictionary.patterns.to(spectrograms), sparsity=dictionary.sparsity)


def pattern_sound(dictionary: Dictionary, dataset: Dataset, places: Places, number: int) -> PatternSound:
    """Two seconds of a pattern's share of the recording in which it is strongest.

    Raises
    ------
    SilentAudioError
        It is active nowhere.
    """
    index, stft = int(places.clips[number]), dictionary.stft
    if index < 0:
        raise SilentAudioError(f"Pattern {number} is active in none of the clips: there is nothing to hear.")
    clip = dataset[index].resampled(stft.rate)
    n_samples = max(stft.n_fft, min(round(EXCERPT_S * stft.rate), len(clip.waveform)))
    middle = int(places.frames[number]) * stft.hop_length
    start = min(max(0, middle - n_samples // 2), max(0, len(clip.waveform) - n_samples))
    waveform = clip.waveform[start : start + n_samples]
    share = shares(dictionary, waveform, [number])[0]
    gain = _PEAK / max(float(share.abs().max()), 1e-12)
    return PatternSound(clip.clip_id, start / stft.rate, gain * share, gain)


def shares(dictionary: Dictionary, waveform: Tensor, numbers: Sequence[int]) -> Tensor:
    """What some patterns have of a recording (T,): Tensor (len(numbers), T). Those of all patterns sum to it, but for
    bins in which no pattern is active."""
    spectrum = dictionary.stft.forward(waveform[None])
    patterns = dictionary.patterns.to(waveform)
    activations = encode(torch.log1p(spectrum.abs()), patterns, sparsity=dictionary.sparsity)[0]
    whole = (patterns @ activations).clamp_min(torch.finfo(waveform.dtype).tiny)
    own = patterns.T[numbers, :, None] * activations[numbers, None] / whole
    return dictionary.stft.inverse(own * spectrum, len(waveform))
