"""APNet trained, explaining itself, and at the door: what adds up, what resumes, what is heard, what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from click.testing import CliRunner
from torch import Tensor

from apnet_toy import (
    CONFIGURATION,
    LABELS,
    MODEL,
    N_SAMPLES,
    PARAMETERS,
    RATE,
    TRAINING,
    clips,
    tone,
    train_apnet,
    write_clips,
)
from earwitness import explain, load_classifier
from earwitness.artifacts import load_tensors
from earwitness.audio import dialects
from earwitness.batching import ClipList
from earwitness.classifier import AudioClassifier
from earwitness.cli.shell import shell
from earwitness.clips import Batch, Clip
from earwitness.errors import (
    CheckpointError,
    ClassifierError,
    ConfigurationError,
    DatasetError,
    NotApplicableError,
)
from earwitness.explanation import Explanation, Relevance
from earwitness.fitting import Workspace, fit, load_fitted, load_trained, train
from earwitness.loading import load_explainer
from earwitness.protocols import Explainer, Fittable, SelfExplaining
from earwitness.random import Random
from earwitness.registry import registry
from earwitness_plugins.apnet.configuration import CONFIGURATIONS, Recipe
from earwitness_plugins.apnet.explainer import APNet
from earwitness_plugins.apnet.finishing import teach_decoder
from earwitness_plugins.apnet.network import AudioPrototypeNetwork, Sizes
from earwitness_plugins.apnet.objective import initialise
from earwitness_plugins.apnet.reasoning import cell_distances, mean_similarity, reason, whereabouts
from earwitness_plugins.apnet.trained import classifier_of as apnet_of
from earwitness_plugins.apnet.training import accuracy, train_network
from earwitness_plugins.classifiers.training_data import TrainingData
from networks import classifier_of

LONG = replace(CONFIGURATION, n_frames=48).n_samples


@pytest.fixture
def trained(apnet_folder: Path) -> APNet:
    loaded = load_trained(registry(), apnet_folder)
    assert isinstance(loaded, APNet)
    return loaded


def batch_of(n_samples: int = N_SAMPLES, n_clips: int = 3) -> Batch:
    data = clips(n_clips, n_samples, start=80)
    return Batch.of([data[i] for i in range(n_clips)])


def explained(explainer: Explainer, classifier: AudioClassifier, batch: Batch, target: list[int]) -> Explanation:
    return explainer.explain(classifier, batch, target=torch.tensor(target), random=Random(0, batch.clip_ids))


# --- taken apart


def plain_network(seed: int = 3) -> AudioPrototypeNetwork:
    net = CONFIGURATION.network(3)
    initialise(net, Recipe(), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        net.prototypes.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(seed))
    return net.requires_grad_(False)


def noise_maps(n_rows: int, seed: int) -> Tensor:
    return torch.rand(n_rows, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_contributions_of_prototypes_and_bands_sum_to_the_logits_of_every_class() -> None:
    net, windows = plain_network(), noise_maps(4, 0)
    found = reason(net, windows, -torch.ones_like(windows))
    assert found.contributions().shape == (4, 6, 4, 3)
    assert torch.allclose(found.contributions().sum((1, 2)), net(windows).double(), rtol=0, atol=1e-5)
    target = torch.tensor([0, 2, 1, 1])
    of_target = found.contributions()[torch.arange(4), :, :, target]
    assert torch.allclose(found.contributions_to(target), of_target)
    assert torch.allclose(found.weighted.float(), net.weighted(torch.exp(-net.distances(net.encoder(windows)))))


def test_relevance_of_the_cells_sums_to_the_logit_above_that_of_silence() -> None:
    net, windows = plain_network(), noise_maps(4, 0)
    silence = -torch.ones_like(windows)
    target = torch.tensor([0, 2, 1, 1])
    found = reason(net, windows, silence).relevance_of(target)
    wanted = (net(windows) - net(silence)).gather(1, target[:, None])[:, 0]
    assert torch.allclose(found.sum((1, 2, 3)), wanted.double(), rtol=0, atol=1e-5)
    assert float(wanted.abs().max()) > 0.01
    assert float(reason(net, silence, silence).evidence.abs().max()) == 0.0


def test_evidence_is_that_of_integrated_gradients_between_the_distances() -> None:
    net, windows = plain_network(), noise_maps(2, 1)
    silence = -torch.ones_like(windows)
    heard = cell_distances(net.encoder(windows), net.prototypes)
    silent = cell_distances(net.encoder(silence), net.prototypes)
    steps = 4000
    gradient = torch.zeros_like(heard)
    for step in range(steps):
        along = (silent + (heard - silent) * (step + 0.5) / steps).requires_grad_()
        gradient += torch.autograd.grad(torch.exp(-along.sum(3)).sum(), along)[0] / steps
    assert torch.allclose(reason(net, windows, silence).evidence, (heard - silent) * gradient, rtol=1e-5, atol=1e-12)


def test_the_mean_similarity_lies_between_both_and_is_theirs_where_they_agree() -> None:
    d = torch.tensor([0.0, 1.0, 1.0, 800.0, 3.0], dtype=torch.float64)
    d0 = torch.tensor([2.0, 1.0, 1.0 + 1e-9, 900.0, 0.5], dtype=torch.float64)
    mean, s, s0 = mean_similarity(d, d0), torch.exp(-d), torch.exp(-d0)
    assert bool(((mean >= torch.minimum(s, s0)) & (mean <= torch.maximum(s, s0))).all())
    assert float(mean[0]) == pytest.approx(float((s[0] - s0[0]) / (s.log()[0] - s0.log()[0])))
    assert mean[1:3].tolist() == pytest.approx(s[1:3].tolist())


def test_cell_distances_sum_to_the_distances_of_the_network() -> None:
    net, windows = plain_network(), noise_maps(2, 1)
    latent = net.encoder(windows)
    cells = cell_distances(latent, net.prototypes)
    assert float(cells[1, 4, 2, 3]) == pytest.approx(
        float(((latent[1, :, 2, 3].double() - net.prototypes[4, :, 2, 3].double()) ** 2).sum())
    )
    assert torch.allclose(cells.sum(3).float(), net.distances(latent))


def test_the_evidence_of_timeless_prototypes_lies_where_the_maxima_are() -> None:
    heard = torch.randn(2, 5, 9, 7, generator=torch.Generator().manual_seed(0))
    heard[1, :, 2] = 0.5  # the same all the time
    heard[1, 0, 1, 3] = heard[1, 0, 1, 5] = 9.0  # a tie
    silent = 0.1 * torch.randn(2, 5, 9, 7, generator=torch.Generator().manual_seed(1))
    silent[0, :, :4] = heard[0, :, :4].amax(2, keepdim=True)  # nothing but silence
    found, by_band = whereabouts(heard, silent), torch.zeros(2, 9, 7)
    for row, channel, band in product(range(2), range(5), range(9)):
        levels = heard[row, channel, band]
        where = levels == levels.max()
        by_band[row, band, where] += (levels.max() - silent[row, channel, band].max()).abs() / where.sum()
    for row, band in product(range(2), range(9)):
        seen = by_band[row, max(0, band - 2) : band + 3].sum(0)
        wanted = seen / seen.sum() if float(seen.sum()) else torch.full((7,), 1 / 7)
        assert torch.allclose(found[row, band].float(), wanted, atol=1e-6)
    assert torch.allclose(found[0, 0], torch.full((7,), 1 / 7, dtype=torch.float64))


@pytest.fixture(scope="module")
def timeless(tmp_path_factory: pytest.TempPathFactory) -> APNet:
    path = tmp_path_factory.mktemp("timeless")
    model = {**MODEL, "n_frames": 48, "timeless": True}
    data = {"train": clips(12, LONG), "validation": clips(6, LONG, start=50)}
    train_apnet(path, parameters={**PARAMETERS, "model": model}, **data)
    loaded = load_trained(registry(), path)
    assert isinstance(loaded, APNet)
    return loaded


def test_where_prototypes_are_timeless_evidence_still_follows_the_sound(timeless: APNet) -> None:
    assert timeless.trained.network.sizes.prototype == (3, 4, 1)
    early = batch_of(LONG)
    early.waveforms[:, LONG // 2 :] = 0
    late = replace(early, waveforms=early.waveforms.flip(1))
    shares = []
    for batch in (early, late):
        relevance = explained(timeless, timeless.as_classifier(), batch, [0, 1, 2]).relevance
        assert relevance is not None
        by_frame = relevance.values.abs().sum((0, 1))
        shares.append(float(by_frame[:24].sum() / by_frame.sum()))
    assert shares[0] > 0.7
    assert shares[1] < 0.3


def test_a_training_is_known_by_what_the_name_of_its_configuration_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_apnet(tmp_path)
    base, recipe = CONFIGURATIONS["urbansound8k"]
    for other in ((replace(base, rate=16000), recipe), (base, replace(recipe, gamma=4.0))):
        monkeypatch.setitem(CONFIGURATIONS, "urbansound8k", other)
        if other[0] is base:
            with pytest.raises(CheckpointError, match=r"holds another fit .*other settings"):
                train_apnet(tmp_path)
        else:  # the rate is among the changes, so all is as it was
            train_apnet(tmp_path)


# --- a whole explanation


@pytest.mark.parametrize("kind", ["trained", "timeless"])
def test_parts_sum_to_the_relevance_and_their_weights_to_the_logit(kind: str, request: pytest.FixtureRequest) -> None:
    trained: APNet = request.getfixturevalue(kind)
    classifier, batch = trained.as_classifier(), batch_of(trained.configuration.n_samples)
    explanation = explained(trained, classifier, batch, [0, 1, 1])
    assert explanation.relevance is not None
    assert explanation.parts is not None
    features = classifier.features(batch.waveforms)
    logits = classifier.network(features)
    assert torch.allclose(explanation.parts.weights.sum(1), logits[torch.arange(3), [0, 1, 1]], atol=1e-5)
    parts = [explanation.parts.map(j) for j in range(6)]
    assert all(isinstance(part, Relevance) and part.domain == "features" for part in parts)
    assert torch.allclose(sum(part.values for part in parts), explanation.relevance.values, atol=1e-5)
    silence = classifier.network(classifier.front_end.floor(features).expand_as(features))
    above = (logits - silence)[torch.arange(3), [0, 1, 1]]
    assert torch.allclose(explanation.relevance.values.sum((1, 2)), above, atol=1e-4)
    assert float(explanation.diagnostics["additivity_gap"].max()) < 1e-5


def test_cells_like_the_prototype_s_are_evidence_and_silent_ones_are_nothing() -> None:
    sizes = Sizes(n_classes=2, n_prototypes=2, n_bands=8, n_frames=80, channels=(3, 3, 3))
    net = AudioPrototypeNetwork(sizes)
    initialise(net, Recipe(), torch.Generator().manual_seed(0))
    net.requires_grad_(False)
    sound = 0.3 * torch.randn(1, 1, 8, 80, generator=torch.Generator().manual_seed(1))
    silence = torch.full_like(sound, -1.0)
    net.prototypes[:1] = net.encoder(torch.where(torch.arange(80) < 20, sound, silence))
    net.prototypes[1:] = net.encoder(silence)
    evidence = reason(net, torch.where(torch.arange(80) < 60, sound, silence), silence).evidence[0]
    like, unlike, silent = evidence[0, :, :2], evidence[0, :, 9:12], evidence[:, :, 19:]
    assert float(like.min()) > 0  # sounds that the prototype has
    assert float(unlike.max()) < 0  # sounds that it has not
    assert float(silent.abs().max()) == 0
    assert float(evidence[1, :, :12].max()) < 0  # a prototype of silence: every sound speaks against it


def test_examples_are_the_most_similar_prototypes_with_their_sounds_and_curves(trained: APNet) -> None:
    classifier, batch = trained.as_classifier(), batch_of()
    explanation = explained(trained, classifier, batch, [0, 1, 2])
    assert explanation.parts is not None
    gallery = trained.trained.gallery
    assert gallery is not None
    net = trained.trained.network
    similarities = torch.exp(-net.distances(net.encoder(classifier.features(batch.waveforms)))).detach()
    for row, examples in enumerate(explanation.examples):
        order = net.weighted(similarities)[row].argsort(descending=True)[:5].tolist()
        assert [example.name for example in examples] == [gallery.name(j, LABELS) for j in order]
        for j, example in zip(order, examples, strict=True):
            assert torch.equal(example.waveform, gallery.sounds[j])
            assert example.bands is not None
            assert torch.allclose(example.bands.similarity, similarities[row, j], atol=1e-6)
            assert float(example.bands.contribution.sum()) == pytest.approx(example.contribution, abs=1e-5)
            assert example.contribution == pytest.approx(float(explanation.parts.weights[row, j]), abs=1e-6)
    bands = explanation.examples[0][0].bands
    assert bands is not None
    centres = classifier.front_end.grid(N_SAMPLES).frequencies_hz
    assert bands.frequencies_hz.tolist() == pytest.approx([float(centres[i : i + 4].mean()) for i in (0, 4, 8, 12)])


def test_a_long_recording_is_explained_window_by_window(trained: APNet) -> None:
    classifier, batch = trained.as_classifier(), batch_of(2 * N_SAMPLES)
    features = classifier.features(batch.waveforms)
    windows = classifier.segmenter(features)
    assert windows.shape[1] == len(CONFIGURATION.windows.starts(features.shape[-1])) == 4
    p = torch.stack([classifier.network(windows[:, i]).softmax(1) for i in range(4)], 1)
    assert torch.allclose(classifier.probabilities(batch.waveforms), p.mean(1), atol=1e-6)
    explanation = explained(trained, classifier, batch, [0, 1, 2])
    assert explanation.relevance is not None
    assert explanation.relevance.values.shape == (3, 16, features.shape[-1])
    share = p[torch.arange(3), :, torch.arange(3)]
    share = share / share.sum(1, keepdim=True)
    floor = classifier.front_end.floor(features)
    wanted = torch.zeros(3)
    for i in range(4):
        above = classifier.network(windows[:, i]) - classifier.network(floor.expand_as(windows[:, i]))
        wanted += share[:, i] * above[torch.arange(3), torch.arange(3)]
    assert torch.allclose(explanation.relevance.values.sum((1, 2)), wanted, atol=1e-4)


def test_a_batch_explains_each_row_as_it_would_alone(trained: APNet) -> None:
    classifier, batch = trained.as_classifier(), batch_of()
    together = explained(trained, classifier, batch, [0, 1, 2]).relevance
    assert together is not None
    for row in range(3):
        alone = explained(trained, classifier, batch.select([row]), [row]).relevance
        assert alone is not None
        assert torch.allclose(alone.values[0], together.values[row], atol=1e-5)


def test_what_is_like_no_prototype_is_said_to_be(trained: APNet) -> None:
    state = dict(trained.state())
    state["network/prototypes"] = state["network/prototypes"] + 3  # a distance of 9 and more in every cell
    far = APNet(**PARAMETERS).restore(state, LABELS)
    explanation = explained(far, far.as_classifier(), batch_of(), [0, 1, 2])
    assert explanation.diagnostics["no_prototype_is_close"].tolist() == [1.0] * 3
    assert explanation.examples == ((), (), ())
    near = explained(trained, trained.as_classifier(), batch_of(), [0, 1, 2])
    assert near.diagnostics["no_prototype_is_close"].tolist() == [0.0] * 3


def test_any_apnet_explains_itself_without_a_checkpoint_and_nothing_else_is_explained(trained: APNet) -> None:
    other = apnet_of(plain_network(), CONFIGURATION, (-90.0, 30.0), LABELS)
    explanation = explained(APNet(), other, batch_of(), [0, 1, 2])
    assert explanation.examples == ()
    assert explanation.parts is not None
    assert explanation.parts.names[0] == "prototype 1"
    with pytest.raises(CheckpointError, match="not those of this explainer's checkpoint"):
        explained(trained, other, batch_of(), [0, 1, 2])
    with pytest.raises(NotApplicableError, match="explains itself and no other"):
        explained(APNet(), classifier_of(), batch_of(), [0, 1, 2])
    with pytest.raises(NotApplicableError, match="regrouped"):
        explained(APNet(), other.regroup({"a": ["low", "high"]}), batch_of(), [0, 0, 0])
    with pytest.raises(NotApplicableError, match="does not say what its prototypes sum to"):
        explained(APNet(), other.regroup({"h": ["high"], "m": ["middle"], "l": ["low"]}), batch_of(), [0, 0, 0])


# --- training


class Killed(BaseException):
    """Stands for Ctrl-C or a kill."""


def killed_after_epoch(epoch: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, text: str) -> None:
        if done == epoch and text.startswith("loss"):
            raise Killed

    return progress


def test_it_learns_and_the_folder_is_all_it_needs(apnet_folder: Path, trained: APNet) -> None:
    assert sorted(path.name for path in apnet_folder.iterdir()) == ["explainer.json", "explainer.safetensors"]
    assert isinstance(trained, SelfExplaining)
    assert not isinstance(trained, Fittable)
    learnt = trained.trained
    assert learnt.labels == LABELS
    scores = learnt.curves.validation_accuracy
    assert max(scores) > 0.9
    assert learnt.epoch == 1 + scores.index(max(scores))
    assert learnt.curves.loss[-1] < 0.7 * learnt.curves.loss[0]
    assert learnt.gallery is not None
    assert learnt.gallery.sounds.shape == (6, 15 * 128)
    own = [LABELS[index] for index in learnt.gallery.classes]
    assert set(learnt.gallery.unrepresented(LABELS)) == set(LABELS) - set(own)
    assert replace(learnt.gallery, classes=torch.tensor([0, 2, 2, 0])).unrepresented(LABELS) == ("middle",)
    names = [[neighbour.clip_id for neighbour in row] for row in learnt.gallery.nearest]
    assert {name for row in names for name in row} <= {entry.clip_id for entry in clips(12).entries}
    assert all(len(set(row)) == 5 for row in names)
    assert len(own) == 6


def test_the_scaler_is_the_range_of_all_training_cells(trained: APNet) -> None:
    front_end = dialects.apnet(rate=RATE, n_fft=256, hop_length=128, n_mels=16, min_db=-1.0, max_db=1.0)
    decibels = torch.cat([front_end(clips(12)[i].waveform[None]) for i in range(12)])
    assert (trained.trained.min_db, trained.trained.max_db) == pytest.approx(
        (float(decibels.min()), float(decibels.max())), abs=1e-4
    )
    scaled = trained.as_classifier().features(torch.stack([clips(12)[i].waveform for i in range(12)]))
    assert (float(scaled.min()), float(scaled.max())) == pytest.approx((-1, 1), abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augmentation": {"shift": True, "mix_share": 0.5, "noise_share": 0.5}},
        {"schedule": "one-cycle", "averaging_steps": 5, "windows": "random", "decoder_epochs": 2},
    ],
)
def test_a_resumed_training_ends_as_one_in_one_go(tmp_path: Path, changes: Any) -> None:
    training = {**TRAINING, "epochs": 4, **changes}
    parameters = {"model": MODEL, "training": training}
    whole = train_apnet(tmp_path / "whole", parameters=parameters)
    for epoch in (1, 3):
        with pytest.raises(Killed):
            train_apnet(tmp_path / "killed", parameters=parameters, progress=killed_after_epoch(epoch))
    resumed = train_apnet(tmp_path / "killed", parameters=parameters)
    assert resumed.trained.curves == whole.trained.curves
    assert all(torch.equal(resumed.state()[name], value) for name, value in whole.state().items())
    again = train_apnet(tmp_path / "killed", parameters=parameters, progress=killed_after_epoch(1))
    assert all(torch.equal(again.state()[name], value) for name, value in whole.state().items())
    with pytest.raises(CheckpointError, match="other seed"):
        train_apnet(tmp_path / "killed", parameters=parameters, seed=1)


def data_and_network(recipe: Recipe, n_samples: int = N_SAMPLES) -> tuple[TrainingData, AudioPrototypeNetwork]:
    held = clips(6, n_samples)
    waveforms = torch.stack([held[i].waveform for i in range(6)])
    front_end = CONFIGURATION.front_end(-90.0, 30.0)
    data = TrainingData((waveforms, torch.arange(6) % 3), front_end, torch.device("cpu"), recipe.augmentation)
    return data, plain_network()


def test_training_stops_when_it_no_longer_gets_better_and_keeps_the_first_best(tmp_path: Path) -> None:
    recipe = Recipe(epochs=50, batch_size=6, patience=3, learning_rate=1e-9)
    data, net = data_and_network(recipe)
    features = torch.cat([data.batch(torch.tensor([i]), 3, torch.Generator())[0] for i in range(6)])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = train_network(
        net, data, CONFIGURATION.windows, recipe=recipe, seed=0, validation=(features, torch.arange(6) % 3),
        workspace=Workspace(tmp_path, "key"), progress=lambda *_: None,
    )  # fmt: skip
    assert (result.epoch, len(result.curves.loss)) == (1, 4)  # nothing is better than the first epoch
    assert accuracy(net, features, torch.arange(6) % 3, CONFIGURATION.windows) == result.curves.validation_accuracy[0]
    assert all(torch.allclose(result.state_dict[n], v, atol=1e-6) for n, v in before.items() if "frequency" not in n)


def test_averaged_weights_are_the_plain_mean_of_few_steps(tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=6, schedule="one-cycle")
    seen: list[Tensor] = []

    def trained_by(recipe: Recipe) -> Tensor:
        data, net = data_and_network(recipe)
        result = train_network(
            net, data, CONFIGURATION.windows, recipe=recipe, seed=0, validation=None,
            workspace=Workspace(tmp_path / str(recipe.averaging_steps), "key"),
            progress=lambda *_: seen.append(net.prototypes.detach().clone()),
        )  # fmt: skip
        return result.state_dict["prototypes"]

    assert torch.equal(trained_by(recipe), seen[-1])
    assert torch.allclose(trained_by(replace(recipe, averaging_steps=100)), torch.stack(seen[:3]).mean(0), atol=1e-6)
    assert not torch.allclose(seen[0], seen[2], atol=1e-4)


@pytest.mark.parametrize(("windows", "n_heard"), [("all", 24), ("random", 6)])
def test_a_step_hears_all_windows_of_its_clips_or_a_random_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: Any, n_heard: int
) -> None:
    recipe = Recipe(epochs=40, batch_size=6, windows=windows)
    data, net = data_and_network(recipe, 2 * N_SAMPLES)
    features = data.batch(torch.arange(6), 3, torch.Generator())[0]
    pieces = CONFIGURATION.windows(features)
    heard: list[Tensor] = []
    outputs = net.outputs
    monkeypatch.setattr(net, "outputs", lambda inputs: heard.append(inputs) or outputs(inputs))
    train_network(
        net, data, CONFIGURATION.windows, recipe=recipe, seed=0, validation=None,
        workspace=Workspace(tmp_path, "key"), progress=lambda *_: None,
    )  # fmt: skip
    assert {len(inputs) for inputs in heard} == {n_heard}
    all_windows = pieces.flatten(0, 1)
    for_each = [sum(bool((inputs == window).all((1, 2, 3)).any()) for inputs in heard) for window in all_windows]
    assert min(for_each) > 0  # every window has its turn
    assert sum(for_each) == 40 * n_heard


def test_the_published_learning_rate_stays_and_that_of_one_cycle_rises_and_falls() -> None:
    constant = Recipe(epochs=10, learning_rate=0.1)
    assert {constant.learning_rate_at(step, 4) for step in range(40)} == {0.1}
    rates = [replace(constant, schedule="one-cycle").learning_rate_at(step, 4) for step in range(40)]
    peak = rates.index(max(rates))
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
    assert peak == 6
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    assert rates[-1] < 1e-3


def test_a_decoder_taught_alone_reconstructs_better_and_changes_no_decision() -> None:
    net, windows = plain_network(), noise_maps(40, 7) * 0.3
    before, logits = net.outputs(windows), net(windows)
    kept = copy.deepcopy(net.state_dict())
    told: list[str] = []
    teach_decoder(net, windows, Recipe(), seed=0, progress=lambda *said: told.append(said[2]))
    assert not told
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    teach_decoder(net, windows, Recipe(decoder_epochs=20), seed=0, progress=lambda *said: told.append(said[2]))
    after = net.outputs(windows)
    error, worse = ((each.reconstruction.detach() - windows).square().mean() for each in (after, before))
    assert float(error) < 0.95 * float(worse)
    assert torch.equal(net(windows), logits)
    assert torch.equal(after.distances, before.distances)
    assert len(told) == 20
    again = plain_network()
    teach_decoder(again, windows, Recipe(decoder_epochs=20), seed=0, progress=lambda *_: None)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in again.state_dict().items())


def test_a_decoder_that_cannot_learn_stays_as_it_was() -> None:
    net, windows = plain_network(), noise_maps(4, 7)
    kept = copy.deepcopy(net.state_dict())
    windows[2, 0, 3, 3] = torch.nan
    with pytest.raises(ClassifierError, match=r"decoder's loss is nan in epoch 1 of its own 3.*decoder_epochs=0"):
        teach_decoder(net, windows, Recipe(decoder_epochs=3), seed=0, progress=lambda *_: None)
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())


def test_a_training_that_diverges_stops_with_its_last_good_epoch_kept(tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=6)
    data, net = data_and_network(recipe)
    workspace = Workspace(tmp_path, "key")

    def poison(done: int, total: int, text: str) -> None:
        if done == 2:
            net.prototypes.data[0, 0, 0, 0] = torch.nan

    with pytest.raises(ClassifierError, match=r"diverged in epoch 3 of 3.*nan.*last good epoch is kept"):
        train_network(
            net, data, CONFIGURATION.windows, recipe=recipe, seed=0, validation=None, workspace=workspace,
            progress=poison,
        )  # fmt: skip
    kept = workspace.load_checkpoint()
    assert kept is not None
    assert kept[1]["counts"]["epoch"] == 2
    assert all(bool(value.isfinite().all()) for value in kept[0].values() if value.is_floating_point())


def test_clips_of_different_lengths_are_cut_or_padded_to_the_window(tmp_path: Path) -> None:
    held = [clips(6, n)[i] for n, i in ((1500, 0), (3000, 1), (2000, 2), (2500, 3), (1000, 4), (2176, 5))]
    parameters = {"model": MODEL, "training": {**TRAINING, "epochs": 1}}
    trained = train_apnet(tmp_path, train=ClipList(held, LABELS), validation=None, parameters=parameters)
    assert trained.trained.epoch == 1
    assert trained.trained.curves.validation_accuracy == []


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (lambda: ClipList([clips(4)[0], clips(4)[1]], LABELS), ConfigurationError, "no clip of high"),
        (
            lambda: ClipList([Clip(torch.zeros(3000), RATE, name, labels=(name,)) for name in LABELS], LABELS),
            ConfigurationError,
            "they are silent",
        ),
        (
            lambda: ClipList([*clips(3), Clip(tone("low"), RATE, "both", labels=("low", "high"))], LABELS),
            DatasetError,
            "1 clips have several classes, such as 'both'",
        ),
        (lambda: ClipList([], LABELS), ConfigurationError, "no clips"),
    ],
)
def test_data_that_nothing_can_be_learnt_from_are_refused(
    tmp_path: Path, data: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_apnet(tmp_path, train=data())


# --- at the door


def test_it_is_no_explainer_of_other_classifiers(tmp_path: Path, apnet_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="trained, not fitted"):
        fit(registry(), "apnet", classifier_of(), clips(3), tmp_path)
    with pytest.raises(ConfigurationError, match="no classifier of its own"):
        train(registry(), "class-mean", clips(3), tmp_path)
    with pytest.raises(ConfigurationError, match="The device 'gramophone' cannot be used"):
        train_apnet(tmp_path / "net", device="gramophone")
    with pytest.raises(CheckpointError, match="explains itself and no other"):
        load_fitted(registry(), apnet_folder, classifier_of())
    with pytest.raises(ConfigurationError, match="brings its own parameters"):
        explain("any.wav", explainer="apnet", checkpoint=apnet_folder, parameters={"configuration": "urbansound8k"})
    others = ClipList([Clip(tone("low", 4000), RATE, name, labels=(name,)) for name in ("dog", "rain", "clock")])
    fit(registry(), "class-mean", classifier_of(), others, tmp_path)
    with pytest.raises(CheckpointError, match="no classifier"):
        load_trained(registry(), tmp_path)


def test_damaged_or_foreign_states_are_refused(trained: APNet) -> None:
    state = dict(trained.state())
    with pytest.raises(CheckpointError, match="prototypes/sounds"):
        APNet(**PARAMETERS).restore({n: t for n, t in state.items() if n != "prototypes/sounds"}, LABELS)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        APNet(**PARAMETERS).restore({**state, "network/class_weights": torch.full((6, 3), torch.nan)}, LABELS)
    for features in (torch.zeros(6, 1, 16, 18), torch.tensor(0.0)):
        with pytest.raises(CheckpointError, match="not the tensors of a trained APNet"):
            APNet(**PARAMETERS).restore({**state, "prototypes/features": features}, LABELS)
    with pytest.raises(CheckpointError, match="3 classes does not fit 2 labels"):
        APNet(**PARAMETERS).restore(state, LABELS[:2])
    with pytest.raises(CheckpointError, match="16 bands x 16 frames, not 128 x 84"):
        APNet().restore(state, LABELS)
    with pytest.raises(CheckpointError, match="must be trained first"):
        APNet().as_classifier()


def test_fit_and_explain_by_command(tmp_path: Path) -> None:
    write_clips(tmp_path / "data", 2)
    parameters = {"model": MODEL, "training": {**TRAINING, "epochs": 2}}
    params = [text for name, value in parameters.items() for text in ("--param", f"{name}={value}")]
    command = ["fit", "apnet", "--dataset", "folder", "--dataset-param", f"folder={tmp_path / 'data'}"]
    done = CliRunner().invoke(shell, [*command, *params, "--out", str(tmp_path / "net"), "--json"])
    assert done.exit_code == 0, done.output
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, tone("middle", N_SAMPLES).numpy(), RATE)
    use = ["--explainer", "apnet", "--checkpoint", str(tmp_path / "net"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(shell, ["explain", str(sound), *use])
    assert done.exit_code == 0, done.output
    assert "like prototype" in done.output
    document = json.loads((tmp_path / "out" / "sound" / "explanation.json").read_text())
    assert document["classifier"]["name"] == "apnet"
    assert len(document["examples"]) == 5
    for example in document["examples"]:
        assert soundfile.info(tmp_path / "out" / "sound" / example["sound"]).samplerate == RATE
        assert sum(example["bands"]["contribution"]) == pytest.approx(example["contribution"], abs=1e-4)
    assert (tmp_path / "out" / "sound" / "examples.png").stat().st_size > 0
    assert len(document["parts"]) == 6
    for extra in (["--classifier", "esc10-cnn"], ["--weights", "x"]):
        refused = CliRunner().invoke(shell, ["explain", str(sound), *use, *extra])
        assert refused.exit_code != 0
        assert "takes no other" in refused.output
    refused = CliRunner().invoke(shell, [*command, "--classifier", "toy-cnn", "--out", str(tmp_path / "other")])
    assert "takes no other" in refused.output


def test_it_is_a_classifier_by_the_name_of_its_folder(apnet_folder: Path, trained: APNet) -> None:
    classifier = load_classifier("apnet", parameters={"weights": str(apnet_folder)})
    batch = batch_of()
    wanted = trained.as_classifier().probabilities(batch.waveforms)
    assert torch.equal(classifier.probabilities(batch.waveforms), wanted)
    method = load_explainer("apnet")
    assert explained(method, classifier, batch, [0, 1, 2]).relevance is not None
    saliency = explained(load_explainer("saliency"), classifier, batch, [0, 1, 2]).relevance
    assert saliency is not None
    assert float(saliency.values.abs().max()) > 0
    with pytest.raises(CheckpointError, match="no fitted explainer"):
        load_classifier("apnet", parameters={"weights": str(apnet_folder / "elsewhere")})
    assert load_tensors(apnet_folder / "explainer.safetensors")[0]["scaler"].dtype == torch.float64
