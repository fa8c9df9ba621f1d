"""The explainers of a suite at work in a study: fitted, asked, and kept as ``earwitness bench`` keeps them.

What a run of the suite has left in the same folder is found, and a run finds what a study has left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from earwitness.errors import ConfigurationError, nearest
from earwitness.protocols import Progress
from earwitness.registry import Registry
from earwitness_bench.engines import Serial
from earwitness_bench.engines.process import cpu_threads
from earwitness_bench.monitor import Event, Passing
from earwitness_bench.plan import Plan
from earwitness_bench.runner import choose_threads, make_plan
from earwitness_bench.store import Store
from earwitness_bench.suite import Suite
from earwitness_bench.tasks import Task
from earwitness_bench.worker import Worker


@dataclass
class Worked:
    """What became of a plan.

    Attributes
    ----------
    computed, found : int
        Cells.
    errors : dict of str to None
        What failed, in words, in order.
    """

    computed: int = 0
    found: int = 0
    errors: dict[str, None] = field(default_factory=dict)


def chosen(suite: Suite, *, arena: str | None = None, only: Sequence[str] = ()) -> Suite:
    """A suite of one arena, and of the explainers that are wanted; without controls but those that it names.

    Parameters
    ----------
    suite : Suite
    arena : str, optional
        Its title; needed where there are several.
    only : sequence of str
        Titles of explainers. Default: all.

    Raises
    ------
    ConfigurationError
        There is no such arena or explainer, or it is not said which arena.
    """
    titles = [one.title for one in suite.arenas]
    if arena is None and len(titles) > 1:
        raise ConfigurationError(f"The suite {suite.name} has {len(titles)} arenas: choose one, {' or '.join(titles)}.")
    if arena is not None and arena not in titles:
        raise ConfigurationError(f"The suite {suite.name} has no arena {arena!r}. {nearest(arena, titles)}")
    names = [entry.title for entry in suite.explainers]
    for title in only:
        if title not in names:
            raise ConfigurationError(f"The suite {suite.name} has no explainer {title!r}. {nearest(title, names)}")
        fit = suite.explainers[names.index(title)].fit
        if fit is not None and fit.start and fit.start not in only:
            raise ConfigurationError(f"{title!r} starts from the fit of {fit.start!r}: name that too.")
    return suite.model_copy(
        update={
            "arenas": (suite.arenas[0 if arena is None else titles.index(arena)],),
            "explainers": tuple(entry for entry in suite.explainers if not only or entry.title in only),
            "controls": False,
        }
    )


@dataclass(frozen=True, eq=False)
class Workbench:
    """Where the explainers of a suite are put to work.

    Attributes
    ----------
    out : Path
        Results folder, see :mod:`earwitness_bench.store`.
    registry : Registry
    device : torch.device or str
    progress : callable (done, total, text)
    """

    out: Path
    registry: Registry
    device: torch.device | str
    progress: Progress

    @cached_property
    def store(self) -> Store:
        """The results folder, made if need be."""
        return Store(self.out, create=True)

    @contextmanager
    def own_threads(self, suite: Suite) -> Iterator[None]:
        """Compute with as many threads as a run of the suite in this folder would: their number is part of every
        key."""
        with cpu_threads(choose_threads(suite, self.store, Serial())[0]):
            yield

    def plan(self, suite: Suite) -> Plan:
        """What there is to do.

        Raises
        ------
        EarwitnessError
            See :func:`earwitness_bench.runner.run_suite`.
        """

        def passing(event: Event) -> None:
            if isinstance(event, Passing):
                self.progress(0, 0, event.text)

        self.store.sweep()
        return make_plan(suite, self.store, registry=self.registry, device=self.device, observer=passing)[0]

    def work_off(self, plan: Plan) -> Worked:
        """Explain and score what is not there yet, one unit after another."""
        worked, worker = Worked(), Worker(plan, self.store, self.registry)
        for number in range(len(plan)):
            self.progress(number, len(plan), plan.title(number))
            outcome = worker(Task(number))
            worked.computed += outcome.explained + outcome.scored
            worked.found += outcome.cached
            worked.errors.update(dict.fromkeys(outcome.errors))
        return worked
