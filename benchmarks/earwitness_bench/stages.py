"""Stages: the arenas of a suite with data and classifier at hand, their clips in chunks. No sample is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from earwitness.batching import plan_chunks
from earwitness.classifier import AudioClassifier
from earwitness.clips import Dataset
from earwitness.errors import ConfigurationError
from earwitness_bench.suite import Arena, Suite


@dataclass(frozen=True, eq=False)
class Stage:
    """An arena with its data and classifier at hand, and its chunks: tuples of (clip index, label or None)."""

    arena: Arena
    dataset: Dataset
    classifier: AudioClassifier
    chunks: tuple[tuple[tuple[int, str | None], ...], ...]


def make_stage(suite: Suite, arena: Arena, dataset: Dataset, classifier: AudioClassifier) -> Stage:
    """Chunk an arena's clips: shuffled by seed, then bucketed by length.

    Raises
    ------
    ConfigurationError
        Two clips have one identity; or the suite explains the clips' labels, and a clip has none, or one that the
        classifier does not know; or the route is not open for this classifier.
    """
    stft = classifier.listening
    if suite.route == "spectrogram" and not classifier.front_end.shares_stft(
        n_fft=stft.n_fft, hop_length=stft.hop_length, rate=stft.rate
    ):
        raise ConfigurationError(
            f"{arena.title}: route = 'spectrogram' needs a classifier whose STFT is the listening one. Use 'waveform'."
        )
    entries = list(dataset.entries)[: arena.clips]
    repeated = [clip_id for clip_id, count in Counter(entry.clip_id for entry in entries).items() if count > 1]
    if repeated:
        raise ConfigurationError(f"{arena.title}: these clips are there more than once: {repeated[:12]}.")
    rows: dict[int, tuple[str | None, ...]] = dict.fromkeys(range(len(entries)), (None,))
    if suite.target == "label":
        unknown = {label for entry in entries for label in entry.labels} - set(classifier.labels)
        if unknown or not all(entry.labels for entry in entries):
            raise ConfigurationError(
                f"{arena.title}: target = 'label', but the classifier does not know {sorted(unknown)}"
                f" (it knows {list(classifier.labels)})."
                if unknown
                else f"{arena.title}: target = 'label', but some clips have none. Use target = 'predicted'."
            )
        rows = {index: tuple(dict.fromkeys(entry.labels)) for index, entry in enumerate(entries)}
    chunks = tuple(
        tuple((index, label) for index in chunk for label in rows[index])
        for chunk in plan_chunks(entries, suite.chunk_size, seed=suite.seed)
    )
    return Stage(arena, dataset, classifier, chunks)
