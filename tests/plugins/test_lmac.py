"""L-MAC as an explainer: what training brings, that it can be interrupted, what an answer is, and what is refused."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from earwitness.artifacts import load_tensors, save_tensors
from earwitness.audio.budget import EnergyBudget
from earwitness.audio.dialects import efficientat
from earwitness.audio.front_end import LogMel
from earwitness.audio.masking import kept_energy
from earwitness.audio.mel import Compression, MelBands, Stft
from earwitness.batching import ClipList
from earwitness.classifier import AudioClassifier
from earwitness.cli.shell import shell
from earwitness.clips import Batch, Clip
from earwitness.errors import (
    CheckpointError,
    ClassifierError,
    ConfigurationError,
    ExplanationError,
    NotApplicableError,
)
from earwitness.explanation import Explanation
from earwitness.fitting import fit, fit_facts, fitted_identity, load_fitted
from earwitness.random import Random
from earwitness.registry import registry
from earwitness_bench.datasets.toy import Toy
from earwitness_plugins.lmac import training
from earwitness_plugins.lmac.beginning import listen_to_all, new_decoder
from earwitness_plugins.lmac.curves import COLUMNS, SCORES, collapse
from earwitness_plugins.lmac.decoder import MaskDecoder
from earwitness_plugins.lmac.explainer import LMAC
from earwitness_plugins.lmac.masks import MaskKind
from earwitness_plugins.lmac.material import Material, listen
from earwitness_plugins.lmac.objective import Objective
from earwitness_plugins.lmac.passages import BandPassage, coarse_grid
from earwitness_plugins.lmac.variants import lmac_budget, lmac_paper
from networks import LABELS, N_SAMPLES, RATE, Lambda, OneEach, classifier_of, patches_of, randomise, wave_classifier_of

SMALL: dict[str, Any] = {"width": 8, "steps": 6, "batch_size": 4}


class Bands(nn.Module):
    """Hears which third of the bands is loudest; its maps have four channels, at two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
        )  # fmt: skip
        randomise(self, 5)
        self.slope = nn.Parameter(torch.tensor(3.0))

    def forward(self, features: Tensor) -> Tensor:
        self.features(features)
        level = features[:, 0].clamp(min=-6).mean(2)
        thirds = [third.mean(1) for third in level.tensor_split(3, dim=1)]
        return self.slope * torch.stack(thirds, dim=1)


class NeedsSound(Bands):
    """Divides by whether there is anything in its first frames."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) / (features[..., :4].std((1, 2, 3)) > 1e-3)[:, None]


def own_classifier(network: nn.Module | None = None, **options: Any) -> AudioClassifier:
    return classifier_of(network or Bands(), **options)


def tones(n_clips: int = 8, *, n_samples: int = N_SAMPLES, seed: int = 0, rate: int = RATE) -> list[Clip]:
    """A tone in one third of the bands, noise everywhere."""
    generator = torch.Generator().manual_seed(seed)
    time_s = torch.arange(n_samples) / rate
    found = []
    for number in range(n_clips):
        hz = (150.0, 900.0, 2800.0)[number % 3] * (1 + 0.2 * float(torch.rand((), generator=generator)))
        sound = 0.3 * torch.sin(2 * torch.pi * hz * time_s) + 0.01 * torch.randn(n_samples, generator=generator)
        found.append(Clip(sound, rate, f"clip-{seed}-{number}", labels=(LABELS[number % 3],)))
    return found


def fitted(
    folder: Path,
    name: str = "lmac",
    classifier: AudioClassifier | None = None,
    *,
    train: list[Clip] | None = None,
    validation: list[Clip] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
    seed: int = 0,
    **parameters: Any,
) -> LMAC:
    found = fit(
        registry(),
        name,
        classifier or own_classifier(),
        ClipList(train or tones()),
        folder,
        validation=None if validation is None else ClipList(validation),
        parameters={**{k: v for k, v in SMALL.items() if name != "lmac-paper" or k != "batch_size"}, **parameters},
        seed=seed,
        progress=progress,
    )
    assert isinstance(found, LMAC)
    return found


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> LMAC:
    return fitted(tmp_path_factory.mktemp("lmac"))


def explained(method: LMAC, classifier: AudioClassifier | None = None, clips: list[Clip] | None = None) -> Explanation:
    own = classifier or own_classifier()
    batch = Batch.of(clips or tones(4, seed=9))
    target = own.logits(batch.waveforms).argmax(1)
    return method.explain(own, batch, target=target, random=Random(0, batch.clip_ids))


def mask_of(explanation: Explanation) -> Tensor:
    assert explanation.mask is not None
    return explanation.mask.values


def same(one: LMAC, other: LMAC) -> bool:
    states = one.state(), other.state()
    return states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


# --- training


def test_training_finds_what_convinces_the_classifier(tmp_path: Path) -> None:
    found = fitted(tmp_path, steps=120, learning_rate=5e-3, sparsity=1.0, train=tones(12))
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in found.fitted.curves.training]
    assert rows[-1]["p_heard"] - rows[-1]["p_rest"] > rows[0]["p_heard"] - rows[0]["p_rest"] + 0.1
    own, clips = own_classifier(), tones(9, seed=4)
    batch = Batch.of(clips)
    target = own.logits(batch.waveforms).argmax(1)
    mask, spectrum = mask_of(explained(found, own, clips)), own.listening.forward(batch.waveforms)
    p_heard, p_rest = (
        own.probabilities(own.listening.inverse(gain * spectrum, N_SAMPLES)).gather(1, target[:, None]).mean()
        for gain in (mask, 1 - mask)
    )
    assert float(p_heard) > float(p_rest) + 0.2


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lmac", {"noise": "clips", "finetune_steps": 5, "least_cosine": -1.0}),
        ("lmac", {"memory_mb": 0.0, "tv": 0.1}),
        ("lmac-budget", {}),
    ],
)
def test_a_resumed_fit_ends_as_one_that_was_not_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, parameters: dict[str, Any]
) -> None:
    monkeypatch.setattr(training, "STRETCH", 2)
    monkeypatch.setattr(training, "LOOK", 4)
    settings = {**parameters, "steps": 10, "validation": tones(3, seed=2)}
    whole = fitted(tmp_path / "whole", name, **settings)

    class KilledError(Exception):
        pass

    def killer(at: int) -> Callable[[int, int, str], None]:
        def progress(done: int, total: int, text: str) -> None:
            if done == at and text.startswith("loss"):
                raise KilledError

        return progress

    stages = (6, 8, 10, *((12, 14) if "finetune_steps" in parameters else ()))
    for at in stages:  # between two checkpoints, at one, where the second stage begins or the fit ends, and within it
        with pytest.raises(KilledError):
            fitted(tmp_path / "killed", name, progress=killer(at), **settings)
    assert same(fitted(tmp_path / "killed", name, **settings), whole)
    steps = whole.fitted.curves.tensors()["curves/training"][:, 0].tolist()
    assert steps == ([2, 4, 6, 8, 10, 12, 14, 15] if parameters.get("finetune_steps") else [2, 4, 6, 8, 10])


def test_equal_seeds_give_equal_decoders_and_others_do_not(tmp_path: Path, method: LMAC) -> None:
    assert same(fitted(tmp_path / "again"), method)
    assert not same(fitted(tmp_path / "other", seed=1), method)


def test_the_decoder_with_the_best_validation_score_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LOOK", 2)
    monkeypatch.setattr(training, "STRETCH", 2)
    found = fitted(tmp_path, steps=12, learning_rate=0.05, validation=tones(4, seed=2)).fitted
    rows = [dict(zip(SCORES, row, strict=True)) for row in found.curves.validation]
    best = max(row["score"] for row in rows)
    assert found.step in [row["step"] for row in rows if row["score"] == best]
    assert rows[0]["score"] == pytest.approx((rows[0]["AI"] + rows[0]["AG"] + rows[0]["FF"]) / 3)


def test_validation_scores_are_those_of_the_masks(tmp_path: Path) -> None:
    validation, own = tones(4, seed=2), own_classifier()
    found = fitted(tmp_path, validation=validation)
    batch = Batch.of(validation)
    target = own.logits(batch.waveforms).argmax(1)
    mask, spectrum = mask_of(explained(found, own, validation)), own.listening.forward(batch.waveforms)
    p, p_heard, p_rest = (
        own.probabilities_of(own.logits_of_features(own.front_end.from_stft(gain * spectrum)))
        .gather(1, target[:, None])[:, 0]
        for gain in (torch.ones_like(mask), mask, 1 - mask)
    )  # fmt: skip
    scores = dict(zip(SCORES, found.fitted.curves.validation[-1], strict=True))
    assert scores["FF"] == pytest.approx(float((p - p_rest).mean()), abs=1e-4)
    assert scores["AI"] == pytest.approx(float((p_heard > p + 1e-4).float().mean()), abs=1e-6)
    assert scores["AG"] == pytest.approx(float(((p_heard - p).clamp(min=0) / (1 - p)).mean()), abs=1e-3)
    assert scores["mean_mask"] == pytest.approx(float(mask.mean()), abs=1e-4)


def test_guided_masks_move_towards_what_is_loud(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 10, "learning_rate": 5e-3, "least_cosine": -1.0, "exchange_weight": 0.0}
    plain = fitted(tmp_path / "plain", **settings)
    guided = fitted(tmp_path / "guided", **settings, finetune_steps=60, guidance_weight=32.0)
    magnitude = own_classifier().listening.forward(Batch.of(tones(4, seed=9)).waveforms).abs()
    kept = [kept_energy(mask_of(explained(each)), magnitude).mean() for each in (plain, guided)]
    means = [mask_of(explained(each)).mean() for each in (plain, guided)]
    assert float(kept[1] / means[1]) > 2 * float(kept[0] / means[0])
    assert guided.fitted.curves.training[-1][COLUMNS.index("guided")] == 1
    assert guided.fitted.step == 70


def test_silent_clips_are_left_out_and_counted(tmp_path: Path) -> None:
    said: list[str] = []
    silent = Clip(torch.zeros(N_SAMPLES), RATE, "silent", labels=("dog",))
    found = fitted(tmp_path, train=[silent, *tones()], progress=lambda done, total, text: said.append(text))
    assert "listening to the clips, 1 silent ones left out" in said
    assert fit_facts(tmp_path)["notes"] == ["Silent clips were left out, 1 in all: silent."]
    assert bool(torch.isfinite(mask_of(explained(found, clips=[silent]))).all())
    with pytest.raises(ConfigurationError, match="All 1 training clips are silent"):
        fitted(tmp_path / "all", train=[silent])
    fitted(tmp_path / "one of two", validation=[silent, *tones(2)])
    assert fit_facts(tmp_path / "one of two")["notes"] == ["Silent validation clips were left out, 1 in all: silent."]
    fitted(tmp_path / "none", validation=[silent])
    assert "Nothing was left to select by" in fit_facts(tmp_path / "none")["notes"][0]


def test_a_clip_is_no_noise_for_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="only one has anything to hear"):
        fitted(tmp_path, train=tones(1), noise="clips")


def test_levels_are_those_of_clips_from_all_over_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    own, clips = own_classifier(), tones(200)
    passage = functools.lru_cache(functools.partial(LMAC(width=8).kind.passage, own))
    material = Material(own, ["features.4"], passage, ClipList(clips), seed=0)
    listen_to_all([material], 64.0, lambda done, total, text: None)
    asked: list[tuple[int, ...]] = []
    rows = material.rows
    monkeypatch.setattr(material, "rows", lambda indices: asked.append(tuple(indices)) or rows(indices))
    new_decoder(material, 8, told=True, seed=0)
    (found,) = asked
    assert len(set(found)) == 16
    assert max(found) > 100 > min(found), "data in the order of their classes begin with one of them"


def test_masks_that_collapse_are_reported_while_training(tmp_path: Path) -> None:
    said: list[str] = []
    found = fitted(
        tmp_path,
        steps=120,
        sparsity=1e3,
        learning_rate=0.02,
        progress=lambda done, total, text: said.append(text),
    )
    assert "the masks have collapsed to all-zero" in said[-1]
    assert not any("collapsed" in text for text in said[:-2])
    assert fit_facts(tmp_path)["notes"] == found.notes
    assert found.notes[0].startswith("At the end of the training the masks have collapsed to all-zero")
    assert explained(found).diagnostics["collapsed"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("classifier", "kind"),
    [
        (own_classifier, MaskKind(domain="stft", scale="magnitude")),
        (own_classifier, MaskKind(domain="features", scale="magnitude")),
        (own_classifier, MaskKind(domain="stft", scale="log1p")),
        (own_classifier, MaskKind(domain="stft", scale="magnitude", binarize=True)),
        (wave_classifier_of, MaskKind(domain="stft", scale="magnitude")),
    ],
)
def test_masks_collapse_where_the_classifier_has_bands(
    classifier: Callable[[], AudioClassifier], kind: MaskKind
) -> None:
    own = classifier()
    passage, shape = kind.passage(own, N_SAMPLES), coarse_grid(own, N_SAMPLES).shape

    def said(coarse: Tensor) -> str:
        mean, spread = passage.level(passage.spread(coarse.expand(2, *shape)))
        return collapse(float(mean[1]), float(spread[1]))

    assert "all-zero" in said(torch.tensor(0.0))
    assert "all-one" in said(torch.tensor(1.0))
    assert "a constant gain of 0.40" in said(torch.tensor(0.4))
    assert not said(torch.linspace(0.4, 0.6, shape[0])[:, None])


def test_a_training_that_diverges_stops_and_keeps_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "LOOK", 2)
    monkeypatch.setattr(training, "STRETCH", 2)
    plain, asked = Objective.of_answers, []

    def until_the_fifth(self: Objective, *logits: Tensor, multilabel: bool) -> Tensor:
        asked.append(len(asked))
        loss = plain(self, *logits, multilabel=multilabel)
        return loss * (torch.nan if len(asked) > 4 else 1)

    monkeypatch.setattr(Objective, "of_answers", until_the_fifth)
    with pytest.raises(ExplanationError, match=r"diverged in step 5 of 6: .* is kept, with the decoder of step 4"):
        fitted(tmp_path)
    tensors, settings = load_tensors(tmp_path / "checkpoint.safetensors")
    assert settings["step"] == 4
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values() if value.is_floating_point())
    monkeypatch.setattr(Objective, "of_answers", plain)
    rescued = fitted(tmp_path / "rescued", start=str(tmp_path), steps=1, learning_rate=1e-9)
    for name, value in rescued.fitted.decoder.state_dict().items():
        assert torch.allclose(value, tensors[f"kept/{name}"], atol=1e-7), "it starts from what was kept"
    with pytest.raises(CheckpointError, match="holds no mask decoder"):
        fitted(tmp_path / "other", classifier=own_classifier(OneEach()), start=str(tmp_path), steps=1)


def test_the_gradient_must_be_finite_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def steep(self: Objective, heard: Tensor, *others: Tensor, multilabel: bool) -> Tensor:
        return (heard[:, 0] - heard[:, 0].detach()).abs().sqrt()  # zero, and its slope is infinite

    monkeypatch.setattr(Objective, "of_answers", steep)
    with pytest.raises(ExplanationError, match=r"diverged in step 1 of 6: .* There is no checkpoint"):
        fitted(tmp_path)


@pytest.mark.parametrize("name", ["lmac", "lmac-budget"])
def test_examples_sound_as_the_explanation_would_at_that_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(training, "LOOK", 2)
    monkeypatch.setattr(training, "STRETCH", 2)
    found = fitted(tmp_path, name, examples=2, noise="clips", noise_snr_db=0.0)
    names = sorted(path.name for path in (tmp_path / "examples").iterdir())
    assert names == [f"{n}-clip-0-{n}-step0000{step}.wav" for n in (0, 1) for step in (2, 4, 6)]
    assert found.fitted.step == 6  # without validation clips the last decoder is kept
    clip = tones()[0]
    mask, listening = mask_of(explained(found, clips=[clip])), own_classifier().listening
    heard = listening.inverse(mask * listening.forward(clip.waveform[None]), N_SAMPLES)[0]
    assert np.allclose(soundfile.read(tmp_path / "examples" / names[2])[0], heard.numpy(), atol=1e-5)


def test_examples_are_of_validation_clips_where_there_are_some(tmp_path: Path) -> None:
    fitted(tmp_path, examples=1, validation=tones(3, seed=2))
    assert [path.name for path in (tmp_path / "examples").iterdir()] == ["0-clip-2-0-step00006.wav"]


# --- the answer


@pytest.mark.parametrize("n_samples", [N_SAMPLES, 3001, 9000])
def test_a_mask_lies_exactly_on_the_listening_stft(method: LMAC, n_samples: int) -> None:
    own = own_classifier()
    explanation = explained(method, own, tones(2, n_samples=n_samples, seed=9))
    assert explanation.mask is not None
    assert explanation.mask.domain == "stft"
    assert tuple(mask_of(explanation).shape[1:]) == own.listening.grid(n_samples).shape
    assert float(mask_of(explanation).std()) > 0


def test_a_batch_changes_nothing(method: LMAC) -> None:
    clips = tones(4, seed=9)
    alone = torch.cat([mask_of(explained(method, clips=[clip])) for clip in clips])
    assert torch.allclose(mask_of(explained(method, clips=clips)), alone, atol=1e-5)


def test_the_answer_says_whether_the_target_is_the_decision(method: LMAC) -> None:
    own, batch = own_classifier(), Batch.of(tones(3, seed=9))
    decision = own.logits(batch.waveforms).argmax(1)
    target = torch.tensor([int(decision[0]), int(decision[1] + 1) % 3, int(decision[2])])
    found = method.explain(own, batch, target=target, random=Random(0, batch.clip_ids))
    assert found.diagnostics["is_decision"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("conditional", [True, False])
def test_a_decoder_that_is_told_the_class_has_a_mask_for_each(tmp_path: Path, conditional: bool) -> None:
    found = fitted(tmp_path, class_conditional=conditional)
    own, batch = own_classifier(), Batch.of(tones(2, seed=9))
    first, other = (
        mask_of(found.explain(own, batch, target=torch.tensor([label, label]), random=Random(0, batch.clip_ids)))
        for label in (0, 1)
    )
    assert torch.equal(first, other) is not conditional
    with pytest.raises(CheckpointError, match="told the class"):
        LMAC(width=found.width, class_conditional=not conditional).load_state(found.state())


def test_binary_masks_are_binary(tmp_path: Path) -> None:
    values = mask_of(explained(fitted(tmp_path, binarize=True, learning_rate=0.02)))
    assert set(values.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("scale", ["magnitude", "log1p"])
@pytest.mark.parametrize("domain", ["stft", "features"])
def test_a_mask_has_its_domain_and_scale(tmp_path: Path, domain: str, scale: str) -> None:
    own = own_classifier()
    explanation = explained(fitted(tmp_path, domain=domain, scale=scale, steps=2), own)
    assert explanation.mask is not None
    assert (explanation.mask.domain, explanation.mask.scale) == (domain, scale)
    grid = own.listening.grid(N_SAMPLES) if domain == "stft" else own.feature_grid(N_SAMPLES)
    assert grid is not None
    assert tuple(mask_of(explanation).shape[1:]) == grid.shape


def test_masks_for_budgets_keep_half_of_the_energy_and_rank_as_they_were_trained(tmp_path: Path) -> None:
    found, own = fitted(tmp_path, "lmac-budget"), own_classifier()
    explanation = explained(found, own)
    magnitude = own.listening.forward(Batch.of(tones(4, seed=9)).waveforms).abs()
    kept = kept_energy(mask_of(explanation), magnitude)
    assert kept.tolist() == pytest.approx([0.5] * 4, abs=0.05)  # on bands, of which each holds several bins
    gain = EnergyBudget(mask_of(explanation), magnitude).gain(0.2)
    assert kept_energy(gain, magnitude).tolist() == pytest.approx([0.2] * 4, abs=1e-3)


def test_presets_are_the_published_objective_and_the_one_for_budgets() -> None:
    paper, budget = lmac_paper(), lmac_budget()
    weights = Objective(
        in_weight=4.0, increase_weight=0.0, out_weight=0.2, exchange_weight=0.0, sparsity=6.4, out_loss="published"
    )
    assert (paper.objective, paper.class_conditional) == (weights, False)
    assert (paper.recipe.budget_share, paper.recipe.mean_mask) == (0, None)
    assert (budget.recipe.budget_share, budget.objective.sparsity) == (1, 0)
    for preset in (lmac_paper, lmac_budget):
        chosen = preset(start="earlier", memory_mb=64.0, examples=3)
        assert (chosen.start, chosen.memory_mb, chosen.examples) == ("earlier", 64.0, 3)
    assert {offer.spec.name for offer in registry().offers("explainers")} >= {"lmac", "lmac-paper", "lmac-budget"}


# --- other classifiers


@pytest.mark.parametrize(
    ("classifier", "n_samples"),
    [
        (wave_classifier_of, N_SAMPLES),
        (lambda: own_classifier(segmenter=patches_of, multilabel=True), N_SAMPLES),
        (lambda: classifier_of(front_end=efficientat()), 8000),
    ],
)
def test_any_convolutional_classifier_has_a_decoder(
    tmp_path: Path, classifier: Callable[[], AudioClassifier], n_samples: int
) -> None:
    own = classifier()
    clips = tones(4, n_samples=n_samples, rate=own.rate)
    found = fitted(tmp_path, classifier=own, train=clips, steps=2)
    values = mask_of(explained(found, own, clips))
    assert tuple(values.shape[1:]) == own.listening.grid(n_samples).shape
    assert float(values.std()) > 0


def test_layers_can_be_named_in_any_order(tmp_path: Path) -> None:
    found = fitted(tmp_path, layers=["features.4", "features.0"], steps=2)
    assert found.fitted.layers == ("features.0", "features.4")
    assert LMAC(layers=["features.4", "features.0"], width=8).load_state(found.state()).fitted.layers == (
        "features.0",
        "features.4",
    )


def test_clips_of_several_lengths_are_trained_on(tmp_path: Path) -> None:
    lengths = (3000, 3500, N_SAMPLES, N_SAMPLES, 5000, 6001)
    clips = [tones(6, n_samples=n, seed=n)[place] for place, n in enumerate(lengths)]
    found = fitted(tmp_path, train=clips, steps=4)
    assert found.fitted.step == 4
    assert found.notes[0] == "Clips of 0.38 to 0.75 s were trained on at 0.50 s."
    material = Material(
        own_classifier(), ["features.4"], lambda n: found.kind.passage(own_classifier(), n), ClipList(clips),
        seed=0, n_samples=N_SAMPLES,
    )  # fmt: skip
    for index in range(len(clips)):
        material.prepare(index, 100.0)
    assert [len(chunk) for chunk in material.chunks(4)] == [4, 2], "so that masks are exchanged"
    heard = material.clean(range(len(clips))).waveforms
    assert torch.equal(heard[0], torch.cat([clips[0].waveform, clips[0].waveform])[:N_SAMPLES])
    assert torch.equal(heard[3], clips[3].waveform)
    excerpts = clips[5].waveform.unfold(0, N_SAMPLES, 1)
    assert bool((excerpts == heard[5]).all(1).any())


def test_what_is_shorter_than_the_layers_take_is_repeated_wherever_it_stands(tmp_path: Path) -> None:
    deep = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(8), nn.Conv2d(4, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    randomise(deep, 0)
    own = classifier_of(deep)
    short, *others = tones(4, n_samples=400)[:1] + tones(4)
    with pytest.raises(RuntimeError):
        own.logits(short.waveform[None])
    found = fitted(tmp_path / "first", classifier=own, train=[short, *others], steps=2)
    assert found.fitted.layers == fitted(tmp_path / "last", classifier=own, train=others, steps=2).fitted.layers


def test_a_clip_that_leaves_one_cell_of_a_map_is_explained(method: LMAC) -> None:
    own = own_classifier()
    tiny = tones(1, n_samples=own.listening.hop_length)
    assert tuple(mask_of(explained(method, own, tiny)).shape[1:]) == own.listening.grid(len(tiny[0].waveform)).shape


def test_a_classifier_of_one_length_is_trained_and_validated_at_that_length(tmp_path: Path) -> None:
    own = own_classifier()
    bands, frames = own.features(Batch.of(tones(1)).waveforms).shape[2:]
    head = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * bands * frames, 3))
    randomise(head, 0)
    fixed = own_classifier(head, duration_s=N_SAMPLES / RATE)
    longer = tones(4, n_samples=N_SAMPLES + 500)
    found = fitted(tmp_path, classifier=fixed, train=longer, validation=tones(2, n_samples=N_SAMPLES - 500))
    assert len(found.fitted.curves.validation) == 1
    assert found.notes[0] == "Clips of 0.56 to 0.56 s were trained on at 0.50 s."
    fitted(tmp_path / "mixed", classifier=fixed, train=[*longer, *tones(2)])
    assert not any("trained on" in note for note in fitted(tmp_path / "same", classifier=fixed, train=tones()).notes)


def test_logits_that_are_not_finite_are_said_by_the_clip(tmp_path: Path) -> None:
    silence, sound = torch.zeros(N_SAMPLES // 2), tones(1)[0].waveform[: N_SAMPLES // 2]
    late = Clip(torch.cat([silence, sound]), RATE, "begins late")
    validation = [*tones(2, seed=2), late]
    with pytest.raises(ExplanationError, match="answers clip begins late with logits that are not finite"):
        fitted(tmp_path, classifier=own_classifier(NeedsSound()), validation=validation)


def test_scores_that_are_not_finite_stop_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = BandPassage.heard_and_rest

    def nothing(self: BandPassage, mask: Tensor, clips: Tensor) -> tuple[Tensor, Tensor]:
        heard, rest = plain(self, mask, clips)
        return (heard, rest) if mask.requires_grad else (heard * torch.nan, rest)

    monkeypatch.setattr(BandPassage, "heard_and_rest", nothing)
    with pytest.raises(ExplanationError, match="validation clips under their masks is not finite in step 6"):
        fitted(tmp_path, validation=tones(2, seed=2))


def test_one_class_under_softmax_is_refused(tmp_path: Path) -> None:
    one = Lambda(lambda x: x.mean((1, 2, 3))[:, None])
    with pytest.raises(ConfigurationError, match="one class under softmax"):
        fitted(tmp_path, classifier=classifier_of(one, labels=("dog",)))


def test_masks_cannot_keep_more_than_what_the_classifier_hears(tmp_path: Path) -> None:
    bands, compression = MelBands(8, f_max=RATE / 8), Compression("ln", 1e-4, shift=3.0)
    low = own_classifier(front_end=LogMel(rate=RATE, stft=Stft(256, 128), bands=bands, compression=compression))
    with pytest.raises(ConfigurationError, match=r"mean_mask=0\.28 .* hears 0\.2"):
        fitted(tmp_path / "much", classifier=low)
    assert fitted(tmp_path / "less", classifier=low, mean_mask=0.07, steps=2).fitted.step == 2


def test_layers_without_a_spatial_shape_are_refused(tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    flat(own_classifier().features(Batch.of(tones(1)).waveforms))
    with pytest.raises(NotApplicableError, match="no spatial shape"):
        fitted(tmp_path, classifier=classifier_of(flat))
    named = classifier_of()
    with pytest.raises(NotApplicableError, match=r"'head' .* has no spatial shape"):
        fitted(tmp_path / "named", classifier=named, layers=["head"])
    with pytest.raises(ClassifierError, match=r"no layer 'features\.40'"):
        fitted(tmp_path / "unknown", layers=["features.40"])
    pooled = classifier_of(Lambda(lambda x: x.mean((2, 3)).expand(-1, 3)))
    with pytest.raises(NotApplicableError):
        fitted(tmp_path / "nothing", classifier=pooled)


# --- the folder, and what is refused


def test_a_fit_is_loaded_as_it_was(tmp_path: Path) -> None:
    found = fitted(tmp_path, steps=2)
    again = load_fitted(registry(), tmp_path, own_classifier())
    assert isinstance(again, LMAC)
    assert same(again, found)
    assert torch.equal(mask_of(explained(again)), mask_of(explained(found)))
    assert fit_facts(tmp_path)["n_parameters"] == sum(p.numel() for p in found.fitted.decoder.parameters()) > 1000


@pytest.mark.parametrize(
    ("asked", "match"),
    [({"width": 16}, "with width 8, not 16"), ({"width": 8, "layers": ["features.0"]}, "not to features.0")],
)
def test_decoders_of_another_shape_are_not_loaded(method: LMAC, asked: dict[str, Any], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        LMAC(**asked).load_state(method.state())


def test_tensors_of_something_else_are_not_loaded() -> None:
    with pytest.raises(CheckpointError, match="not the tensors of a fitted mask decoder"):
        LMAC().load_state({"means": torch.zeros(3)})


def test_explaining_before_fitting_says_how_to_fit() -> None:
    with pytest.raises(ExplanationError, match="earwitness fit lmac"):
        explained(LMAC())
    with pytest.raises(CheckpointError, match="not been fitted"):
        LMAC().state()


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": "features"},
        {"width": 0},
        {"domain": "mel"},
        {"scale": "power"},
        {"out_loss": "unbounded"},
        {"steps": 0},
        {"finetune_steps": -1},
        {"learning_rate": 0.0},
        {"learning_rate": "fast"},
        {"mean_mask": 1.0},
        {"mean_mask": "a"},
        {"sparsity": 0.0},
        {"budget_share": 1.5},
        {"budget_share": 0.5, "binarize": True},
        {"budget_share": 1.0, "scale": "log1p"},
        {"guidance_loss": "mse"},
        {"noise_snr_db": float("nan")},
        {"examples": -1},
        {"memory_mb": float("nan")},
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        LMAC(**wrong)


def test_a_fit_can_be_fine_tuned_further_and_from_nothing_else(tmp_path: Path) -> None:
    own = own_classifier()
    earlier = fitted(tmp_path / "earlier", classifier=own, steps=6)
    tuned = fitted(tmp_path / "tuned", classifier=own, start=str(tmp_path / "earlier"), steps=0, finetune_steps=1)
    before, after = earlier.fitted.decoder.state_dict(), tuned.fitted.decoder.state_dict()
    assert 0 < max(float((after[name] - before[name]).abs().max()) for name in before) < 0.01, "one step away"
    assert tuned.fitted.sparsity == earlier.fitted.sparsity != earlier.objective.sparsity
    fixed = fitted(tmp_path / "fixed", classifier=own, start=str(tmp_path / "earlier"), steps=1, mean_mask=None)
    assert fixed.fitted.sparsity == fixed.objective.sparsity, "asked for, and not adapted"
    with pytest.raises(CheckpointError, match="of width 16 that listens"):
        fitted(tmp_path / "wider", classifier=own, start=str(tmp_path / "earlier"), steps=0, finetune_steps=1, width=16)
    with pytest.raises(CheckpointError, match="holds no fitted explainer"):
        fitted(tmp_path / "none", classifier=own, start=str(tmp_path), steps=0, finetune_steps=1)


def test_a_fit_is_known_by_what_is_in_the_folders_that_it_names_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    generator = np.random.default_rng(0)

    def write_noise(folder: str) -> None:
        soundfile.write(tmp_path / folder / "a.wav", 0.1 * generator.standard_normal(2 * N_SAMPLES), RATE)

    def with_noise(folder: str) -> LMAC:
        return fitted(tmp_path / "noisy", noise=str(tmp_path / folder))

    write_noise("noise")
    noisy = with_noise("noise")
    (tmp_path / "noise").rename(tmp_path / "moved")
    assert same(with_noise("moved"), noisy)
    write_noise("moved")
    with pytest.raises(CheckpointError, match="other contents"):
        with_noise("moved")

    def tune(start: str) -> LMAC:
        return fitted(tmp_path / "tuned", start=str(tmp_path / start), steps=0, finetune_steps=1)

    fitted(tmp_path / "first")
    tuned = tune("first")
    (tmp_path / "first").rename(tmp_path / "kept")
    assert same(tune("kept"), tuned)
    assert "start" not in fitted_identity(tmp_path / "tuned")["parameters"]
    fitted(tmp_path / "first", seed=1)
    with pytest.raises(CheckpointError, match="other contents"):
        tune("first")


def test_a_fit_that_has_not_finished_is_known_by_its_tensors(tmp_path: Path) -> None:
    def contents() -> object:
        return LMAC(start=str(tmp_path)).contents

    values = {"key": "k", "step": 4}
    save_tensors(tmp_path / "checkpoint.safetensors", {"kept/weight": torch.zeros(3)}, values)
    before = contents()
    save_tensors(tmp_path / "checkpoint.safetensors", {"kept/weight": torch.ones(3)}, values)
    assert contents() != before


def test_classes_that_were_never_decided_are_explained_untold(tmp_path: Path) -> None:
    own = own_classifier()
    clips = tones(12)
    decided = own.logits(Batch.of(clips).waveforms).argmax(1)
    missing = int(decided[0])
    some = [clip for clip, label in zip(clips, decided.tolist(), strict=True) if label != missing]
    assert len(some) > 2
    found = fitted(tmp_path, train=some, noise=None)
    assert found.notes == [
        f"The decoder is told nothing of classes that were never decided, 1 in all: {own.labels[missing]}."
    ]
    assert found.fitted.decoder.told is not None
    assert bool((found.fitted.decoder.told.weight[missing] == 0).all())
    batch = Batch.of(clips[:3])
    asked = torch.tensor([missing, *({0, 1, 2} - {missing})])
    answer = found.explain(own, batch, target=asked, random=Random(0, batch.clip_ids))
    assert answer.diagnostics["class_trained"].tolist() == [0, 1, 1]
    again = fitted(tmp_path / "again", train=some, noise=None, start=str(tmp_path))
    assert again.notes == found.notes


def test_what_a_training_keeps_tells_nothing_of_classes_that_were_never_decided() -> None:
    decoder = MaskDecoder([4], 8, classes=3)
    decoder.initialise([torch.randn(2, 4, 3, 3)], seed=0)
    assert decoder.told is not None
    with torch.no_grad():
        decoder.told.weight[1] += 0.1
    kept = decoder.learnt()
    assert set(kept) == set(decoder.state_dict())
    assert (kept["told.weight"] != 0).any(1).tolist() == [False, True, False]
    assert bool((decoder.told.weight != 0).all())
    decoder.load_state_dict(kept)
    taken_up = MaskDecoder([4], 8, classes=3)  # as from a file: what it tells first is what was learnt before
    taken_up.load_state_dict(kept)
    assert all(torch.equal(each.learnt()[name], kept[name]) for each in (decoder, taken_up) for name in kept)


def test_several_classes_at_once_may_be_heard_under_a_mask_of_either(tmp_path: Path) -> None:
    several = own_classifier(OneEach(), multilabel=True)
    passage = LMAC(width=8).kind.passage(several, N_SAMPLES)
    rows = listen(several, ["features.4"], passage, Batch.of(tones(6)).waveforms)
    p = several.probabilities(Batch.of(tones(6)).waveforms)
    assert torch.equal(rows.found, (p > 0.5).scatter(1, p.argmax(1, keepdim=True), True))
    one = listen(own_classifier(), ["features.4"], passage, Batch.of(tones(6)).waveforms)
    assert one.found.sum(1).tolist() == [1] * 6


def test_a_noise_folder_without_noise_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    with pytest.raises(ConfigurationError, match="no recording to take noise from"):
        fitted(tmp_path / "fit", noise=str(tmp_path / "noise"))


def test_fit_and_explain_from_the_command_line(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(shell, [*words])
        assert result.exit_code == 0, result.output
        return result.output

    clip = Toy(split="test", clips=1)[0]
    soundfile.write(tmp_path / "clip.wav", clip.waveform.numpy(), clip.rate, subtype="FLOAT")
    folder, classifier = str(tmp_path / "fitted"), ("--classifier", "toy-cnn")
    data = ("--dataset", "toy", "--dataset-param", "clips=4", "--validation-param", "split=test")
    small = ("--param", "steps=2", "--param", "width=8")
    assert "note:" not in run("fit", "lmac", *classifier, *data, *small, "--out", folder)
    one = (*data[:2], "--dataset-param", "clips=1")
    assert "note: The decoder is told nothing of" in run(
        "fit", "lmac", *classifier, *one, *small, "--param", "noise=pink", "--out", f"{folder}-of-one"
    )
    out = ("--out", str(tmp_path / "out"), "--json")
    said = run(
        "explain", str(tmp_path / "clip.wav"), "--explainer", "lmac", "--checkpoint", folder, *classifier, *out
    )  # fmt: skip
    assert json.loads(said)
