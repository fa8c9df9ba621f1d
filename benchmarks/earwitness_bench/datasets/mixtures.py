"""Clips with something else in them, of which the clean parts are known: two recordings at once, or one in noise.

Each takes other data sets, given as objects or, in a suite file, as tables of plain values::

    foreground = { name = "esc10", folds = [4] }
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from earwitness.clips import Clip, Entry, Source
from earwitness.errors import DatasetError
from earwitness.random import stream_seed
from earwitness_bench.datasets.mixing import DatasetLike, dataset_of, fitted, norm_of, scaled, sources_of
from earwitness_bench.datasets.noise import at_snr, find_noise
from earwitness_bench.datasets.recordings import fingerprint, length_notes, resampled_length


class Mixtures:
    """Pairs of clips, ``w1 s1 / |s1| + w2 s2 / |s2|`` divided by its peak, with both parts kept.

    After the out-of-domain test of L-MAC (Paissan, Ravanelli and Subakan, ICML 2024): every clip of fold 4 with two of
    fold 5 at 0.8 and 0.2, which is 12 dB. There the background may share the foreground's class and the divisor is the
    largest positive sample; here it is of another class unless asked for otherwise, and the divisor is the largest
    absolute one. A clip is never mixed with one of its own group.

    Parameters
    ----------
    foreground, background : Dataset, mapping or str
        A data set, or ``{"name": ..., **parameters}`` of a registered one. The background is resampled and cut, or
        padded, to the foreground.
    weights : (float, float)
        Of the L2-normalised foreground and background, both positive.
    pairs_per_clip : int
        Mixtures per foreground clip, each with another background.
    same_class : bool
        Whether a background may share a class with the foreground.
    seed : int
        Decides who is mixed with whom, by foreground clip.

    Raises
    ------
    DatasetError
        A parameter is out of range, or a clip finds too few backgrounds.
    """

    def __init__(
        self,
        *,
        foreground: DatasetLike,
        background: DatasetLike,
        weights: Sequence[float] = (0.8, 0.2),
        pairs_per_clip: int = 2,
        same_class: bool = False,
        seed: int = 0,
    ) -> None:
        if len(weights) != 2 or not all(0 < weight < float("inf") for weight in weights):
            raise DatasetError(f"mixtures: weights are two positive numbers, got {list(weights)}.")
        if not isinstance(pairs_per_clip, int) or pairs_per_clip < 1:
            raise DatasetError(f"mixtures: pairs_per_clip is at least 1, got {pairs_per_clip!r}.")
        self.foreground, self.background = dataset_of(foreground), dataset_of(background)
        self.weights = (float(weights[0]), float(weights[1]))
        self.rate: int = self.foreground.rate
        self.labels: tuple[str, ...] = tuple(dict.fromkeys((*self.foreground.labels, *self.background.labels)))
        self._pairs = [
            (i, j)
            for i, entry in enumerate(self.foreground.entries)
            for j in _backgrounds(entry, self.background.entries, pairs_per_clip, same_class=same_class, seed=seed)
        ]
        self.entries: Sequence[Entry] = tuple(self._entry(i, j) for i, j in self._pairs)
        self.notes: Sequence[str] = tuple(self._notes())

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Clip:
        entry = self.entries[index]
        i, j = self._pairs[index]
        front = self.foreground[i]
        back = fitted(self.background[j].resampled(self.rate), entry.n_samples)
        levels = self.weights[0] / norm_of(front), self.weights[1] / norm_of(back)
        sources = scaled(sources_of(front, "foreground"), levels[0])
        sources |= scaled(sources_of(back, "background"), levels[1])
        mixture = levels[0] * front.waveform + levels[1] * back.waveform
        gain = 1 / float(mixture.abs().max())
        return Clip(gain * mixture, self.rate, entry.clip_id, entry.group, entry.labels, scaled(sources, gain))

    def _entry(self, i: int, j: int) -> Entry:
        front, back = self.foreground.entries[i], self.background.entries[j]
        return Entry(
            clip_id=f"{front.clip_id}+{back.clip_id}",
            group=front.group,
            labels=tuple(dict.fromkeys((*front.labels, *back.labels))),
            n_samples=front.n_samples,
            fingerprint=fingerprint("mixture", self.weights, front.fingerprint, back.fingerprint, self.rate),
        )

    def _notes(self) -> list[str]:
        notes = [f"Foreground: {note}" for note in self.foreground.notes]
        notes += [f"Background: {note}" for note in self.background.notes]
        if self.background.rate != self.rate:
            notes.append(f"Backgrounds were resampled from {self.background.rate} to {self.rate} Hz.")
        for n_samples in sorted({entry.n_samples for entry in self.entries}):
            lengths = [
                resampled_length(self.background.entries[j].n_samples, self.background.rate, self.rate)
                for (_, j), entry in zip(self._pairs, self.entries, strict=True)
                if entry.n_samples == n_samples
            ]
            notes += [f"Backgrounds in mixtures: {note}" for note in length_notes(lengths, n_samples, self.rate)]
        return notes


class Noisy:
    """A data set in noise, with clean clip and noise kept.

    Where the sum exceeds 1 all of it is scaled down by its peak; quieter clips keep their level.

    Parameters
    ----------
    clean : Dataset, mapping or str
        A data set, or ``{"name": ..., **parameters}`` of a registered one.
    noise : str or path
        ``"white"``, ``"pink"``, ``"babble"``, or a folder of recordings.
    snr_db : float
        10 log10 of the clip's energy over the noise's.
    seed : int
        Together with a clip's id it decides the noise in it.

    Raises
    ------
    DatasetError
        There is no such noise, or ``snr_db`` is not finite.
    """

    def __init__(
        self,
        *,
        clean: DatasetLike,
        noise: str | os.PathLike[str] = "pink",
        snr_db: float = 10.0,
        seed: int = 0,
    ) -> None:
        if not np.isfinite(snr_db):
            raise DatasetError(f"noisy: snr_db is a finite number of decibels, got {snr_db!r}.")
        self.clean = dataset_of(clean)
        self.snr_db = float(snr_db)
        self.seed = seed
        self.rate: int = self.clean.rate
        self.labels: tuple[str, ...] = self.clean.labels
        self._noise_name, self._noise, self._noise_fingerprint = find_noise(noise)
        self.entries: Sequence[Entry] = tuple(map(self._entry, self.clean.entries))
        self.notes: Sequence[str] = (*self.clean.notes, *getattr(self._noise, "notes", ()))

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Clip:
        entry = self.entries[index]
        clip = self.clean[index]
        generator = np.random.default_rng(stream_seed("noise", self.seed, self._noise_name, clip.clip_id))
        norm_of(clip)  # refuses a silent clip by its name
        noise = at_snr(clip.waveform, self._noise(len(clip.waveform), self.rate, generator), self.snr_db)
        mixture = clip.waveform + noise
        gain = 1 / max(1.0, float(mixture.abs().max()))
        sources = {**sources_of(clip, "clean"), "noise_at_snr": Source(noise)}
        return Clip(gain * mixture, self.rate, entry.clip_id, entry.group, entry.labels, scaled(sources, gain))

    def _entry(self, entry: Entry) -> Entry:
        return replace(
            entry,
            clip_id=f"{entry.clip_id}@{self._noise_name}{self.snr_db:+g}dB",
            fingerprint=fingerprint("noisy", entry.fingerprint, self._noise_fingerprint, self.snr_db, self.seed),
        )


def _backgrounds(entry: Entry, candidates: Sequence[Entry], count: int, *, same_class: bool, seed: int) -> list[int]:
    """Which clips are mixed into one: indices, drawn from its own stream, whatever the order of the candidates."""
    fit = [
        j
        for j, other in sorted(enumerate(candidates), key=lambda item: item[1].clip_id)
        if other.group != entry.group and (same_class or not set(other.labels) & set(entry.labels))
    ]
    if len(fit) < count:
        kind = "another recording" if same_class else "another recording of another class"
        raise DatasetError(
            f"mixtures: {entry.clip_id} needs {count} backgrounds, each {kind}; the background data set has "
            f"{len(fit)}. Give it more clips, or lower pairs_per_clip."
        )
    generator = np.random.default_rng(stream_seed("mixture", seed, entry.clip_id))
    return [fit[k] for k in generator.permutation(len(fit))[:count]]
