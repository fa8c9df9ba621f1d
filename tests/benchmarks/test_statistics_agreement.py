"""Agreement of metrics and of maps, against SciPy and pairs counted one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from earwitness.errors import ExplanationError
from earwitness_bench.statistics import map_agreement, rank_agreement, standard_ranks


def slow_tau_b(x: np.ndarray, y: np.ndarray) -> float:
    """Concordant less discordant pairs, over the root of those without a tie in x times those without one in y."""
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in itertools.combinations(range(len(x)), 2)]
    untied = [sum(sign[axis] != 0 for sign in signs) for axis in (0, 1)]
    return sum(a * b for a, b in signs) / math.sqrt(untied[0] * untied[1])


def test_agreement_of_metrics_is_kendalls_tau_b_in_their_own_directions() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 5, size=(8, 4)).astype(float)
    scores[1, 2] = scores[4, 0] = np.nan
    higher = [True, False, True, False]
    found = rank_agreement(scores, higher)
    oriented = scores * np.where(higher, 1, -1)
    for a, b in itertools.combinations(range(4), 2):
        both = ~np.isnan(oriented[:, [a, b]]).any(1)
        x, y = oriented[both, a], oriented[both, b]
        assert found[a, b] == found[b, a] == pytest.approx(slow_tau_b(x, y))
        assert found[a, b] == pytest.approx(stats.kendalltau(x, y).statistic)
    assert np.diag(found) == pytest.approx(np.ones(4))


def test_metrics_that_agree_have_one_whatever_their_directions() -> None:
    scores = np.array([[1.0, 9.0], [2.0, 8.0], [3.0, 7.0]])
    assert rank_agreement(scores, [True, False])[0, 1] == 1.0
    assert rank_agreement(scores, [True, True])[0, 1] == -1.0


def test_metrics_without_methods_in_common_or_with_ties_only_have_none() -> None:
    nan = math.nan
    assert math.isnan(rank_agreement(np.array([[1.0, nan], [nan, 2.0], [2.0, 1.0]]), [True, True])[0, 1])
    assert math.isnan(rank_agreement(np.array([[1.0, 5.0], [2.0, 5.0]]), [True, True])[0, 1])


def test_agreement_of_maps_is_spearmans_correlation_of_each_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(-2, 3, (4, 6, 7), generator=generator).float()  # with many ties
    second = first + torch.randn(4, 6, 7, generator=generator)
    found = map_agreement(first, second)
    assert found.dtype == torch.float64
    wanted = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(found.numpy(), wanted)


def test_maps_of_one_order_agree_and_of_the_reverse_order_disagree() -> None:
    maps = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(map_agreement(maps, maps.exp()), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(map_agreement(maps, -3 * maps), -torch.ones(3, dtype=torch.float64))


def test_a_constant_map_agrees_with_nobody_and_leaves_the_other_clips_alone() -> None:
    maps = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    flat = maps.clone()
    flat[1] = 0.7
    found = map_agreement(maps, flat)
    assert found.isnan().tolist() == [False, True, False]
    assert float(found[0]) == pytest.approx(1.0)


def test_standard_ranks_are_about_zero_and_of_length_one() -> None:
    ranks = standard_ranks(torch.tensor([[3.0, 1.0, 1.0, 9.0]]))
    wanted = np.array([3.0, 1.5, 1.5, 4.0]) - 2.5
    np.testing.assert_allclose(ranks[0].numpy(), wanted / np.linalg.norm(wanted))


def test_maps_of_different_grids_are_refused() -> None:
    with pytest.raises(ExplanationError, match=r"\(2, 3, 4\) and \(2, 3, 5\)"):
        map_agreement(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))
