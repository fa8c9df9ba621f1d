"""From a suite to units of work and their keys. Nothing is computed here, and no sample is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earwitness.artifacts import digest_of
from earwitness.batching import plan_chunks
from earwitness.classifier import AudioClassifier
from earwitness.clips import Dataset
from earwitness.errors import ConfigurationError
from earwitness.fitting import fitted_identity
from earwitness.parameters import resolved_parameters
from earwitness.registry import Registry
from earwitness.specs import ExplainerSpec, MetricSpec
from earwitness_bench.identity import plugin_identity
from earwitness_bench.suite import CONTROLS, Arena, ExplainerEntry, Reference, Suite

SHUFFLED = "shuffled"
"""Prefix of the control that gives each clip the map that a method made for another."""


@dataclass(frozen=True, eq=False)
class Stage:
    """An arena with its data and classifier at hand, and its chunks: tuples of (clip index, label or None)."""

    arena: Arena
    dataset: Dataset
    classifier: AudioClassifier
    chunks: tuple[tuple[tuple[int, str | None], ...], ...]


@dataclass(frozen=True, eq=False)
class Contestant:
    """An explainer that is scored.

    ``shuffle_of`` marks the control made of another contestant's maps; ``folder`` is where a fitted one lies.
    """

    title: str
    entry: ExplainerEntry
    spec: ExplainerSpec
    identity: dict[str, Any]
    folder: Path | None = None
    shuffle_of: str | None = None

    @property
    def is_control(self) -> bool:
        """Whether it is never ranked."""
        return self.spec.scope == "control" or self.shuffle_of is not None


@dataclass(frozen=True, eq=False)
class Judge:
    """A metric of the suite."""

    reference: Reference
    spec: MetricSpec
    identity: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Unit:
    """One chunk, one explainer: an explanation cell and the score cells on it.

    ``base_key`` is the explanation that a shuffled control is made of.
    """

    stage: Stage
    chunk: tuple[tuple[int, str | None], ...]
    contestant: Contestant
    judges: tuple[Judge, ...]
    explain_key: str
    base_key: str | None
    score_keys: tuple[str, ...]
    provenance: dict[str, Any]


def make_stage(suite: Suite, arena: Arena, dataset: Dataset, classifier: AudioClassifier) -> Stage:
    """Chunk an arena's clips: shuffled by seed, then bucketed by length.

    Raises
    ------
    ConfigurationError
        The suite explains the clips' labels, and the classifier does not know one of them.
    """
    limit = min(arena.clips or len(dataset), len(dataset))
    entries = [dataset.entries[index] for index in range(limit)]
    rows: dict[int, tuple[str | None, ...]] = dict.fromkeys(range(limit), (None,))
    if suite.target == "label":
        unknown = {label for entry in entries for label in entry.labels} - set(classifier.labels)
        if unknown or not all(entry.labels for entry in entries):
            raise ConfigurationError(
                f"{arena.title}: target = 'label', but the classifier does not know {sorted(unknown)}"
                f" (it knows {list(classifier.labels)})."
                if unknown
                else f"{arena.title}: target = 'label', but some clips have none. Use target = 'predicted'."
            )
        rows = {index: entries[index].labels for index in range(limit)}
    chunks = tuple(
        tuple((index, label) for index in chunk for label in rows[index])
        for chunk in plan_chunks(entries, suite.chunk_size, seed=suite.seed)
    )
    return Stage(arena, dataset, classifier, chunks)


def make_contestants(suite: Suite, registry: Registry, fitted: dict[str, Path]) -> list[Contestant]:
    """The suite's explainers and, if it wants them, the controls. ``fitted`` gives the folders of fitted ones."""
    entries = [*suite.explainers]
    if suite.controls:
        named = {entry.name for entry in entries}
        entries += [ExplainerEntry(name=name) for name in CONTROLS if name not in named]
    contestants = []
    for entry in entries:
        offer = registry.explainer(entry.name)
        folder = fitted.get(entry.title)
        identity: dict[str, Any] = {
            "name": offer.qualified_name,
            "plugin": plugin_identity(offer),  # type: ignore[arg-type]
            "parameters": resolved_parameters(offer.spec, entry.parameters),
            "fitted": fitted_identity(folder) if folder else None,
        }
        contestants.append(Contestant(entry.title, entry, offer.spec, identity, folder))
    if suite.controls:
        ranked = [contestant for contestant in contestants if not contestant.is_control]
        for base in ranked:
            title = f"{SHUFFLED}: {base.title}"
            identity = {**base.identity, "shuffled": True}
            contestants.append(Contestant(title, base.entry, base.spec, identity, base.folder, base.title))
    return contestants


def make_judges(suite: Suite, registry: Registry) -> tuple[Judge, ...]:
    """The suite's metrics."""
    judges = []
    for reference in suite.metrics:
        offer = registry.metric(reference.name)
        identity = {
            "name": offer.qualified_name,
            "version": offer.spec.version,
            "plugin": plugin_identity(offer),  # type: ignore[arg-type]
            "parameters": resolved_parameters(offer.spec, reference.parameters),
        }
        judges.append(Judge(reference, offer.spec, identity))
    return tuple(judges)


def make_units(
    suite: Suite, stage: Stage, contestants: list[Contestant], judges: tuple[Judge, ...], environment: dict[str, Any]
) -> Iterator[Unit]:
    """All units of an arena, chunk by chunk, so that what a chunk's explainers share is made once."""
    stft = stage.classifier.listening
    common = {
        "environment": environment,
        "classifier": stage.classifier.checksum,
        "listening": [stft.rate, stft.n_fft, stft.hop_length],
        "seed": suite.seed,
        "target": suite.target,
        "chunk_size": suite.chunk_size,
    }
    for chunk in stage.chunks:
        clips = [[stage.dataset.entries[i].clip_id, stage.dataset.entries[i].fingerprint, label] for i, label in chunk]
        keys: dict[str, str] = {}
        for contestant in contestants:
            provenance = {"explainer": contestant.identity, **common}
            key = keys[contestant.title] = digest_of({"kind": "explain", "clips": clips, **provenance})
            scoring = {"explain": key, "route": suite.route, "scale": suite.scale, "rule": suite.rule}
            yield Unit(
                stage,
                chunk,
                contestant,
                judges,
                key,
                keys.get(contestant.shuffle_of or ""),
                tuple(digest_of({"kind": "score", "metric": judge.identity, **scoring}) for judge in judges),
                provenance,
            )
