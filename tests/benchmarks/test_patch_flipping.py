"""Deletion and insertion on classifiers whose answers can be worked out, and on the packaged toy classifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Clip
from earwitness.context import Context
from earwitness.errors import ConfigurationError, NotApplicableError
from earwitness.explanation import Explanation, Mask, Parts, Relevance
from earwitness.loading import load_classifier
from earwitness.protocols import Curve
from earwitness.random import Random
from earwitness.registry import registry
from earwitness_bench.datasets.toy import Toy
from earwitness_bench.metrics import patch_flipping_formulas as formulas
from earwitness_bench.metrics.patch_flipping import (
    Canvas,
    PatchFlipping,
    ThesisAUPC,
    patches_floor,
    patches_mean,
    patches_zero,
)
from networks import Lambda, batch_of, classifier_of, patches_of, wave_classifier_of

TARGET = torch.tensor([0, 1, 2, 0])
SHAPE = (16, 32)


def relevance(values: Tensor, domain: Any = "features", target: Tensor = TARGET) -> Explanation:
    return Explanation(target, relevance=Relevance(values, domain))


def random_map(n_rows: int = 4, shape: tuple[int, ...] = SHAPE, seed: int = 2) -> Tensor:
    return torch.randn(n_rows, *shape, generator=torch.Generator().manual_seed(seed))


def context_of(
    explanation: Explanation, classifier: AudioClassifier | None = None, batch: Batch | None = None
) -> Context:
    batch = batch or batch_of()
    return Context(classifier or classifier_of(), batch, explanation, random=Random(0, batch.clip_ids))


def scored(metric: Any, explanation: Explanation, *setting: Any) -> dict[str, Tensor]:
    found = metric.score(explanation, context_of(explanation, *setting))
    return {name: value.area() if isinstance(value, Curve) else value for name, value in found.items()}


def additive(weights: Tensor) -> AudioClassifier:
    """Two classes; the logit of the first is the sum of the feature cells times weights (M, N'), of the other 0."""
    return classifier_of(
        Lambda(lambda x: torch.stack([(x[:, 0] * weights).sum((1, 2)), 0 * x[:, 0, 0, 0]], 1)), labels=("yes", "no")
    )


# --- the curves


@pytest.mark.parametrize("removal", ["floor", "mean", "zero"])
@pytest.mark.parametrize("segmented", [False, True])
def test_each_point_is_what_the_classifier_says_without_the_first_cells(removal: Any, segmented: bool) -> None:
    classifier = classifier_of(segmenter=patches_of if segmented else None)
    explanation = relevance(random_map())
    metric = PatchFlipping(removal, patch_bands=5, patch_frames=7, n_steps=6, chunk_rows=3)
    context = context_of(explanation, classifier)
    found = metric.score(explanation, context)
    batch, n_cells = context.batch, SHAPE[0] * SHAPE[1]
    for row in range(4):
        features = classifier.features(batch.waveforms[row : row + 1])[0, 0]
        stands_in = {
            "floor": classifier.features(torch.zeros(1, batch.waveforms.shape[1]))[0, 0],
            "mean": features.mean(1, keepdim=True).expand(SHAPE),
            "zero": torch.zeros(SHAPE),
        }[removal]
        values = random_map()[row]
        corners = [(band, frame) for band in range(0, 16, 5) for frame in range(0, 32, 7)]
        corners.sort(key=lambda at: -float(values[at[0] : at[0] + 5, at[1] : at[1] + 7].mean()))
        cells = [
            (band, frame)
            for top, left in corners
            for frame in range(left, min(32, left + 7))
            for band in range(top, min(16, top + 5))
        ]
        for step in range(7):
            count = round(step * n_cells / 6)
            assert float(found[f"deletion@{removal}"].x[step]) == pytest.approx(count / n_cells)
            without, only = features.clone(), stands_in.clone()
            for cell in cells[:count]:
                without[cell], only[cell] = stands_in[cell], features[cell]
            for name, maps in (("deletion", without), ("insertion", only)):
                wanted = torch.softmax(classifier.logits_of_features(maps[None, None]), 1)[0, TARGET[row]]
                assert float(found[f"{name}@{removal}"].y[row, step]) == pytest.approx(float(wanted), abs=1e-5)


def test_the_least_relevant_first_are_the_same_maps_read_backwards() -> None:
    explanation = relevance(random_map())
    metric = patches_zero(patch_bands=4, patch_frames=4, n_steps=8)
    found = metric.score(explanation, context_of(explanation))
    opposite = relevance(-random_map())
    reversed_map = metric.score(opposite, context_of(opposite))
    for name in ("deletion", "insertion"):
        assert torch.allclose(found[f"{name}_LeRF@zero"].y, reversed_map[f"{name}@zero"].y, atol=1e-6)
        assert torch.allclose(found[f"{name}_LeRF@zero"].x, reversed_map[f"{name}@zero"].x)
    gap = found["insertion@zero"].area() - found["deletion@zero"].area()
    assert torch.allclose(found["gap@zero"], gap)
    assert torch.allclose(found["gap@zero"], -reversed_map["gap@zero"], atol=1e-6)


def test_no_map_is_asked_about_twice() -> None:
    asked = []
    network = Lambda(lambda x: (asked.append(len(x)), x.mean((2, 3)).repeat(1, 3))[1])
    explanation = relevance(random_map())
    context = context_of(explanation, classifier_of(network))
    context.classifier.logits(context.batch.waveforms)  # the first pass is also looked at for probabilities
    asked.clear()
    patches_zero(n_steps=10, chunk_rows=6).score(explanation, context)
    assert sum(asked) == 4 * (2 * 9 + 2)
    assert max(asked) <= 6


def test_a_map_of_the_true_weights_has_the_best_area() -> None:
    generator = torch.Generator().manual_seed(5)
    weights = 0.02 * torch.randn(SHAPE, generator=generator)
    classifier, batch = additive(weights), batch_of()
    target = torch.zeros(4, dtype=torch.int64)
    truth = classifier.features(batch.waveforms)[:, 0] * weights
    metric = patches_zero(patch_bands=4, patch_frames=4, n_steps=16)  # two patches a step
    best = scored(metric, relevance(truth, target=target), classifier, batch)
    for seed in range(8):
        other = scored(metric, relevance(random_map(seed=10 + seed), target=target), classifier, batch)
        noisy = scored(metric, relevance(truth + 0.05 * random_map(seed=10 + seed), target=target), classifier, batch)
        for worse in (other, noisy):
            assert bool((best["deletion@zero"] <= worse["deletion@zero"]).all())
            assert bool((best["insertion@zero"] >= worse["insertion@zero"]).all())
        assert bool((best["gap@zero"] > other["gap@zero"] + 0.1).all())
    assert bool((best["gap@zero"] > 0.1).all())


def test_a_positive_factor_changes_nothing() -> None:
    values = random_map()
    one, other = (scored(patches_floor(n_steps=5), relevance(v)) for v in (values, 0.125 * values))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_batch_does_not_change_a_row() -> None:
    classifier, batch = classifier_of(), batch_of()
    values = random_map().round()  # full of ties
    together = scored(patches_mean(n_steps=5), relevance(values), classifier, batch)
    for row in range(4):
        alone = Batch.of([batch.clips[row]])
        found = scored(
            patches_mean(n_steps=5), relevance(values[row : row + 1], target=TARGET[row : row + 1]), classifier, alone
        )
        for name, wanted in together.items():
            assert float(found[name]) == pytest.approx(float(wanted[row]), abs=1e-5)


def test_a_clip_may_have_several_targets() -> None:
    clip = batch_of().clips[0]
    batch = Batch.of([clip, clip])
    values = random_map(1).expand(2, *SHAPE).contiguous()
    both = scored(patches_floor(n_steps=4), relevance(values, target=torch.tensor([0, 2])), classifier_of(), batch)
    for row, label in enumerate((0, 2)):
        alone = scored(
            patches_floor(n_steps=4),
            relevance(values[:1], target=torch.tensor([label])),
            classifier_of(),
            Batch.of([clip]),
        )
        assert float(both["deletion@floor"][row]) == pytest.approx(float(alone["deletion@floor"]), abs=1e-5)


@pytest.mark.parametrize("domain", ["stft", "features", "waveform"])
def test_a_constant_mask_has_a_random_area(domain: Any) -> None:
    weights = torch.linspace(-0.03, 0.03, SHAPE[0])[:, None].expand(SHAPE)  # an order by position would be extreme
    classifier = additive(weights)
    clip = batch_of().clips[0]
    n_rows = 24
    batch = Batch.of([Clip(clip.waveform, clip.rate, f"clip-{number}") for number in range(n_rows)])
    target = torch.zeros(n_rows, dtype=torch.int64)
    grid = classifier.listening.grid(batch.waveforms.shape[1])
    shape = {"stft": grid.shape, "features": SHAPE, "waveform": (batch.waveforms.shape[1],)}[domain]
    metric = patches_zero(patch_bands=3, patch_frames=5, n_steps=10)
    constant = Explanation(target, mask=Mask(torch.full((n_rows, *shape), 0.97), domain))
    found = scored(metric, constant, classifier, batch)
    noise = scored(metric, relevance(random_map(n_rows), target=target), classifier, batch)
    deviation = float(noise["gap@zero"].std()) / n_rows**0.5
    assert abs(float(found["gap@zero"].mean())) < 4 * deviation
    assert len({round(value, 6) for value in found["gap@zero"].tolist()}) == n_rows  # each clip has its own order


def test_a_silent_clip_has_no_scores() -> None:
    batch = batch_of()
    clips = (Clip(torch.zeros(batch.waveforms.shape[1]), batch.rate, "silent"), *batch.clips[1:])
    for metric in (patches_floor(n_steps=3), ThesisAUPC(n_steps=3)):
        found = scored(metric, relevance(random_map()), classifier_of(), Batch.of(clips))
        for values in found.values():
            assert values.isnan().tolist() == [True, False, False, False]


# --- networks that eat samples


def test_a_network_that_eats_samples_loses_patches_of_the_listening_stft() -> None:
    classifier, batch = wave_classifier_of(), batch_of()
    stft, n_samples = classifier.listening, batch.waveforms.shape[1]
    spectrum = stft.forward(batch.waveforms)
    explanation = relevance(random_map(shape=tuple(spectrum.shape[1:])), "stft")
    for removal in ("floor", "mean", "zero"):
        metric = PatchFlipping(removal, patch_bands=9, patch_frames=9, n_steps=4)
        found = metric.score(explanation, context_of(explanation, classifier, batch))[f"deletion@{removal}"]
        scores = formulas.patch_means(explanation.relevance.values, formulas.PatchGrid(*spectrum.shape[1:], 9, 9))
        grid = formulas.PatchGrid(*spectrum.shape[1:], 9, 9)
        places = formulas.cell_ranks(formulas.ranked(scores, torch.zeros_like(scores)), grid)
        gone = places < grid.n_cells // 4
        phase = spectrum / spectrum.abs().clamp_min(1e-12)
        removed = spectrum.abs().mean(2, keepdim=True) * phase if removal == "mean" else torch.zeros_like(spectrum)
        heard = stft.inverse(torch.where(gone, removed, spectrum), n_samples)
        picked = classifier.probabilities(heard).gather(1, TARGET[:, None])[:, 0]
        assert torch.allclose(found.y[:, 1], picked, atol=1e-4)
        whole = classifier.probabilities(batch.waveforms).gather(1, TARGET[:, None])[:, 0]
        assert torch.allclose(found.y[:, 0], whole, atol=1e-4)


def test_the_thesis_score_refuses_a_network_without_a_log_mel_map() -> None:
    classifier = wave_classifier_of()
    explanation = relevance(0.1 * batch_of().waveforms, "waveform")
    with pytest.raises(NotApplicableError, match="no log-mel map"):
        ThesisAUPC().score(explanation, context_of(explanation, classifier))


# --- the thesis' score


def with_parts(maps: Tensor, target: Tensor = TARGET, selected: Tensor | None = None) -> Explanation:
    """Maps (B, K, M, N') as parts; the first is the one map."""
    n_parts = maps.shape[1]
    flags = torch.ones(maps.shape[:2], dtype=torch.bool) if selected is None else selected
    names = tuple(f"part {number}" for number in range(n_parts))
    parts = Parts(names, torch.ones(maps.shape[:2]), flags, lambda k: Relevance(maps[:, k], "features"))
    return Explanation(target, relevance=Relevance(maps[:, 0], "features"), parts=parts)


def test_the_coded_score_is_that_of_a_slow_transcript() -> None:
    classifier, batch = classifier_of(), batch_of()
    maps = torch.stack([random_map(seed=seed) for seed in range(3)], 1)
    found = scored(ThesisAUPC(patch=4), with_parts(maps), classifier, batch)["aupc_thesis"]
    for row in range(4):
        features = classifier.features(batch.waveforms[row : row + 1])[0, 0]
        orders = []
        for part in range(3):
            heat = maps[row, part].clamp_min(0)
            sums = [(float(heat[b : b + 4, n : n + 4].sum()), b, n) for b in range(0, 16, 4) for n in range(0, 32, 4)]
            orders.append(sorted(sums, reverse=True))
        asked, flipped, scores, omega = 0, features.clone(), [], []
        for step in range(100):
            scores.append(float(classifier.logits_of_features(flipped[None, None])[0, TARGET[row]].clamp_min(0)))
            if asked == 32:
                break
            taken = min(32, asked + (step + 1) ** 2)
            for order in orders:
                for _, b, n in order[asked:taken]:
                    flipped[b : b + 4, n : n + 4] = 0
            asked = taken
            omega.append(asked / 32)
        wanted = sum(w * (a - b) / 2 for w, a, b in zip(omega, scores[:-1], scores[1:], strict=True))
        assert float(found[row]) == pytest.approx(wanted, abs=1e-5)


def test_parts_that_are_not_selected_do_not_count_and_a_row_without_any_is_not_defined() -> None:
    maps = torch.stack([random_map(seed=seed) for seed in range(3)], 1)
    only_last = torch.tensor([[False, False, True]] * 3 + [[False] * 3])
    found = scored(ThesisAUPC(patch=4), with_parts(maps, selected=only_last))
    alone = scored(ThesisAUPC(patch=4), relevance(maps[:, 2]))
    for name, values in found.items():
        assert bool(values[3].isnan())
        if not name.startswith("delta"):  # to the first part here, to itself there
            assert torch.allclose(values[:3], alone[name][:3], atol=1e-6)


def test_one_part_and_one_map_are_the_same() -> None:
    maps = random_map()
    one, other = scored(ThesisAUPC(), relevance(maps)), scored(ThesisAUPC(), with_parts(maps[:, None]))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_gained_by_taking_apart_is_the_score_of_the_whole_less_that_of_the_parts() -> None:
    maps = torch.stack([random_map(seed=seed) for seed in range(3)], 1)
    whole, apart = scored(ThesisAUPC(), relevance(maps[:, 0])), scored(ThesisAUPC(), with_parts(maps))
    for name in ("thesis", "true_fraction"):
        gain = whole[f"aupc_{name}"] - apart[f"aupc_{name}"]
        assert torch.allclose(apart[f"delta_aupc_{name}"], gain, atol=1e-6)
        assert float(gain.abs().max()) > 1e-3
        assert torch.equal(whole[f"delta_aupc_{name}"], torch.zeros(4))


def test_sixteen_white_noise_maps_beat_a_real_method_as_coded_and_lose_at_the_true_fraction() -> None:
    classifier, dataset = load_classifier("toy-cnn"), Toy(split="test", clips=8)
    batch = Batch.of([dataset[number] for number in range(8)])
    target = torch.tensor([classifier.target_of(clip.labels[0]) for clip in batch.clips])
    features = classifier.features(batch.waveforms).requires_grad_(True)
    logits = classifier.logits_of_features(features).gather(1, target[:, None]).sum()
    saliency = torch.autograd.grad(logits, features)[0][:, 0].abs()
    noise = torch.randn(8, 16, *saliency.shape[1:], generator=torch.Generator().manual_seed(0))
    real = scored(ThesisAUPC(), relevance(saliency, target=target), classifier, batch)
    sixteen = scored(ThesisAUPC(), with_parts(noise, target), classifier, batch)
    one = scored(ThesisAUPC(), relevance(noise[:, 0], target=target), classifier, batch)
    assert float(sixteen["aupc_thesis"].mean()) < 0.6 * float(real["aupc_thesis"].mean())  # the trap
    assert float(sixteen["aupc_true_fraction"].mean()) > 1.3 * float(real["aupc_true_fraction"].mean())
    assert float(one["aupc_thesis"].mean()) > 1.3 * float(real["aupc_thesis"].mean())  # with one map each it is none


# --- the door


def test_the_columns_are_those_of_the_specs() -> None:
    explanation = relevance(random_map())
    for name in ("patches-floor", "patches-mean", "patches-zero", "aupc-thesis"):
        spec = registry().metric(name).spec
        found = spec.load()().score(explanation, context_of(explanation))
        assert set(found) == {column.name for column in spec.columns}
        headline = {column.name for column in spec.columns if column.headline}
        assert headline == ({"deletion@floor", "insertion@floor"} if name == "patches-floor" else set())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PatchFlipping("black"), "removal must be one of"),  # type: ignore[arg-type]
        (lambda: patches_floor(patch_bands=0), "patch_bands"),
        (lambda: patches_mean(n_steps=0), "n_steps"),
        (lambda: patches_zero(chunk_rows=2.5), "chunk_rows"),  # type: ignore[arg-type]
        (lambda: ThesisAUPC(patch=-8), "patch"),
    ],
)
def test_what_makes_no_curve_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


def test_the_floor_is_digital_silence_and_zero_may_be_louder() -> None:
    classifier, dataset = load_classifier("toy-cnn"), Toy(split="test", clips=2)
    batch = Batch.of([dataset[number] for number in range(2)])
    explanation = relevance(torch.zeros(2, 64, 67), target=torch.tensor([0, 1]))
    scene = context_of(explanation, classifier, batch).scene
    floor, zero = (Canvas.of(scene, removal) for removal in ("floor", "zero"))
    assert bool((floor.removed <= floor.values + 1e-5).all())
    assert bool((zero.removed > zero.values.flatten(1).median(1).values[:, None, None]).all())
