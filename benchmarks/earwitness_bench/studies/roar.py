"""Remove and retrain (ROAR): does a classifier that never had the cells that a method points at still learn?

Each clip that is trained and tested on is explained. The most relevant cells of its feature map are removed, p % of
them, and the classifier is trained anew, from scratch, on what is left. The more of the evidence a method finds, the
further its accuracy falls, on the test clips with theirs removed. *Random removal* says what is lost by losing that
many cells of any kind: a method below it finds evidence.

A removed cell becomes the mean of its band over the training clips, the same for all clips and for all methods: then a
new classifier can see where cells were removed, and may tell the class from that. Or it becomes a ``stranger``: a value
that its band has anywhere in the training clips. That hides the place from whoever looks at levels, and not from
whoever looks at neighbouring cells.

Maps are ranked where the features are, with their sign; cells of equal relevance in a seeded random order, so a map
without a preference is random removal. Every number is a training of its own, kept as soon as it is done.

Source: Hooker, Erhan, Kindermans and Kim, "A Benchmark for Interpretability Methods in Deep Neural Networks", NeurIPS
2019; Paissan et al., ICML 2024, figure 4. On telling the class from the place: Rong et al., ICML 2022.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from earwitness.artifacts import digest_of, write_atomically, write_json
from earwitness.clips import Entry
from earwitness.errors import ConfigurationError, EarwitnessError, nearest
from earwitness.protocols import Progress, Retrain
from earwitness_bench.explaining import Asker
from earwitness_bench.identity import plugin_identity
from earwitness_bench.plan import Lineup, Plan
from earwitness_bench.studies.cells import Cell, Ran, run_cells
from earwitness_bench.studies.figures import Line, draw_lines
from earwitness_bench.studies.methods import Workbench
from earwitness_bench.studies.retraining import RANDOM, Fill, Ground, clips_of
from earwitness_bench.studies.summaries import Floats, as_csv, mean_and_interval
from earwitness_bench.suite import Arena, Reference, Suite

NAME = "roar"
MAP_CAP_MB = 4096.0
"""Maps are kept whatever their size: they are needed once for each training."""


@dataclass(frozen=True)
class Design:
    """What is removed, and how often a classifier is trained on the rest.

    Attributes
    ----------
    percents : tuple of float, in (0, 100)
        Of each clip's cells.
    seeds : tuple of int
        Of the trainings.
    fill : {"mean", "stranger"}
        What a removed cell becomes.
    """

    percents: tuple[float, ...]
    seeds: tuple[int, ...]
    fill: Fill = "mean"

    def __post_init__(self) -> None:
        if self.fill not in get_args(Fill):
            raise ConfigurationError(f"There is no fill {self.fill!r}. {nearest(self.fill, get_args(Fill))}")
        if not self.percents or not all(0 < percent < 100 for percent in self.percents) or not self.seeds:
            raise ConfigurationError(
                f"Percentages to be removed lie between 0 and 100, and there is at least one training of each; got "
                f"{list(self.percents)} and {len(self.seeds)}."
            )


def run_roar(suite: Suite, design: Design, bench: Workbench, *, train: Mapping[str, Any]) -> tuple[dict[str, Any], Ran]:
    """Explain, remove, retrain; write ``roar.json``, ``.csv``, ``.png`` and ``.svg``.

    Parameters
    ----------
    suite : Suite
        Of one arena, whose clips are tested on, and without controls (:func:`.methods.chosen`).
    design : Design
    bench : Workbench
    train : dict
        Parameters of the arena's data set that give the clips that are trained on.

    Returns
    -------
    document : dict
        What the JSON file holds.
    ran : Ran

    Raises
    ------
    PluginError
        The classifier does not say how it is trained anew.
    ConfigurationError
        Clips are both trained and tested on, have several labels, or several lengths.
    EarwitnessError
        Not even a classifier that nothing was removed from could be trained, with every seed.
    """
    (arena,) = suite.arenas
    offer = bench.registry.classifier(arena.classifier.name)
    retrain: Retrain = offer.spec.load_retrain()
    data = Reference(name=arena.dataset.name, parameters=dict(train))
    arenas = (Arena(dataset=data, classifier=arena.classifier, label=f"{arena.title}, trained on"), arena)
    whole = suite.model_copy(update={"arenas": arenas, "metrics": (), "map_cap_mb": MAP_CAP_MB})
    with bench.own_threads(suite):
        plan = bench.plan(whole)
        _check(plan)
        worked = bench.work_off(plan)
        ground = Ground(plan, bench.store, Asker(suite.seed, bench.store, bench.registry), retrain, design.fill)
        retraining = [offer.qualified_name, plugin_identity(offer)]
        common = _common_identity(plan, retraining)
        titles = [contestant.title for contestant in plan.lineups[1].contestants]
        places = _trainings(design, titles)
        cells = [
            Cell(
                f"{title}, {percent:g} % removed, training {seed}",
                {
                    **common,
                    "removed": percent,
                    "fill": design.fill if percent else None,
                    "training_seed": seed,
                    "by": _identity_of(plan, title, percent),
                },
                functools.partial(_train, ground, title, percent, seed, number, len(places), bench.progress),
            )
            for number, (title, percent, seed) in enumerate(places)
        ]
        ran = run_cells(bench.store, NAME, cells, bench.progress)
        results = dict(zip(places, ran.results, strict=True))
        if None in [results[RANDOM, 0.0, seed] for seed in design.seeds]:
            raise EarwitnessError(f"The classifier cannot be trained anew: {ran.failed[0]}")
        document = _document(common, design, titles, results, ground.clips[1].groups)
    write_json(bench.out / f"{NAME}.json", document)
    write_atomically(bench.out / f"{NAME}.csv", _as_csv(document).encode())
    _draw(bench.out / NAME, document, plan.lineups[1])
    failed = tuple(dict.fromkeys((*worked.errors, *ran.failed)))
    return document, Ran(ran.results, worked.computed + ran.computed, worked.found + ran.found, failed)


def _train(
    ground: Ground, title: str, percent: float, seed: int, number: int, total: int, progress: Progress
) -> dict[str, Any]:
    def epoch(done: int, epochs: int, text: str) -> None:
        progress(number, total, f"{title}, {percent:g} % removed: epoch {done} of {epochs}, {text}")

    return ground.train_without(None if title == RANDOM else title, percent, seed, epoch)


def _trainings(design: Design, titles: Sequence[str]) -> list[tuple[str, float, int]]:
    """Method, percentage and seed of every training; first those from which nothing is removed."""
    if RANDOM in titles:
        raise ConfigurationError(f"{RANDOM!r} is the name of the control. Give the explainer another `label`.")
    percents = [(RANDOM, 0.0), *((title, percent) for title in (RANDOM, *titles) for percent in design.percents)]
    return [(title, percent, seed) for title, percent in percents for seed in design.seeds]


def _check(plan: Plan) -> None:
    train, test = (lineup.stage for lineup in plan.lineups)
    trained, tested = (
        [stage.dataset.entries[index] for index in clips_of(plan, number)] for number, stage in enumerate((train, test))
    )
    known = {origin for entry in trained for origin in _origins(entry)}
    shared = [entry.clip_id for entry in tested if not known.isdisjoint(_origins(entry))]
    if shared:
        raise ConfigurationError(
            f"{len(shared)} clips are both trained and tested on, or cut from the same recordings, such as "
            f"{min(shared)!r}. Choose another split."
        )
    for stage, entries in ((train, trained), (test, tested)):
        for entry in entries:
            if len(entry.labels) != 1 or entry.labels[0] not in stage.classifier.labels:
                raise ConfigurationError(
                    f"{NAME} needs clips of one class each, of those that {stage.classifier.name} knows; "
                    f"{entry.clip_id!r} has {list(entry.labels)}."
                )


def _origins(entry: Entry) -> set[tuple[str, str]]:
    """What clips with the same sound have in common: their samples, or the recording that they were cut from."""
    source = {("group", entry.group)} if entry.group != entry.clip_id else set()
    return {("fingerprint", entry.fingerprint), *source}


def _common_identity(plan: Plan, retraining: list[str]) -> dict[str, Any]:
    suite = plan.suite
    data = {}
    for number, kind in enumerate(("train", "test")):
        entries = [plan.lineups[number].stage.dataset.entries[index] for index in clips_of(plan, number)]
        data[kind] = [len(entries), digest_of([[e.clip_id, e.labels, e.fingerprint] for e in entries])]
    return {
        "environment": plan.environment,
        "classifier": plan.lineups[0].stage.classifier.checksum,
        "retraining": retraining,
        **data,
        "target": suite.target,
        "seed": suite.seed,
        "chunk_size": suite.chunk_size,
    }


def _identity_of(plan: Plan, title: str, percent: float) -> Any:
    if title == RANDOM:
        return "nothing" if percent == 0 else RANDOM
    return next(contestant.identity for contestant in plan.lineups[1].contestants if contestant.title == title)


def _document(
    common: dict[str, Any],
    design: Design,
    titles: Sequence[str],
    results: Mapping[tuple[str, float, int], dict[str, Any] | None],
    groups: Sequence[str],
) -> dict[str, Any]:
    def correct(title: str, percent: float) -> Floats | None:
        """Of each test clip, the share of the trainings that decide rightly; None where one is missing."""
        found = [results[title, percent, seed] for seed in design.seeds]
        return None if None in found else np.mean([one["correct"] for one in found if one], axis=0)

    def summary(title: str, percent: float) -> dict[str, Any] | None:
        own, control = correct(title, percent), correct(RANDOM, percent)
        if own is None:
            return None
        of_each = [one["accuracy"] for seed in design.seeds if (one := results[title, percent, seed])]
        less = None if control is None or title == RANDOM else mean_and_interval(control - own, groups)
        return {**mean_and_interval(own, groups), "of_each_training": of_each, "random_less_this": less}

    return {
        "study": NAME,
        "settings": {**common, "fill": design.fill},
        "removed": list(design.percents),
        "seeds": list(design.seeds),
        "test_clips": len(groups),
        "recordings": len(set(groups)),
        "nothing_removed": summary(RANDOM, 0.0),
        "methods": {
            title: {f"{percent:g}": summary(title, percent) for percent in design.percents}
            for title in (RANDOM, *titles)
        },
    }


def _as_csv(document: dict[str, Any]) -> str:
    nothing: dict[str, Any] = {"mean": None, "interval": [None, None]}

    def row(title: str, percent: str, found: dict[str, Any]) -> list[str | float | None]:
        less = found["random_less_this"] or nothing
        return [title, percent, found["mean"], *found["interval"], less["mean"], *less["interval"]]

    rows = [("nothing", "0", document["nothing_removed"])]
    rows += [(title, percent, found) for title, by in document["methods"].items() for percent, found in by.items()]
    head = ("method", "removed_percent", "accuracy", "low", "high")
    less = ("random_less_this", "random_less_this_low", "random_less_this_high")
    return as_csv((*head, *less), (row(*one) for one in rows if one[2] is not None))


def _draw(path: Path, document: dict[str, Any], lineup: Lineup) -> None:
    """Accuracy against the percentage removed, a line for each method; controls dashed."""
    start = document["nothing_removed"]
    controls = {contestant.title for contestant in lineup.contestants if contestant.is_control} | {RANDOM}
    lines = []
    for title, by_percent in document["methods"].items():
        places = [start, *(by_percent[f"{percent:g}"] for percent in document["removed"])]
        lines.append(
            Line(
                title,
                [found and found["mean"] for found in places],
                [found["interval"] if found else (None, None) for found in places],
                dashed=title in controls,
            )
        )
    ticks = [f"{percent:g}" for percent in (0, *document["removed"])]
    draw_lines(
        path,
        lines,
        places=[0.0, *document["removed"]],
        ticks=ticks,
        title=f"{lineup.stage.arena.title}: accuracy when trained anew without the most relevant cells",
        x_axis="% of the cells removed",
        y_axis="accuracy",
    )
