"""What the trainings of remove-and-retrain stand on: clips, the ranks of their cells by each method, and how to train.

N clips, M bands, N' frames.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from earwitness.errors import ClassifierError, ConfigurationError, EarwitnessError
from earwitness.protocols import Progress, Retrain
from earwitness.random import Random, stream_seed
from earwitness_bench.chunks import prepare
from earwitness_bench.explaining import Asker, explained_rows
from earwitness_bench.isolation import isolated
from earwitness_bench.packing import unpack
from earwitness_bench.plan import Plan, Unit
from earwitness_bench.store import Store
from earwitness_bench.studies.removal import means, ranks, removed, strangers

RANDOM = "random removal"
Fill = Literal["mean", "stranger"]
"""What a removed cell becomes."""


@dataclass(frozen=True, eq=False)
class Clips:
    """The clips of one arena, in the order of its chunks.

    Attributes
    ----------
    features : Tensor (N, M, N'), float32
    labels : Tensor (N,), int64, on the CPU
    clip_ids, groups : tuple of str, length N
    """

    features: Tensor
    labels: Tensor
    clip_ids: tuple[str, ...]
    groups: tuple[str, ...]

    def noise(self, seed: int, name: str) -> Tensor:
        """A seeded number for each cell, by clip: like ``features``."""
        return Random(seed, self.clip_ids).uniform(name, *self.features.shape[1:]).to(self.features.device)


@dataclass(frozen=True, eq=False)
class Ground:
    """What all trainings of a study stand on: the plan whose first lineup is trained on, and its second tested."""

    plan: Plan
    store: Store
    asker: Asker
    retrain: Retrain
    fill: Fill

    @functools.cached_property
    def clips(self) -> tuple[Clips, Clips]:
        """Those that are trained on, and those that are tested on; read once."""
        train, test = (read(self.plan, number) for number in (0, 1))
        if train.features.shape[1:] != test.features.shape[1:]:
            sizes = [tuple(clips.features.shape[1:]) for clips in (train, test)]
            raise ConfigurationError(f"ROAR needs training and test clips of one length, got maps of {sizes}.")
        return train, test

    @functools.lru_cache(maxsize=1)  # noqa: B019 - a method's trainings come one after another
    def places(self, title: str) -> tuple[Tensor, Tensor]:
        """The ranks (N, M, N') of the cells of all clips of either kind, by one method."""
        seed = self.plan.suite.seed
        train, test = (
            ranks(self._maps(number, title).to(clips.features.device), clips.noise(seed, "ties"))
            for number, clips in enumerate(self.clips)
        )
        return train, test

    def _maps(self, arena: int, title: str) -> Tensor:
        """What ranks the cells of each clip by a method: (N, M, N')."""
        found = []
        for unit in units_of(self.plan, arena, title):
            prepared = prepare(unit, self.plan.suite, unit.stage.classifier)
            cell = self.store.read_cell("explain", unit.explain_key)
            if cell is None or cell["status"] != "ok" or len(explained_rows(cell)) < len(unit.chunk):
                outcomes = [row["outcome"] for row in cell["rows"]] if cell else ["it was not explained"]
                said = next(outcome for outcome in outcomes if outcome != "explained")
                raise EarwitnessError(f"not every clip was explained: {said}")
            kept = self.store.read_maps(unit.explain_key)
            explanation = (
                unpack(*kept, unit.stage.classifier.device) if kept else self.asker.explain(unit, prepared).explanation
            )
            found.append(prepared.scene.on_features(explanation))
        return torch.cat(found)

    def train_without(self, title: str | None, percent: float, seed: int, progress: Progress) -> dict[str, Any]:
        """Remove, retrain, test. ``title`` None removes at random."""
        train, test = self.clips
        if percent == 0:
            places = (torch.zeros_like(train.features), torch.zeros_like(test.features))
        elif title is None:
            places = tuple(  # type: ignore[assignment]
                ranks(torch.zeros_like(clips.features), clips.noise(seed, RANDOM)) for clips in self.clips
            )
        else:
            places = self.places(title)
        fill = [means(train.features)] * 2
        if self.fill == "stranger":
            fill = [strangers(train.features, clips.noise(seed, "stranger")) for clips in self.clips]
        classifier = self.plan.lineups[0].stage.classifier
        with isolated(stream_seed(seed, "roar"), classifier.device):
            kept = removed(train.features, places[0], percent, fill[0])
            network = self.retrain(kept[:, None], train.labels, seed=seed, progress=progress)
        again = classifier.with_network(network)
        tested = removed(test.features, places[1], percent, fill[1])[:, None]
        with torch.no_grad():
            logits = torch.cat([again.logits_of_features(some) for some in torch.split(tested, 16)])
        correct = logits.argmax(1).cpu() == test.labels
        return {"correct": correct.int().tolist(), "accuracy": float(correct.double().mean())}


def clips_of(plan: Plan, arena: int) -> list[int]:
    return [index for chunk in plan.lineups[arena].stage.chunks for index, _ in chunk]


def units_of(plan: Plan, arena: int, title: str) -> list[Unit]:
    """The units of a method in one arena, chunk after chunk."""
    first, lineup = sum(len(one) for one in plan.lineups[:arena]), plan.lineups[arena]
    place = next(i for i, contestant in enumerate(lineup.contestants) if contestant.title == title)
    return [plan[number] for number in range(first + place, first + len(lineup), len(lineup.contestants))]


def read(plan: Plan, arena: int) -> Clips:
    """The feature maps and labels of an arena's clips."""
    stage, found = plan.lineups[arena].stage, []
    title = plan.lineups[arena].contestants[0].title
    for unit in units_of(plan, arena, title):
        prepared = prepare(unit, plan.suite, stage.classifier)
        if prepared.errors:
            raise EarwitnessError(f"A clip cannot be read: {next(iter(prepared.errors.values()))}")
        with torch.no_grad():
            found.append(stage.classifier.features(prepared.scene.batch.waveforms))
    if any(features.ndim != 4 for features in found):
        raise ClassifierError(f"ROAR removes cells of feature maps, and {stage.classifier.name} eats samples.")
    if len({features.shape[1:] for features in found}) > 1:
        raise ConfigurationError("ROAR needs clips of one length. Cut them, for example with duration_s.")
    entries = [stage.dataset.entries[index] for index in clips_of(plan, arena)]
    labels = torch.tensor([stage.classifier.target_of(entry.labels[0]) for entry in entries])
    ids, groups = tuple(entry.clip_id for entry in entries), tuple(entry.group for entry in entries)
    return Clips(torch.cat(found)[:, 0], labels, ids, groups)
