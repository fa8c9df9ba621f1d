"""Runs a suite: explains what is not explained, scores what is not scored, and keeps every result at once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from earwitness.classifier import AudioClassifier
from earwitness.errors import StoreError
from earwitness.loading import load_classifier, load_dataset, load_self_explaining
from earwitness.registry import Registry
from earwitness_bench.contestants import make_contestants
from earwitness_bench.engines import Engine, Serial
from earwitness_bench.engines.process import Setup, cpu_threads
from earwitness_bench.fits import fit_all, trained_network
from earwitness_bench.identity import environment, machine
from earwitness_bench.monitor import Observer, Passing, Planned, Said, silent
from earwitness_bench.plan import Lineup, Plan, make_judges
from earwitness_bench.scheduling import Schedule
from earwitness_bench.stages import make_stage
from earwitness_bench.store import Store
from earwitness_bench.suite import Arena, Suite
from earwitness_bench.tasks import Outcome, Task
from earwitness_bench.worker import Worker


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes
    ----------
    explained, scored : int
        Cells computed now, failures included.
    cached : int
        Cells found.
    failed : tuple of str
        Explainers and metrics that failed, with the error.
    notes : tuple of str
        What a reader of the results should know.
    left : int
        Units that were not begun, because the run was to stop at the first failure.
    """

    explained: int
    scored: int
    cached: int
    failed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left: int = 0


def run_suite(
    suite: Suite,
    out: str | os.PathLike[str],
    *,
    registry: Registry,
    engine: Engine | None = None,
    device: torch.device | str = "cpu",
    observer: Observer = silent,
    fail_fast: bool = False,
    only_failed: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> Summary:
    """Run a suite into a results folder; what is there already is not computed again.

    Parameters
    ----------
    suite : Suite
    out : str or Path
        Results folder, see :mod:`earwitness_bench.store`.
    registry : Registry
    engine : Engine, optional
        Default: serial.
    device : torch.device or str
    observer : callable (Event)
        Is told what happens.
    fail_fast : bool
        Stop at the first cell that fails now.
    only_failed : bool
        Compute again what has failed, and nothing else.
    shard : (int, int)
        Compute every n-th chunk only, from the k-th on: ``(k, n)``, k from 0. The plan is that of the whole run.

    Raises
    ------
    EarwitnessError
        The suite names something that does not exist, the folder cannot be written to, or workers cannot be started.
        Errors of single explainers and metrics are kept in their cells instead.
    """
    engine = engine or Serial()
    store = Store(out, create=True)
    swept = store.sweep()
    if swept:
        observer(Said(f"{swept} temporary files of killed runs were removed"))
    threads, notes = choose_threads(suite, store, engine)
    with cpu_threads(threads):
        plan, more = make_plan(suite, store, registry=registry, device=device, observer=observer)
        notes = [*notes, *more]
        store.write_plan({**plan.document(), "machine": machine(), "notes": notes}, plan.keys())
        worker = Worker(plan, store, registry, apart=engine.apart, retry_failed=only_failed)
        numbers = plan.numbers(shard)
        if only_failed:
            numbers = [number for number in numbers if worker.has_failed(number)]
        observer(Planned(_titles(plan, numbers), 1 + len(plan.judges)))
        ledger = _Ledger(notes=dict.fromkeys(notes))
        setup = Setup.of_this_process(threads, on_gpu=torch.device(device).type == "cuda")
        with engine.crew(worker, setup) as hire:
            schedule = Schedule(plan, engine, hire, worker.give_up, observer)
            for outcome in schedule.run(Task(number) for number in numbers):
                ledger.enter(outcome)
                if fail_fast and outcome.broken:
                    break
    return ledger.summary(len(numbers))


@dataclass
class _Ledger:
    """Adds up outcomes."""

    explained: int = 0
    scored: int = 0
    cached: int = 0
    units: int = 0
    failed: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    def enter(self, outcome: Outcome) -> None:
        self.explained += outcome.explained
        self.scored += outcome.scored
        self.cached += outcome.cached
        self.units += not outcome.unscored
        self.failed.update(dict.fromkeys(outcome.errors))
        self.notes.update(dict.fromkeys(outcome.notes))

    def summary(self, n_units: int) -> Summary:
        left = n_units - self.units
        return Summary(self.explained, self.scored, self.cached, tuple(self.failed), tuple(self.notes), left)


def choose_threads(suite: Suite, store: Store, engine: Engine) -> tuple[int, list[str]]:
    """How many threads each worker computes with, and what the user should know about that.

    The number is part of every result's identity. So a suite that does not name it keeps to that of the results which
    are there; several workers that begin a folder get one each, and a single one gets what torch takes.
    """
    cores = os.cpu_count() or 1
    threads = suite.threads or _threads_before(store)
    if not 0 < threads <= max(cores, suite.threads):
        threads = 1 if engine.workers > 1 else torch.get_num_threads()
    if engine.workers * threads > cores and engine.workers > 1:
        return threads, [
            f"{engine.workers} workers with {threads} threads each share {cores} cores, so they may be slower than "
            "fewer workers; threads = 1 in the suite suits several workers"
        ]
    return threads, []


def _threads_before(store: Store) -> int:
    if not (store.folder / "plan.json").is_file():
        return 0
    try:
        return int(store.read_plan()["environment"]["threads"])
    except (StoreError, KeyError, TypeError, ValueError):
        return 0


def make_plan(
    suite: Suite,
    store: Store,
    *,
    registry: Registry,
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
) -> tuple[Plan, list[str]]:
    """Load data and classifiers, fit what must be fitted, and say what there is to do.

    Parameters
    ----------
    suite : Suite
    store : Store
    registry : Registry
    device : torch.device or str
    observer : callable (Event), optional
        Without one nothing is fitted, and nothing is written.

    Returns
    -------
    Plan
    notes : list of str
    """
    judges = make_judges(suite, registry)
    env = environment(device)
    lineups, notes = [], []
    for arena in suite.arenas:
        lineup, more = _lineup(suite, arena, store, registry, device, env, observer)
        lineups.append(lineup)
        notes += [f"{arena.title}: {note}" for note in more]
    return Plan(suite, tuple(lineups), judges, env), notes


def _lineup(
    suite: Suite,
    arena: Arena,
    store: Store,
    registry: Registry,
    device: torch.device | str,
    env: dict[str, Any],
    observer: Observer | None,
) -> tuple[Lineup, list[str]]:
    (observer or silent)(Passing(f"loading {arena.title}"))
    dataset = load_dataset(arena.dataset.name, parameters=arena.dataset.parameters, plugins=registry)
    ready: Any = {"device": device, "precision": suite.precision, "plugins": registry}
    if arena.train is None:
        classifier = load_classifier(arena.classifier.name, parameters=arena.classifier.parameters, **ready)
    else:
        folder = trained_network(suite, arena, store, registry, env, device=device, observer=observer)
        classifier, _ = load_self_explaining(arena.classifier.name, folder, **ready)
    stage = make_stage(suite, arena, dataset, classifier)
    fitted = fit_all(suite, stage, store, registry, env, observer=observer)
    contestants = make_contestants(suite, registry, fitted)
    return Lineup(stage, tuple(contestants)), [*dataset.notes, *_precision_note(classifier)]


def _precision_note(classifier: AudioClassifier) -> list[str]:
    if classifier.precision == "float32":
        return []
    return [
        f"the network computes in {classifier.precision}; on noise its logits differ from those in float32 by up to "
        f"{classifier.precision_deviation:.2%} of the largest |logit|."
    ]


def _titles(plan: Plan, numbers: Sequence[int]) -> Counter[str]:
    """How many of these units each arena and explainer has."""
    if isinstance(numbers, range):
        return Counter(
            {
                f"{lineup.stage.arena.title} · {contestant.title}": len(lineup.stage.chunks)
                for lineup in plan.lineups
                for contestant in lineup.contestants
            }
        )
    return Counter(plan.title(number) for number in numbers)
