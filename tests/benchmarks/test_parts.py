"""Parts of explanations against clean sounds: a perfect answer, useless ones, and those that are not defined."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from earwitness.audio.rules import parse_rule
from earwitness.clips import Batch, Clip, Source
from earwitness.context import Context
from earwitness.errors import ExplanationError
from earwitness.explanation import Explanation, Mask, Parts, Relevance
from earwitness.random import Random
from earwitness.registry import registry
from earwitness_bench.metrics.localisation_formulas import si_sdr
from earwitness_bench.metrics.parts import PartsObjects, PartsTarget
from networks import N_SAMPLES, RATE, classifier_of

CLASSIFIER = classifier_of()  # knows "dog", "rain" and "clock"
TONES = (500.0, 1500.0, 3000.0)


def tone(frequency: float, level: float = 0.3) -> Tensor:
    return level * torch.sin(2 * torch.pi * frequency * torch.arange(N_SAMPLES) / RATE)


def clip(labels: tuple[str | None, ...] = ("dog", "dog", "dog"), name: str = "clip", hiss: float = 0.001) -> Clip:
    """A tone for each label, and some hiss."""
    sources = {str(f): Source(tone(f), label) for f, label in zip(TONES, labels, strict=False)}
    noise = hiss * torch.randn(N_SAMPLES, generator=torch.Generator().manual_seed(3))
    sources["hiss"] = Source(noise)
    return Clip(sum(s.waveform for s in sources.values()), RATE, name, sources=sources)  # type: ignore[arg-type]


def band(low_hz: float, high_hz: float, n_rows: int = 1) -> Tensor:
    """Relevance of magnitude between two frequencies: (B, F, N)."""
    grid = CLASSIFIER.listening.grid(N_SAMPLES)
    inside = ((grid.frequencies_hz >= low_hz) & (grid.frequencies_hz < high_hz)).float()
    return inside[None, :, None].expand(n_rows, *grid.shape).contiguous()


def around(frequency: float, n_rows: int = 1) -> Tensor:
    """Relevance that lies where a tone's energy lies; its sum is 1."""
    power = CLASSIFIER.listening.forward(tone(frequency)[None]).abs().square() * band(frequency - 100, frequency + 100)
    return (power / power.sum()).expand(n_rows, -1, -1).contiguous()


def in_parts(maps: list[Tensor], *, target: int = 0, selected: Tensor | None = None, mask: bool = False) -> Explanation:
    n_rows = len(maps[0])
    shape = (n_rows, len(maps))

    def part(number: int) -> Relevance | Mask:
        return Mask(maps[number], "stft") if mask else Relevance(maps[number], "stft")

    parts = Parts(
        tuple(f"part {number}" for number in range(len(maps))),
        torch.ones(shape),
        torch.ones(shape, dtype=torch.bool) if selected is None else selected,
        part,
    )
    whole = torch.stack(maps).sum(0)
    targets = torch.full((n_rows,), target)
    return Explanation(targets, relevance=Relevance(whole, "stft"), parts=parts)


def context_of(explanation: Explanation, *clips: Clip) -> Context:
    batch = Batch.of(clips or (clip(),))
    random = Random(0, batch.clip_ids)
    return Context(CLASSIFIER, batch, explanation, random=random, rule=parse_rule("normalise"))


def scored(metric: Any, explanation: Explanation, *clips: Clip) -> dict[str, Tensor]:
    return metric.score(explanation, context_of(explanation, *clips))


def objects_of(explanation: Explanation, *clips: Clip) -> dict[str, float]:
    return {name: float(values[0]) for name, values in scored(PartsObjects(), explanation, *clips).items()}


# --- which part is which object


def test_a_part_for_each_sound_is_perfect_in_any_order() -> None:
    found = objects_of(in_parts([around(f) for f in (TONES[2], TONES[0], TONES[1])]))
    assert found["matched_share"] > 0.99
    assert found["found"] == 1
    assert found["share_gain"] == pytest.approx(2 / 3, abs=0.01)  # the whole has a third on each
    assert found["part_SI-SDR_improvement"] > 15


def test_copies_of_the_whole_gain_nothing() -> None:
    whole = around(TONES[0]) + 3 * around(TONES[1]) + 2 * around(TONES[2])
    found = objects_of(in_parts([whole] * 3))
    assert found["matched_share"] == pytest.approx(1 / 3, abs=0.01)
    assert found["found"] == pytest.approx(1 / 3)
    assert found["share_gain"] == pytest.approx(0, abs=1e-6)


def test_the_shares_are_those_of_the_mass_in_the_masks() -> None:
    """A third of part 0 lies on the second sound, and most of part 1 on the hiss, which is nobody's."""
    nowhere = band(3700, 3900)
    nowhere[:, :, :2] = nowhere[:, :, -2:] = 0  # where the tones begin and end they sound everywhere
    nowhere /= nowhere.sum()
    maps = [2 * around(TONES[0]) + around(TONES[1]), 2 * around(TONES[2]) + 3 * nowhere]
    found = objects_of(in_parts(maps), clip(hiss=0.01))
    assert found["matched_share"] == pytest.approx((2 / 3 + 0 + 2 / 5) / 3, abs=0.01)
    assert found["found"] == pytest.approx(2 / 3)
    assert found["share_gain"] == pytest.approx((2 / 3 - 2 / 8 + 2 / 5 - 2 / 8) / 3, abs=0.01)


def test_a_sound_without_a_part_counts_as_not_found_at_zero_db() -> None:
    one, three = objects_of(in_parts([around(TONES[0])])), objects_of(in_parts([around(f) for f in TONES]))
    nothing = torch.zeros_like(around(TONES[0]))
    with_empty = objects_of(in_parts([around(TONES[0]), nothing, -around(TONES[1])]))
    assert one["matched_share"] == pytest.approx(three["matched_share"] / 3, abs=0.01)
    assert one["found"] == pytest.approx(1 / 3)
    assert one["share_gain"] == pytest.approx(0, abs=1e-6)  # one part is the whole
    assert with_empty["matched_share"] == pytest.approx(one["matched_share"], abs=1e-6)
    assert 0 < one["part_SI-SDR_improvement"] < three["part_SI-SDR_improvement"]


def test_a_sound_that_its_part_does_not_prefer_is_not_found() -> None:
    """Both parts prefer the second sound; one of them is all that is left for the first."""
    maps = [around(TONES[0]) + 2 * around(TONES[1]), 2 * around(TONES[0]) + 3 * around(TONES[1])]
    found = objects_of(in_parts(maps), clip(("dog", "dog")))
    assert found["matched_share"] == pytest.approx((2 / 3 + 2 / 5) / 2, abs=0.01)
    assert found["found"] == 0.5


def test_more_parts_than_sounds_leave_some_over() -> None:
    spare = in_parts([*(around(f) for f in TONES), band(3700, 3900), band(100, 200)])
    assert objects_of(spare)["matched_share"] > 0.99


def test_what_one_hears_of_a_part_is_its_share_of_the_whole() -> None:
    batch_clip = clip()
    explanation = in_parts([around(TONES[0]), around(TONES[1])])
    found = objects_of(explanation, batch_clip)
    context = context_of(explanation, batch_clip)
    improvements = []
    for number in range(2):
        gain = context.rendering.gain * (around(TONES[number]) > 0)  # the parts do not overlap
        sound = context.scene.sound(gain)
        own = batch_clip.sources[str(TONES[number])].waveform[None]
        improvements.append(float(si_sdr(sound, own) - si_sdr(context.batch.waveforms, own)))
    assert found["part_SI-SDR_improvement"] == pytest.approx(sum(improvements) / 3, abs=1e-3)


def test_parts_that_are_masks_count_by_the_magnitude_that_they_let_through() -> None:
    found = objects_of(in_parts([around(f) for f in TONES], mask=True))
    assert found["matched_share"] > 0.99


def test_parts_that_are_not_selected_do_not_count_and_a_row_without_any_is_not_defined() -> None:
    maps = [around(f, 2) for f in TONES]
    selected = torch.tensor([[True, False, False], [False] * 3])
    found = scored(PartsObjects(), in_parts(maps, selected=selected), clip(name="a"), clip(name="b"))
    assert float(found["matched_share"][0]) == pytest.approx(1 / 3, abs=0.01)
    assert all(math.isnan(float(values[1])) for values in found.values())


def test_rows_with_fewer_sounds_are_scored_as_alone() -> None:
    clips = (clip(name="a"), clip(("dog", "rain"), name="b"), clip((None,), name="c"))
    maps = [around(f, 3) * (number + 1) for number, f in enumerate(TONES)]
    together = scored(PartsObjects(), in_parts(maps), *clips)
    for row in range(3):
        alone = scored(PartsObjects(), in_parts([values[row : row + 1] for values in maps]), clips[row])
        for name, values in together.items():
            assert torch.allclose(values[row], alone[name][0], atol=1e-4, equal_nan=True), (row, name)
    assert math.isnan(float(together["matched_share"][2]))  # no sound there is evidence for a class


# --- one part for the target


def test_a_part_that_holds_the_target_and_nothing_else_is_perfect() -> None:
    mixture = clip(("dog", "rain"))
    found = scored(PartsTarget(), in_parts([around(TONES[1]), around(TONES[0])]), mixture)
    assert float(found["target_F1"]) > 0.99
    assert float(found["target_purity"]) > 0.99
    assert float(found["target_concentration"]) > 0.99
    assert float(found["target_F1_whole"]) == pytest.approx(2 / 3, abs=0.01)  # purity 1/2, concentration 1
    other = scored(PartsTarget(), in_parts([3 * around(TONES[1]), around(TONES[0])], target=1), mixture)
    assert float(other["target_F1_whole"]) == pytest.approx(2 * 0.75 / 1.75, abs=0.01)


def test_a_target_that_is_spread_over_the_parts_is_held_by_none() -> None:
    both = around(TONES[0]) + around(TONES[1])
    found = scored(PartsTarget(), in_parts([both] * 4), clip(("dog", "rain")))
    assert float(found["target_purity"]) == pytest.approx(0.5, abs=0.01)
    assert float(found["target_concentration"]) == pytest.approx(0.25, abs=0.01)


def test_several_sounds_of_the_target_are_one() -> None:
    found = scored(PartsTarget(), in_parts([around(TONES[0]) + around(TONES[1]), around(TONES[2])]), THREE)
    assert float(found["target_F1"]) > 0.99


THREE = clip(("dog", "dog", "rain"))


@pytest.mark.parametrize(
    ("labels", "target"), [(("dog", "dog"), 0), (("dog", None), 0), (("dog", "rain"), 2), ((None, None), 0)]
)
def test_without_the_target_or_another_class_beside_it_nothing_is_defined(labels: Any, target: int) -> None:
    found = scored(PartsTarget(), in_parts([around(TONES[0])], target=target), clip(labels))
    assert all(math.isnan(float(values)) for values in found.values())


# --- the door


@pytest.mark.parametrize("metric", [PartsObjects(), PartsTarget()])
def test_what_is_missing_is_named(metric: Any) -> None:
    without_sources = Clip(clip().waveform, RATE, "bare")
    with pytest.raises(ExplanationError, match="clean sources"):
        scored(metric, in_parts([around(500)]), without_sources)
    with pytest.raises(ExplanationError, match="with parts"):
        scored(metric, Explanation(torch.tensor([0]), relevance=Relevance(around(500), "stft")))


@pytest.mark.parametrize("name", ["parts-objects", "parts-target"])
def test_the_columns_are_those_of_the_specs(name: str) -> None:
    spec = registry().metric(name).spec
    assert spec.needs == {"sources", "parts"}
    found = scored(spec.load()(), in_parts([around(f) for f in TONES]))
    assert set(found) == {column.name for column in spec.columns}
    assert all(values.dtype == torch.float32 for values in found.values())
