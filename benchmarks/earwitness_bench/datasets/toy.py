"""Synthetic two-class sounds of which every object's clean waveform is known, after the DRSA thesis.

Each clip is one second at 16 kHz: one to four of its class's four objects, three to six random sounds and white noise,
divided by their common peak. The classes share carrier ranges and differ in rhythm, direction, melody and tremolo::

    class1  gated_bass      100-151 Hz, 16 bumps a second, switched on and off twice a second
            rising_saw      500-601 Hz, swelling twice a second
            harmonic        800-1001 Hz and its octave, tremolo of 3-7 Hz
            fast_high_tone  3500-4001 Hz, tremolo of 20 Hz
    class2  bass            100-151 Hz, 4-6 bumps a second
            falling_saw     500-601 Hz, dying away twice a second
            melody          12 bumps, 16 a second, over 0, 200, 400, 600, 400, 200 Hz above 800-1001 Hz
            slow_high_tone  4000-4501 Hz, tremolo of 10 Hz

Where thesis and published notebook disagree, the notebook is followed (noise 0.01, 3 to 6 random sounds, integer ranges
one wider than written, amplitude on the carrier, a gate aligned with the bumps, the fundamental of ``harmonic`` twice).
Four things are mended, all for the sake of an unambiguous ground truth:

- one seeded generator per clip instead of two global ones: clip i is the same whatever is generated before it;
- the carriers of random sounds stay below 7.9 kHz (2.6 % of them aliased) and 50 Hz away from what any object of
  *either* class can play, octave and melody steps included (they kept away from their own class's base ranges only);
- a melody that begins before the clip plays what lies inside it (the notebook loses that bump);
- each object is kept, scaled like the mixture, with its envelope: sample-accurate support in time.

Source: the thesis "Concept-based explanations of audio classifiers by DRSA" as described in its public notebook
``generate_toydata.ipynb`` (sharckhai/drsa-audio); written anew from that description.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from earwitness.clips import Clip, Entry, Source
from earwitness.errors import DatasetError
from earwitness.random import stream_seed
from earwitness_bench.datasets import toy_objects
from earwitness_bench.datasets.recordings import fingerprint
from earwitness_bench.datasets.toy_objects import N_SAMPLES, RATE, Sound

Array = NDArray[np.float64]
Split = Literal["train", "validation", "test", "all"]

GENERATOR_VERSION = 1
"""Part of every fingerprint: raise it whenever a sample changes."""

LABELS = ("class1", "class2")
_SPLITS: dict[str, tuple[int, ...]] = {"train": (0, 1, 2, 3, 4, 5, 6), "validation": (7,), "test": (8, 9)}


@dataclass(frozen=True, eq=False)
class Scene:
    """A clip before it is flattened: all that is known of it.

    Attributes
    ----------
    waveform : array (16000,), float64, peak 1
        The sum of objects, random sounds and noise.
    objects : dict of str to Sound
        What is evidence for the class; waveforms at the level they have in the mixture, envelopes in [0, 1].
    random_sounds, noise : array (16000,), float64
        What is not.
    """

    waveform: Array
    objects: dict[str, Sound]
    random_sounds: Array
    noise: Array


class Toy:
    """The synthetic data set. Clips are generated when asked for (a few milliseconds each).

    Clips are numbered without end; even numbers are class1, odd ones class2, and of every ten pairs the first seven
    belong to ``train``, the eighth to ``validation``, the last two to ``test``. So the splits are disjoint, balanced,
    and independent of how many clips are asked for.

    Parameters
    ----------
    clips : int
        How many clips of the split, at least 1.
    split : {"train", "validation", "test", "all"}
    seed : int
    noise : float
        Standard deviation of the white noise before normalisation, at least 0. Carriers have amplitudes of 0.6 to 1.
    objects : int, optional
        How many of its class's four objects each clip holds, 1 to 4. Default: drawn, most often one.

    Raises
    ------
    DatasetError
        A parameter is out of range.
    """

    labels: tuple[str, ...] = LABELS
    rate: int = RATE

    def __init__(
        self,
        *,
        clips: int = 200,
        split: Split = "train",
        seed: int = 0,
        noise: float = 0.01,
        objects: int | None = None,
    ) -> None:
        if split not in get_args(Split):
            raise DatasetError(f"toy: the split must be one of {', '.join(get_args(Split))}, got {split!r}.")
        if not isinstance(clips, int) or clips < 1:
            raise DatasetError(f"toy: expected at least 1 clip, got clips={clips!r}.")
        if not noise >= 0 or not np.isfinite(noise):
            raise DatasetError(f"toy: noise is a standard deviation and cannot be {noise!r}.")
        if objects is not None and (isinstance(objects, bool) or objects not in (1, 2, 3, 4)):
            raise DatasetError(f"toy: a clip holds 1 to 4 objects, got objects={objects!r}.")
        self.seed = seed
        self.objects = objects
        self.noise = float(noise)
        self.notes: Sequence[str] = ()
        self._numbers = _numbers(clips, split)
        self.entries: Sequence[Entry] = tuple(self._entry(number) for number in self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Clip:
        entry = self.entries[index]
        found = self.scene(index)
        label = entry.labels[0]
        sources = {name: Source(_tensor(sound.waveform), label) for name, sound in found.objects.items()}
        sources["random_sounds"] = Source(_tensor(found.random_sounds))
        if self.noise:
            sources["noise"] = Source(_tensor(found.noise))
        return Clip(_tensor(found.waveform), RATE, entry.clip_id, entry.group, entry.labels, sources)

    def scene(self, index: int) -> Scene:
        """Clip ``index`` with its objects, their envelopes and their parameters."""
        number = self._numbers[index]
        generator = np.random.default_rng(stream_seed("toy", self.seed, number))
        return generate(LABELS[number % 2], generator, self.noise, self.objects)

    def _entry(self, number: int) -> Entry:
        clip_id = f"toy-{self.seed}-{number:06d}"
        chosen = () if self.objects is None else (self.objects,)
        made_by = fingerprint("toy", GENERATOR_VERSION, self.seed, number, self.noise, *chosen)
        return Entry(clip_id, clip_id, (LABELS[number % 2],), N_SAMPLES, made_by)


def generate(label: str, generator: np.random.Generator, noise: float = 0.01, objects: int | None = None) -> Scene:
    """Draw one clip.

    Parameters
    ----------
    label : str
        ``"class1"`` or ``"class2"``.
    generator : numpy.random.Generator
        Everything is drawn from it.
    noise : float
        Standard deviation of the white noise before normalisation.
    objects : int, optional
        How many, 1 to 4. Default: drawn.

    Returns
    -------
    Scene
    """
    makers = toy_objects.CLASS_OBJECTS[label]
    drawn = generator.choice([1, 2, 3, 4], p=[0.5, 0.2, 0.2, 0.1])
    count = drawn if objects is None else objects
    chosen = sorted(generator.choice(sorted(makers), size=count, replace=False).tolist())
    sounds = {name: makers[name](generator) for name in chosen}
    random_sounds = np.sum([toy_objects.draw_random_sound(generator) for _ in range(generator.integers(3, 7))], axis=0)
    hiss = noise * generator.standard_normal(N_SAMPLES)
    mixture = np.sum([sound.waveform for sound in sounds.values()], axis=0) + random_sounds + hiss
    gain = 1 / np.abs(mixture).max()
    scaled = {name: sound.scaled(gain) for name, sound in sounds.items()}
    return Scene(gain * mixture, scaled, gain * random_sounds, gain * hiss)


@functools.lru_cache(maxsize=64)
def _numbers(clips: int, split: Split) -> tuple[int, ...]:
    """The numbers of the first ``clips`` clips of a split."""
    if split == "all":
        return tuple(range(clips))
    tenths = _SPLITS[split]
    found: list[int] = []
    pair = 0
    while len(found) < clips:
        if pair % 10 in tenths:
            found += [2 * pair, 2 * pair + 1]
        pair += 1
    return tuple(found[:clips])


def _tensor(samples: Array) -> torch.Tensor:
    return torch.from_numpy(samples.astype(np.float32))
