"""L-MAC's arithmetic: every term of the objective, the guidance, and the warp to a budget, derived a second time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from earwitness.audio.budget import EnergyBudget
from earwitness.errors import ConfigurationError
from earwitness_plugins.lmac.budget import warped
from earwitness_plugins.lmac.curves import COLUMNS, Curves, collapse
from earwitness_plugins.lmac.guidance import Guidance, cosine, loud_bins
from earwitness_plugins.lmac.objective import Objective, binarised, log_odds, total_variation

DECISION = torch.tensor([2, 0, 1])


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masks(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def probability(logits: Tensor, decision: int, *, multilabel: bool) -> float:
    """Of one class in one row, with Python's floats."""
    values = [float(value) for value in logits]
    if multilabel:
        return 1 / (1 + math.exp(-values[decision]))
    return math.exp(values[decision]) / sum(math.exp(value) for value in values)


def odds(logits: Tensor, decision: int, *, multilabel: bool) -> float:
    """Logarithm of p / (1 - p)."""
    p = probability(logits, decision, multilabel=multilabel)
    return math.log(p / (1 - p))


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("out_loss", ["bounded", "published"])
def test_the_objective_is_the_formula(out_loss: str, multilabel: bool) -> None:
    heard, rest, confidence = 2 * seeded(3, 4), 2 * seeded(3, 4, seed=1), torch.tensor([-3.0, 0.0, 3.0])
    objective = Objective(in_weight=3.0, increase_weight=1.5, out_weight=0.7, out_loss=out_loss)  # type: ignore[arg-type]
    found = objective.of_answers(heard, rest, DECISION, confidence, multilabel=multilabel)
    for row, decision in enumerate(DECISION.tolist()):
        p_in = probability(heard[row], decision, multilabel=multilabel)
        p_out = probability(rest[row], decision, multilabel=multilabel)
        inside, cross_entropy_out = -math.log(p_in), -math.log(p_out)
        outside = -math.log(1 - p_out) if out_loss == "bounded" else -cross_entropy_out
        missing = max(0.0, float(confidence[row]) + 0.5 - odds(heard[row], decision, multilabel=multilabel))
        assert float(found[row]) == pytest.approx(3.0 * inside + 1.5 * missing + 0.7 * outside, rel=1e-5)


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_mask_should_not_make_its_class_of_another_recording(multilabel: bool) -> None:
    exchanged, foreign = 2 * seeded(3, 4), torch.tensor([2, 1, 3])
    there = foreign == DECISION
    found = Objective(exchange_weight=1.5).of_exchanged(exchanged, foreign, there, multilabel=multilabel)
    assert float(found[0]) == 0, "it is of that class itself"
    for row in (1, 2):
        p = probability(exchanged[row], int(foreign[row]), multilabel=multilabel)
        assert float(found[row]) == pytest.approx(-1.5 * math.log(1 - p), rel=1e-5)


@pytest.mark.parametrize("multilabel", [False, True])
def test_log_odds_are_finite_where_the_classifier_is_sure(multilabel: bool) -> None:
    logits = torch.tensor([[1e4, 0.0, 0.0], [0.0, -1e4, 0.0]]).requires_grad_()
    found = log_odds(logits, torch.tensor([0, 1]), multilabel=multilabel)
    assert bool(torch.isfinite(torch.autograd.grad(found.sum(), logits)[0]).all())
    two_rivals = 0 if multilabel else math.log(2)
    assert found.tolist() == pytest.approx([1e4 - two_rivals, -1e4 - two_rivals], rel=1e-6)


def test_a_row_does_not_depend_on_the_batch() -> None:
    heard, rest, objective = seeded(3, 4), seeded(3, 4, seed=1), Objective()
    confidence = torch.tensor([1.0, 2.0, 3.0])
    whole = objective.of_answers(heard, rest, DECISION, confidence, multilabel=False)
    alone = objective.of_answers(heard[1:2], rest[1:2], DECISION[1:2], confidence[1:2], multilabel=False)
    assert float(whole[1]) == pytest.approx(float(alone[0]), rel=1e-6)


def test_total_variation_is_the_mean_step_between_neighbours() -> None:
    mask = masks(2, 4, 5)
    for row, found in zip(mask.tolist(), total_variation(mask).tolist(), strict=True):
        down = [abs(row[f + 1][n] - row[f][n]) for f in range(3) for n in range(5)]
        along = [abs(row[f][n + 1] - row[f][n]) for f in range(4) for n in range(4)]
        assert found == pytest.approx(sum(down) / len(down) + sum(along) / len(along), rel=1e-5)
    assert total_variation(torch.full((2, 4, 5), 0.3)).tolist() == [0, 0]
    assert total_variation(masks(2, 1, 1)).tolist() == [0, 0]


def test_binarisation_is_straight_through() -> None:
    mask = torch.tensor([[[0.2, 0.5, 0.51, 1.0]]]).requires_grad_()
    binary = binarised(mask)
    assert binary.flatten().tolist() == [0, 0, 1, 1]
    slopes = torch.tensor([[[1.0, -2.0, 3.0, 4.0]]])
    assert torch.equal(torch.autograd.grad(binary, mask, slopes)[0], slopes)


@pytest.mark.parametrize(
    "wrong",
    [{"in_weight": -1.0}, {"tv": float("nan")}, {"out_loss": "boundless"}, {"sparsity": "4"},
     dict.fromkeys(("in_weight", "increase_weight", "out_weight", "exchange_weight", "sparsity"), 0.0)],
)  # fmt: skip
def test_wrong_weights_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Objective(**wrong)  # type: ignore[arg-type]


# --- guidance


@pytest.mark.parametrize("scale", ["magnitude", "log1p"])
@pytest.mark.parametrize("loss", ["bce", "norm"])
def test_guidance_is_the_formula(loss: str, scale: Any) -> None:
    mask, recording, clean = masks(2, 3, 4), 5 * masks(2, 3, 4, seed=1), 5 * masks(2, 3, 4, seed=2)
    guidance = Guidance(weight=16.0, loss=loss, least_cosine=-1.0)  # type: ignore[arg-type]
    found, guided = guidance.of_masks(mask, recording, clean, scale=scale)
    assert guided.tolist() == [True, True]
    for row in range(2):
        levels = [math.log1p(float(value)) for value in clean[row].flatten()]
        terms = []
        for m, x, level in zip(mask[row].flatten().tolist(), recording[row].flatten().tolist(), levels, strict=True):
            target = 1.0 if level >= 0.35 * max(levels) else 0.0
            bce = -(target * math.log(m) + (1 - target) * math.log(1 - m))
            terms.append(bce if loss == "bce" else (masked_level(m, x, scale) - level) ** 2)
        assert float(found[row]) == pytest.approx(16 * sum(terms) / len(terms), rel=1e-4)


def masked_level(mask: float, magnitude: float, scale: str) -> float:
    """log1p of what a mask leaves of a magnitude."""
    return math.log1p(mask * magnitude) if scale == "magnitude" else mask * math.log1p(magnitude)


@pytest.mark.parametrize("scale", ["magnitude", "log1p"])
def test_the_threshold_is_on_the_cosine_of_masked_and_clean_recording(scale: Any) -> None:
    mask, recording, clean = masks(1, 3, 4), 50 * masks(1, 3, 4, seed=1) ** 4, 5 * masks(1, 3, 4, seed=2)
    pairs = zip(*(each.flatten().tolist() for each in (mask, recording, clean)), strict=True)
    levels = [(masked_level(m, x, scale), math.log1p(c)) for m, x, c in pairs]
    norms = [math.sqrt(sum(level[side] ** 2 for level in levels)) for side in (0, 1)]
    wanted = sum(a * b for a, b in levels) / (norms[0] * norms[1])
    for threshold, expected in ((wanted - 1e-4, True), (wanted + 1e-4, False)):
        _, guided = Guidance(least_cosine=threshold).of_masks(mask, recording, clean, scale=scale)
        assert guided.tolist() == [expected]


def test_only_clips_near_the_clean_one_are_guided() -> None:
    clean = torch.zeros(2, 2, 2)
    clean[:, 0] = 1.0
    mask = torch.stack([torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.1], [1.0, 1.0]])])
    recording = torch.ones(2, 2, 2)
    found, guided = Guidance(least_cosine=0.6).of_masks(mask, recording, clean, scale="magnitude")
    assert guided.tolist() == [True, False]
    assert float(found[1]) == 0


def test_a_silent_clip_is_neither_loud_nor_guided() -> None:
    silence = torch.zeros(1, 2, 2)
    assert loud_bins(silence).tolist() == silence.tolist()
    found, guided = Guidance().of_masks(torch.full((1, 2, 2), 0.5), silence, silence, scale="magnitude")
    assert guided.tolist() == [False]
    assert found.tolist() == [0]
    assert cosine(torch.ones(1, 2, 2), silence).tolist() == [0]


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"loss": "mse"}, {"least_cosine": 1.1}])
def test_wrong_guidance_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Guidance(**wrong)  # type: ignore[arg-type]


# --- the warp to a budget


@pytest.mark.parametrize("budget", [0.02, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("width", [0.1, 1.0, 8.0])
def test_a_warp_keeps_the_budget_as_the_benchmark_does(budget: float, width: float) -> None:
    log_mask = -(width * seeded(3, 16, 20)).exp().clamp(1e-4, 30)
    magnitude = masks(3, 16, 20, seed=1).square()
    gain = warped(log_mask, magnitude.square(), torch.full((3,), budget)).exp()
    kept = (gain * magnitude).square().sum((1, 2)) / magnitude.square().sum((1, 2))
    assert kept.tolist() == pytest.approx([budget] * 3, rel=1e-3)
    wanted = EnergyBudget(log_mask.exp(), magnitude).gain(budget)
    assert torch.allclose(gain, wanted, atol=2e-3)


def test_only_ratios_of_levels_count() -> None:
    log_mask, energy, budget = -masks(2, 8, 9), masks(2, 8, 9, seed=1), torch.tensor([0.2, 0.6])
    assert torch.allclose(warped(log_mask, energy, budget), warped(7 * log_mask, energy, budget), atol=1e-3)


def test_the_gradient_of_a_warp_is_that_of_the_implicit_exponent() -> None:
    log_mask, energy = -masks(1, 3, 4).double() - 0.1, masks(1, 3, 4, seed=1).double()
    leaf = log_mask.clone().requires_grad_()
    found = warped(leaf, energy, torch.tensor([0.3]))
    g = (found[0, 0, 0] / log_mask[0, 0, 0]).item()
    levels, mass = log_mask.flatten(), (energy / energy.sum()).flatten()
    kept = mass * torch.exp(2 * g * levels)
    by_g = float((2 * kept * levels).sum())
    for cell in (0, 5, 11):
        row = torch.autograd.grad(found.flatten()[cell], leaf, retain_graph=True)[0].flatten()
        for other in range(12):
            moved_g = -2 * g * float(kept[other]) / by_g  # dE/dM + dE/dg dg/dM = 0
            assert float(row[other]) == pytest.approx(g * (cell == other) + float(levels[cell]) * moved_g, rel=1e-5)
    constant = (energy * torch.exp(2 * found)).sum()
    assert float(torch.autograd.grad(constant, leaf)[0].abs().max()) < 1e-9


def test_rows_are_warped_alone_and_silent_ones_stay() -> None:
    log_mask, energy, budget = -(2 * seeded(3, 8, 9)).exp(), masks(3, 8, 9, seed=1), torch.tensor([0.1, 0.9, 0.5])
    energy[2] = 0
    whole = warped(log_mask, energy, budget)
    alone = torch.cat(
        [warped(log_mask[row : row + 1], energy[row : row + 1], budget[row : row + 1]) for row in range(3)]
    )
    assert torch.equal(whole, alone)
    assert torch.equal(whole[2], log_mask[2])


# --- what is watched


@pytest.mark.parametrize(
    ("level", "spread", "said"),
    [
        (0.001, 0.0, "the masks have collapsed to all-zero"),
        (0.999, 0.0, "the masks have collapsed to all-one"),
        (0.4, 0.0, "the masks have collapsed to a constant gain of 0.40"),
        (0.3, 0.2, ""),
    ],
)
def test_collapsed_masks_are_named(level: float, spread: float, said: str) -> None:
    numbers = {**dict.fromkeys(COLUMNS, 0.0), "level": level, "spread": spread}
    curves = Curves([[numbers[name] for name in COLUMNS]])
    assert collapse(level, spread) == curves.collapse == said
    assert curves.summary().endswith(curves.collapse)
