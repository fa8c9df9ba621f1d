"""L2I as an explainer: what a fit leaves, what an explanation says, and what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from earwitness import load_classifier
from earwitness.artifacts import load_tensors
from earwitness.audio.dialects import efficientat, yamnet
from earwitness.audio.front_end import Identity
from earwitness.audio.stft import ListeningSTFT
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
from earwitness.explanation import Explanation, Mask
from earwitness.fitting import fit, load_fitted
from earwitness.parameters import resolved_parameters
from earwitness.random import Random
from earwitness.registry import registry
from earwitness_bench.datasets.toy import Toy
from earwitness_plugins.classifiers.mobilenet_v1 import MobileNetV1
from earwitness_plugins.classifiers.mobilenet_v3 import MobileNetV3
from earwitness_plugins.classifiers.pretrained import frame_patches
from earwitness_plugins.hidden_maps import deepest_layers
from earwitness_plugins.l2i.explainer import L2I
from earwitness_plugins.sparse_nmf.dictionary import Dictionary
from networks import LABELS, N_SAMPLES, RATE, Lambda, classifier_of, noise, patches_of, randomise, wave_classifier_of

SMALL = {"patterns": 6, "pooling": "attention", "width": 8, "epochs": 4, "batch_size": 4}
LAYERS = ["features.1", "features.4", "features.7"]


class Net(nn.Module):
    """Three convolutions, each behind a ReLU of its own, at three resolutions."""

    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(8, 7, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(7, len(LABELS))
        randomise(self, seed)

    def forward(self, features: Tensor) -> Tensor:
        return 0.3 * self.head(self.features(features).amax((2, 3)))


def classifier(**options: Any) -> AudioClassifier:
    return classifier_of(Net(), **options)


def tones(n_clips: int, *, seed: int = 0, n_samples: int = N_SAMPLES) -> list[Clip]:
    """Two tones and a little noise each, of which the labels know nothing."""
    generator = torch.Generator().manual_seed(seed)
    frequency = 200 * 2 ** (4 * torch.rand(n_clips, 2, 1, generator=generator))
    level = 0.3 * torch.rand(n_clips, 2, 1, generator=generator)
    sound = (level * torch.sin(2 * torch.pi * frequency * torch.arange(n_samples) / RATE)).sum(1)
    sound += 0.02 * torch.randn(n_clips, n_samples, generator=generator)
    return [Clip(row, RATE, f"{seed}-{n}", labels=(LABELS[n % 3],)) for n, row in enumerate(sound)]


TRAIN, VALIDATION = ClipList(tones(13)), ClipList(tones(6, seed=1))


def silent_progress(done: int, total: int, text: str) -> None:
    assert 0 <= done <= total


def fitted_l2i(folder: Path, own: AudioClassifier | None = None, **options: Any) -> L2I:
    train = options.pop("train", TRAIN)
    settings = {"validation": VALIDATION, "seed": 0, "progress": silent_progress, **options}
    named = {name: settings.pop(name) for name in ("validation", "seed", "progress")}
    found = fit(registry(), "l2i", own or classifier(), train, folder, parameters={**SMALL, **settings}, **named)
    assert isinstance(found, L2I)
    return found


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> L2I:
    return fitted_l2i(tmp_path_factory.mktemp("l2i"))


def explained(method: L2I, own: AudioClassifier | None = None, batch: Batch | None = None) -> Explanation:
    batch = batch or Batch.of(tones(5, seed=2))
    target = torch.tensor([1, 2, 0, 1, 2, 0, 1, 2])[: len(batch)]
    return method.explain(own or classifier(), batch, target=target, random=Random(0, batch.clip_ids))


def altered(method: L2I, change: Any, **parameters: Any) -> L2I:
    """A copy with other tensors."""
    state = {name: tensor.clone() for name, tensor in method.state().items()}
    change(state)
    return L2I(**{**SMALL, **parameters}).load_state(state)


def mask_of(explanation: Explanation) -> Mask:
    assert explanation.mask is not None
    return explanation.mask


# --- explanations


def test_the_logits_are_the_sum_of_the_contributions_whose_shares_are_the_weights(fitted: L2I) -> None:
    found, batch = explained(fitted), Batch.of(tones(5, seed=2))
    own = fitted.fitted
    subject = classifier()
    with subject.taps(LAYERS) as taps, torch.no_grad():
        subject.logits(batch.waveforms)
        maps = [taps[name] for name in LAYERS]
        activations = own.interpreter.psi(maps, subject.listening.n_frames(N_SAMPLES))
        z = own.interpreter.theta.pooled(activations)
    assert found.parts is not None
    theta = own.interpreter.theta.linear.weight
    for row, target in enumerate(found.target.tolist()):
        terms = [float(z[row, k] * theta[target, k]) for k in range(6)]
        largest = max(abs(term) for term in terms)
        assert found.parts.weights[row].tolist() == pytest.approx([term / largest for term in terms], abs=1e-4)
        assert float(found.surrogate_logits[row, target]) == pytest.approx(sum(terms), abs=1e-4)  # type: ignore[index]


def test_the_mask_is_what_the_selected_patterns_cover(fitted: L2I) -> None:
    found = explained(fitted)
    assert found.parts is not None
    assert found.parts.names == tuple(f"pattern {number}" for number in range(1, 7))
    assert torch.equal(found.parts.selected, found.parts.weights > 0.2)
    maps = torch.stack([found.parts.map(k).values for k in range(6)], dim=1)
    chosen = found.parts.selected[:, :, None, None]
    assert torch.allclose((maps * chosen).sum(1), mask_of(found).values, atol=1e-5)
    assert found.diagnostics["selected"].tolist() == found.parts.selected.sum(1).tolist()
    assert {mask_of(found).scale, found.parts.map(0).scale} == {"log1p"}  # type: ignore[union-attr]


def test_masks_may_be_gains_too(fitted: L2I) -> None:
    gains = explained(altered(fitted, lambda state: None, scale="magnitude"))
    assert mask_of(gains).scale == "magnitude"
    assert torch.equal(mask_of(gains).values, mask_of(explained(fitted)).values)


def test_a_higher_threshold_selects_fewer_patterns(fitted: L2I) -> None:
    counts = [
        explained(altered(fitted, lambda state: None, threshold=threshold)).diagnostics["selected"]
        for threshold in (0.0, 0.4, 0.9)
    ]
    assert bool((counts[0] >= counts[1]).all() and (counts[1] >= counts[2]).all())
    assert float(counts[0].sum()) > float(counts[2].sum())


def test_a_batch_is_explained_as_its_clips_are_one_by_one(fitted: L2I) -> None:
    clips = tones(5, seed=2)
    together = explained(fitted)
    for row in (0, 4):
        batch = Batch.of([clips[row]])
        alone = fitted.explain(classifier(), batch, target=together.target[[row]], random=Random(0, batch.clip_ids))
        assert torch.allclose(mask_of(alone).values[0], mask_of(together).values[row], atol=1e-4)


def test_clips_may_have_any_length(fitted: L2I) -> None:
    for n_samples in (1500, 9000):
        found = explained(fitted, batch=Batch.of(tones(2, n_samples=n_samples)))
        grid = classifier().listening.grid(n_samples)
        assert mask_of(found).values.shape == (2, *grid.shape)


def test_where_all_contributions_are_negative_the_explanation_is_empty_and_says_so(fitted: L2I) -> None:
    def negate(state: dict[str, Tensor]) -> None:
        state["weights/theta.linear.weight"].abs_().neg_()

    found = explained(altered(fitted, negate, threshold=0.0))
    assert found.diagnostics["selected"].tolist() == [0.0] * 5
    assert float(mask_of(found).values.max()) == 0
    assert found.parts is not None
    assert float(found.parts.weights.min()) == -1


def test_without_any_activation_the_explanation_is_empty(fitted: L2I) -> None:
    def mute(state: dict[str, Tensor]) -> None:
        state["weights/psi.activations.weight"].zero_()
        state["weights/psi.activations.bias"].fill_(-1)

    found = explained(altered(fitted, mute))
    assert found.diagnostics["selected"].tolist() == [0.0] * 5
    assert float(mask_of(found).values.max()) == 0
    assert found.diagnostics["reconstruction"].tolist() == [1.0] * 5


def test_silence_is_explained_without_a_nan(fitted: L2I) -> None:
    found = explained(fitted, batch=Batch.of([Clip(torch.zeros(N_SAMPLES), RATE, "nothing")]))
    assert bool(torch.isfinite(mask_of(found).values).all())
    assert bool(torch.isfinite(found.diagnostics["reconstruction"]).all())


# --- the fit


def test_the_validation_curve_is_what_the_kept_interpreter_does_on_the_validation_data(fitted: L2I) -> None:
    own, subject = fitted.fitted, classifier()
    batch = Batch.of([VALIDATION[n] for n in range(6)])
    found = fitted.explain(subject, batch, target=torch.zeros(6, dtype=torch.int64), random=Random(0, batch.clip_ids))
    wanted, logits = subject.probabilities(batch.waveforms), found.surrogate_logits
    assert logits is not None
    fidelity = -(wanted * torch.log(torch.softmax(logits, 1))).sum(1).mean()
    squares = torch.log1p(subject.listening.forward(batch.waveforms).abs()).square().mean((1, 2))
    at = own.kept_epoch - 1
    assert own.curves["validation fidelity"][at] == pytest.approx(float(fidelity), rel=1e-3)
    reconstruction = float((found.diagnostics["reconstruction"] * squares).mean())
    assert own.curves["validation reconstruction"][at] == pytest.approx(reconstruction, rel=1e-3)
    same = (logits.argmax(1) == wanted.argmax(1)).double().mean()
    assert own.curves["validation top-1"][at] == pytest.approx(float(same))
    assert at == min(range(4), key=lambda epoch: (own.curves["validation fidelity"][epoch], -epoch))
    assert {len(curve) for curve in own.curves.values()} == {4}


def test_training_lowers_the_losses(tmp_path: Path) -> None:
    curves = fitted_l2i(tmp_path, epochs=25, learning_rate=5e-3, pooling="max").fitted.curves
    for name in ("train fidelity", "train reconstruction"):
        assert curves[name][-1] < 0.9 * curves[name][0]


def test_a_multilabel_classifier_is_mimicked_class_by_class(tmp_path: Path) -> None:
    subject = classifier(multilabel=True)
    method = fitted_l2i(tmp_path, subject)
    batch = Batch.of([VALIDATION[n] for n in range(6)])
    found = method.explain(subject, batch, target=torch.zeros(6, dtype=torch.int64), random=Random(0, batch.clip_ids))
    assert found.surrogate_logits is not None
    own, wanted = torch.sigmoid(found.surrogate_logits), subject.probabilities(batch.waveforms)
    loss = -(wanted * own.log() + (1 - wanted) * (1 - own).log()).sum(1).mean()
    at = method.fitted.kept_epoch - 1
    assert method.fitted.curves["validation fidelity"][at] == pytest.approx(float(loss), rel=1e-3)


def test_without_validation_data_the_last_epoch_is_kept(tmp_path: Path) -> None:
    own = fitted_l2i(tmp_path, validation=None).fitted
    assert own.kept_epoch == 4
    assert not [name for name in own.curves if name.startswith("validation")]


def test_a_fitted_folder_gives_the_same_explanations_again(tmp_path: Path, fitted: L2I) -> None:
    method = fitted_l2i(tmp_path)
    again = load_fitted(registry(), tmp_path, classifier())
    assert isinstance(again, L2I)
    for name, tensor in method.state().items():
        assert torch.equal(again.state()[name], tensor)
        assert torch.equal(fitted.state()[name], tensor)  # equal seeds, equal fits
    assert torch.equal(mask_of(explained(again)).values, mask_of(explained(method)).values)
    assert again.fitted.curves == method.fitted.curves


class KilledError(Exception):
    pass


@pytest.mark.parametrize("steps", [1, 10, 19 + 3, 19 + 6])
def test_a_fit_that_was_killed_ends_as_it_would_have_ended(tmp_path: Path, steps: int) -> None:
    told: list[str] = []

    def kill(done: int, total: int, text: str) -> None:
        told.append(text)
        if done == steps:
            raise KilledError

    with pytest.raises(KilledError):
        fitted_l2i(tmp_path / "a", epochs=7, progress=kill)
    assert load_tensors(tmp_path / "a" / "checkpoint.safetensors")[0]
    resumed, whole = fitted_l2i(tmp_path / "a", epochs=7), fitted_l2i(tmp_path / "b", epochs=7)
    for name, tensor in whole.state().items():
        assert torch.equal(resumed.state()[name], tensor), name
    assert not (tmp_path / "a" / "checkpoint.safetensors").exists()


def test_what_does_not_fit_into_memory_is_computed_again_and_changes_nothing(tmp_path: Path, fitted: L2I) -> None:
    for megabytes in (0.0, 0.2):
        found = fitted_l2i(tmp_path / f"{megabytes}", memory_mb=megabytes)
        for name, tensor in fitted.state().items():
            assert torch.equal(found.state()[name], tensor), name


def test_a_fit_leaves_pytorchs_own_generator_alone(tmp_path: Path) -> None:
    own = classifier()
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    fitted_l2i(tmp_path, own, epochs=1)
    assert torch.equal(torch.rand(1), wanted)


def test_clips_of_several_lengths_are_trained_on_together(tmp_path: Path) -> None:
    mixed = ClipList([*tones(5), *tones(5, seed=4, n_samples=6000)])
    found = fitted_l2i(tmp_path, train=mixed, validation=mixed)
    assert {len(curve) for curve in found.fitted.curves.values()} == {4}


@pytest.mark.parametrize("pooling", ["attention", "max"])
@pytest.mark.parametrize(
    "subject",
    [
        lambda: classifier(segmenter=patches_of, pool="mean"),
        lambda: wave_classifier_of(WaveNet()),
    ],
    ids=["patches", "samples"],
)
def test_classifiers_of_other_kinds_are_explained_too(tmp_path: Path, subject: Any, pooling: str) -> None:
    method = fitted_l2i(tmp_path, subject(), pooling=pooling, epochs=1)
    found = explained(method, subject())
    assert mask_of(found).values.shape[1:] == subject().listening.grid(N_SAMPLES).shape


class WaveNet(nn.Module):
    """Eats samples."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 4, 5, 6)
        self.features = nn.Sequential(
            *(module for n_in, n_out in pairwise(widths) for module in (nn.Conv1d(n_in, n_out, 8, stride=4), nn.ReLU()))
        )
        self.head = nn.Linear(6, len(LABELS))
        randomise(self, 0)

    def forward(self, samples: Tensor) -> Tensor:
        return self.head(self.features(samples).mean(2))


# --- layers


def test_the_last_maps_of_the_last_three_blocks_are_found() -> None:
    untrained: dict[str, tuple[AudioClassifier, tuple[str, ...]]] = {
        "toy-cnn": (load_classifier("toy-cnn"), ("features.7", "features.10", "features.13")),
        "esc10-cnn": (
            load_classifier("esc10-cnn"),
            ("blocks.block3.relu", "blocks.block4.relu", "blocks.block5.relu"),
        ),
        "mn04": (
            AudioClassifier(MobileNetV3(3, width=0.4), front_end=efficientat(), labels=LABELS),
            ("features.7.block.0.2", "features.13.block.0.2", "features.16.2"),
        ),
        "yamnet": (
            AudioClassifier(MobileNetV1(3), front_end=yamnet(), labels=LABELS, segmenter=frame_patches),
            ("features.38", "features.80", "features.94"),
        ),
    }
    for name, (own, wanted) in untrained.items():
        features = own.features(noise(1, n_samples=int((own.duration_s or 1.5) * own.rate)))
        assert deepest_layers(own, features, 3) == wanted, name


def test_layers_may_be_named_in_any_order(tmp_path: Path, fitted: L2I) -> None:
    found = fitted_l2i(tmp_path, layers=list(reversed(LAYERS)))
    assert fitted.fitted.layers == tuple(LAYERS)
    assert torch.equal(mask_of(explained(found)).values, mask_of(explained(fitted)).values)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["features.1", "features.4"], "layers must be 3 names"),
        (["features.1", "features.4", "features.4"], "different names"),
        ("features.1", "different names"),
    ],
)
def test_layers_are_three_different_names(layers: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        L2I(layers=layers)


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"has no layer 'features\.99'"):
        fitted_l2i(tmp_path, layers=["features.1", "features.4", "features.99"])


def test_a_layer_without_a_time_axis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match="'head' of small"):
        fitted_l2i(tmp_path, layers=["features.1", "features.4", "head"])


def test_a_classifier_without_usable_layers_is_refused(tmp_path: Path) -> None:
    flat = classifier_of(Lambda(lambda features: features.mean((1, 3))[:, :3]))
    with pytest.raises(NotApplicableError, match="hidden map"):
        fitted_l2i(tmp_path / "a", flat)
    with pytest.raises(NotApplicableError, match="needs 3 hidden maps over time"):
        fitted_l2i(tmp_path / "b", wave_classifier_of())


# --- the dictionary


def dictionary(n_patterns: int = 6, *, stft: ListeningSTFT | None = None, seed: int = 0) -> Dictionary:
    stft = stft or classifier().listening
    patterns = torch.rand(stft.n_bins, n_patterns, generator=torch.Generator().manual_seed(seed))
    return Dictionary(patterns / patterns.norm(dim=0), stft, 0.8)


def test_a_dictionary_of_ones_own_is_used_as_it_is(tmp_path: Path) -> None:
    dictionary().save(tmp_path / "own")
    found = fitted_l2i(tmp_path / "fit", dictionary=str(tmp_path / "own"))
    assert torch.equal(found.state()["patterns"], dictionary().patterns)


def test_a_dictionary_that_was_exchanged_between_kill_and_resume_is_noticed(tmp_path: Path) -> None:
    def kill(done: int, total: int, text: str) -> None:
        if done == 3:
            raise KilledError

    dictionary().save(tmp_path / "own")
    options = {"dictionary": str(tmp_path / "own")}
    with pytest.raises(KilledError):
        fitted_l2i(tmp_path / "fit", progress=kill, **options)
    dictionary(seed=1).save(tmp_path / "own")
    with pytest.raises(CheckpointError, match="not the one that this fit was begun with"):
        fitted_l2i(tmp_path / "fit", **options)


def test_a_dictionary_for_another_stft_or_of_other_patterns_is_refused(tmp_path: Path) -> None:
    dictionary(stft=ListeningSTFT(RATE, 512, 128)).save(tmp_path / "other")
    with pytest.raises(ConfigurationError, match="This dictionary is for frames of 512 samples"):
        fitted_l2i(tmp_path / "a", dictionary=str(tmp_path / "other"))
    dictionary(9).save(tmp_path / "more")
    with pytest.raises(ConfigurationError, match="has 9 patterns, not 6: say patterns=9"):
        fitted_l2i(tmp_path / "b", dictionary=str(tmp_path / "more"))


def test_more_patterns_than_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"500 patterns cannot be learnt from \d+ frames"):
        fitted_l2i(tmp_path, patterns=500)


# --- what is refused


def test_silent_training_clips_do_no_harm(tmp_path: Path) -> None:
    clips = [*tones(6), Clip(torch.zeros(N_SAMPLES), RATE, "nothing", labels=(LABELS[0],))]
    found = fitted_l2i(tmp_path, train=ClipList(clips))
    assert all(bool(torch.isfinite(tensor.double()).all()) for tensor in found.state().values())


def test_a_training_that_diverges_stops(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"diverged in epoch \d of 4: the loss, or a weight, is (nan|inf)\. Lower"
    ):
        fitted_l2i(tmp_path, learning_rate=1e30)


def test_validation_data_without_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="The validation data have no clips"):
        fitted_l2i(tmp_path, validation=ClipList([], labels=LABELS))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"patterns": 0}, "whole numbers of 1 or more"),
        ({"epochs": 2.5}, "whole numbers"),
        ({"width": 7}, "width must be even"),
        ({"threshold": 1.0}, r"threshold must lie in \[0, 1\), got 1.0"),
        ({"learning_rate": 0.0}, "learning rate above 0"),
        ({"alpha": -1.0}, "0 or more"),
        ({"pooling": "mean"}, "There is no pooling 'mean'"),
        ({"scale": "log"}, "There is no scale 'log'. Did you mean 'log1p'"),
        ({"schedule": "cosine"}, "There is no schedule 'cosine'"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        L2I(**parameters)


def test_an_interpreter_must_be_fitted_and_fit_the_classifier(fitted: L2I) -> None:
    with pytest.raises(ExplanationError, match="must be fitted first"):
        explained(L2I())
    with pytest.raises(CheckpointError, match="not been fitted"):
        L2I().state()
    with pytest.raises(CheckpointError, match=r"3 classes .*; four has 4"):
        explained(fitted, classifier_of(Wider(), labels=(*LABELS, "cat"), name="four"))
    with pytest.raises(CheckpointError, match="patterns are of"):
        explained(fitted, wave_classifier_of(front_end=Identity(rate=16000)), Batch(noise(1), 16000, tuple(tones(1))))


class Wider(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(7, 4)


def test_an_interpreter_of_other_settings_is_refused(fitted: L2I) -> None:
    for parameters in ({"patterns": 7}, {"pooling": "max"}, {"width": 16}, {"layers": ["a", "b", "c"]}):
        with pytest.raises(CheckpointError, match="This interpreter was fitted with"):
            L2I(**{**SMALL, **parameters}).load_state(fitted.state())
    with pytest.raises(CheckpointError, match="not the tensors of an l2i interpreter"):
        L2I().load_state({"means": torch.zeros(1)})


# --- the door


def test_the_papers_configuration_has_the_published_numbers() -> None:
    method = registry().explainer("l2i-paper").spec.load()()
    assert isinstance(method, L2I)
    recipe, plan = method.plan.recipe, method.plan
    assert (plan.n_patterns, plan.pooling, plan.width, method.scale) == (100, "attention", 256, "log1p")
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (35, 32, 2e-4)
    assert (recipe.weights.alpha, recipe.weights.beta, recipe.weights.schedule) == (10.0, 0.8, "constant")
    assert set(resolved_parameters(registry().explainer("l2i-paper").spec, {})) < set(
        resolved_parameters(registry().explainer("l2i").spec, {})
    )


def test_the_commands_fit_on_the_toy_data_and_write_what_each_pattern_sounds_like(tmp_path: Path) -> None:
    arguments = ["fit", "l2i", "--classifier", "toy-cnn", "--dataset", "toy", "--out", str(tmp_path / "l2i")]
    arguments += ["--dataset-param", "split=train", "--dataset-param", "clips=12", "--validation-param", "clips=4"]
    for name, value in {**SMALL, "epochs": 2}.items():
        arguments += ["--param", f"{name}={value}"]
    done = CliRunner().invoke(shell, [*arguments, "--validation-param", "split=validation"])
    assert done.exit_code == 0, done.output
    tensors = load_tensors(tmp_path / "l2i" / "explainer.safetensors")[0]
    assert tensors["curves/validation fidelity"].shape == (2,)
    soundfile.write(tmp_path / "toy.wav", Toy(split="test", clips=1)[0].waveform.numpy(), 16000)
    arguments = ["explain", str(tmp_path / "toy.wav"), "--classifier", "toy-cnn", "--explainer", "l2i"]
    done = CliRunner().invoke(
        shell, [*arguments, "--checkpoint", str(tmp_path / "l2i"), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out" / "toy"
    parts = json.loads((folder / "explanation.json").read_text())["parts"]
    assert parts
    assert {folder / part["sound"] for part in parts} == set((folder / "parts").glob("part-*.wav"))
