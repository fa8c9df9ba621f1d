"""Which part is which sound, worked out a second time: one cell, one assignment and one part after another."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from earwitness_bench.metrics import parts_formulas as formulas
from earwitness_bench.metrics.localisation_formulas import ideal_ratio_mask, relevance_mass

B, K, O, F, N = 5, 4, 3, 6, 7  # noqa: E741 - the formulas' own letters


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# --- the right answer


def test_ideal_masks_are_shares_of_the_energy_cell_by_cell() -> None:
    objects, rest = noise(B, O, F, N).abs(), noise(B, F, N, seed=1).abs()
    found = formulas.ideal_masks(objects, rest)
    for at in itertools.product(range(B), range(O), range(0, F, 2), range(0, N, 3)):
        row, number, *cell = at
        energies = [float(objects[(row, other, *cell)]) ** 2 for other in range(O)]
        wanted = energies[number] / (sum(energies) + float(rest[(row, *cell)]) ** 2)
        assert float(found[at]) == pytest.approx(wanted, rel=1e-6)


def test_ideal_masks_of_two_sounds_are_the_ideal_ratio_mask_of_either() -> None:
    one, other = noise(B, F, N).abs(), noise(B, F, N, seed=1).abs()
    assert torch.allclose(formulas.ideal_masks(one[:, None], other)[:, 0], ideal_ratio_mask(one, other), atol=1e-6)


def test_silence_belongs_to_nobody() -> None:
    found = formulas.ideal_masks(torch.zeros(1, 2, F, N), torch.zeros(1, F, N))
    assert torch.equal(found, torch.zeros(1, 2, F, N))


def test_shares_are_the_relevance_mass_in_each_mask_and_what_is_negative_does_not_count() -> None:
    relevance, ideal = noise(B, F, N), uniform(B, O, F, N)
    found = formulas.shares_of(relevance, ideal)
    for row, number in itertools.product(range(B), range(O)):
        inside = outside = 0.0
        for cell in itertools.product(range(F), range(N)):
            positive = max(0.0, float(relevance[(row, *cell)]))
            inside += positive * float(ideal[(row, number, *cell)])
            outside += positive * (1 - float(ideal[(row, number, *cell)]))
        assert float(found[row, number]) == pytest.approx(inside / (inside + outside), rel=1e-6)
    assert torch.allclose(found[:, 0].float(), relevance_mass(relevance.clamp_min(0), ideal[:, 0]), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e37])
def test_the_scale_of_a_map_does_not_matter(scale: float) -> None:
    relevance, ideal = uniform(B, F, N), uniform(B, O, F, N, seed=1)
    assert torch.allclose(formulas.shares_of(relevance * scale, ideal), formulas.shares_of(relevance, ideal), rtol=1e-4)


def test_a_map_without_anything_positive_lies_on_nothing() -> None:
    found = formulas.shares_of(torch.stack([torch.zeros(F, N), -torch.ones(F, N)]), torch.ones(2, O, F, N))
    assert torch.equal(found, torch.zeros(2, O, dtype=torch.float64))


# --- the assignment


def best_by_trying(shares: Tensor, parts: Tensor, present: Tensor) -> float:
    """The largest sum of shares over all one-to-one assignments of a row."""
    numbers = [k for k in range(len(parts)) if parts[k]]
    objects = [o for o in range(len(present)) if present[o]]
    slots = numbers + [None] * len(objects)
    return max(
        sum(float(shares[k, o]) for k, o in zip(chosen, objects, strict=True) if k is not None)
        for chosen in itertools.permutations(slots, len(objects))
    )


@pytest.mark.parametrize(("n_parts", "n_objects"), [(4, 3), (3, 3), (2, 4), (1, 3), (4, 1)])
def test_the_match_is_the_best_of_all_one_to_one_assignments(n_parts: int, n_objects: int) -> None:
    shares = uniform(6, n_parts, n_objects, seed=n_parts)
    parts, present = uniform(6, n_parts, seed=1) > 0.2, uniform(6, n_objects, seed=2) > 0.2
    matched = formulas.match(shares, parts, present)
    found = formulas.of_matched(shares, matched, 0.0)
    for row in range(6):
        numbers = [k for k in matched[row].tolist() if k != formulas.NO_PART]
        assert len(set(numbers)) == len(numbers)
        assert all(parts[row, k] for k in numbers)
        assert all(present[row, o] for o, k in enumerate(matched[row].tolist()) if k != formulas.NO_PART)
        assert float(found[row].sum()) == pytest.approx(best_by_trying(shares[row], parts[row], present[row]), abs=1e-6)


def test_the_match_is_not_greedy() -> None:
    shares = torch.tensor([[[0.9, 0.8], [0.7, 0.0]]])
    everything = torch.ones(1, 2, dtype=torch.bool)
    assert formulas.match(shares, everything, everything).tolist() == [[1, 0]]


def test_the_order_of_the_parts_does_not_matter() -> None:
    shares, parts, present = uniform(B, K, O), torch.ones(B, K, dtype=torch.bool), torch.ones(B, O, dtype=torch.bool)
    order = torch.tensor([2, 0, 3, 1])
    found = formulas.of_matched(shares, formulas.match(shares, parts, present), 0.0)
    other = formulas.of_matched(shares[:, order], formulas.match(shares[:, order], parts, present), 0.0)
    assert torch.equal(found, other)


def test_a_part_that_lies_on_nothing_is_matched_with_nothing() -> None:
    shares = torch.tensor([[[0.0, 0.0], [0.4, 0.1]]])
    everything = torch.ones(1, 2, dtype=torch.bool)
    assert formulas.match(shares, everything, everything).tolist() == [[1, formulas.NO_PART]]
    assert formulas.match(shares, ~everything, everything).tolist() == [[formulas.NO_PART] * 2]


def test_the_main_object_of_a_part_has_more_of_it_than_any_other() -> None:
    shares = torch.tensor([[[0.1, 0.3, 0.2], [0.4, 0.4, 0.1], [0.0, 0.0, 0.0]]])
    assert formulas.is_main(shares).tolist() == [[[0, 1, 0], [0, 0, 0], [0, 0, 0]]]
    assert formulas.is_main(torch.tensor([[[0.2], [0.0]]])).tolist() == [[[1], [1]]]
    several = uniform(B, K, O)
    for row, number in itertools.product(range(B), range(K)):
        best = max(range(O), key=lambda o: float(several[row, number, o]))
        assert formulas.is_main(several)[row, number].tolist() == [float(o == best) for o in range(O)]


def test_the_mean_is_over_the_objects_that_are_there() -> None:
    values = torch.tensor([[0.5, 1.0, 9.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    present = torch.tensor([[True, True, False], [True] * 3, [False] * 3])
    found = formulas.mean_over_objects(values, present).tolist()
    assert found[:2] == [0.75, 2.0]
    assert math.isnan(found[2])


# --- one part for one sound


def test_the_part_that_holds_a_sound_has_the_largest_harmonic_mean() -> None:
    mass, share = uniform(B, K) * 10, uniform(B, K, seed=1)
    f1, purity, concentration = formulas.held_by_one(mass, share)
    for row in range(B):
        on = [float(mass[row, k]) * float(share[row, k]) for k in range(K)]
        tried = []
        for k in range(K):
            precision, recall = float(share[row, k]), on[k] / sum(on)
            tried.append((2 / (1 / precision + 1 / recall), precision, recall))
        assert (float(f1[row]), float(purity[row]), float(concentration[row])) == pytest.approx(max(tried), rel=1e-5)


def test_one_part_for_the_sound_alone_is_perfect_and_the_whole_map_is_not() -> None:
    perfect = formulas.held_by_one(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    assert [float(x) for x in perfect] == [1, 1, 1]
    whole = formulas.held_by_one(torch.tensor([[3.0]]), torch.tensor([[2 / 3]]))
    assert [float(x) for x in whole] == pytest.approx([0.8, 2 / 3, 1])
    lucky = formulas.held_by_one(torch.tensor([[0.01, 2.0]]), torch.tensor([[1.0, 0.5]]))  # a cell is no answer
    assert [float(x) for x in lucky] == pytest.approx([2 * 0.5 * 0.990099 / 1.490099, 0.5, 0.990099], rel=1e-4)


def test_nothing_on_the_sound_is_a_score_of_nothing() -> None:
    found = formulas.held_by_one(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert all(torch.equal(values, torch.zeros(2)) for values in found)
