"""AUPRC and F1 of a surrogate, against counting by hand and against scikit-learn's answers for textbook cases."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from earwitness.errors import ClassifierError
from earwitness_bench.metrics.fidelity_formulas import average_precision, macro, max_f1, micro


def cases(n: int = 40, *, seed: int = 0, levels: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, generator=generator)
    decisions = scores + torch.randn(n, generator=generator) > 0.3
    return (scores if levels is None else (scores * levels).round() / levels), decisions


def points(scores: Tensor, decisions: Tensor) -> list[tuple[float, float]]:
    """(precision, recall) at each threshold, from the highest down, by counting."""
    pairs = list(zip(scores.tolist(), decisions.tolist(), strict=True))
    found = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = [decision for score, decision in pairs if score >= threshold]
        found.append((sum(chosen) / len(chosen), sum(chosen) / sum(decisions.tolist())))
    return found


@pytest.mark.parametrize("levels", [None, 2, 1])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_precision_times_the_recall_gained_at_each_threshold(
    seed: int, levels: int | None
) -> None:
    scores, decisions = cases(seed=seed, levels=levels)
    curve = [(1.0, 0.0), *points(scores, decisions)]
    wanted = sum((recall - before) * precision for (_, before), (precision, recall) in itertools.pairwise(curve))
    assert float(average_precision(scores, decisions)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_f1_is_that_of_the_best_threshold(seed: int, levels: int | None) -> None:
    scores, decisions = cases(seed=seed, levels=levels)
    wanted = max(2 * p * r / (p + r) for p, r in points(scores, decisions) if p + r)
    assert float(max_f1(scores, decisions)) == pytest.approx(wanted, rel=1e-9)


def test_a_perfect_ranking_scores_one_and_the_worst_as_little_as_can_be() -> None:
    decisions = torch.tensor([True, True, False, False])
    assert float(average_precision(torch.tensor([4.0, 3.0, 2.0, 1.0]), decisions)) == 1
    assert float(max_f1(torch.tensor([4.0, 3.0, 2.0, 1.0]), decisions)) == 1
    worst = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert float(average_precision(worst, decisions)) == pytest.approx(0.5 * (1 / 3 + 2 / 4))
    assert float(max_f1(worst, decisions)) == pytest.approx(2 * 0.5 / 1.5)


def test_scikit_learns_example_has_its_answer() -> None:
    scores, decisions = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])
    assert float(average_precision(scores, decisions)) == pytest.approx(0.8333333333)


def test_equal_scores_have_the_share_of_positives_whatever_their_order() -> None:
    for decisions in itertools.permutations([True, False, False, True, False]):
        found = average_precision(torch.zeros(5), torch.tensor(decisions))
        assert float(found) == pytest.approx(0.4)


def test_macro_is_the_mean_over_decided_classes_and_micro_takes_all_pairs() -> None:
    scores, decisions = (values.reshape(10, 4) for values in cases())
    decisions = decisions.clone()
    decisions[:, 2] = False
    per_class = [float(average_precision(scores[:, c], decisions[:, c])) for c in (0, 1, 3)]
    assert float(macro(average_precision, scores, decisions)) == pytest.approx(sum(per_class) / 3)
    assert math.isnan(float(average_precision(scores[:, 2], decisions[:, 2])))
    pooled = average_precision(scores.reshape(-1), decisions.reshape(-1))
    assert float(micro(average_precision, scores, decisions)) == pytest.approx(float(pooled))
    assert float(macro(max_f1, scores, decisions)) <= 1


def test_a_score_that_is_nan_has_no_ranking() -> None:
    found = average_precision(torch.tensor([[0.1, torch.nan], [0.1, 0.2]]), torch.tensor([[True, False]] * 2))
    assert math.isnan(float(found[0]))
    assert float(found[1]) == 0.5


def test_decisions_must_be_decisions_of_the_same_shape() -> None:
    for decisions in (torch.ones(4), torch.ones(3, dtype=torch.bool)):
        with pytest.raises(ClassifierError, match=r"Compare the classifier's probabilities with 0\.5 first"):
            average_precision(torch.zeros(4), decisions)
