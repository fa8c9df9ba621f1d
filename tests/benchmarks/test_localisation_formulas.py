"""The localisation formulas: slow re-derivations, what must always hold, and answers known beforehand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from earwitness.errors import AudioError, ExplanationError
from earwitness_bench.metrics.localisation_formulas import (
    SI_SDR_LIMIT_DB,
    ideal_ratio_mask,
    relevance_mass,
    relevance_rank,
    si_sdr,
    si_sdr_improvement,
)

SHAPE = (5, 6, 7)
MAGNITUDE = st.floats(0, 2.0**126, width=32)


def rand(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- ideal mask ---------------------------------------------------------------------------------------------------


def test_the_ideal_mask_equals_a_loop_over_cells() -> None:
    target, rest = rand(*SHAPE, seed=0), rand(*SHAPE, seed=1)
    expected = [s**2 / (s**2 + r**2) for s, r in zip(target.flatten().tolist(), rest.flatten().tolist(), strict=True)]
    assert ideal_ratio_mask(target, rest).flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_the_ideal_masks_of_target_and_rest_share_out_every_audible_cell() -> None:
    target, rest = rand(*SHAPE, seed=0).float(), rand(*SHAPE, seed=1).float()
    target[0, 0, :3], rest[0, 0, 1:4] = 0, 0
    total = ideal_ratio_mask(target, rest) + ideal_ratio_mask(rest, target)
    assert total[0, 0, :4].tolist() == [1, 0, 0, 1]  # both are silent in the middle two
    torch.testing.assert_close(total.flatten()[4:], torch.ones(total.numel() - 4))


@settings(max_examples=100, deadline=None)
@given(MAGNITUDE, MAGNITUDE)
def test_above_one_half_is_where_the_target_outweighs_the_rest(target: float, rest: float) -> None:
    mask = float(ideal_ratio_mask(torch.tensor([[[target]]]), torch.tensor([[[rest]]])))
    assert 0 <= mask <= 1
    if target > 1.001 * rest:
        assert mask > 0.5
    if rest > 1.001 * target:
        assert mask < 0.5


# --- mass ---------------------------------------------------------------------------------------------------------


def test_mass_equals_a_loop_over_cells() -> None:
    relevance, ideal = rand(*SHAPE, seed=2), rand(*SHAPE, seed=3)
    expected = []
    for weights, shares in zip(relevance.flatten(1).tolist(), ideal.flatten(1).tolist(), strict=True):
        inside = sum(weight * share for weight, share in zip(weights, shares, strict=True))
        expected.append(inside / sum(weights))
    assert relevance_mass(relevance, ideal).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_mass_of_a_uniform_map_is_the_targets_share_of_the_area() -> None:
    ideal = rand(*SHAPE, seed=4)
    binary = ideal > 0.7
    uniform = torch.full(SHAPE, 0.3)
    torch.testing.assert_close(relevance_mass(uniform, ideal), ideal.mean((1, 2)).float())
    torch.testing.assert_close(relevance_mass(uniform, binary), binary.float().mean((1, 2)))


def test_all_mass_inside_scores_one_and_all_outside_zero() -> None:
    binary = rand(*SHAPE, seed=5) > 0.5
    relevance = rand(*SHAPE, seed=6).float()
    assert relevance_mass(relevance * binary, binary).tolist() == [1] * 5
    assert relevance_mass(relevance * ~binary, binary).tolist() == [0] * 5


@pytest.mark.parametrize("scale", [1e-35, 1e-3, 1e35])
def test_mass_does_not_depend_on_the_scale_of_the_map(scale: float) -> None:
    relevance, ideal = rand(*SHAPE, seed=7).float(), rand(*SHAPE, seed=8).float()
    torch.testing.assert_close(relevance_mass(relevance * scale, ideal), relevance_mass(relevance, ideal))


# --- rank ---------------------------------------------------------------------------------------------------------


def test_rank_equals_counting_hits_among_the_highest() -> None:
    relevance, ideal = randn(*SHAPE, seed=9), rand(*SHAPE, seed=10)
    expected = []
    for cells, shares in zip(relevance.flatten(1).numpy(), ideal.flatten(1).numpy(), strict=True):
        inside = set(np.flatnonzero(shares > 0.5))
        highest = set(np.argsort(-cells)[: len(inside)])
        expected.append(len(inside & highest) / len(inside))
    assert relevance_rank(relevance, ideal).tolist() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 2), st.booleans()), min_size=1, max_size=6).filter(
        lambda c: any(b for _, b in c)
    )
)
def test_rank_with_ties_is_the_mean_over_all_orders(cells: list[tuple[int, bool]]) -> None:
    k = sum(inside for _, inside in cells)
    hits = [
        sum(inside for _, inside in sorted(order, key=lambda cell: -cell[0])[:k]) / k
        for order in itertools.permutations(cells)
    ]
    values = torch.tensor([[[float(value) for value, _ in cells]]], dtype=torch.float64)
    ideal = torch.tensor([[[inside for _, inside in cells]]])
    assert float(relevance_rank(values, ideal)) == pytest.approx(sum(hits) / len(hits), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
def test_an_all_equal_map_ranks_as_chance_does(value: float) -> None:
    binary = rand(*SHAPE, seed=11) > 0.8
    torch.testing.assert_close(relevance_rank(torch.full(SHAPE, value), binary), binary.float().mean((1, 2)))


def test_the_ideal_mask_itself_has_rank_one_and_its_complement_zero() -> None:
    ratio = rand(*SHAPE, seed=12)
    binary = rand(*SHAPE, seed=13) > 0.8
    assert relevance_rank(ratio, ratio).tolist() == [1] * 5
    assert relevance_rank(binary.float(), binary).tolist() == [1] * 5
    assert relevance_rank((~binary).float(), binary).tolist() == [0] * 5


def test_rank_sees_only_the_order_of_cells() -> None:
    relevance, ideal = rand(*SHAPE, seed=14), rand(*SHAPE, seed=15)
    assert torch.equal(relevance_rank(relevance**3 * 7 - 20, ideal), relevance_rank(relevance, ideal))


# --- undefined and refused maps -----------------------------------------------------------------------------------


def test_without_a_target_or_without_mass_localisation_is_undefined() -> None:
    relevance, ideal = rand(3, 4, 5, seed=16), rand(3, 4, 5, seed=17)
    ideal[1] = 0
    relevance[2] = 0
    assert relevance_mass(relevance, ideal).isnan().tolist() == [False, True, True]
    assert relevance_rank(relevance, ideal).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("metric", [relevance_mass, relevance_rank])
def test_rows_do_not_see_each_other(metric) -> None:
    relevance, ideal = rand(*SHAPE, seed=18), rand(*SHAPE, seed=19)
    alone = torch.cat([metric(relevance[b : b + 1], ideal[b : b + 1]) for b in range(5)])
    torch.testing.assert_close(metric(relevance, ideal), alone, rtol=1e-14, atol=0)
    assert metric(relevance[:0], ideal[:0]).shape == (0,)


@pytest.mark.parametrize("metric", [relevance_mass, relevance_rank, ideal_ratio_mask])
def test_maps_on_different_grids_or_with_holes_are_refused(metric) -> None:
    good, hole = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    hole[1, 0, 0] = math.nan
    for first, second in ((good, torch.rand(2, 4, 3)), (good, torch.rand(1, 3, 4)), (good[0], good[0])):
        with pytest.raises(ExplanationError, match="listening STFT"):
            metric(first, second)
    for first, second in ((good, hole), (hole, good)):
        with pytest.raises(ExplanationError, match=r"rows \[1\]"):
            metric(first, second)


def test_values_that_mean_something_else_are_refused() -> None:
    good = torch.rand(2, 3, 4)
    for metric in (relevance_mass, ideal_ratio_mask):
        with pytest.raises(ExplanationError, match="positive part"):
            metric(good - 1, good)
    for metric in (relevance_mass, relevance_rank):
        with pytest.raises(ExplanationError, match="not magnitudes"):
            metric(good, good + 1)
        with pytest.raises(ExplanationError, match="float"):
            metric(good > 0.5, good)


# --- SI-SDR -------------------------------------------------------------------------------------------------------


def slow_si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Le Roux et al. 2019 through least squares: the best scaling of the reference against what it leaves over."""
    estimate, reference = estimate - estimate.mean(), reference - reference.mean()
    (gain,), *_ = np.linalg.lstsq(reference[:, None], estimate, rcond=None)
    return float(20 * np.log10(np.linalg.norm(gain * reference) / np.linalg.norm(estimate - gain * reference)))


def test_si_sdr_equals_a_loop_with_least_squares() -> None:
    reference = randn(8, 300, seed=20)
    noise_level = torch.logspace(-2, 1, 8, dtype=torch.float64).unsqueeze(1)
    estimate = reference + noise_level * randn(8, 300, seed=21) + 0.3
    expected = [slow_si_sdr(e, r) for e, r in zip(estimate.numpy(), reference.numpy(), strict=True)]
    assert si_sdr(estimate, reference).tolist() == pytest.approx(expected, abs=1e-8)


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_energies() -> None:
    phase = 2 * math.pi * torch.arange(800, dtype=torch.float64) / 800
    reference, noise = torch.sin(5 * phase), torch.sin(9 * phase)
    levels = torch.tensor([1.0, 0.1, 10.0], dtype=torch.float64).unsqueeze(1)
    assert si_sdr(reference + levels * noise, reference.expand(3, -1)).tolist() == pytest.approx([0, 20, -20], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    gain=st.floats(1e-15, 1e15).flatmap(lambda g: st.sampled_from([g, -g])),
    reference_gain=st.floats(1e-15, 1e15),
    offset=st.floats(-1, 1),
)
def test_si_sdr_does_not_depend_on_level_polarity_or_offset(gain: float, reference_gain: float, offset: float) -> None:
    reference = randn(2, 200, seed=22)
    estimate = reference + 0.5 * randn(2, 200, seed=23)
    changed = si_sdr(gain * (estimate + offset), reference_gain * reference)
    torch.testing.assert_close(changed, si_sdr(estimate, reference), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_perfect_copy_reaches_the_upper_limit(dtype: torch.dtype) -> None:
    reference = randn(3, 500, seed=24).to(dtype)
    ours = si_sdr(0.5 * reference, reference)
    assert ours.dtype == dtype
    assert ours.tolist() == [SI_SDR_LIMIT_DB] * 3


def test_hearing_nothing_is_the_lower_limit_and_a_silent_target_is_undefined() -> None:
    sound = randn(4, 500, seed=25).float()
    estimate, reference = sound.clone(), sound.clone()
    estimate[0], estimate[1] = 0, 0.1  # silence, with and without an offset
    reference[2], reference[3] = 0, 0.1
    ours = si_sdr(estimate, reference)
    assert ours[:2].tolist() == [-SI_SDR_LIMIT_DB] * 2
    assert ours[2:].isnan().all()
    assert si_sdr(torch.zeros(1, 9), torch.zeros(1, 9)).isnan().all()


def test_the_faintest_sound_is_still_compared() -> None:
    reference, estimate = randn(1, 300, seed=30), randn(1, 300, seed=31)
    faint = si_sdr((1e-30 * estimate).float(), (1e-30 * reference).float())
    torch.testing.assert_close(faint.double(), si_sdr(estimate, reference), rtol=1e-5, atol=1e-5)


def test_what_shares_nothing_with_the_target_is_cut_at_the_lower_limit() -> None:
    estimate, reference = torch.tensor([[1.0, -1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0, -1.0]])
    assert si_sdr(estimate, reference).tolist() == [-SI_SDR_LIMIT_DB]


def test_improvement_is_what_the_heard_sound_gains_over_the_mixture() -> None:
    reference, rest = randn(3, 400, seed=26), randn(3, 400, seed=27)
    mixture = reference + rest
    better = si_sdr_improvement(reference + 0.1 * rest, mixture, reference)
    assert better.tolist() == pytest.approx([20] * 3, abs=2)
    assert (si_sdr_improvement(reference + 10 * rest, mixture, reference) < -10).all()
    torch.testing.assert_close(si_sdr_improvement(0.3 * mixture, mixture, reference), torch.zeros(3).double())
    assert si_sdr_improvement(mixture, mixture, torch.zeros_like(mixture)).isnan().all()


def test_si_sdr_of_a_row_does_not_depend_on_its_neighbours() -> None:
    reference, estimate = randn(4, 300, seed=28), randn(4, 300, seed=29)
    estimate[1] *= 1e6
    alone = torch.cat([si_sdr(estimate[b : b + 1], reference[b : b + 1]) for b in range(4)])
    torch.testing.assert_close(si_sdr(estimate, reference), alone, rtol=1e-12, atol=1e-12)
    assert si_sdr(reference[:0], reference[:0]).shape == (0,)


def test_waveforms_that_do_not_match_are_refused() -> None:
    good, hole = torch.rand(2, 10), torch.rand(2, 10)
    hole[1, 3] = math.inf
    for estimate, reference in ((good, good[:, :9]), (good[0], good[0]), (good, good[:1]), (good[:, :0], good[:, :0])):
        with pytest.raises(AudioError, match="same samples"):
            si_sdr(estimate, reference)
    for estimate, reference in ((hole, good), (good, hole), ((good * 9).to(torch.int16), good)):
        with pytest.raises(AudioError, match="finite float samples"):
            si_sdr(estimate, reference)
