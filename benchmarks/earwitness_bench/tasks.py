"""What goes to a worker and what comes back: small, because it crosses process borders for every unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

Phase = Literal["all", "explain", "score"]


@dataclass(frozen=True)
class Task:
    """A unit of the plan, by its number.

    Attributes
    ----------
    unit : int
    given_up : frozenset of str
        Keys of cells whose failure is final in this run, because they brought their workers down.
    phase : {"all", "explain", "score"}
        ``explain`` leaves the metrics that look at attributions only to a second task, ``score``, which a worker
        without a GPU does from the maps that were kept.
    """

    unit: int
    given_up: frozenset[str] = frozenset()
    phase: Phase = "all"


@dataclass
class Outcome:
    """What became of a unit.

    Attributes
    ----------
    title : str
        Arena and explainer.
    explained, scored, cached : int
        Cells computed now, failures included; cells found.
    errors : list of str
        Of the cells that failed, now or before.
    broken : int
        Cells that failed now.
    notes : list of str
        What a reader of the results should know.
    seconds : float
        It took.
    clips : int
        That were explained now.
    unscored : bool
        Metrics are left for a task of the phase ``score``.
    """

    title: str
    explained: int = 0
    scored: int = 0
    cached: int = 0
    errors: list[str] = field(default_factory=list)
    broken: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    clips: int = 0
    unscored: bool = False


class Work(Protocol):
    """What a worker does: one unit after another."""

    def __call__(self, task: Task) -> Outcome: ...

    def on_cpu(self) -> Work:
        """The same for a worker without a GPU."""
        ...
