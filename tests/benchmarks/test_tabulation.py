"""From what a metric returns to what a cell keeps: why a row has no score."""

from __future__ import annotations

import pytest
import torch

from earwitness.errors import ExplanationError
from earwitness.protocols import Scores
from earwitness_bench.tabulation import tabulate

NAN = float("nan")


def test_a_row_without_a_score_says_the_metrics_reason_and_a_scored_one_nothing() -> None:
    scores = Scores({"a": torch.tensor([1.0, NAN, NAN, NAN])}, ("ignored", "too quiet", "failed: it broke", ""))
    assert tabulate(scores, ["a"], 4)["outcomes"] == [
        "scored",
        "skipped: too quiet",
        "failed: it broke",
        "skipped: a not defined for this clip",
    ]


def test_reasons_are_one_for_each_row() -> None:
    with pytest.raises(ExplanationError, match="2 reasons for 3 rows"):
        tabulate(Scores({"a": torch.zeros(3)}, ("", "")), ["a"], 3)


def test_columns_with_reasons_are_checked_like_any_others() -> None:
    with pytest.raises(ExplanationError, match="the columns"):
        tabulate(Scores({"b": torch.zeros(3)}, ("",) * 3), ["a"], 3)
