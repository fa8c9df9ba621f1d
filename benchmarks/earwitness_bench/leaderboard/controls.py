"""Above control: which columns a method beats its yardsticks in."""

from __future__ import annotations

from typing import Any

import numpy as np

from earwitness_bench.leaderboard.columns import ArenaScores, Column, aggregate_of, sign_of
from earwitness_bench.statistics import Pair, gain, holm
from earwitness_bench.statistics.paired import ALPHA

YARDSTICKS = (
    "earwitness:uniform-noise",
    "earwitness:loudness",
    "earwitness:constant-gain",
    "earwitness:noise-parts",
)
"""Controls that a method must beat where they were run, beside its own maps shuffled over clips."""


def yardsticks_of(arena: dict[str, Any], title: str) -> list[str]:
    """Titles of the controls that a method must beat."""
    return [
        control["title"]
        for control in arena["explainers"]
        if control["scope"] == "control"
        and (
            control["identity"]["name"] in YARDSTICKS
            if control["shuffle_of"] is None
            else control["shuffle_of"] == title
        )
    ]


def is_above(scores: ArenaScores, title: str, yardsticks: list[str], column: Column) -> bool:
    """Whether a method beats every yardstick in a column, paired over clips.

    Each paired difference's bootstrap p, corrected after Holm for the number of yardsticks, is below 0.05. A metric
    that does not apply to a yardstick, such as one of parts to loudness, has skipped all its clips, and it does not
    count. Any other yardstick without scores beats everybody: nothing was shown.
    """
    sign = sign_of(column)
    applicable = [yardstick for yardstick in yardsticks if not scores.is_skipped(yardstick, column)]
    if not applicable or not sign:
        return False
    values, groups = scores.matrix([title, *applicable], column)
    found = [gain(Pair(values[:, 0], other, groups), aggregate_of(column)) for other in values[:, 1:].T]
    p_values = holm([drawn.p_value() for _, drawn in found])
    return bool(np.all(p_values < ALPHA)) and all(sign * difference > 0 for difference, _ in found)
