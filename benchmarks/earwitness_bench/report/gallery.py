"""The sounds and pictures of a report, within a budget of bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from earwitness_bench import media
from earwitness_bench.chunks import describe
from earwitness_bench.replay import Replay
from earwitness_bench.report.facts import Row

PICTURE_BYTES = 3_500
"""What a picture takes: masks and spectrograms of ESC-10 took 2,560 bytes on average, white noise takes 5,500."""

EXHIBIT_BYTES = 3_000
"""By how much an explanation's sounds and pictures make the pages longer that show them: its clip's, and its
explainer's."""


@dataclass(frozen=True)
class Exhibit:
    """An explanation to be seen and heard; paths are relative to the report.

    Attributes
    ----------
    mask, heard, rest : str
    p_heard, p_rest, kept_energy : float
    """

    mask: str
    heard: str
    rest: str
    p_heard: float
    p_rest: float
    kept_energy: float


@dataclass
class Shown:
    """A row of the arena.

    Attributes
    ----------
    row : Row
    number : int
        Of its page.
    recording, spectrogram : str
        Paths; empty where the recording cannot be had.
    p_original : float or None
    duration_s, highest_hz : float
        Ends of the spectrogram.
    exhibits : dict of str to Exhibit
        By explainer.
    reasons : dict of str to str
        By explainer: why there is none.
    """

    row: Row
    number: int
    recording: str = ""
    spectrogram: str = ""
    p_original: float | None = None
    duration_s: float = 0.0
    highest_hz: float = 0.0
    exhibits: dict[str, Exhibit] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


_LEARNT_BYTES = 400_000.0
"""After so many bytes, what sounds really took counts as much as what they take at most."""


@dataclass
class Budget:
    """Bytes that may still be written.

    Attributes
    ----------
    left : float
    sounds : int
        That are still to come.
    pictures : int
        The same.
    kbps : float
        Of the poorest sound so far.
    """

    left: float
    sounds: int
    pictures: int
    kbps: float = media.HIGHEST_KBPS
    _reserved: float = _LEARNT_BYTES
    _taken: float = _LEARNT_BYTES

    def bitrate(self, duration_s: float) -> float:
        """What each sound of this length may take, kbit/s, if all that are to come take as much."""
        per_sound = (self.left - self.pictures * PICTURE_BYTES) / max(self.sounds, 1)
        header = media.mp3_bytes(0, 0)
        affordable = (per_sound * self._reserved / self._taken - header) / (media.mp3_bytes(duration_s, 1) - header)
        chosen = min(max(affordable, media.LOWEST_KBPS), media.HIGHEST_KBPS)
        self.kbps = min(self.kbps, chosen)
        return chosen

    def sound(self, samples: NDArray[np.float32]) -> bytes:
        """One sound as MP3. Most recordings are quieter than what was reserved for them: the others may have that."""
        duration_s = len(samples) / media.RATE
        chosen = self.bitrate(duration_s)
        content = media.mp3(samples, chosen)
        self._reserved += media.mp3_bytes(duration_s, chosen)
        self._taken += len(content)
        return content


def affordable_rows(rows: int, explainers: int, duration_s: float, budget: float) -> int:
    """How many of so many rows have room at the lowest bitrate."""
    each = media.mp3_bytes(duration_s, media.LOWEST_KBPS) * (1 + 2 * explainers)
    each += PICTURE_BYTES * (1 + explainers) + EXHIBIT_BYTES * explainers
    return max(min(rows, int(budget // each)), 0)


class Gallery:
    """Writes the sounds and pictures of an arena.

    Parameters
    ----------
    replay : Replay
    folder : Path
        Of the report.
    prefix : str
        Of all names in it.
    budget : Budget
    """

    def __init__(self, replay: Replay, folder: Path, prefix: str, budget: Budget) -> None:
        self._replay, self._folder, self._prefix, self._budget = replay, folder, prefix, budget

    def fill(self, shown: Iterable[Shown], explainers: Sequence[str], step: Callable[[int], None]) -> None:
        """Write everything of some rows, chunk by chunk.

        Parameters
        ----------
        shown : iterable of Shown
            Is filled in.
        explainers : sequence of str
            Titles.
        step : callable (n)
            Is told whenever n more explanations are done.
        """
        by_chunk: dict[int, list[Shown]] = {}
        for one in shown:
            by_chunk.setdefault(one.row.chunk, []).append(one)
        for chunk, own in sorted(by_chunk.items()):
            gains = self._recordings(chunk, own, len(explainers))
            for place, explainer in enumerate(explainers):
                if gains is not None:
                    self._explanations(explainer, place, chunk, own, gains)
                step(len(own))

    def _recordings(self, chunk: int, own: list[Shown], explainers: int) -> dict[str, NDArray[np.float32]] | None:
        """Write the recordings; returns the gain of each row."""
        try:
            prepared = self._replay.prepared(chunk)
        except Exception as error:  # whatever a data set raises
            for one in own:
                one.reasons[""] = f"The recording cannot be read: {describe(error)}"
            self._budget.sounds -= len(own) * (1 + 2 * explainers)
            self._budget.pictures -= len(own) * (1 + explainers)
            return None
        scene = prepared.scene
        places = {name: place for place, name in enumerate(prepared.row_ids)}
        samples = media.resampled(scene.batch.waveforms, scene.batch.rate)
        gains = media.loudness_gain(samples)
        pictures = media.spectrogram_png(scene.magnitude, self._replay.frequencies_hz)
        for one in own:
            place = places.get(one.row.name)
            self._budget.pictures -= 1
            if place is None:
                self._budget.sounds -= 1
                one.reasons[""] = "The recording cannot be read."
                continue
            one.duration_s = scene.n_samples / scene.batch.rate
            one.highest_hz = float(self._replay.frequencies_hz[-1])
            one.spectrogram = self._write(f"{one.number:03d}-recording.png", pictures[place])
            one.recording = self._sound(f"{one.number:03d}-recording.mp3", gains[place] * samples[place])
        return {name: gains[place] for name, place in places.items()}

    def _explanations(
        self, explainer: str, place: int, chunk: int, own: list[Shown], gains: dict[str, NDArray[np.float32]]
    ) -> None:
        try:
            replayed = self._replay.play(explainer, chunk, [one.row.name for one in own])
        except Exception as error:  # whatever a plugin raises when it has to explain again
            for one in own:
                one.reasons[explainer] = describe(error)
            self._budget.sounds -= 2 * len(own)
            self._budget.pictures -= len(own)
            return
        pictures = media.mask_png(replayed.gain, self._replay.frequencies_hz)
        heard, rest = (media.resampled(waveforms, self._replay.rate) for waveforms in (replayed.heard, replayed.rest))
        rows = {name: n for n, name in enumerate(replayed.rows)}
        for one in own:
            n = rows.get(one.row.name)
            self._budget.pictures -= 1
            if n is None:
                one.reasons[explainer] = "it was not explained"
                self._budget.sounds -= 2
                continue
            name = f"{one.number:03d}-{place:02d}"
            gain = gains[one.row.name]
            one.p_original = float(replayed.p_original[n])
            one.exhibits[explainer] = Exhibit(
                mask=self._write(f"{name}.png", pictures[n]),
                heard=self._sound(f"{name}-heard.mp3", gain * heard[n]),
                rest=self._sound(f"{name}-rest.mp3", gain * rest[n]),
                p_heard=float(replayed.p_heard[n]),
                p_rest=float(replayed.p_rest[n]),
                kept_energy=float(replayed.kept_energy[n]),
            )

    def _sound(self, name: str, samples: NDArray[np.float32]) -> str:
        content = self._budget.sound(samples)
        self._budget.sounds -= 1
        return self._write(name, content)

    def _write(self, name: str, content: bytes) -> str:
        relative = f"media/{self._prefix}-{name}"
        (self._folder / relative).write_bytes(content)
        self._budget.left -= len(content)
        return relative
