"""The sounds that the toy data is made of: pure functions of their parameters, and how these are drawn.

Everywhere n = 0 … 15999 are the samples of one second at 16 kHz, so a frequency in Hz is a number of periods per clip.
Phases are in radians, amplitudes and envelopes linear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RATE = 16000
N_SAMPLES = 16000
RAMP = 160
"""Samples over which the edge of a saw is smoothed: 10 ms, against clicks."""
RAMP_OVERHANG = 3
"""Samples by which the ramp of a rising saw ends after its drop."""
MELODY_STEPS_HZ = (0, 200, 400, 600, 400, 200)
MELODY_BUMPS = 12
GUARD_HZ = 50

OBJECT_BANDS_HZ = ((100, 151), (500, 601), (800, 2002), (3500, 4501))
"""What the objects of both classes can play: bass; saw; harmonic, its octave and the melody's steps; high tones."""
RANDOM_CEILING_HZ = 7898
"""With the fastest modulation, 101 Hz, the upper side band stays below 8 kHz."""

_SECONDS = np.arange(N_SAMPLES) / RATE


@dataclass(frozen=True, eq=False)
class Sound:
    """An object of the toy data.

    Attributes
    ----------
    waveform : array (16000,), float64
    envelope : array (16000,), float64, range [0, 1]
        What the carrier was multiplied by: where it is 0, the object is silent.
    parameters : dict of str to float
        What was drawn, by name and unit.
    """

    waveform: Array
    envelope: Array
    parameters: dict[str, float] = field(default_factory=dict)

    def scaled(self, gain: float) -> Sound:
        """The same sound at another level; its envelope stays."""
        return replace(self, waveform=gain * self.waveform)


def carrier(*, frequency_hz: float, amplitude: float, phase: float) -> Array:
    """A sine: array (16000,), range [-amplitude, amplitude]."""
    return amplitude * np.sin(2 * np.pi * frequency_hz * _SECONDS + phase)


def bumps(*, rate_hz: float, phase: float, shift: float) -> Array:
    """The envelope relu(sin + shift) / (1 + shift): array (16000,), range [0, 1].

    ``shift=0`` is a half-wave rectified sine (bumps with silences), ``shift=1`` a raised sine (a full tremolo).
    """
    return np.maximum(np.sin(2 * np.pi * rate_hz * _SECONDS + phase) + shift, 0) / (1 + shift)


def saw(*, rate_hz: int, phase: float, rising: bool) -> Array:
    """A saw-tooth envelope whose steep edges are smoothed over 10 ms: array (16000,), range [0, 1].

    A rising one ends its swell with a ramp just before each drop; a falling one begins with a ramp at each jump.
    ``phase`` lies in [0.5, 2 pi - 0.5], which keeps the ramps inside the clip.
    """
    position = (rate_hz * _SECONDS + phase / (2 * np.pi)) % 1
    envelope = position if rising else 1 - position
    period = RATE / rate_hz
    first_edge = int((2 * np.pi - phase) * period / (2 * np.pi))
    ramp = np.arange(RAMP) / RAMP
    for i in range(rate_hz):
        edge = int(first_edge + i * period)
        if rising:
            envelope[edge - RAMP + RAMP_OVERHANG : edge + RAMP_OVERHANG] *= ramp[::-1]
        else:
            envelope[edge : edge + RAMP] *= ramp
    return envelope


def gate(*, rate_hz: float, bump_rate_hz: float, bump_phase: float, edge: int) -> Array:
    """An on-off switch, 1 or 0, whose edges fall where bumps begin or end: array (16000,).

    ``edge`` counts bump periods by which the gate is moved.
    """
    phase = (bump_phase + 2 * np.pi * edge) * rate_hz / bump_rate_hz
    return (np.sin(2 * np.pi * rate_hz * _SECONDS + phase) >= 0).astype(np.float64)


def harmonic_tone(*, frequency_hz: float, amplitude: float, phases: Sequence[float]) -> Array:
    """amplitude * [sin(f) + sin(f) / 2 + sin(2 f) / 4] with three phases: array (16000,).

    The fundamental comes twice, as in the notebook, so its level lies between 0.5 and 1.5 amplitudes.
    """
    partials = zip((1, 1, 2), (1, 0.5, 0.25), phases, strict=True)
    waves = [carrier(frequency_hz=k * frequency_hz, amplitude=a * amplitude, phase=p) for k, a, p in partials]
    total: Array = np.sum(waves, axis=0)
    return total


def melody(
    *,
    base_hz: float,
    bump_rate_hz: int,
    bump_phase: float,
    first_bump: int,
    amplitudes: Sequence[float],
    phases: Sequence[float],
) -> tuple[Array, Array]:
    """Consecutive bumps, each a fresh sine, going up and down in steps of 200 Hz.

    Parameters
    ----------
    base_hz : float
        The lowest tone.
    bump_rate_hz : int
        Bumps per second.
    bump_phase : float
        Of the bumps, in radians: bump i begins ``i - bump_phase / (2 pi)`` bump periods after the clip does.
    first_bump : int
        Which bump is the first to sound; bump i plays step ``i % 6``. Bump 0 may begin before the clip: what lies
        inside is played.
    amplitudes, phases : sequences of float, length 12
        Of the bumps that sound.

    Returns
    -------
    waveform, envelope : array (16000,)
    """
    period = RATE // bump_rate_hz
    rhythm = bumps(rate_hz=bump_rate_hz, phase=bump_phase, shift=0)
    waveform, envelope = np.zeros(N_SAMPLES), np.zeros(N_SAMPLES)
    for i, amplitude, phase in zip(range(first_bump, bump_rate_hz + 1), amplitudes, phases, strict=False):
        start = int((2 * np.pi * i - bump_phase) * period / (2 * np.pi))
        inside = slice(max(0, start), max(0, start + period))
        tone = carrier(frequency_hz=base_hz + MELODY_STEPS_HZ[i % 6], amplitude=amplitude, phase=phase)
        waveform[inside] = (rhythm * tone)[inside]
        envelope[inside] = rhythm[inside]
    return waveform, envelope


def _integer(generator: np.random.Generator, low: int, high: int) -> int:
    return int(generator.integers(low, high, endpoint=True))


def _phase(generator: np.random.Generator) -> float:
    return float(generator.uniform(0, 2 * np.pi))


def _amplitude(generator: np.random.Generator) -> float:
    return float(generator.uniform(0.6, 1))


def _draw_carrier(generator: np.random.Generator, low_hz: int, high_hz: int) -> tuple[Array, dict[str, float]]:
    frequency = _integer(generator, low_hz, high_hz)
    amplitude, phase = _amplitude(generator), _phase(generator)
    wave = carrier(frequency_hz=frequency, amplitude=amplitude, phase=phase)
    return wave, {"frequency_hz": frequency, "amplitude": amplitude, "phase": phase}


def draw_gated_bass(generator: np.random.Generator) -> Sound:
    """class1's first object."""
    wave, parameters = _draw_carrier(generator, 100, 151)
    phase, edge = _phase(generator), _integer(generator, 1, 6)
    envelope = bumps(rate_hz=16, phase=phase, shift=0)
    envelope *= gate(rate_hz=2, bump_rate_hz=16, bump_phase=phase, edge=edge)
    return Sound(wave * envelope, envelope, parameters | {"bump_phase": phase, "edge": edge})


def draw_saw(generator: np.random.Generator, *, rising: bool) -> Sound:
    """The second object of either class."""
    wave, parameters = _draw_carrier(generator, 500, 601)
    phase = float(generator.uniform(0.5, 2 * np.pi - 0.5))
    envelope = saw(rate_hz=2, phase=phase, rising=rising)
    return Sound(wave * envelope, envelope, parameters | {"saw_phase": phase})


def draw_rising_saw(generator: np.random.Generator) -> Sound:
    """class1's second object."""
    return draw_saw(generator, rising=True)


def draw_falling_saw(generator: np.random.Generator) -> Sound:
    """class2's second object."""
    return draw_saw(generator, rising=False)


def draw_harmonic(generator: np.random.Generator) -> Sound:
    """class1's third object."""
    frequency, amplitude = _integer(generator, 800, 1001), _amplitude(generator)
    wave = harmonic_tone(frequency_hz=frequency, amplitude=amplitude, phases=[_phase(generator) for _ in range(3)])
    rate, phase = _integer(generator, 3, 7), _phase(generator)
    envelope = bumps(rate_hz=rate, phase=phase, shift=0.75)
    parameters: dict[str, float] = {"frequency_hz": frequency, "amplitude": amplitude}
    return Sound(wave * envelope, envelope, parameters | {"bump_rate_hz": rate, "bump_phase": phase})


def draw_fast_high_tone(generator: np.random.Generator) -> Sound:
    """class1's fourth object."""
    return _draw_high_tone(generator, 3500, 4001, rate_hz=20)


def draw_bass(generator: np.random.Generator) -> Sound:
    """class2's first object."""
    wave, parameters = _draw_carrier(generator, 100, 151)
    rate, phase = _integer(generator, 4, 6), _phase(generator)
    envelope = bumps(rate_hz=rate, phase=phase, shift=0)
    return Sound(wave * envelope, envelope, parameters | {"bump_rate_hz": rate, "bump_phase": phase})


def draw_melody(generator: np.random.Generator) -> Sound:
    """class2's third object."""
    base, phase, first = _integer(generator, 800, 1001), _phase(generator), _integer(generator, 0, 7)
    amplitudes = [_amplitude(generator) for _ in range(MELODY_BUMPS)]
    phases = [_phase(generator) for _ in range(MELODY_BUMPS)]
    wave, envelope = melody(
        base_hz=base, bump_rate_hz=16, bump_phase=phase, first_bump=first, amplitudes=amplitudes, phases=phases
    )
    return Sound(wave, envelope, {"frequency_hz": base, "bump_phase": phase, "first_bump": first})


def draw_slow_high_tone(generator: np.random.Generator) -> Sound:
    """class2's fourth object."""
    return _draw_high_tone(generator, 4000, 4501, rate_hz=10)


def _draw_high_tone(generator: np.random.Generator, low_hz: int, high_hz: int, *, rate_hz: int) -> Sound:
    wave, parameters = _draw_carrier(generator, low_hz, high_hz)
    phase = _phase(generator)
    envelope = bumps(rate_hz=rate_hz, phase=phase, shift=1)
    return Sound(wave * envelope, envelope, parameters | {"bump_phase": phase})


def draw_random_frequency(generator: np.random.Generator) -> int:
    """In Hz: exponential with mean 2000, redrawn where it aliases or comes within 50 Hz of an object's band."""
    while True:
        frequency = max(1, int(generator.exponential(2000)))
        if frequency <= RANDOM_CEILING_HZ and not any(
            low - GUARD_HZ <= frequency <= high + GUARD_HZ for low, high in OBJECT_BANDS_HZ
        ):
            return frequency


def draw_random_sound(generator: np.random.Generator) -> Array:
    """A sine that means nothing, of amplitude 0.1 to 1; every third flutters at 40 to 101 Hz: array (16000,)."""
    frequency, amplitude = draw_random_frequency(generator), float(generator.uniform(0.1, 1))
    wave = carrier(frequency_hz=frequency, amplitude=amplitude, phase=_phase(generator))
    if generator.integers(3) == 1:
        wave *= bumps(rate_hz=_integer(generator, 40, 101), phase=_phase(generator), shift=2)
    return wave


CLASS_OBJECTS: dict[str, dict[str, Callable[[np.random.Generator], Sound]]] = {
    "class1": {
        "gated_bass": draw_gated_bass,
        "rising_saw": draw_rising_saw,
        "harmonic": draw_harmonic,
        "fast_high_tone": draw_fast_high_tone,
    },
    "class2": {
        "bass": draw_bass,
        "falling_saw": draw_falling_saw,
        "melody": draw_melody,
        "slow_high_tone": draw_slow_high_tone,
    },
}
"""How to draw each object, by class and name."""
