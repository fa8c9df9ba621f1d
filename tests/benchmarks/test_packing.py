"""Half precision: what survives it, and what does not matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from earwitness.explanation import Explanation, Mask, Parts, Relevance
from earwitness_bench.packing import degenerate_rows, halved, pack, shuffled, unpack

TARGET = torch.tensor([0, 1, 0])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def through(explanation: Explanation) -> Explanation:
    return unpack(*pack(explanation))


def relevance_of(explanation: Explanation) -> Tensor:
    assert explanation.relevance is not None
    return explanation.relevance.values


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-12, 1e30, 1e37])
def test_relevance_of_any_size_comes_back_to_half_precision_of_its_own_peak(scale: float) -> None:
    values = noise(3, 5, 7) * torch.tensor([1.0, 1e-3, 10.0])[:, None, None] * scale
    back = relevance_of(through(Explanation(TARGET, relevance=Relevance(values, "features"))))
    assert back.dtype == torch.float32
    error = (back.double() - values.double()).abs().flatten(1).amax(1) / values.double().abs().flatten(1).amax(1)
    assert float(error.max()) < 5e-4


def test_denormal_relevance_keeps_its_order() -> None:
    values = torch.tensor([[[1e-42, 5e-41, 1e-40]]])
    back = relevance_of(through(Explanation(TARGET[:1], relevance=Relevance(values, "stft"))))
    assert torch.allclose(back / back.max(), values / values.max(), atol=1e-3)


def test_relevance_in_double_precision_beyond_single_precision_stays_finite() -> None:
    values = torch.tensor([[[1e300, -1e299]]], dtype=torch.float64)
    back = relevance_of(through(Explanation(TARGET[:1], relevance=Relevance(values, "stft"))))
    assert back[0, 0, 0] > 0 > back[0, 0, 1]


def test_a_map_of_zeros_stays_one_beside_others() -> None:
    values = noise(3, 4, 4)
    values[1] = 0
    back = relevance_of(through(Explanation(TARGET, relevance=Relevance(values, "stft"))))
    assert torch.equal(back[1], torch.zeros(4, 4))
    assert float(back[0].abs().max()) == pytest.approx(float(values[0].abs().max()), rel=1e-6)


def test_packing_twice_changes_nothing_more() -> None:
    once = through(Explanation(TARGET, relevance=Relevance(noise(3, 20, 20) * 0.37, "stft")))
    assert torch.equal(relevance_of(through(once)), relevance_of(once))


def test_a_mask_keeps_its_domain_and_scale_and_its_values_to_half_precision() -> None:
    mask = Mask(torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1)), "stft", "log1p")
    back = through(Explanation(TARGET, mask=mask)).mask
    assert back is not None
    assert (back.domain, back.scale) == ("stft", "log1p")
    assert torch.allclose(back.values, mask.values, atol=5e-4)


def test_a_mask_that_rounding_put_outside_is_put_back() -> None:
    back = through(Explanation(TARGET, mask=Mask(torch.full((3, 2, 2), 1 + 5e-7), "stft"))).mask
    assert back is not None
    assert float(back.values.max()) == 1


def test_sound_logits_target_and_diagnostics_come_back_exactly() -> None:
    given = Explanation(
        TARGET,
        heard=noise(3, 50),
        surrogate_logits=noise(3, 2),
        diagnostics={"gap": torch.tensor([0.1, float("nan"), -3.0]), "a.b": torch.tensor([1, 2, 3])},
    )
    back = through(given)
    assert torch.equal(back.target, TARGET)
    assert torch.equal(back.heard, given.heard)  # type: ignore[arg-type]
    assert torch.equal(back.surrogate_logits, given.surrogate_logits)  # type: ignore[arg-type]
    assert torch.allclose(back.diagnostics["gap"], given.diagnostics["gap"], equal_nan=True)
    assert back.diagnostics["a.b"].tolist() == [1, 2, 3]
    assert back.relevance is None
    assert back.mask is None


def in_parts(kind: type[Relevance] | type[Mask] = Relevance, n_parts: int = 2) -> Explanation:
    """Three rows; map k of the parts holds 100 k + 10 row + cell."""

    def part(number: int) -> Relevance | Mask:
        values = 100.0 * number + 10 * torch.arange(3)[:, None, None] + torch.arange(4).reshape(2, 2)
        return Relevance(values, "stft") if kind is Relevance else Mask(values / 1000, "stft", "log1p")

    weights, selected = noise(3, n_parts, seed=5), noise(3, n_parts, seed=6) > 0
    parts = Parts(tuple("abcdef"[:n_parts]), weights, selected, part)
    return Explanation(TARGET, relevance=Relevance(noise(3, 2, 2), "stft"), parts=parts)


def parts_of(explanation: Explanation) -> Parts:
    assert explanation.parts is not None
    return explanation.parts


def test_gradients_and_the_maps_of_parts_are_left_behind() -> None:
    values = noise(3, 2, 2).requires_grad_()
    given = Explanation(TARGET, relevance=Relevance(values, "stft"), parts=in_parts().parts)
    tensors, _ = pack(given)
    assert sorted(tensors) == ["parts.selected", "parts.weights", "relevance", "relevance_peak", "target"]
    assert not any(tensor.requires_grad for tensor in tensors.values())


def test_parts_come_back_with_the_maps_that_they_are_given() -> None:
    given = parts_of(in_parts())
    back = parts_of(unpack(*pack(in_parts()), part=lambda number: Relevance(torch.full((3, 2, 2), number), "stft")))
    assert back.names == given.names
    assert torch.equal(back.weights, given.weights)
    assert torch.equal(back.selected, given.selected)
    assert torch.equal(back.map(1).values, torch.ones(3, 2, 2))


def test_parts_are_left_out_where_nobody_makes_their_maps() -> None:
    assert through(in_parts()).parts is None


def test_an_explanation_at_work_keeps_its_parts_through_half_precision() -> None:
    given = in_parts()
    back = halved(given)
    assert torch.allclose(parts_of(back).map(1).values, parts_of(given).map(1).values, rtol=5e-4)
    assert torch.equal(relevance_of(back), relevance_of(through(given)))
    assert halved(Explanation(TARGET, heard=noise(3, 5))).parts is None


@pytest.mark.parametrize("kind", ["relevance", "mask"])
def test_a_single_part_is_the_whole_to_the_last_bit(kind: str) -> None:
    one = Relevance(noise(3, 9, 9), "stft") if kind == "relevance" else Mask(noise(3, 9, 9).sigmoid(), "stft")
    parts = Parts(("all",), torch.ones(3, 1), torch.ones(3, 1, dtype=torch.bool), lambda number: one)
    back = halved(Explanation(TARGET, **{kind: one}, parts=parts))  # type: ignore[arg-type]
    whole = back.relevance or back.mask
    assert whole is not None
    assert type(parts_of(back).map(0)) is type(one)
    assert torch.equal(parts_of(back).map(0).values, whole.values)
    assert not torch.equal(whole.values, one.values)


@pytest.mark.parametrize("kind", [Relevance, Mask])
def test_shuffled_rows_bring_their_parts(kind: type[Relevance] | type[Mask]) -> None:
    rows = torch.tensor([1, 2, 0])
    given = in_parts(kind)
    found, own = parts_of(shuffled(given, rows)), parts_of(given)
    assert found.names == own.names
    assert torch.equal(found.weights[0], own.weights[1])
    assert torch.equal(found.selected[2], own.selected[0])
    assert type(found.map(0)) is kind
    for number in range(2):
        assert torch.equal(found.map(number).values, own.map(number).values[rows])


def test_maps_take_two_bytes_a_cell() -> None:
    mask = Mask(noise(3, 8, 8).abs().clamp(0, 1), "stft")
    tensors, _ = pack(Explanation(TARGET, relevance=Relevance(noise(3, 8, 8), "stft"), mask=mask))
    assert tensors["relevance"].nbytes == tensors["mask"].nbytes == 3 * 8 * 8 * 2


def test_shuffled_rows_bring_their_maps_and_sound_but_not_their_target_or_diagnostics() -> None:
    rows = torch.tensor([1, 2, 0])
    given = Explanation(
        TARGET,
        relevance=Relevance(noise(3, 2, 2), "features"),
        mask=Mask(noise(3, 4, 4).abs().clamp(0, 1), "stft", "log1p"),
        heard=noise(3, 9),
        diagnostics={"gap": torch.zeros(3)},
    )
    found = shuffled(given, rows)
    assert torch.equal(found.target, TARGET)
    assert torch.equal(relevance_of(found)[0], relevance_of(given)[1])
    assert torch.equal(found.mask.values[1], given.mask.values[2])  # type: ignore[union-attr]
    assert (found.mask.scale, found.relevance.domain) == ("log1p", "features")  # type: ignore[union-attr]
    assert torch.equal(found.heard[2], given.heard[0])  # type: ignore[index]
    assert found.diagnostics == {}


def test_a_map_that_points_nowhere_is_degenerate() -> None:
    pointing = noise(4, 4).abs()
    rows = torch.stack([pointing, torch.full((4, 4), 0.3), -pointing, torch.zeros(4, 4), pointing * 1e-30])
    target = torch.zeros(5, dtype=torch.int64)
    assert degenerate_rows(Explanation(target, relevance=Relevance(rows, "stft"))) == [False, True, True, True, False]


def test_a_constant_mask_is_degenerate_whatever_the_relevance_beside_it() -> None:
    masks = torch.stack([torch.full((2, 2), 0.97), torch.eye(2), torch.zeros(2, 2)])
    explanation = Explanation(TARGET, relevance=Relevance(noise(3, 2, 2), "stft"), mask=Mask(masks, "stft"))
    assert degenerate_rows(explanation) == [True, False, True]


def test_silence_is_degenerate() -> None:
    heard = torch.stack([torch.zeros(5), torch.ones(5), noise(5)])
    assert degenerate_rows(Explanation(TARGET, heard=heard)) == [True, False, False]


def test_maps_lie_in_memory_as_they_will_when_they_are_read_again() -> None:
    """Else a score's last bits would depend on whether its map was just made, or kept by a run that was killed."""
    time_first = torch.rand(2, 7, 5).transpose(1, 2)
    explanation = Explanation(
        torch.tensor([0, 1]),
        relevance=Relevance(time_first, "stft"),
        mask=Mask(time_first, "stft"),
        heard=torch.rand(9, 2).T,
    )
    assert not time_first.is_contiguous()
    assert all(values.is_contiguous() for values in pack(explanation)[0].values())
    fresh = unpack(*pack(explanation))
    assert fresh.relevance is not None
    assert fresh.mask is not None
    assert fresh.relevance.values.is_contiguous()
    assert fresh.mask.values.is_contiguous()
