"""Rules from relevance to a mask, each against a slow loop."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from earwitness.audio.rules import Energy, Normalise, PercentileBlur, Quantile, RelevanceShare, Rule, parse_rule
from earwitness.errors import ConfigurationError

RULES: list[Rule] = [
    Normalise(),
    Quantile(0.9),
    Quantile(0.123456789012345),
    RelevanceShare(0.5),
    RelevanceShare(1e-7),
    PercentileBlur(),
    PercentileBlur(33.3),
    PercentileBlur(50),
    Energy(0.3),
    Energy(1 / 3, "hard"),
    Energy(0.00001, "soft"),
]
MASKING = [Normalise(), Quantile(0.9), RelevanceShare(0.5), PercentileBlur()]

maps = st.lists(st.integers(-3, 6), min_size=1, max_size=24).map(lambda v: torch.tensor(v, dtype=torch.float32))


def relevance(seed: int = 0, shape: tuple[int, ...] = (3, 12, 17)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- each rule by hand ------------------------------------------------------------------------------------------------


def test_normalise_divides_the_positive_part_by_its_maximum() -> None:
    values = relevance()
    for row, got in zip(values, Normalise()(values), strict=True):
        highest = max(row.flatten().tolist())
        wanted = [max(0.0, value) / highest for value in row.flatten().tolist()]
        assert got.flatten().tolist() == pytest.approx(wanted, rel=1e-6)
        assert got.max() == 1


@pytest.mark.parametrize("unit", [1e-42, 1e-30, 1.0, 1e30])
def test_normalise_reaches_one_whatever_the_unit(unit: float) -> None:
    mask = Normalise()(torch.tensor([[1.0, 2.0, -4.0]]) * unit)
    assert torch.allclose(mask, torch.tensor([[0.5, 1.0, 0.0]]), atol=1e-3)


@settings(max_examples=100, deadline=None)
@given(row=maps, q=st.floats(0.01, 0.99))
def test_quantile_keeps_what_is_above_numpys_quantile(row: Tensor, q: float) -> None:
    threshold = np.quantile(row.double().numpy(), q)
    wanted = [float(value > threshold + 1e-6 and value > 0) for value in row.tolist()]
    assert Quantile(q)(row[None])[0].tolist() == wanted


def test_quantile_of_distinct_positive_values_keeps_the_share_above() -> None:
    values = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).float()[None] + 1
    for q in (0.1, 0.5, 0.9, 0.99):
        assert int(Quantile(q)(values).sum()) == round((1 - q) * 1000)


def test_a_quantile_that_is_a_value_is_that_value_in_floating_point_too() -> None:
    values = torch.arange(101).float()[None]
    for hundredth in range(1, 100):  # 0.29 * 100 < 29
        assert int(Quantile(hundredth / 100)(values).sum()) == 100 - hundredth


@settings(max_examples=150, deadline=None)
@given(row=maps.filter(lambda row: len(row) <= 9), p=st.sampled_from([0.07, 0.25, 0.3, 0.5, 0.7, 0.9, 0.99]))
def test_relevance_share_is_the_smallest_set_that_holds_the_share(row: Tensor, p: float) -> None:
    kept = RelevanceShare(p)(row[None])[0].bool()
    positive = [max(0.0, value) for value in row.tolist()]
    wanted = p * sum(positive) - 1e-9
    held = sum(value for value, keep in zip(positive, kept.tolist(), strict=True) if keep)
    assert held >= wanted
    sizes = range(len(positive) + 1)
    smallest = next(n for n in sizes if max(map(sum, itertools.combinations(positive, n))) >= wanted)
    assert int(kept.sum()) == (smallest if sum(positive) > 0 else 0)


def test_of_equal_cells_the_first_are_taken_and_no_more_than_needed() -> None:
    for share in range(1, 100):
        kept = RelevanceShare(share / 100)(torch.ones(1, 10, 10))
        assert kept.flatten().tolist() == [1.0] * share + [0.0] * (100 - share)


def test_percentile_blur_is_scipys_gaussian_over_the_top_of_the_positive_part() -> None:
    values = relevance(1, (4, 20, 31)) - 0.5
    masks = PercentileBlur(80)(values)
    for row, mask in zip(values.double().numpy(), masks, strict=True):
        positive = np.maximum(row, 0)
        kept = np.where(positive > np.percentile(positive, 80), positive, 0)
        blurred = ndimage.gaussian_filter(kept, sigma=1, truncate=2, mode="mirror")
        np.testing.assert_allclose(mask.numpy(), blurred / blurred.max(), atol=1e-6)


def test_percentile_blur_of_samples_runs_along_their_one_axis() -> None:
    values = relevance(2, (2, 50))
    for row, mask in zip(values.double().numpy(), PercentileBlur(70)(values), strict=True):
        positive = np.maximum(row, 0)
        kept = np.where(positive > np.percentile(positive, 70), positive, 0)
        blurred = ndimage.gaussian_filter1d(kept, sigma=1, truncate=2, mode="mirror")
        np.testing.assert_allclose(mask.numpy(), blurred / blurred.max(), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 9), (2, 2, 2), (2, 1, 1), (2, 1)])
def test_percentile_blur_takes_maps_smaller_than_its_kernel(shape: tuple[int, ...]) -> None:
    mask = PercentileBlur(50)(relevance(3, shape).abs())
    assert mask.shape == shape
    assert torch.isfinite(mask).all()


# -- what all rules have in common ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", MASKING, ids=str)
@pytest.mark.parametrize("shape", [(3, 12, 17), (3, 200)])
def test_a_mask_has_the_maps_shape_and_lies_between_0_and_1(rule: Rule, shape: tuple[int, ...]) -> None:
    mask = rule(relevance(4, shape))  # type: ignore[operator]
    assert mask.shape == shape
    assert mask.dtype == torch.float32
    assert mask.min() == 0
    assert float(mask.max()) == pytest.approx(1)


@pytest.mark.parametrize("rule", MASKING, ids=str)
def test_a_map_without_positive_values_gives_an_empty_mask(rule: Rule) -> None:
    for values in (-relevance().abs() - 0.1, torch.zeros(3, 12, 17)):
        assert not rule(values).any()  # type: ignore[operator]


@pytest.mark.parametrize("rule", MASKING, ids=str)
def test_a_row_does_not_depend_on_its_batch(rule: Rule) -> None:
    values = torch.cat([relevance(), torch.zeros(1, 12, 17), 1e3 * relevance(5)])
    together = rule(values)  # type: ignore[operator]
    for row in range(len(values)):
        assert torch.equal(rule(values[row : row + 1])[0], together[row])  # type: ignore[operator]


@pytest.mark.parametrize("rule", MASKING, ids=str)
def test_the_unit_of_relevance_does_not_matter(rule: Rule) -> None:
    values = relevance()
    assert torch.allclose(rule(values), rule(1024 * values), atol=1e-6)  # type: ignore[operator]


def test_a_constant_map_is_kept_whole_by_normalise_and_not_at_all_by_a_quantile() -> None:
    constant = torch.full((2, 5, 6), 0.2)
    assert (Normalise()(constant) == 1).all()
    assert not Quantile(0.5)(constant).any()
    assert RelevanceShare(0.5)(constant).sum((1, 2)).tolist() == [15, 15]


# -- rules as text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_is_read_back_from_its_text(rule: Rule) -> None:
    assert parse_rule(str(rule)) == rule


@settings(max_examples=100, deadline=None)
@given(p=st.floats(0, 1, exclude_min=True, exclude_max=True), form=st.sampled_from(["soft", "hard"]))
def test_any_share_is_read_back_exactly(p: float, form: str) -> None:
    for rule in (Quantile(p), RelevanceShare(p), Energy(p, form)):  # type: ignore[arg-type]
        assert parse_rule(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("normalise", Normalise()),
        (" normalise ( ) ", Normalise()),
        ("quantile(.9)", Quantile(0.9)),
        ("relevance_share( 5e-1 )", RelevanceShare(0.5)),
        ("percentile_blur", PercentileBlur(90)),
        ("energy(0.3)", Energy(0.3, "soft")),
        ("energy(0.3, hard)", Energy(0.3, "hard")),
    ],
)
def test_a_rule_is_read_from_text(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule


def test_rules_are_written_as_the_documentation_says() -> None:
    wanted = ["normalise", "quantile(0.9)", "relevance_share(0.5)", "percentile_blur(90)", "energy(0.3,soft)"]
    rules: list[Rule] = [Normalise(), Quantile(0.9), RelevanceShare(0.5), PercentileBlur(), Energy(0.3)]
    assert [str(rule) for rule in rules] == wanted


@pytest.mark.parametrize(
    ("text", "help_"),
    [
        ("normalize", "Did you mean 'normalise'"),
        ("quantil(0.9)", "Did you mean 'quantile'"),
        ("energie(0.3)", "Did you mean 'energy'"),
        ("zzz", "Choose one of: energy, normalise, percentile_blur, quantile, relevance_share"),
    ],
)
def test_an_unknown_rule_names_the_nearest(text: str, help_: str) -> None:
    with pytest.raises(ConfigurationError, match=help_):
        parse_rule(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("quantile", r"written quantile\(q\)"),
        ("quantile(0.1,0.2)", "2 arguments"),
        ("quantile(0.1,)", "2 arguments"),
        ("normalise(1)", "without any"),
        ("energy(0.3,hard,soft)", r"written energy\(p, form=soft\)"),
        ("energy(0.3,medium)", "'soft' or 'hard', got 'medium'"),
        ("energy(hard,0.3)", "got 'hard'"),
        ("quantile(0)", r"quantile takes a share between 0 and 1 \(both excluded\), got 0.0"),
        ("quantile(1)", "got 1.0"),
        ("relevance_share(-0.5)", "relevance_share takes a share .* got -0.5"),
        ("energy(nan)", "got nan"),
        ("percentile_blur(150)", "percentile between 0 and 100 .*got 150"),
        ("percentile_blur(high)", "got 'high'"),
        ("energy(0.3", "is not a rule. Write for example"),
        ("", "is not a rule"),
    ],
)
def test_bad_arguments_are_refused_with_what_was_expected(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        parse_rule(text)


@pytest.mark.parametrize("value", [True, None, "0.5", math.inf])
def test_a_share_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="share between 0 and 1"):
        Quantile(value)  # type: ignore[arg-type]
