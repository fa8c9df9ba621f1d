"""Maps at equal budgets of signal energy."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from earwitness.audio.budget import EnergyBudget, WarpForm
from earwitness.errors import ExplanationError

SHAPE = (1, 65, 90)
BUDGETS = (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999)
FORMS: tuple[WarpForm, ...] = ("soft", "hard")


def uniform(seed: int) -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def one_bin(value: float = 1.0, rest: float = 0.0) -> Tensor:
    values = torch.full(SHAPE, rest)
    values[0, 7, 11] = value
    return values


MAGNITUDES = {
    "noise": uniform(0),
    "speech-like": torch.exp(3 * normal(1)),
    "a few loud bins": torch.exp(8 * normal(2)),
    "a sine": one_bin(100.0, 1e-3),
    "faint": 1e-20 * uniform(3),
    "half digital silence": uniform(4) * (torch.arange(SHAPE[2]) > 40),
}

MAPS = {
    "noise": uniform(10),
    "steep noise": uniform(11) ** 30,
    "sparse": uniform(12) * (uniform(13) > 0.99),
    "binary": (uniform(14) > 0.5).float(),
    "two levels": torch.where(uniform(15) > 0.5, 1.0, 0.999),
    "constant": torch.full(SHAPE, 0.3),
    "nearly one": 1 - 1e-6 * uniform(16),
    "nearly zero": 1e-37 * uniform(17),
    "all zero": torch.zeros(SHAPE),
    "all one": torch.ones(SHAPE),
    "one bin": one_bin(),
}


def loudness_maps(magnitude: Tensor) -> dict[str, Tensor]:
    loudness = magnitude / magnitude.max()
    return {"loudness": loudness, "its square": loudness**2, "its complement": 1 - loudness}


def kept(gain: Tensor, magnitude: Tensor) -> float:
    """Share of energy by a sum that knows nothing of the code."""
    energy = magnitude.double() ** 2
    return math.fsum((gain.double() ** 2 * energy).flatten().tolist()) / math.fsum(energy.flatten().tolist())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sound", MAGNITUDES)
def test_every_map_meets_every_budget(sound: str, form: WarpForm) -> None:
    magnitude = MAGNITUDES[sound]
    for name, values in {**MAPS, **loudness_maps(magnitude)}.items():
        budgeted = EnergyBudget(values, magnitude)
        for budget in BUDGETS:
            gain = budgeted.gain(budget, form)
            assert gain.shape == SHAPE
            assert gain.dtype == torch.float32
            assert 0 <= float(gain.min()) <= float(gain.max()) <= 1, (name, budget)
            assert abs(kept(gain, magnitude) - budget) < 1e-5, (name, budget)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sound", MAGNITUDES)
def test_a_higher_budget_takes_nothing_away(sound: str, form: WarpForm) -> None:
    magnitude = MAGNITUDES[sound]
    for name, values in {**MAPS, **loudness_maps(magnitude)}.items():
        budgeted = EnergyBudget(values, magnitude)
        gains = [budgeted.gain(budget, form) for budget in BUDGETS]
        for lower, higher in itertools.pairwise(gains):
            assert float((lower - higher).max()) < (1e-3 if form == "soft" else 1e-6), name
            assert not (lower.bool() & ~higher.bool()).any() or form == "soft", name


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_the_cells_stays(form: WarpForm) -> None:
    for magnitude in MAGNITUDES.values():
        for name, values in {**MAPS, **loudness_maps(magnitude)}.items():
            order = values.flatten().argsort()
            level = values.flatten()[order]
            for budget in BUDGETS:
                gain = EnergyBudget(values, magnitude).gain(budget, form).flatten()[order]
                assert float(gain.diff().min()) > -1e-6, (name, budget)
                equal = level.diff() == 0
                assert float(gain.diff()[equal].abs().max() if equal.any() else 0.0) == 0, (name, budget)


def test_the_soft_form_is_a_power_of_the_map() -> None:
    magnitude = MAGNITUDES["speech-like"]
    values = MAPS["noise"].clamp_min(1e-3)
    for budget in BUDGETS:
        gain = EnergyBudget(values, magnitude).gain(budget, "soft")
        low, high = -10.0, 10.0
        for _ in range(60):  # the exponent by bisection on the map itself
            middle = (low + high) / 2
            too_much = kept(values.double() ** (2**middle), magnitude) > budget
            low, high = (middle, high) if too_much else (low, middle)
        assert torch.allclose(gain.double(), values.double() ** (2**low), atol=2e-4)


def test_the_hard_form_keeps_the_top_bins_and_a_part_of_the_edge() -> None:
    magnitude, values = MAGNITUDES["speech-like"], MAPS["noise"]
    energy = (magnitude.double() ** 2 / (magnitude.double() ** 2).sum()).flatten().tolist()
    order = sorted(range(len(energy)), key=lambda i: -float(values.flatten()[i]))
    for budget in BUDGETS:
        gain = EnergyBudget(values, magnitude).gain(budget, "hard").flatten().tolist()
        left = budget
        for i in order:
            wanted = min(1.0, math.sqrt(max(0.0, left) / energy[i]))
            # an edge of little energy is where all rounding ends up
            assert gain[i] == pytest.approx(wanted, abs=math.sqrt(1e-6 / max(energy[i], 1e-6)))
            left = max(0.0, left - energy[i])


@pytest.mark.parametrize("form", FORMS)
def test_cells_outside_a_support_that_is_too_small_get_one_common_gain(form: WarpForm) -> None:
    magnitude = torch.ones(1, 2, 5)
    values = torch.tensor([[[1.0, 0.5, 0, 0, 0], [0.0, 0, 0, 0, 0]]])
    gain = EnergyBudget(values, magnitude).gain(0.6, form)
    assert torch.allclose(gain[0, 0, :2], torch.ones(2))
    assert torch.allclose(gain.flatten()[2:], torch.full((8,), math.sqrt(0.4 / 0.8)))


@pytest.mark.parametrize("form", FORMS)
def test_a_maximum_that_holds_too_much_is_scaled_down(form: WarpForm) -> None:
    magnitude = torch.ones(1, 2, 5)
    values = torch.tensor([[[1.0, 1, 1, 1, 1], [0.5, 0.1, 0, 0, 0]]])
    gain = EnergyBudget(values, magnitude).gain(0.2, form)
    assert torch.allclose(gain[0, 0], torch.full((5,), math.sqrt(0.4)), atol=1e-6)
    assert float(gain[0, 1].abs().max()) < 1e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MAPS)
def test_all_or_nothing_can_be_asked_for(name: str, form: WarpForm) -> None:
    budgeted = EnergyBudget(MAPS[name], MAGNITUDES["noise"])
    assert (budgeted.gain(1.0, form) > 1 - 1e-6).all()
    assert kept(budgeted.gain(0.0, form), MAGNITUDES["noise"]) < 1e-9


@pytest.mark.parametrize("form", FORMS)
def test_a_row_depends_neither_on_its_batch_nor_on_others_budgets(form: WarpForm) -> None:
    maps = torch.cat([MAPS[name] for name in ("noise", "sparse", "constant", "all zero", "binary")])
    magnitude = torch.cat([MAGNITUDES[n] for n in ("noise", "speech-like", "a sine", "faint", "a few loud bins")])
    budgets = torch.tensor([0.1, 0.5, 0.9, 0.3, 0.999])
    together = EnergyBudget(maps, magnitude).gain(budgets, form)
    for row, budget in enumerate(budgets.tolist()):
        alone = EnergyBudget(maps[row : row + 1], magnitude[row : row + 1]).gain(budget, form)
        assert torch.allclose(together[row], alone[0], atol=1e-6)
        assert abs(kept(together[row], magnitude[row]) - budget) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_a_silent_row_is_finite_and_leaves_the_others_alone(form: WarpForm) -> None:
    magnitude = torch.cat([torch.zeros(SHAPE), MAGNITUDES["noise"]])
    maps = torch.cat([MAPS["noise"], MAPS["noise"]])
    gain = EnergyBudget(maps, magnitude).gain(0.4, form)
    assert torch.isfinite(gain).all()
    assert 0 <= float(gain.min()) <= float(gain.max()) <= 1
    assert abs(kept(gain[1], magnitude[1]) - 0.4) < 1e-5


@settings(max_examples=100, deadline=None)
@given(
    levels=st.lists(st.floats(0, 1, width=32), min_size=6, max_size=6),
    loudness=st.lists(st.floats(2.0**-20, 1, width=32), min_size=6, max_size=6),
    budget=st.floats(0.001, 0.999),
    form=st.sampled_from(FORMS),
)
def test_any_small_map_meets_any_budget(
    levels: list[float], loudness: list[float], budget: float, form: WarpForm
) -> None:
    maps, magnitude = torch.tensor(levels).reshape(1, 2, 3), torch.tensor(loudness).reshape(1, 2, 3)
    assert abs(kept(EnergyBudget(maps, magnitude).gain(budget, form), magnitude) - budget) < 1e-4


def test_a_map_that_is_not_on_the_listening_stft_is_refused() -> None:
    with pytest.raises(ExplanationError, match=r"\(1, 64, 90\).*\(1, 65, 90\).*Lift"):
        EnergyBudget(torch.ones(1, 64, 90), MAGNITUDES["noise"])
