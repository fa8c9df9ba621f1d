"""The verdict: true explanations are supported, and those that know nothing are as a rule not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from earwitness.audio.dialects import drsa_toy
from earwitness.audio.masking import kept_energy
from earwitness.audio.rules import Energy, Normalise, Rule
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Clip
from earwitness.explanation import Explanation, Mask
from earwitness.random import Random
from earwitness.render import Scene, render
from earwitness.verdict import Evidence, Verdict, gather_evidence, judge, random_mask

RATE = 16000


class HighOrLow(nn.Module):
    """Compares the loudest moment of the upper bands with a threshold: evidence is one short beep, high up."""

    def forward(self, features: Tensor) -> Tensor:
        level = features[:, 0, 44:].amax((1, 2))
        return torch.stack([torch.zeros_like(level), 6 * (level - 1.2)], dim=1)


CLASSIFIER = AudioClassifier(HighOrLow(), front_end=drsa_toy(), labels=["low", "high"])


def beep_in_noise(seed: int) -> Clip:
    """One second of noise and a loud low tone, with a beep of 4 kHz for a tenth of it."""
    noise = 0.02 * torch.randn(RATE, generator=torch.Generator().manual_seed(seed))
    start = 1600 + 500 * (seed % 20)
    time = torch.arange(RATE) / RATE
    noise[start : start + 1600] += 0.4 * torch.sin(2 * torch.pi * 4000 * time[:1600])
    return Clip(noise + 0.3 * torch.sin(2 * torch.pi * 300 * time), RATE, f"beep-{seed}")


def scene_of(seeds: range) -> Scene:
    batch = Batch.of([beep_in_noise(seed) for seed in seeds])
    return Scene(CLASSIFIER, batch, CLASSIFIER.listening)


def verdicts(scene: Scene, masks: Tensor, rule: Rule, *, seed: int = 0) -> list[Verdict]:
    """One verdict a row."""
    target = torch.ones(len(masks), dtype=torch.int64)
    rendering = render(scene, Explanation(target, mask=Mask(masks, "stft")), rule)
    random = Random(seed, scene.batch.clip_ids)
    found = gather_evidence(scene, rendering, target, random=random)
    rows = range(len(masks))
    return [judge("high", [Evidence(*(values[..., r : r + 1] for values in vars(found).values()))]) for r in rows]


def beep_mask(scene: Scene) -> Tensor:
    """Where the beeps are."""
    grid = scene.listening.grid(scene.n_samples)
    rows = ((grid.frequencies_hz - 4000).abs() < 800)[None, :, None]
    beeps = scene.magnitude * rows
    loud = (beeps > 0.3 * beeps.amax((1, 2), keepdim=True)).any(1, keepdim=True)
    near = torch.nn.functional.max_pool1d(loud[:, 0].float(), 5, stride=1, padding=2)[:, None] > 0
    return (rows & near).float()


def test_an_explanation_that_points_at_the_evidence_is_supported() -> None:
    scene = scene_of(range(6))
    assert all(verdict.supported for verdict in verdicts(scene, beep_mask(scene), Normalise()))


def test_random_masks_of_the_tests_own_kind_are_supported_one_time_in_twenty_at_most() -> None:
    scene = scene_of(range(40))
    target = torch.ones(40, dtype=torch.int64)
    guess = random_mask(scene, Random(1, scene.batch.clip_ids), "a guess")
    found = verdicts(scene, guess, Energy(0.3))
    # Forty tries at 5 %: more than seven successes have a chance below one in a thousand.
    assert sum(verdict.supported for verdict in found) <= 7
    assert len(target) == len(found)


@pytest.mark.parametrize("name", ["noise", "all-ones", "all-zeros", "constant"])
def test_what_knows_nothing_is_not_supported(name: str) -> None:
    scene = scene_of(range(12))
    shape = scene.magnitude.shape
    masks = {
        "noise": torch.rand(shape, generator=torch.Generator().manual_seed(0)),
        "all-ones": torch.ones(shape),
        "all-zeros": torch.zeros(shape),
        "constant": torch.full(shape, 0.97),
    }
    assert sum(verdict.supported for verdict in verdicts(scene, masks[name], Normalise())) <= 2


def test_what_points_away_from_the_evidence_is_not_supported() -> None:
    scene = scene_of(range(6))
    assert not any(verdict.supported for verdict in verdicts(scene, 1 - beep_mask(scene), Normalise()))


def test_random_masks_keep_as_much_energy_as_the_explanation() -> None:
    scene = scene_of(range(3))
    seen: list[Tensor] = []
    split = scene.split

    class Spy(Scene):
        def split(self, gain: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(kept_energy(gain, scene.magnitude))
            return split(gain)

    spying = Spy(scene.classifier, scene.batch, scene.listening)
    target = torch.ones(3, dtype=torch.int64)
    rendering = render(spying, Explanation(target, mask=Mask(beep_mask(scene), "stft")), Energy(0.2))
    gather_evidence(spying, rendering, target, random=Random(0, scene.batch.clip_ids))
    energies = torch.stack(seen)
    assert energies.shape == (19, 3)
    assert torch.allclose(energies, rendering.kept_energy.expand_as(energies), atol=1e-4)


def test_a_row_is_judged_alike_alone_and_in_a_batch() -> None:
    together = verdicts(scene_of(range(4)), beep_mask(scene_of(range(4))), Normalise())
    alone = verdicts(scene_of(range(2, 3)), beep_mask(scene_of(range(2, 3))), Normalise())
    assert alone[0].p_rest_random == pytest.approx(together[2].p_rest_random, abs=1e-5)
    assert alone[0].beaten == together[2].beaten


def test_the_statistic_is_what_is_heard_minus_what_is_left_and_ties_beat_nobody() -> None:
    ones = torch.ones(1)
    equal = Evidence(0.9 * ones, 0.6 * ones, 0.2 * ones, 0.3 * ones, torch.full((19, 1), 0.6), torch.full((19, 1), 0.2))
    assert judge("x", [equal]).beaten == 0
    worse = Evidence(0.9 * ones, 0.6 * ones, 0.2 * ones, 0.3 * ones, torch.full((19, 1), 0.5), torch.full((19, 1), 0.2))
    assert judge("x", [worse]).beaten == 19
    assert judge("x", [worse]).supported
    upside_down = Evidence(0.9 * ones, 0.1 * ones, 0.2 * ones, 0.3 * ones, torch.zeros(19, 1), torch.ones(19, 1))
    assert not judge("x", [upside_down]).supported


def test_the_verdict_in_words_says_all_numbers() -> None:
    text = str(Verdict("dog", 0.9, 0.8, 0.1, 0.3, 0.5, 0.4, 19, 19))
    assert text.startswith("supported")
    assert all(number in text for number in ("0.90", "0.80", "0.10", "30%", "0.50", "0.40", "19 of 19"))
    assert str(Verdict("dog", 0.9, 0.8, 0.1, 0.3, 0.5, 0.4, 19, 18)).startswith("not distinguishable from chance")
