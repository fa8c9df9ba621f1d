"""DRSA as an explainer: what it is fitted to, how the decision is taken apart, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from earwitness import load_classifier
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
from earwitness.fitting import fit, load_fitted
from earwitness.random import Random
from earwitness.registry import registry
from earwitness_bench.datasets.toy import Toy
from earwitness_plugins.drsa.attribution import contexts_of, split_relevance
from earwitness_plugins.drsa.explainer import DRSA
from earwitness_plugins.drsa.fitted import ClassSubspaces, FittedSubspaces
from earwitness_plugins.drsa.layers import choose_layer, missing_from_parts, rectified_layers
from earwitness_plugins.drsa.sampling import collect, draw_places
from earwitness_plugins.drsa.subspaces import Subspaces, random_starts
from earwitness_plugins.lrp.explainer import LRP
from earwitness_plugins.lrp.propagation import Propagation
from networks import LABELS, N_SAMPLES, RATE, SmallCNN, classifier_of, patches_of, randomise, wave_classifier_of

LAYER = "features.4"
CHANNELS = 8


class Net(nn.Module):
    """Three convolutions, each behind a ReLU of its own. It never decides for the first class."""

    def __init__(self, seed: int = 3, channels: int = CHANNELS) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 7, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(7, len(LABELS))
        randomise(self, seed)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.features(features).amax((2, 3)))


class Residual(nn.Module):
    """A block that signals can pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6, len(LABELS))
        randomise(self, 0)

    def forward(self, features: Tensor) -> Tensor:
        x = functional.relu(self.first(features))
        return self.head((x + self.block(x)).mean((2, 3)))


def tones(n_clips: int = 24, seed: int = 0, n_samples: int = N_SAMPLES) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    frequency = 200 * 2 ** (4 * torch.rand(n_clips, 2, generator=generator))
    level = 0.3 * torch.rand(n_clips, 2, generator=generator)
    time_s = torch.arange(n_samples) / RATE
    sound = (level[:, :, None] * torch.sin(2 * torch.pi * frequency[:, :, None] * time_s)).sum(1)
    return sound + 0.02 * torch.randn(n_clips, n_samples, generator=generator)


def classifier(network: nn.Module | None = None, **options: Any) -> AudioClassifier:
    return classifier_of(network or Net(), **options)


def recognised(own: AudioClassifier, waveforms: Tensor) -> list[Clip]:
    """Clips that carry the label of the classifier's decision."""
    decisions = own.logits(waveforms).argmax(1).tolist()
    return [Clip(row, RATE, f"clip-{n}", labels=(LABELS[d],)) for n, (row, d) in enumerate(zip(waveforms, decisions,
            strict=True))]  # fmt: skip


def fitted_drsa(folder: Path, own: AudioClassifier | None = None, **options: Any) -> DRSA:
    own = own or classifier()
    settings = {"progress": lambda done, total, text: None, "seed": 0, "train": None, **options}
    parameters = {name: value for name, value in settings.items() if name not in ("progress", "seed", "train")}
    train = settings["train"] or ClipList(recognised(own, tones()))
    found = fit(
        registry(),
        "drsa",
        own,
        train,
        folder,
        parameters={"layer": LAYER, "locations": 8, **parameters},
        seed=settings["seed"],
        progress=settings["progress"],
    )
    assert isinstance(found, DRSA)
    return found


def with_basis(basis: Tensor, sizes: tuple[int, ...], layer: str = LAYER) -> DRSA:
    """An explainer with these subspaces for all classes."""
    one = ClassSubspaces(Subspaces(basis.double(), sizes), torch.zeros(len(sizes)), 1.0, torch.zeros(1, 1), 1, 1, 0)
    state = FittedSubspaces(layer, dict.fromkeys(range(len(LABELS)), one)).tensors()
    return DRSA(k=len(sizes)).load_state(state)


def explained(method: DRSA | LRP, own: AudioClassifier | None = None, waveforms: Tensor | None = None) -> Explanation:
    batch = Batch.of(
        [Clip(row, RATE, f"c{n}") for n, row in enumerate(tones(5, 9) if waveforms is None else waveforms)]
    )
    target = torch.tensor([1, 2, 2, 1, 2, 1, 2, 2])[: len(batch)]
    return method.explain(own or classifier(), batch, target=target, random=Random(0, batch.clip_ids))


def maps(explanation: Explanation) -> list[Tensor]:
    assert explanation.parts is not None
    return [explanation.parts.map(k).values for k in range(len(explanation.parts.names))]


def whole(explanation: Explanation) -> Tensor:
    assert explanation.relevance is not None
    return explanation.relevance.values


def rotation(dimensions: int = CHANNELS, seed: int = 0) -> Tensor:
    return random_starts(dimensions, 1, torch.Generator().manual_seed(seed))[0]


# --- two steps


def test_relevance_is_split_as_the_formula_says() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 5, 3, 2, generator=generator).sub(0.3).clamp(min=0)
    relevance = torch.randn(2, 5, 3, 2, generator=generator) * (a > 0)
    bases = random_starts(5, 2, generator)
    sizes = [(3, 2), (2, 3)]
    members = torch.stack([Subspaces(basis, own).members for basis, own in zip(bases, sizes, strict=True)])
    found = split_relevance(a, relevance, bases, members)
    for row in range(2):
        for place in range(6):
            a_n, r_n = (values[row].reshape(5, 6)[:, place].double() for values in (a, relevance))
            c_n = torch.stack([r / x if x > 0 else torch.zeros_like(x) for r, x in zip(r_n, a_n, strict=True)])
            for part, block in zip(found, torch.split(bases[row], list(sizes[row]), dim=1), strict=True):
                wanted = a_n * (block @ (block.T @ c_n))
                assert torch.allclose(part[row].reshape(5, 6)[:, place].double(), wanted, atol=1e-6)
    assert torch.allclose(sum(found), relevance, atol=1e-6)


def test_contexts_of_inactive_units_are_zero() -> None:
    assert contexts_of(torch.tensor([2.0, 0.0, 1e-30]), torch.tensor([3.0, 0.0, 0.0])).tolist() == [1.5, 0.0, 0.0]


@pytest.mark.parametrize("sizes", [(2, 2, 2, 2), (3, 3, 2), (1,) * 8, (8,)])
def test_the_whole_is_the_standard_map_and_the_parts_sum_to_it(sizes: tuple[int, ...]) -> None:
    explanation = explained(with_basis(rotation(), sizes))
    standard = whole(explained(LRP()))
    largest = float(standard.abs().max())
    assert torch.equal(whole(explanation), standard)
    assert float((sum(maps(explanation)) - standard).abs().max()) < 1e-5 * largest
    assert float(explanation.diagnostics["parts_gap"].max()) < 1e-5
    assert float(standard.abs().max()) > 0


def test_weights_are_the_relevance_of_the_parts() -> None:
    explanation = explained(with_basis(rotation(), (3, 3, 2)))
    assert explanation.parts is not None
    sums = torch.stack([values.sum((1, 2)) for values in maps(explanation)], dim=1)
    assert torch.allclose(explanation.parts.weights, sums, rtol=1e-3, atol=1e-3 * float(sums.abs().max()))
    assert bool(explanation.parts.selected.all())
    assert explanation.parts.names == ("subspace 1", "subspace 2", "subspace 3")


def test_with_the_channels_as_subspaces_each_part_is_the_map_of_its_channels() -> None:
    explanation = explained(with_basis(torch.eye(CHANNELS), (5, 3)))
    own, waveforms = classifier(), tones(5, 9)
    with Propagation().hidden(own, own.features(waveforms), torch.tensor([1, 2, 2, 1, 2]), LAYER) as hidden:
        kept = hidden.relevance.clone()
        kept[:, 5:] = 0
        wanted = hidden.lower(kept)[:, 0]
    assert torch.allclose(maps(explanation)[0], wanted, atol=1e-6 * float(wanted.abs().max()))


def test_turning_a_subspace_within_itself_changes_no_map_and_exchanging_two_exchanges_their_maps() -> None:
    basis = rotation()
    before = maps(explained(with_basis(basis, (4, 4))))
    turned = basis @ torch.block_diag(rotation(4, 1), rotation(4, 2))
    exchanged = torch.cat([basis[:, 4:], basis[:, :4]], dim=1)
    tolerance = 1e-5 * float(before[0].abs().max())
    for one, other in zip(before, maps(explained(with_basis(turned, (4, 4)))), strict=True):
        assert torch.allclose(one, other, atol=tolerance)
    for one, other in zip(before, reversed(maps(explained(with_basis(exchanged, (4, 4))))), strict=True):
        assert torch.allclose(one, other, atol=tolerance)
    assert float((before[0] - before[1]).abs().max()) > 100 * tolerance


def test_a_batch_is_explained_as_its_clips_are_one_by_one(tmp_path: Path) -> None:
    method, waveforms = fitted_drsa(tmp_path, k=3), tones(8, 9)
    together = explained(method, waveforms=waveforms)
    for row in (0, 1, 7):
        batch = Batch.of([Clip(waveforms[row], RATE, f"c{row}")])
        target = together.target[row : row + 1]
        alone = method.explain(classifier(), batch, target=target, random=Random(0, batch.clip_ids))
        for one, other in zip(maps(alone), maps(together), strict=True):
            assert torch.allclose(one[0], other[row], atol=1e-4 * float(other[row].abs().max()))


def test_networks_with_patches_are_taken_apart_too(tmp_path: Path) -> None:
    own = classifier(segmenter=patches_of, pool="mean")
    method = fitted_drsa(tmp_path, own, k=3)
    explanation = explained(method, own)
    assert torch.equal(whole(explanation), whole(explained(LRP(), own)))
    assert float(explanation.diagnostics["parts_gap"].max()) < 1e-5


def test_networks_that_eat_samples_are_taken_apart_too(tmp_path: Path) -> None:
    own = wave_classifier_of()
    method = fitted_drsa(tmp_path, own, layer="features.4", k=2)
    batch = Batch.of([Clip(row, RATE, f"c{n}") for n, row in enumerate(tones(3, 9))])
    target = torch.tensor(list(method.fitted.classes) * 3)[:3]
    explanation = method.explain(own, batch, target=target, random=Random(0, batch.clip_ids))
    assert explanation.relevance is not None
    assert explanation.relevance.domain == "waveform"
    assert float(explanation.diagnostics["parts_gap"].max()) < 1e-5


def test_signals_that_pass_the_layer_by_are_reported_as_a_gap() -> None:
    own = classifier_of(Residual())
    found = explained(with_basis(rotation(6), (3, 3), layer="block.1"), own).diagnostics["parts_gap"]
    assert float(found.min()) > 0.01


# --- what subspaces are fitted to


def rows_of(own: AudioClassifier, waveform: Tensor, layer: str = LAYER) -> Tensor:
    """All channel vectors of a clip, by place."""
    with own.taps([layer]) as hidden, torch.no_grad():
        own.logits(waveform[None])
    return hidden[layer].detach()[0].flatten(1).T


def test_every_vector_is_that_of_one_place_of_its_clip_and_no_place_is_drawn_twice() -> None:
    own, clips = classifier(), recognised(classifier(), tones(6))
    found = collect(Propagation(), own, Batch.of(clips), layer=LAYER, locations=11, seed=0)
    assert found.activations.shape == found.contexts.shape == (66, CHANNELS)
    for number, clip in enumerate(clips):
        own_rows = found.activations[11 * number : 11 * (number + 1)]
        places = rows_of(own, clip.waveform)
        distance = (own_rows[:, None] - places[None]).abs().amax(2)
        assert float(distance.amin(1).max()) < 1e-4
        live = own_rows.any(1)  # dead places are all alike
        assert len(set(distance.argmin(1)[live].tolist())) == int(live.sum())
        assert found.classes[11 * number] == LABELS.index(clip.labels[0])


def test_activation_times_context_is_the_relevance_of_the_place() -> None:
    own, clips = classifier(), recognised(classifier(), tones(2))
    found = collect(Propagation(), own, Batch.of(clips), layer=LAYER, locations=10**6, seed=0)
    features = own.features(torch.stack([clip.waveform for clip in clips]))
    with Propagation().hidden(own, features, found.classes[:: len(found.classes) // 2], LAYER) as hidden:
        total = hidden.relevance.sum((0, 2, 3))
    assert torch.allclose((found.activations * found.contexts).sum(0), total, rtol=1e-4, atol=1e-4)


def test_places_depend_on_the_clip_and_the_seed_and_not_on_the_batch() -> None:
    own, clips = classifier(), recognised(classifier(), tones(4))

    def draw(some: list[Clip], seed: int = 0) -> Tensor:
        found = collect(Propagation(), own, Batch.of(some), layer=LAYER, locations=5, seed=seed)
        return found.activations

    assert torch.allclose(draw(clips)[10:15], draw([clips[2]]), atol=1e-5)
    assert float((draw(clips) - draw(clips, 1)).abs().max()) > 0.1


def test_all_places_are_taken_where_there_are_fewer_than_asked_for() -> None:
    places = draw_places(7, 20, [torch.Generator().manual_seed(seed) for seed in range(2)])
    assert [sorted(row) for row in places.tolist()] == [list(range(7))] * 2


def test_a_clip_that_is_not_recognised_is_no_evidence(tmp_path: Path) -> None:
    own = classifier()
    clips = recognised(own, tones())
    wrong = [Clip(clip.waveform, RATE, f"{clip.clip_id}-wrong", labels=("dog",)) for clip in clips[:9]]
    with_wrong = fitted_drsa(tmp_path / "a", train=ClipList([*clips, *wrong]))
    without = fitted_drsa(tmp_path / "b")
    assert list(with_wrong.fitted.classes) == [1, 2]
    for index in (1, 2):
        assert torch.equal(*(one.fitted.classes[index].subspaces.basis for one in (with_wrong, without)))
        assert with_wrong.fitted.classes[index].clips == sum(LABELS[index] in clip.labels for clip in clips)


# --- layers


def test_layers_behind_a_relu_are_found_and_the_middle_map_is_the_default() -> None:
    own = classifier()
    features = own.features(tones(2))
    names = [layer.name for layer in rectified_layers(own, features)]
    assert names == ["features.1", "features.2", "features.4", "features.6", "features"]
    assert choose_layer(Propagation(), own, features, None) == "features.4"
    toy = load_classifier("toy-cnn")
    assert choose_layer(Propagation(), toy, toy.features(torch.randn(1, 16000)), None) == "features.7"


def test_a_layer_that_signals_pass_by_is_known_and_no_default() -> None:
    own = classifier_of(Residual())
    features = own.features(tones(2))
    assert missing_from_parts(Propagation(), own, features, "block.1") > 0.01
    with pytest.raises(ConfigurationError, match=r"no layer of small .* sum to the whole.* block\.1"):
        choose_layer(Propagation(), own, features, None)
    assert choose_layer(Propagation(), own, features, "block.1") == "block.1"


def test_the_default_is_no_layer_whose_inactive_units_have_relevance() -> None:
    own = classifier()
    features = own.features(tones(2))
    by_weights = Propagation({"features.5": "wsquare", "Conv2d": "zplus", "Linear": "epsilon"})
    missing = {name: missing_from_parts(by_weights, own, features, name) for name in ("features.4", "features.6")}
    assert missing["features.4"] > 0.01
    assert missing["features.6"] < 1e-5
    assert choose_layer(by_weights, own, features, None) == "features.6"


def test_the_default_of_a_network_with_residual_blocks_lies_between_them() -> None:
    class Deeper(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.after = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())

        def forward(self, features: Tensor) -> Tensor:
            x = functional.relu(self.first(features))
            return self.head(self.after(x + self.block(x)).mean((2, 3)))

    own = classifier_of(Deeper())
    assert choose_layer(Propagation(), own, own.features(tones(2)), None) == "after.1"


def test_without_a_relu_of_its_own_another_rectified_map_is_chosen() -> None:
    own = classifier_of(SmallCNN())  # one ReLU, in place, that serves twice
    assert choose_layer(Propagation(), own, own.features(tones(2)), None) in ("features.3", "features")


@pytest.mark.parametrize(
    ("layer", "error", "match"),
    [
        ("features.9", ClassifierError, r"no layer 'features.9'.*Did you mean 'features"),
        ("features.3", ConfigurationError, r"'features.3' \(Conv2d\).*negative in places.*features.4"),
        ("head", ConfigurationError, r"'head' \(Linear\)"),
    ],
)
def test_a_layer_that_does_not_exist_or_has_no_relu_before_it_is_refused(
    tmp_path: Path, layer: str, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        fitted_drsa(tmp_path, layer=layer)


def test_a_network_without_any_relu_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, len(LABELS)))
    randomise(network, 0)
    own = classifier_of(network)
    with pytest.raises(ConfigurationError, match="no layer behind a ReLU"):
        fitted_drsa(tmp_path, own, layer=None)


# --- fit, save, load


@pytest.mark.parametrize("kind", ["drsa", "dsa", "prca", "pca", "random"])
def test_every_kind_of_subspaces_is_fitted_kept_and_loaded(tmp_path: Path, kind: str) -> None:
    method = fitted_drsa(tmp_path, subspaces=kind, k=3, restarts=2)
    loaded = load_fitted(registry(), tmp_path, classifier())
    assert isinstance(loaded, DRSA)
    for one, other in zip(maps(explained(method)), maps(explained(loaded)), strict=True):
        assert torch.equal(one, other)
    for own in loaded.fitted.classes.values():
        mean = own.mean_relevance.tolist()
        assert mean == sorted(mean, reverse=True)
        assert sum(own.subspaces.sizes) == CHANNELS


def test_the_objective_curve_of_every_restart_is_kept(tmp_path: Path) -> None:
    method = fitted_drsa(tmp_path, restarts=2)
    tensors = load_file(tmp_path / "explainer.safetensors")
    for index, own in method.fitted.classes.items():
        curves = tensors[f"{index}/curves"]
        assert curves.shape[0] == 2
        assert float(curves.nan_to_num(0).max()) == pytest.approx(own.objective, rel=1e-5)
    assert bytes(tensors["layer"].tolist()).decode() == LAYER


@pytest.mark.parametrize("killed_at", [3, 9, 13])
def test_a_killed_fit_goes_on_and_ends_with_the_same_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    monkeypatch.setattr("earwitness_plugins.drsa.explainer._CLIPS_AT_ONCE", 2)

    class Killed(BaseException):
        pass

    def kill(done: int, total: int, text: str) -> None:
        if done == killed_at:
            raise Killed

    fitted_drsa(tmp_path / "whole")
    with pytest.raises(Killed):
        fitted_drsa(tmp_path / "killed", progress=kill)
    steps: list[int] = []
    fitted_drsa(tmp_path / "killed", progress=lambda done, total, text: steps.append(done))
    assert steps[0] == (8 * (killed_at // 8) + 1 if killed_at < 12 else 13)
    one, other = ((tmp_path / name / "explainer.safetensors").read_bytes() for name in ("whole", "killed"))
    assert one == other


def test_progress_names_the_class_and_ends_at_its_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    fitted_drsa(tmp_path, progress=lambda *step: seen.append(step))
    assert any("rain: step 25, objective" in text for _, _, text in seen)
    assert seen[-1][0] == seen[-1][1]


def test_another_seed_draws_other_places(tmp_path: Path) -> None:
    one, other = (fitted_drsa(tmp_path / str(seed), seed=seed).fitted.classes[2] for seed in (0, 1))
    assert not torch.equal(one.subspaces.basis, other.subspaces.basis)


# --- bad input


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"k": 0}, "whole numbers of 1 or more, got {'k': 0}"),
        ({"restarts": True}, "restarts"),
        ({"locations": 2.5}, "locations"),
        ({"subspaces": "drsaa"}, "Did you mean 'drsa'"),
        ({"method": "fast"}, "There is no method 'fast'"),
        ({"layer": ""}, "dotted name"),
        ({"composite": "epsilon-pluss"}, "epsilon-plus"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        DRSA(**parameters)


def test_k_that_does_not_divide_the_channels_makes_uneven_blocks(tmp_path: Path) -> None:
    sizes = [sorted(own.subspaces.sizes) for own in fitted_drsa(tmp_path, k=3).fitted.classes.values()]
    assert sizes == [[2, 3, 3]] * 2
    assert float(explained(fitted_drsa(tmp_path, k=3)).diagnostics["parts_gap"].max()) < 1e-5


def test_more_subspaces_than_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'rain'.* between 1 and the 8 dimensions of the layer, got 9"):
        fitted_drsa(tmp_path, k=9)


def test_a_class_that_is_never_predicted_is_refused_when_it_is_asked_for(tmp_path: Path) -> None:
    method, batch = fitted_drsa(tmp_path), Batch.of([Clip(tones(1)[0], RATE, "c")])
    with pytest.raises(NotApplicableError, match=r"no subspaces of dog: .*recognised some of rain, clock"):
        method.explain(classifier(), batch, target=torch.tensor([0]), random=Random(0, batch.clip_ids))


def test_training_data_of_which_nothing_is_recognised_are_refused(tmp_path: Path) -> None:
    clips = [Clip(row, RATE, f"{n}", labels=("dog",)) for n, row in enumerate(tones(4))]
    with pytest.raises(ConfigurationError, match="recognises none of the 4 training clips"):
        fitted_drsa(tmp_path, train=ClipList(clips))


def test_fewer_vectors_than_dimensions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'rain': \d vectors .* too few for 8 dimensions"):
        fitted_drsa(tmp_path, locations=1)


def test_a_layer_whose_activations_are_all_dead_is_refused(tmp_path: Path) -> None:
    network = Net()
    with torch.no_grad():
        network.features[3].bias.fill_(-1e6)  # type: ignore[union-attr, operator]
    with pytest.raises((ConfigurationError, ClassifierError), match=r"dead|No relevance"):
        fitted_drsa(tmp_path, classifier(network))


@pytest.mark.parametrize(
    ("asked", "match"), [({"layer": "features.6"}, "at layer 'features.4', not at 'features.6'"), ({"k": 3}, "not 3")]
)
def test_subspaces_of_another_layer_or_number_are_not_loaded(tmp_path: Path, asked: dict[str, Any], match: str) -> None:
    state = fitted_drsa(tmp_path).state()
    with pytest.raises(CheckpointError, match=match):
        DRSA(**asked).load_state(state)


def test_tensors_of_something_else_are_not_loaded() -> None:
    with pytest.raises(CheckpointError, match="not the tensors of fitted subspaces"):
        DRSA().load_state({"means": torch.zeros(3)})


def test_a_checkpoint_of_another_classifier_is_refused(tmp_path: Path) -> None:
    method = fitted_drsa(tmp_path)
    with pytest.raises(CheckpointError, match="fitted to"):
        load_fitted(registry(), tmp_path, classifier(Net(seed=5)))
    with pytest.raises(CheckpointError, match="has 5 channels, and the subspaces are of 8"):
        explained(method, classifier(Net(channels=5)))


def test_explaining_before_fitting_says_how_to_fit() -> None:
    with pytest.raises(ExplanationError, match="earwitness fit drsa"):
        explained(DRSA())
    with pytest.raises(CheckpointError, match="not been fitted"):
        DRSA().state()


# --- the commands


def test_fit_and_explain_from_the_command_line(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(shell, [*words])
        assert result.exit_code == 0, result.output
        return result.output

    clip = Toy(split="test", clips=1)[0]
    soundfile.write(tmp_path / "clip.wav", clip.waveform.numpy(), clip.rate, subtype="FLOAT")
    folder = str(tmp_path / "fitted")
    data = ("--classifier", "toy-cnn", "--dataset", "toy", "--dataset-param", "clips=8")
    run("fit", "drsa", *data, "--param", "layer=features.7", "--param", "k=4", "--out", folder)
    out = ("--out", str(tmp_path / "out"))
    said = run("explain", str(tmp_path / "clip.wav"), "--explainer", "drsa", "--checkpoint", folder, *data[:2], *out)
    assert "subspace 4" in said
    diagnostics = json.loads((tmp_path / "out" / "clip" / "explanation.json").read_text())["diagnostics"]
    assert set(diagnostics) == {"conservation_gap", "unstable", "parts_gap"}
    assert diagnostics["parts_gap"] < 1e-5
    assert sorted(path.name for path in (tmp_path / "out" / "clip" / "parts").glob("*.wav")) == [
        f"part-{k}.wav" for k in range(1, 5)
    ]
