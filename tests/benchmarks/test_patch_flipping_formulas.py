"""Orders and axes of patch flipping, re-derived cell by cell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from earwitness_bench.metrics import patch_flipping_formulas as formulas
from earwitness_bench.metrics.patch_flipping_formulas import PatchGrid

GRIDS = [PatchGrid(6, 8, 2, 4), PatchGrid(7, 10, 3, 4), PatchGrid(5, 3, 8, 8), PatchGrid(4, 6, 1, 1)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ties(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def cells_of(grid: PatchGrid, patch: int) -> list[tuple[int, int]]:
    """Bands and frames of a patch, frame by frame."""
    high, wide = divmod(patch, -(-grid.n_frames // grid.frames))
    bands = range(high * grid.bands, min(grid.n_bands, (high + 1) * grid.bands))
    frames = range(wide * grid.frames, min(grid.n_frames, (wide + 1) * grid.frames))
    return [(band, frame) for frame in frames for band in bands]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_patches_cover_every_cell_once(grid: PatchGrid) -> None:
    seen = [cell for patch in range(grid.n_patches) for cell in cells_of(grid, patch)]
    assert sorted(seen) == [(band, frame) for band in range(grid.n_bands) for frame in range(grid.n_frames)]
    for patch in range(grid.n_patches):
        cells = cells_of(grid, patch)
        assert int(grid.sizes[patch]) == len(cells)
        assert [int(grid.index[cell]) for cell in cells] == [patch] * len(cells)
        assert [int(grid.place[cell]) for cell in cells] == list(range(len(cells)))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_patch_scores_the_signed_sum_or_mean_of_its_cells(grid: PatchGrid) -> None:
    maps = random(3, grid.n_bands, grid.n_frames)
    sums, means = formulas.patch_sums(maps, grid), formulas.patch_means(maps, grid)
    for row in range(3):
        for patch in range(grid.n_patches):
            values = [float(maps[row][cell]) for cell in cells_of(grid, patch)]
            assert float(sums[row, patch]) == pytest.approx(sum(values), abs=1e-9)
            assert float(means[row, patch]) == pytest.approx(sum(values) / len(values), abs=1e-9)


def test_patches_are_ranked_from_the_highest_score_down_and_ties_by_their_key() -> None:
    scores = torch.tensor([[0.5, -2.0, 0.5, 3.0, 0.5 + 1e-9]], dtype=torch.float64)
    assert formulas.ranked(scores, torch.tensor([[0.9, 0.1, 0.2, 0.7, 0.5]])).tolist() == [[3, 4, 1, 0, 2]]
    assert formulas.ranked(1e-30 * scores, torch.tensor([[0.2, 0.1, 0.9, 0.7, 0.5]])).tolist() == [[1, 4, 3, 0, 2]]
    assert formulas.ranked(0 * scores, torch.tensor([[0.9, 0.1, 0.2, 0.7, 0.5]])).tolist() == [[4, 0, 1, 3, 2]]


def test_a_constant_map_is_ranked_by_chance_also_where_rim_patches_are_smaller() -> None:
    grid = PatchGrid(13, 21, 4, 4)
    scores = formulas.patch_means(torch.full((4000, 13, 21), 0.97), grid)
    ranks = formulas.ranked(scores, ties(4000, grid.n_patches)).double()
    middle = (grid.n_patches - 1) / 2
    assert float((ranks.mean(0) - middle).abs().max()) < 5 * grid.n_patches / 12**0.5 / 4000**0.5


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_cells_go_patch_after_patch(grid: PatchGrid) -> None:
    ranks = formulas.ranked(random(3, grid.n_patches).double(), ties(3, grid.n_patches))
    places = formulas.cell_ranks(ranks, grid)
    for row in range(3):
        order = sorted(range(grid.n_patches), key=lambda patch: int(ranks[row, patch]))
        wanted = [cell for patch in order for cell in cells_of(grid, patch)]
        assert [int(places[row][cell]) for cell in wanted] == list(range(grid.n_cells))


def test_equal_steps_are_equal_to_a_cell_and_end_with_everything() -> None:
    for n_cells, n_steps in ((100, 7), (27584, 16), (5, 5), (64, 20)):
        counts = formulas.equal_steps(n_cells, n_steps)
        assert (counts[0], counts[-1], len(counts)) == (0, n_cells, n_steps + 1)
        assert all(abs(count - step * n_cells / n_steps) <= 0.5 for step, count in enumerate(counts))


# --- several parts


def union_after(ranks: Tensor, selected: Tensor, turns: int) -> set[int]:
    """Patches that any selected part of one row, (K, P), has asked for in its first turns."""
    parts = [part for part, counts in enumerate(selected.tolist()) if counts]
    return {patch for part in parts for patch in range(ranks.shape[1]) if int(ranks[part, patch]) < turns}


def part_ranks(n_rows: int, n_parts: int, n_patches: int) -> Tensor:
    scores = random(n_rows * n_parts, n_patches).double()
    return formulas.ranked(scores, ties(n_rows * n_parts, n_patches)).unflatten(0, (n_rows, n_parts))


def test_the_union_grows_by_what_the_parts_ask_for_in_turn() -> None:
    ranks = part_ranks(3, 4, 20)
    selected = torch.tensor([[True] * 4, [True, False, True, False], [False, False, True, False]])
    found = formulas.united(ranks, selected, ties(3, 20))
    assert [sorted(row) for row in found.tolist()] == [list(range(20))] * 3
    for row in range(3):
        for turns in range(21):
            wanted = union_after(ranks[row], selected[row], turns)
            assert {patch for patch in range(20) if int(found[row, patch]) < len(wanted)} == wanted
    assert torch.equal(found[2], ranks[2, 2])


def test_the_thesis_flips_the_next_square_of_patches_of_each_part() -> None:
    assert formulas.thesis_schedule(64) == [1, 5, 14, 30, 55, 64]
    assert formulas.thesis_schedule(16) == [1, 5, 14, 16]
    assert formulas.thesis_schedule(1) == [1]
    ranks = part_ranks(2, 3, 16)
    selected = torch.tensor([[True, True, True], [False, True, True]])
    steps = formulas.thesis_steps(ranks, selected, [1, 5, 14, 16])
    for row in range(2):
        for step, turns in enumerate([1, 5, 14, 16]):
            gone = {patch for patch in range(16) if int(steps[row, patch]) <= step}
            assert gone == union_after(ranks[row], selected[row], turns)
    assert formulas.thesis_steps(ranks, torch.zeros(2, 3, dtype=torch.bool), [1, 5, 14, 16]).unique().tolist() == [4]


def test_the_coded_area_is_half_of_the_left_riemann_area_minus_the_last_score() -> None:
    scores, schedule = random(5, 7).clamp_min(0), [1, 5, 14, 30, 55, 64]
    found = formulas.thesis_area(scores, schedule)
    for row in range(5):
        f, omega = scores[row].tolist(), [n / 64 for n in (0, *schedule)]
        coded = sum(omega[t] * (f[t - 1] - f[t]) / 2 for t in range(1, 7))
        riemann = sum((omega[t] - omega[t - 1]) * f[t - 1] for t in range(1, 7))
        assert float(found[row]) == pytest.approx(coded, abs=1e-6)
        assert float(found[row]) == pytest.approx((riemann - f[-1]) / 2, abs=1e-6)
