"""From a suite to units of work and their keys. Nothing is computed here, and no sample is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from earwitness.artifacts import canonical_json
from earwitness.fitting import fit_facts
from earwitness.parameters import resolved_parameters
from earwitness.registry import Registry
from earwitness.specs import MetricSpec
from earwitness_bench.contestants import Contestant
from earwitness_bench.identity import plugin_identity
from earwitness_bench.planned_keys import Form
from earwitness_bench.stages import Stage
from earwitness_bench.suite import Reference, Suite


@dataclass(frozen=True, eq=False)
class Judge:
    """A metric of the suite."""

    reference: Reference
    spec: MetricSpec
    identity: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Unit:
    """One chunk, one explainer: an explanation cell and the score cells on it.

    ``number`` is its place in the plan; ``base_key`` is the explanation that a shuffled control is made of.
    """

    number: int
    stage: Stage
    chunk: tuple[tuple[int, str | None], ...]
    contestant: Contestant
    judges: tuple[Judge, ...]
    explain_key: str
    base_key: str | None
    score_keys: tuple[str, ...]
    provenance: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Lineup:
    """An arena's stage, and who is scored on it."""

    stage: Stage
    contestants: tuple[Contestant, ...]

    def __len__(self) -> int:
        """How many units there are."""
        return len(self.stage.chunks) * len(self.contestants)


@dataclass(frozen=True, eq=False)
class Plan:
    """All units of a run, by number: arena after arena, and there chunk after chunk, so that what a chunk's explainers
    share is made once. A shuffled control comes after the contestant whose maps it takes.

    Units are made when they are asked for: a plan of millions is small, and is sent to every worker.
    """

    suite: Suite
    lineups: tuple[Lineup, ...]
    judges: tuple[Judge, ...]
    environment: dict[str, Any]

    def __len__(self) -> int:
        return sum(len(lineup) for lineup in self.lineups)

    def place(self, number: int) -> tuple[int, int, int]:
        """Where a unit stands: the numbers of its arena, chunk and contestant.

        Raises
        ------
        IndexError
            There is none of that number.
        """
        left = number
        for arena, lineup in enumerate(self.lineups):
            if 0 <= left < len(lineup):
                return (arena, *divmod(left, len(lineup.contestants)))
            left -= len(lineup)
        raise IndexError(f"There are {len(self)} units, and none has the number {number}.")

    def contestant(self, number: int) -> Contestant:
        """Whose unit this is."""
        arena, _, contestant = self.place(number)
        return self.lineups[arena].contestants[contestant]

    def title(self, number: int) -> str:
        """A unit in words: its arena and explainer."""
        return f"{self.lineups[self.place(number)[0]].stage.arena.title} · {self.contestant(number).title}"

    def base_of(self, number: int) -> int | None:
        """The unit whose maps this one takes, if it is a shuffled control."""
        arena, _, contestant = self.place(number)
        return self._base(self.lineups[arena].contestants, number, contestant)

    @staticmethod
    def _base(contestants: tuple[Contestant, ...], number: int, contestant: int) -> int | None:
        wanted = contestants[contestant].shuffle_of
        if wanted is None:
            return None
        return number - contestant + next(i for i, other in enumerate(contestants) if other.title == wanted)

    def __getitem__(self, number: int) -> Unit:
        """A unit with its keys.

        An explanation's key hashes the explainer, the environment, the classifier and the chunk's clips in their order,
        since rows of a batch may change each other's last bits. A score's key hashes the explanation's, the metric and
        how the explanation becomes a mask. Titles enter no key.
        """
        place = self.place(number)
        stage = self.lineups[place[0]].stage
        contestant = self.contestant(number)
        chunk = stage.chunks[place[1]]
        base = self.base_of(number)
        clips = _clips_text(stage, chunk)
        keys = self._keys(place[0], place[2], clips)
        return Unit(
            number,
            stage,
            chunk,
            contestant,
            self.judges,
            keys[0],
            None if base is None else self._forms[place[0]][self.place(base)[2]].digest(clips),
            tuple(keys[1:]),
            self._provenance(stage, contestant),
        )

    def _provenance(self, stage: Stage, contestant: Contestant) -> dict[str, Any]:
        stft = stage.classifier.listening
        return {
            "explainer": contestant.identity,
            "environment": self.environment,
            "classifier": stage.classifier.checksum,
            "listening": [stft.rate, stft.n_fft, stft.hop_length],
            "seed": self.suite.seed,
            "target": self.suite.target,
            "chunk_size": self.suite.chunk_size,
        }

    @cached_property
    def _forms(self) -> tuple[tuple[Form, ...], ...]:
        """Explanations' keys, by arena and contestant: the chunk is the open place."""
        return tuple(
            tuple(
                Form({"kind": "explain", **self._provenance(lineup.stage, contestant)}, "clips")
                for contestant in lineup.contestants
            )
            for lineup in self.lineups
        )

    @cached_property
    def _score_forms(self) -> tuple[Form, ...]:
        """Scores' keys, by metric: the explanation's key is the open place."""
        suite = self.suite
        scoring = {"route": suite.route, "scale": suite.scale, "rule": suite.rule}
        return tuple(Form({"kind": "score", "metric": judge.identity, **scoring}, "explain") for judge in self.judges)

    def _keys(self, arena: int, contestant: int, clips: str) -> list[str]:
        key = self._forms[arena][contestant].digest(clips)
        return [key, *(form.digest(f'"{key}"') for form in self._score_forms)]

    def __getstate__(self) -> dict[str, Any]:
        """Without the forms: every process makes its own."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_forms", "_score_forms")}

    def keys(self) -> Iterator[list[str]]:
        """Of all units, in their order: the explanation's key, then one for each metric."""
        for arena, lineup in enumerate(self.lineups):
            for chunk in lineup.stage.chunks:
                clips = _clips_text(lineup.stage, chunk)
                for contestant in range(len(lineup.contestants)):
                    yield self._keys(arena, contestant, clips)

    def numbers(self, shard: tuple[int, int] = (0, 1)) -> Sequence[int]:
        """The units of a shard, ``(k, n)`` being the k-th of n: every n-th chunk of each arena with all its units."""
        k, n = shard
        if n == 1:
            return range(len(self))
        numbers: list[int] = []
        first = 0
        for lineup in self.lineups:
            size = len(lineup.contestants)
            for chunk in range(k, len(lineup.stage.chunks), n):
                numbers.extend(range(first + chunk * size, first + (chunk + 1) * size))
            first += len(lineup)
        return numbers

    def document(self) -> dict[str, Any]:
        """What the results folder keeps of it, beside the :meth:`keys` of its cells."""
        return {
            "suite": self.suite.model_dump(mode="json"),
            "environment": self.environment,
            "metrics": [_judge_document(judge) for judge in self.judges],
            "arenas": [_arena_document(lineup) for lineup in self.lineups],
        }


def _clips_text(stage: Stage, chunk: tuple[tuple[int, str | None], ...]) -> str:
    """A chunk's clips as an explanation's key hashes them."""
    entries = [(stage.dataset.entries[index], label) for index, label in chunk]
    return canonical_json([[e.clip_id, e.group, e.labels, e.fingerprint, label] for e, label in entries])


def _fit_facts(contestants: Sequence[Contestant]) -> dict[str, dict[str, Any]]:
    """By title: what the fits took, and the fits from which they started."""
    facts = {each.title: fit_facts(each.fitted) for each in contestants if isinstance(each.fitted, Path)}
    for each in contestants:
        own = facts.get(each.title)
        start = facts.get(each.entry.fit.start) if each.entry.fit is not None else None
        if own is not None and start is not None and None not in (own["seconds"], start["seconds"]):
            own["seconds"] += start["seconds"]
    return facts


def _arena_document(lineup: Lineup) -> dict[str, Any]:
    stage, facts = lineup.stage, _fit_facts(lineup.contestants)
    return {
        "title": stage.arena.title,
        "dataset": stage.arena.dataset.model_dump(mode="json"),
        "classifier": {"name": stage.classifier.name, "checksum": stage.classifier.checksum},
        "chunks": len(stage.chunks),
        "explainers": [
            {
                "title": contestant.title,
                "scope": "control" if contestant.is_control else contestant.spec.scope,
                "shuffle_of": contestant.shuffle_of,
                "identity": contestant.identity,
                "fit": facts.get(contestant.title),
            }
            for contestant in lineup.contestants
        ],
    }


def make_judges(suite: Suite, registry: Registry) -> tuple[Judge, ...]:
    """The suite's metrics."""
    judges = []
    for reference in suite.metrics:
        offer = registry.metric(reference.name)
        identity = {
            "name": offer.qualified_name,
            "version": offer.spec.version,
            "columns": [column.name for column in offer.spec.columns],
            "plugin": plugin_identity(offer),
            "parameters": resolved_parameters(offer.spec, reference.parameters),
        }
        judges.append(Judge(reference, offer.spec, identity))
    return tuple(judges)


def _judge_document(judge: Judge) -> dict[str, Any]:
    columns = [
        {"name": c.name, "direction": c.direction, "aggregate": c.aggregate, "headline": c.headline}
        for c in judge.spec.columns
    ]
    return {**judge.identity, "columns": columns}
