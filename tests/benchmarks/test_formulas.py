"""The faithfulness formulas: against the reference's own numbers, slow re-derivations, and what must always hold."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from earwitness.errors import ClassifierError, ConfigurationError, ExplanationError
from earwitness.protocols import Curve
from earwitness_bench.metrics.formulas import (
    INCREASE_TOLERANCE,
    average_drop,
    average_drop_recipe,
    average_gain,
    average_increase,
    complexity,
    faithfulness,
    input_fidelity,
    sparseness,
    top_k_fidelity,
)

PAIRED = [faithfulness, average_increase, average_drop, average_gain]


class Recipe:
    """The reference's inputs, and the probabilities of the class that it explains."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "metrics.npz") as stored:
            self.arrays = {name: stored[name] for name in stored.files}
        self.original, self.heard, self.rest = (self.tensor(f"in_p_{which}") for which in ("orig", "in", "out"))
        self.predicted = self.original.argmax(1)
        index = self.predicted.unsqueeze(1)
        self.p, self.p_heard, self.p_rest = (
            rows.gather(1, index).squeeze(1) for rows in (self.original, self.heard, self.rest)
        )

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])


@pytest.fixture(scope="module")
def recipe(golden: Path) -> Recipe:
    return Recipe(golden)


def random_probabilities(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_maps(n_maps: int = 5, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n_maps, 7, 9, generator=generator, dtype=torch.float64) ** 4


# --- against the arrays of the recipe -----------------------------------------------------------------------------


@pytest.mark.golden
def test_faithfulness_equals_the_recipe_on_every_clip(recipe: Recipe) -> None:
    ours = faithfulness(recipe.p, recipe.p_rest)
    assert torch.equal(ours, recipe.tensor("FF"))
    assert float(ours.mean()) == pytest.approx(0.331707, abs=1e-6)
    assert float(np.median(ours.numpy())) == pytest.approx(0.346863, abs=1e-6)


@pytest.mark.golden
def test_average_increase_without_tolerance_equals_the_recipe_on_every_clip(recipe: Recipe) -> None:
    ours = average_increase(recipe.p, recipe.p_heard, tolerance=0)
    assert torch.equal(ours, recipe.tensor("AI"))
    assert float(ours.mean()) == 29.6875


@pytest.mark.golden
def test_average_drop_equals_the_papers_formula_on_every_clip(recipe: Recipe) -> None:
    ours = average_drop(recipe.p, recipe.p_heard)
    torch.testing.assert_close(ours, recipe.tensor("AD_paper"), rtol=1e-5, atol=1e-6)
    assert float(ours.mean()) == pytest.approx(33.807968, rel=1e-5)


@pytest.mark.golden
def test_average_drop_recipe_equals_the_recipe_on_every_clip(recipe: Recipe) -> None:
    ours = average_drop_recipe(recipe.original, recipe.heard, recipe.predicted)
    torch.testing.assert_close(ours, recipe.tensor("AD_recipe"), rtol=1e-5, atol=5e-5)
    assert float(ours.mean()) == pytest.approx(14.855478, rel=1e-5)


@pytest.mark.golden
def test_average_gain_equals_the_recipe_on_every_clip(recipe: Recipe) -> None:
    ours = average_gain(recipe.p, recipe.p_heard)
    torch.testing.assert_close(ours, recipe.tensor("AG"), rtol=1e-6, atol=0)
    assert float(ours.mean()) == pytest.approx(9.950223, rel=1e-6)


@pytest.mark.golden
def test_input_fidelity_equals_the_recipe_on_every_clip(recipe: Recipe) -> None:
    ours = input_fidelity(recipe.predicted, recipe.heard.argmax(1))
    assert torch.equal(ours, recipe.tensor("FidIn"))
    assert float(ours.mean()) == 0.5


@pytest.mark.golden
@pytest.mark.parametrize(("k", "mean"), [(1, 0.5), (3, 0.84375), (5, 0.9375)])
def test_top_k_fidelity_equals_the_reference(recipe: Recipe, k: int, mean: float) -> None:
    ours = top_k_fidelity(recipe.tensor("in_logits_interp"), recipe.predicted, k)
    assert float(ours.mean()) == mean == float(recipe.arrays[f"top{k}_fidelity"])


@pytest.mark.golden
@pytest.mark.parametrize("version", ["q053", "q060"])
def test_sparseness_and_complexity_equal_quantus_on_every_clip(recipe: Recipe, version: str) -> None:
    masks = recipe.tensor("in_masks")
    for ours, name, mean in ((sparseness(masks), "SPS", 0.661103), (complexity(masks), "COMP", 7.149836)):
        torch.testing.assert_close(ours.double(), recipe.tensor(f"{name}_{version}"), rtol=0, atol=2e-6)
        assert float(ours.mean()) == pytest.approx(mean, abs=2e-6)


@pytest.mark.golden
def test_sparseness_and_complexity_of_odd_masks_equal_quantus_or_are_defined(recipe: Recipe) -> None:
    names = [str(name) for name in recipe.arrays["edge_names"]]
    masks = torch.stack([recipe.tensor(f"edge_mask_{name}") for name in names])
    n_cells = masks[0].numel()
    sps = dict(zip(names, sparseness(masks).tolist(), strict=True))
    comp = dict(zip(names, complexity(masks).tolist(), strict=True))
    reference = {
        name: row
        for name, *row in zip(names, recipe.arrays["edge_SPS_q060"], recipe.arrays["edge_COMP_q060"], strict=True)
    }
    for name in ("half", "spike", "ramp"):
        assert [sps[name], comp[name]] == pytest.approx(reference[name], abs=1e-6), name
    for constant in ("ones", "tiny"):  # Quantus asserts here
        assert sps[constant] == 0
        assert comp[constant] == pytest.approx(math.log(n_cells), rel=1e-6)
    assert math.isnan(sps["zeros"])
    assert math.isnan(comp["zeros"])


# --- against slow loops -------------------------------------------------------------------------------------------


def slow_scores(p: float, p_heard: float, p_rest: float) -> dict[str, float]:
    """L-MAC section 3.1, one clip at a time."""
    return {
        "FF": p - p_rest,
        "AI": 100.0 if p_heard > p else 0.0,
        "AD": max(0.0, p - p_heard) / p * 100,
        "AG": max(0.0, p_heard - p) / (1 - p) * 100,
    }


def test_scores_equal_a_loop_over_clips() -> None:
    p, p_heard, p_rest = random_probabilities(3, 40)
    expected = [slow_scores(*row) for row in zip(p.tolist(), p_heard.tolist(), p_rest.tolist(), strict=True)]
    ours = {
        "FF": faithfulness(p, p_rest),
        "AI": average_increase(p, p_heard, tolerance=0),
        "AD": average_drop(p, p_heard),
        "AG": average_gain(p, p_heard),
    }
    for name, values in ours.items():
        assert values.tolist() == pytest.approx([row[name] for row in expected], rel=1e-12), name


def test_average_drop_recipe_equals_a_loop_over_clips() -> None:
    original, heard = torch.softmax(4 * random_probabilities(2, 20, 6), dim=2)
    target = original.argmax(1)
    expected = []
    for row, row_heard, c in zip(original.numpy(), heard.numpy(), target.tolist(), strict=True):
        twice, twice_heard = (np.exp(values[c]) / np.exp(values).sum() for values in (row, row_heard))
        expected.append(100 * max(0.0, twice - twice_heard) / twice)
    assert average_drop_recipe(original, heard, target).tolist() == pytest.approx(expected, rel=1e-12)


def test_top_k_fidelity_equals_sorting_each_row() -> None:
    logits = random_probabilities(30, 8, seed=3)
    predicted = torch.arange(30) % 8
    for k in range(1, 9):
        expected = [
            float(c in np.argsort(-row, kind="stable")[:k])
            for row, c in zip(logits.numpy(), predicted.tolist(), strict=True)
        ]
        assert top_k_fidelity(logits, predicted, k).tolist() == expected


def test_sparseness_equals_the_mean_difference_between_cells() -> None:
    maps = random_maps()
    expected = []
    for cells in maps.flatten(1).numpy():
        lifted = cells / cells.max() + 1e-7
        differences = sum(abs(a - b) for a in lifted for b in lifted)
        expected.append(differences / (2 * len(lifted) ** 2 * lifted.mean()))
    assert sparseness(maps).tolist() == pytest.approx(expected, rel=1e-10)


def test_complexity_equals_a_loop_over_cells() -> None:
    maps = random_maps()
    maps[0, :3] = 0
    expected = []
    for cells in maps.flatten(1).numpy():
        shares = [cell / cells.sum() for cell in cells]
        expected.append(-sum(share * math.log(share) for share in shares if share > 0))
    assert complexity(maps).tolist() == pytest.approx(expected, rel=1e-12)


def test_area_equals_the_integral_of_the_lines_between_points() -> None:
    budgets = torch.tensor([0.1, 0.2, 0.5, 0.9], dtype=torch.float64)
    values = random_probabilities(6, 4, seed=4)
    fine = np.linspace(0.1, 0.9, 8001)
    middles = (fine[1:] + fine[:-1]) / 2
    expected = [np.interp(middles, budgets.numpy(), row).mean() for row in values.numpy()]
    assert Curve(budgets, values).area().tolist() == pytest.approx(expected, rel=1e-6)


# --- what must always hold ----------------------------------------------------------------------------------------

PROBABILITY = st.floats(0, 1, width=32)
ROWS = st.lists(st.tuples(PROBABILITY, PROBABILITY), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_scores_stay_in_their_ranges(rows: list[tuple[float, float]]) -> None:
    p, other = torch.tensor(rows, dtype=torch.float32).T
    assert bool((faithfulness(p, other).abs() <= 1).all())
    for metric in (average_drop, average_gain, average_increase):
        scores = metric(p, other)
        assert bool(((scores >= 0) & (scores <= 100)).all()), metric.__name__


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_a_clip_gains_or_drops_but_never_both_and_gains_no_more_than_it_increases(
    rows: list[tuple[float, float]],
) -> None:
    p, p_heard = torch.tensor(rows, dtype=torch.float32).T
    drop, gain = average_drop(p, p_heard), average_gain(p, p_heard)
    assert bool((torch.minimum(drop, gain) == 0).all())
    assert bool((gain <= average_increase(p, p_heard, tolerance=0)).all())
    assert bool((drop[p_heard >= p] == 0).all())


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e3, 1e3), st.lists(st.floats(0.01, 1), min_size=2, max_size=9, unique=True))
def test_the_area_of_a_constant_is_that_constant(value: float, budgets: list[float]) -> None:
    axis = torch.tensor(sorted(budgets), dtype=torch.float64)
    area = Curve(axis, torch.full((1, len(budgets)), value, dtype=torch.float64)).area()
    assert float(area) == pytest.approx(value, rel=1e-9, abs=1e-9)


def test_the_area_of_a_straight_line_is_its_middle_however_budgets_are_spaced() -> None:
    budgets = torch.tensor([0.1, 0.15, 0.6, 0.9])
    assert Curve(budgets, 100 * budgets.expand(2, 4)).area().tolist() == pytest.approx([50, 50])


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
@pytest.mark.parametrize("metric", [sparseness, complexity])
def test_mask_scores_depend_on_neither_scale_nor_order_nor_neighbours(metric, scale: float) -> None:
    maps = random_maps()
    alone = torch.cat([metric(one.unsqueeze(0)) for one in maps])
    torch.testing.assert_close(metric(maps), alone)
    scaled = maps.clone()
    scaled[0] *= scale
    torch.testing.assert_close(metric(scaled), alone)
    torch.testing.assert_close(metric(maps.flip(1, 2)), alone)
    torch.testing.assert_close(metric(-maps), alone)


def test_mask_scores_of_k_equal_cells_are_known() -> None:
    maps = torch.zeros(3, 5, 4, dtype=torch.float64)
    for row, k in enumerate((1, 4, 10)):
        maps[row].view(-1)[:k] = 0.3
    assert complexity(maps).tolist() == pytest.approx([math.log(k) for k in (1, 4, 10)])
    assert sparseness(maps).tolist() == pytest.approx([1 - k / 20 for k in (1, 4, 10)], abs=1e-5)


# --- edges --------------------------------------------------------------------------------------------------------


def test_the_same_sound_scores_as_the_same_sound() -> None:
    p = random_probabilities(10).float()
    for metric in (average_drop, average_gain, faithfulness, average_increase):
        assert metric(p, p).tolist() == [0] * 10, metric.__name__
    assert average_increase(p, p, tolerance=0).tolist() == [0] * 10


def test_a_rise_within_rounding_is_no_increase() -> None:
    p = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
    heard = p + torch.tensor([0.5, 1.0, 1.5]) * INCREASE_TOLERANCE
    assert average_increase(p, heard).tolist() == [0, 0, 100]
    assert average_increase(p, heard, tolerance=0).tolist() == [100, 100, 100]


def test_certain_and_impossible_decisions_have_defined_scores() -> None:
    p, p_heard = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    assert average_drop(p, p_heard).tolist() == [0, 0, 0, 100]
    assert average_gain(p, p_heard).tolist() == [0, 100, 0, 0]


def test_probabilities_a_rounding_error_above_one_gain_nothing_absurd() -> None:
    assert average_gain(torch.tensor([1.0]), torch.tensor([1.000001])).tolist() == [0]


@pytest.mark.parametrize("metric", PAIRED)
def test_a_missing_probability_makes_only_its_own_row_undefined(metric) -> None:
    p, other = torch.tensor([0.5, math.nan, 0.5]), torch.tensor([math.nan, 0.5, 0.2])
    assert metric(p, other).isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("metric", PAIRED)
@pytest.mark.parametrize("n_budgets", [1, 3, 4])
def test_each_budget_scores_as_it_does_alone(metric, n_budgets: int) -> None:
    p, other = random_probabilities(4), random_probabilities(4, n_budgets, seed=9)
    together = metric(p, other)
    assert together.shape == (4, n_budgets)
    for s in range(n_budgets):
        assert torch.equal(together[:, s], metric(p, other[:, s]))


def test_input_fidelity_compares_rows_with_rows_at_every_budget() -> None:
    predicted, heard = torch.tensor([0, 1]), torch.tensor([[0, 1], [0, 1]])
    assert input_fidelity(predicted, heard).tolist() == [[1, 0], [0, 1]]


def test_equal_surrogate_scores_are_ranked_by_class_index() -> None:
    logits = torch.zeros(3, 3)
    assert top_k_fidelity(logits, torch.arange(3), 1).tolist() == [1, 0, 0]
    assert top_k_fidelity(logits, torch.arange(3), 2).tolist() == [1, 1, 0]


def test_a_surrogate_that_is_not_a_number_has_no_fidelity() -> None:
    logits = torch.tensor([[0.0, math.nan], [0.0, 1.0]])
    assert top_k_fidelity(logits, torch.tensor([0, 1]), 1).isnan().tolist() == [True, False]


@pytest.mark.parametrize("metric", PAIRED)
@pytest.mark.parametrize(
    ("p", "other", "hint"),
    [
        (torch.tensor([0.5]), torch.tensor([3.2]), "softmax or sigmoid"),
        (torch.tensor([-2.0]), torch.tensor([0.5]), "softmax or sigmoid"),
        (torch.tensor([0.5]), torch.tensor([math.inf]), "softmax or sigmoid"),
        (torch.tensor([1]), torch.tensor([0.5]), "float"),
        (torch.rand(3), torch.rand(4), "clip axis first"),
        (torch.rand(3), torch.rand(1), "clip axis first"),
        (torch.rand(3), torch.rand(4, 3), "clip axis first"),
        (torch.rand(3, 4), torch.rand(3), "clip axis first"),
        (torch.rand(3, 1, 1), torch.rand(3, 1, 1), "clip axis first"),
        (torch.tensor(0.5), torch.tensor(0.5), "clip axis first"),
    ],
)
def test_what_is_no_probability_per_row_is_refused_with_advice(metric, p: Tensor, other: Tensor, hint: str) -> None:
    with pytest.raises(ClassifierError, match=hint):
        metric(p, other)


def test_other_bad_arguments_are_refused_with_advice() -> None:
    rows = torch.rand(3, 4)
    with pytest.raises(ConfigurationError, match="0 or more"):
        average_increase(rows[:, 0], rows[:, 1], tolerance=-1)
    with pytest.raises(ClassifierError, match="whole rows"):
        average_drop_recipe(rows[:, 0], rows[:, 0], torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ClassifierError, match="same classifier"):
        average_drop_recipe(rows, rows, torch.tensor([0, 1, 4]))
    with pytest.raises(ClassifierError, match="one class a row"):
        top_k_fidelity(rows, torch.tensor([0, 1]), 1)
    with pytest.raises(ClassifierError, match="argmax"):
        input_fidelity(rows, rows)
    with pytest.raises(ClassifierError, match="all classes"):
        top_k_fidelity(rows[0], torch.tensor([0]), 1)
    for k in (0, 5):
        with pytest.raises(ConfigurationError, match="between 1 and the 4 classes"):
            top_k_fidelity(rows, torch.tensor([0, 1, 2]), k)


@pytest.mark.parametrize(
    ("budgets", "values"),
    [
        ([0.5], torch.rand(2, 1)),
        ([0.5, 0.1], torch.rand(2, 2)),
        ([0.1, 0.1], torch.rand(2, 2)),
        ([0.1, math.nan], torch.rand(2, 2)),
        ([0.1, 0.5], torch.rand(2, 3)),
        ([0.1, 0.5], torch.rand(2)),
    ],
)
def test_a_curve_needs_ascending_budgets_and_a_column_for_each(budgets: list[float], values: Tensor) -> None:
    with pytest.raises(ExplanationError):
        Curve(torch.tensor(budgets), values)


def test_a_curve_with_a_gap_has_no_area() -> None:
    values = torch.tensor([[0.0, math.nan, 1.0], [0.0, 0.5, 1.0]])
    assert Curve(torch.tensor([0.1, 0.5, 0.9]), values).area().isnan().tolist() == [True, False]


@pytest.mark.parametrize("metric", [sparseness, complexity])
def test_maps_that_cannot_be_scored_are_refused(metric) -> None:
    with pytest.raises(ExplanationError, match=r"rows \[1\]"):
        metric(torch.tensor([[0.0, 1.0], [math.nan, 1.0]]))
    for bad in (torch.rand(3), torch.rand(3, 0), torch.ones(3, 2, dtype=torch.int64)):
        with pytest.raises(ExplanationError, match="clip axis"):
            metric(bad)


def test_an_empty_batch_has_no_scores() -> None:
    none = torch.rand(0)
    for metric in PAIRED:
        assert metric(none, none).shape == (0,)
        assert metric(none, torch.rand(0, 3)).shape == (0, 3)
    assert sparseness(torch.rand(0, 3, 4)).shape == complexity(torch.rand(0, 3, 4)).shape == (0,)
    assert Curve(torch.tensor([0.1, 0.9]), torch.rand(0, 2)).area().shape == (0,)
