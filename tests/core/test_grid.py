"""Axes in Hz and seconds, and the weights between them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from earwitness.audio import dialects
from earwitness.errors import ExplanationError
from earwitness.grid import Grid


def axis(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def steps(n: int, step: float, first: float = 0.0) -> Tensor:
    return first + step * torch.arange(n, dtype=torch.float64)


def interpolated(values: list[float], knots: list[float], point: float) -> float:
    """Linear interpolation, by a loop; the ends are held."""
    for left in range(len(knots) - 1):
        if knots[left] <= point <= knots[left + 1]:
            share = (point - knots[left]) / (knots[left + 1] - knots[left])
            return (1 - share) * values[left] + share * values[left + 1]
    return values[0] if point < knots[0] else values[-1]


def test_onto_a_finer_axis_weights_interpolate() -> None:
    coarse = Grid(axis(0, 100), steps(9, 0.020, 0.010))
    times_s = steps(30, 0.006)
    weights = coarse.time_weights(times_s)
    values = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for column, time_s in enumerate(times_s.tolist()):
        wanted = interpolated(values.tolist(), coarse.times_s.tolist(), time_s)
        assert float(values @ weights[:, column]) == pytest.approx(wanted, abs=1e-12)


def test_onto_a_coarser_axis_no_column_is_passed_over() -> None:
    coarse = Grid(axis(0, 100), steps(100, 0.010))
    weights = coarse.time_weights(steps(20, 0.050))
    assert (weights.sum(1) > 0).all()
    assert torch.allclose(weights.sum(0), torch.ones(20, dtype=torch.float64))
    # a triangle of +-50 ms around 500 ms
    triangle = torch.tensor([max(0.0, 1 - abs(10 * n - 500) / 50) for n in range(100)], dtype=torch.float64)
    assert torch.allclose(weights[:, 10], triangle / triangle.sum(), atol=1e-9)


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 40),
    hop=st.floats(0.001, 0.1),
    first=st.floats(0, 0.2),
    other=st.floats(0.001, 0.1),
    reach=st.one_of(st.none(), st.floats(0.001, 0.3)),
)
def test_each_time_gets_a_whole_or_nothing(n: int, hop: float, first: float, other: float, reach: float | None) -> None:
    grid = Grid(axis(0, 100), steps(n, hop, first), reach_s=reach)
    times_s = steps(50, other)
    weights = grid.time_weights(times_s)
    assert weights.shape == (n, 50)
    assert float(weights.min()) >= 0
    limit = max(hop if n > 1 else 0.0, reach or 0.0)
    for total, time_s in zip(weights.sum(0).tolist(), times_s.tolist(), strict=True):
        beyond = max(first - time_s, time_s - float(grid.times_s[-1]))
        if abs(beyond - limit) > 1e-6:
            assert total == pytest.approx(1.0 if beyond < limit else 0.0)


def test_the_outer_columns_reach_one_hop_or_as_far_as_they_say() -> None:
    times_s = steps(12, 0.010)
    near = Grid(axis(0, 100), axis(0.050, 0.060)).time_weights(times_s)
    far = Grid(axis(0, 100), axis(0.050, 0.060), reach_s=0.030).time_weights(times_s)
    assert near.sum(0).round().tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert far.sum(0).round().tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert far[0, 2] == 1
    assert far[1, 9] == 1


def test_uncentred_frames_see_from_the_first_sample_on() -> None:
    grid = dialects.yamnet().grid(16000)
    assert grid.time_weights(axis(0.0, 0.004)).sum(0).tolist() == [1, 1]
    last_s = float(grid.times_s[-1])
    assert grid.time_weights(axis(last_s, last_s + 0.012, last_s + 0.013)).sum(0).tolist() == [1, 1, 0]


def test_rows_without_filters_respond_to_their_neighbourhood() -> None:
    response = Grid(axis(0, 100, 300), axis(0.0)).response(steps(8, 50.0))
    wanted = [[1, 0.5, 0, 0, 0, 0, 0, 0], [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0], [0, 0, 0, 0.25, 0.5, 0.75, 1, 0]]
    assert response.tolist() == wanted  # and nothing beyond the last row


def test_filters_are_interpolated_in_hz_between_their_own_bins() -> None:
    filters = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0]])
    grid = Grid(axis(100, 200), axis(0.0), filters=filters, filter_frequencies_hz=axis(0, 100, 200, 300))
    response = grid.response(steps(13, 25.0))
    for row in range(2):
        for column in range(13):
            wanted = interpolated(filters[row].tolist(), [0, 100, 200, 300], 25.0 * column)
            assert float(response[row, column]) == pytest.approx(wanted)


def test_filters_narrower_than_the_bins_asked_for_are_still_heard() -> None:
    grid = dialects.yamnet().grid(16000)  # its lowest bands are 30 Hz apart
    assert grid.filters is not None
    heard = grid.filters.sum(1) > 0
    assert heard.sum() > 60
    assert (grid.response(steps(33, 250.0)).sum(1) > 0)[heard].all()


def test_the_shape_is_rows_by_columns() -> None:
    assert Grid(steps(5, 10.0), steps(7, 0.1)).shape == (5, 7)


@pytest.mark.parametrize(
    ("frequencies_hz", "times_s", "complaint"),
    [
        (axis(), axis(0), "frequencies_hz must be a non-empty vector"),
        (axis(0), torch.zeros(2, 2), r"times_s must be a non-empty vector, got shape \(2, 2\)"),
        (axis(0, 2, 1), axis(0), "frequencies_hz must ascend strictly"),
        (axis(0, 1), axis(0, 0), "times_s must ascend strictly"),
    ],
)
def test_bad_axes_are_refused(frequencies_hz: Tensor, times_s: Tensor, complaint: str) -> None:
    with pytest.raises(ExplanationError, match=complaint):
        Grid(frequencies_hz, times_s)


def test_filters_need_their_frequencies_and_their_shape() -> None:
    with pytest.raises(ExplanationError, match="or neither"):
        Grid(axis(0, 1), axis(0), filters=torch.ones(2, 3))
    with pytest.raises(ExplanationError, match=r"\(2, 3\), got \(3, 2\)"):
        Grid(axis(0, 1), axis(0), filters=torch.ones(3, 2), filter_frequencies_hz=axis(0, 1, 2))
