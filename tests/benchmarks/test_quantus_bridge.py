"""The bridge to Quantus: the same numbers as a direct call, and none of its side effects."""

from __future__ import annotations

import gc
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import networks
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Clip, Source
from earwitness.context import Context
from earwitness.errors import ExplanationError
from earwitness.explanation import Explanation, Mask, Relevance
from earwitness.protocols import Curve, Scores
from earwitness.random import Random, stream_seed
from earwitness.render import Scene
from earwitness_bench.metrics.formulas import complexity, sparseness
from earwitness_bench.metrics.localisation import Localisation
from earwitness_bench.metrics.mask_shape import MaskShape
from earwitness_bench.quantus.bridge import QuantusMetric
from earwitness_bench.quantus.catalogue import OFFERED
from earwitness_bench.quantus.views import Network, on_input, view_of

with warnings.catch_warnings():
    import quantus
    from quantus.helpers.model.pytorch_model import PyTorchModel

B = 4
QUICK: dict[str, dict[str, Any]] = {
    "FaithfulnessCorrelation": {"nr_runs": 8, "subset_size": 40},
    "FaithfulnessEstimate": {"features_in_step": 16},
    "Infidelity": {"n_perturb_samples": 2, "perturb_patch_sizes": [2]},
    "MonotonicityCorrelation": {"features_in_step": 64, "nr_samples": 3},
    "PixelFlipping": {"features_in_step": 16},
    "AvgSensitivity": {"nr_samples": 3, "lower_bound": 0.02},
    "Continuity": {"nr_steps": 3},
    "LocalLipschitzEstimate": {"nr_samples": 3, "perturb_std": 0.02},
    "MaxSensitivity": {"nr_samples": 3, "lower_bound": 0.02},
    "RelativeInputStability": {"nr_samples": 3, "return_nan_when_prediction_changes": False},
    "RelativeOutputStability": {"nr_samples": 3, "return_nan_when_prediction_changes": False},
    "RelativeRepresentationStability": {"nr_samples": 3, "return_nan_when_prediction_changes": False},
    "TopKIntersection": {"k": 100},
}
"""Parameters with which a metric takes no time; a map has 16 x 32 cells."""


def batch() -> Batch:
    """Half a second of noise each, in 4096 samples; the first half of the spectrum is the target's source."""
    low = networks.noise(B, n_samples=3968, seed=3).cumsum(1) * 0.02
    rest = networks.noise(B, n_samples=3968, seed=4)
    clips = [
        Clip(a + b, networks.RATE, f"clip-{n}", sources={"own": Source(a, networks.LABELS[n % 3]), "rest": Source(b)})
        for n, (a, b) in enumerate(zip(low, rest, strict=True))
    ]
    return Batch.of(clips)


TARGET = torch.arange(B) % 3


def gradient(
    classifier: AudioClassifier, given: Batch, *, target: Tensor | None = None, rows: Sequence[int] | None = None
) -> Explanation:
    """Signed gradient of the target's logit by the features."""
    if target is None:
        target = TARGET if rows is None else TARGET[list(rows)]
    with torch.enable_grad():
        features = classifier.features(given.waveforms).detach().requires_grad_(True)
        logits = classifier.logits_of_features(features).gather(1, target[:, None]).sum()
    (values,) = torch.autograd.grad(logits, features)
    if classifier.feature_grid(given.waveforms.shape[1]) is None:
        return Explanation(target, relevance=Relevance(values[:, 0], "waveform"))
    return Explanation(target, relevance=Relevance(values[:, 0], "features"))


def context_of(
    explanation: Explanation | None = None,
    *,
    classifier: AudioClassifier | None = None,
    rows: Sequence[int] = range(B),
    seed: int = 0,
) -> Context:
    """A context of some rows, whose method explains again by the gradient."""
    classifier, given = classifier or networks.classifier_of(), batch().select(rows)
    explanation = explanation or gradient(classifier, given, target=TARGET[list(rows)])

    def again(other: AudioClassifier, part: Batch, *, target: Tensor | None, rows: Sequence[int] | None) -> Explanation:
        own = explanation.target if rows is None else explanation.target[list(rows)]
        return gradient(other, part, target=own if target is None else target)

    return Context(classifier, given, explanation, random=Random(seed, given.clip_ids), explain=again)


def score(name: str, context: Context, **parameters: Any) -> Scores:
    return QuantusMetric(name, {**QUICK.get(name, {}), **parameters}).score(context.explanation, context)


def values(name: str, context: Context, **parameters: Any) -> np.ndarray:
    """(B,) numbers or (B, S) curves."""
    column = score(name, context, **parameters).columns[name]
    return (column.y if isinstance(column, Curve) else column).double().numpy()


# --- the numbers


@pytest.mark.parametrize("name", [name for name, entry in OFFERED.items() if entry.category != "localisation"])
def test_every_metric_gives_each_clip_a_finite_number_or_curve(name: str) -> None:
    found = score(name, context_of())
    assert set(found.columns) == {name}
    assert found.reasons == ("",) * B
    assert np.isfinite(values(name, context_of())).all()


def direct(name: str, maps: np.ndarray, *, softmax: bool, normalise: bool = True) -> np.ndarray:
    """Quantus called as its documentation says, one clip at a time, under the seeds of the bridge."""
    classifier, given = networks.classifier_of(), batch()
    network = nn.Sequential(classifier.network, nn.Softmax(dim=1)).eval() if softmax else classifier.network
    inputs = classifier.features(given.waveforms).detach().numpy()
    rows = []
    for row, clip_id in enumerate(given.clip_ids):
        np.random.seed(stream_seed(0, name, clip_id) % 2**32)
        more = {"return_aggregate": False} if name == "FaithfulnessCorrelation" else {}
        metric = getattr(quantus, name)(normalise=normalise, disable_warnings=True, **QUICK.get(name, {}), **more)
        one = slice(row, row + 1)
        rows += list(
            metric(
                model=network,
                x_batch=inputs[one].copy(),
                y_batch=TARGET[one].numpy(),
                a_batch=maps[one].copy(),
                channel_first=True,
                softmax=softmax,
                device="cpu",
            )
        )
    return np.asarray(rows, dtype=np.float64)


@pytest.mark.parametrize(
    ("name", "softmax"),
    [
        ("FaithfulnessCorrelation", False),
        ("FaithfulnessEstimate", False),
        ("Infidelity", False),
        ("MonotonicityCorrelation", True),
        ("PixelFlipping", True),
        ("RegionPerturbation", True),
        ("Selectivity", True),
        ("IROF", True),
        ("Completeness", False),
    ],
)
def test_it_is_what_quantus_gives_when_it_is_called_directly(name: str, softmax: bool) -> None:
    context = context_of()
    maps = context.scene.on_features(context.explanation)[:, None].double().numpy()
    state = np.random.get_state()
    wanted = direct(name, maps, softmax=softmax, normalise=name != "Infidelity")
    np.random.set_state(state)
    np.testing.assert_allclose(values(name, context), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.golden
def test_sparseness_and_complexity_are_the_native_ones_and_those_of_the_golden_arrays(golden: Path) -> None:
    arrays = np.load(golden / "metrics.npz")
    edges = np.stack([arrays[f"edge_mask_{name}"] for name in arrays["edge_names"]])
    for maps, prefix in ((arrays["in_masks"], ""), (edges, "edge_")):
        gain = torch.from_numpy(maps)
        holding = _Holding(gain)
        native = MaskShape().score(None, holding)  # type: ignore[arg-type]
        for name, column in (("Sparseness", "SPS"), ("Complexity", "COMP")):
            found = QuantusMetric(name, {}).score(None, holding)  # type: ignore[arg-type]
            wanted = arrays[f"{prefix}{column}_q060"]
            np.testing.assert_allclose(found.columns[name].numpy(), wanted, atol=2e-6, equal_nan=True)
            np.testing.assert_allclose(found.columns[name], native.columns[column], atol=2e-6, equal_nan=True)
            assert [bool(reason) for reason in found.reasons] == np.isnan(wanted).tolist()


class _Holding:
    """A context that has a rendering of given gain, and what a metric of masks alone never looks at."""

    def __init__(self, gain: Tensor) -> None:
        self.rendering = self.scene = self.batch = self
        self.gain, self.magnitude = gain, torch.ones_like(gain)
        self.classifier = networks.classifier_of()
        self.target = torch.zeros(len(gain), dtype=torch.int64)
        self.random = Random(0, [str(number) for number in range(len(gain))])
        self.clip_ids = self.random.clip_ids


def test_on_any_explanation_complexity_is_the_native_entropy_of_its_mask() -> None:
    context = context_of()
    gain = context.rendering.gain
    np.testing.assert_allclose(values("Complexity", context), complexity(gain), rtol=1e-5)
    np.testing.assert_allclose(values("Sparseness", context), sparseness(gain), rtol=1e-5)


def test_localisation_agrees_with_the_native_one_on_a_binary_source() -> None:
    context = context_of()
    cells = view_of("AUC", context.explanation, context).segments
    assert cells is not None
    relevance = context.scene.relevance_map(context.explanation).clamp_min(0)
    wanted = (relevance * cells[:, 0]).sum((1, 2)) / relevance.sum((1, 2))
    np.testing.assert_allclose(values("RelevanceMassAccuracy", context), wanted, rtol=1e-4)
    np.testing.assert_allclose(values("AttributionLocalisation", context), wanted, rtol=1e-4)
    native = Localisation().score(context.explanation, context)["relevance_rank"]
    np.testing.assert_allclose(values("RelevanceRankAccuracy", context), native, atol=1e-3)


@pytest.mark.parametrize("name", [name for name, entry in OFFERED.items() if entry.category == "localisation"])
def test_a_map_of_the_targets_own_cells_is_localised_better_than_its_opposite(name: str) -> None:
    context = context_of()
    cells = view_of(name, context.explanation, context).segments
    assert cells is not None
    good, bad = (
        context_of(Explanation(TARGET, relevance=Relevance(m * (1 + 0.1 * torch.rand(m.shape)), "stft")))
        for m in (cells[:, 0].float(), 1 - cells[:, 0].float())
    )
    assert (values(name, good) > values(name, bad)).all()


def test_a_curve_keeps_its_steps() -> None:
    column = score("PixelFlipping", context_of()).columns["PixelFlipping"]
    assert isinstance(column, Curve)
    assert (column.y.shape, column.x.tolist()[:3]) == ((B, 32), [1.0, 2.0, 3.0])


def test_maps_are_normalised_clip_by_clip_as_quantus_would_a_batch_of_one() -> None:
    context = context_of()
    assert context.explanation.relevance is not None
    scaled = context.explanation.relevance.values * torch.tensor([1.0, 1e3, 1e-3, 7.0])[:, None, None]
    louder = context_of(Explanation(TARGET, relevance=Relevance(scaled, "features")))
    for name in ("FaithfulnessEstimate", "PixelFlipping"):
        np.testing.assert_allclose(values(name, context), values(name, louder), rtol=1e-4, atol=1e-6)


# --- what a score may not depend on


@pytest.mark.parametrize("name", [name for name, entry in OFFERED.items() if entry.pace != "together"])
def test_the_other_clips_of_a_batch_do_not_change_a_score(name: str) -> None:
    together = values(name, context_of())
    for row in range(B):
        alone = values(name, context_of(rows=[row]))
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_baseline_that_is_drawn_is_drawn_for_each_clip() -> None:
    parameters = {"perturb_baseline": "uniform"}
    together = values("PixelFlipping", context_of(), **parameters)
    np.testing.assert_allclose(values("PixelFlipping", context_of(rows=[2]), **parameters)[0], together[2], rtol=1e-4)
    assert not np.allclose(together, values("PixelFlipping", context_of()))


@pytest.mark.parametrize("name", ["FaithfulnessCorrelation", "MaxSensitivity", "MonotonicityCorrelation"])
def test_the_seed_of_the_run_decides_and_the_same_seed_gives_the_same_numbers(name: str) -> None:
    one, same, other = (values(name, context_of(seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", ["FaithfulnessCorrelation", "MaxSensitivity", "RandomLogit", "EfficientMPRT"])
def test_the_random_numbers_of_the_process_are_left_alone(name: str) -> None:
    context = context_of()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    wanted = (torch.rand(1).item(), np.random.rand(), random.random())
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    score(name, context)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == wanted


def test_nothing_is_printed_and_no_warning_gets_out(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        for name in ("FaithfulnessEstimate", "MaxSensitivity", "EfficientMPRT", "AttributionLocalisation"):
            score(name, context_of(), **({"abs": False} if name == "AttributionLocalisation" else {}))
        assert list(warnings.filters) == filters
    assert heard == []
    assert capfd.readouterr() == ("", "")


def test_no_network_is_kept_alive() -> None:
    score("EfficientMPRT", context_of())
    gc.collect()
    assert not [held for held in gc.get_objects() if type(held) in (Network, PyTorchModel)]


# --- maps that quantus refuses


@pytest.mark.parametrize("name", ["PixelFlipping", "FaithfulnessCorrelation", "MaxSensitivity", "EfficientMPRT"])
def test_a_degenerate_map_has_no_score_but_a_reason_and_the_others_are_as_without_it(name: str) -> None:
    plain = context_of()
    assert plain.explanation.relevance is not None
    maps = plain.explanation.relevance.values.clone()
    maps[1], maps[2] = 0.5, -1 - maps[2].abs()
    found = score(name, context_of(Explanation(TARGET, relevance=Relevance(maps, "features"))))
    column = found.columns[name]
    area = column.area() if isinstance(column, Curve) else column
    assert found.reasons == ("", "the map is constant", "the map is negative everywhere", "")
    assert area.isnan().tolist() == [False, True, True, False]
    kept = values(name, plain)[[0, 3]]
    again = (column.y if isinstance(column, Curve) else column).double().numpy()[[0, 3]]
    np.testing.assert_allclose(again, kept, rtol=1e-4, atol=1e-5)


def test_a_batch_of_degenerate_maps_has_reasons_only() -> None:
    flat = Explanation(TARGET, mask=Mask(torch.ones(B, 16, 32), "features"))
    found = score("PixelFlipping", context_of(flat))
    assert found.reasons == ("the map is constant",) * B


def test_a_clip_without_its_target_has_no_localisation() -> None:
    context = context_of(Explanation((TARGET + 1) % 3, relevance=gradient(networks.classifier_of(), batch()).relevance))
    found = score("PointingGame", context)
    assert found.reasons == ("nothing of the target is to be heard in this clip",) * B
    assert bool(found.columns["PointingGame"].isnan().all())  # type: ignore[union-attr]


def test_a_map_that_is_constant_when_it_is_explained_again_costs_its_own_clip() -> None:
    context = context_of()
    explain = context._explain
    assert explain is not None

    def sometimes_flat(*arguments: Any, rows: Sequence[int], **more: Any) -> Explanation:
        again = explain(*arguments, rows=rows, **more)
        assert again.relevance is not None
        flat = Relevance(torch.ones_like(again.relevance.values), "features")
        return Explanation(again.target, relevance=flat) if list(rows) == [2] else again

    context._explain = sometimes_flat
    found = score("RandomLogit", context)
    assert found.reasons == ("", "", "explained again, the map is constant", "")


def test_one_clip_alone_cannot_be_compared_with_others() -> None:
    assert score("Consistency", context_of(rows=[0])).reasons == ("there is no other clip to compare it with",)


# --- explaining again


def asked(name: str, classifier: AudioClassifier | None = None) -> list[tuple[AudioClassifier, Batch, Any, Any]]:
    """What a metric wants explained again, for the first of its clips."""
    context = context_of(classifier=classifier)
    explain, calls = context._explain, []
    assert explain is not None

    def listening(other: AudioClassifier, part: Batch, **more: Any) -> Explanation:
        calls.append((other, part, more["target"], more["rows"]))
        return explain(other, part, **more)

    context._explain = listening
    score(name, context)
    return [call for call in calls if call[3] == [0]]


def test_sensitivity_disturbs_the_recording_and_asks_for_the_same_class() -> None:
    calls = asked("MaxSensitivity")
    own = batch().waveforms[:1]
    assert len(calls) == 3
    for _, part, target, _ in calls:
        disturbance = (part.waveforms - own).abs()
        assert 0.015 < float(disturbance.max()) <= 0.02
        assert target is None


def test_max_sensitivity_is_the_largest_relative_change_of_the_map() -> None:
    context = context_of()
    explain, maps = context._explain, []
    assert explain is not None
    assert context.explanation.relevance is not None

    def keeping(*arguments: Any, **more: Any) -> Explanation:
        again = explain(*arguments, **more)
        assert again.relevance is not None
        maps.append((more["rows"][0], again.relevance.values[0]))
        return again

    context._explain = keeping
    found = values("MaxSensitivity", context)
    for row, own in enumerate(context.explanation.relevance.values):
        changes = [float((other - own).norm() / own.norm()) for index, other in maps if index == row]
        assert found[row] == pytest.approx(max(changes), rel=1e-5)


def test_random_logit_asks_for_another_class_of_the_same_recording() -> None:
    ((classifier, part, target, _),) = asked("RandomLogit")
    assert torch.equal(part.waveforms, batch().waveforms[:1])
    assert int(target) != int(TARGET[0])
    assert int(target) in range(3)
    assert classifier.checksum == networks.classifier_of().checksum


def test_efficient_mprt_explains_on_randomised_weights_of_the_same_classifier() -> None:
    first, second = asked("EfficientMPRT")
    assert first[0].checksum == networks.classifier_of().checksum != second[0].checksum
    assert second[0].labels == networks.LABELS
    before, after = (call[0].network.state_dict() for call in (first, second))
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    assert any("head" in name for name in changed)
    assert any("features.0" in name for name in changed)


def test_a_regrouped_classifier_stays_regrouped_on_randomised_weights() -> None:
    groups = {"animal": ["dog"], "other": ["rain", "clock"], "all": ["dog", "rain", "clock"]}
    _, (randomised, *_rest) = asked("EfficientMPRT", networks.classifier_of().regroup(groups))
    assert randomised.labels == ("animal", "other", "all")
    assert randomised.logits(batch().waveforms).shape == (B, 3)


# --- networks


def test_networks_that_eat_samples_are_scored_over_samples() -> None:
    classifier = networks.wave_classifier_of()
    context = context_of(classifier=classifier)
    for name, parameters in (
        ("FaithfulnessCorrelation", {}),
        ("PixelFlipping", {"features_in_step": 124}),
        ("MaxSensitivity", {}),
        ("RandomLogit", {}),
        ("EfficientMPRT", {}),
    ):
        assert np.isfinite(values(name, context, **parameters)).all(), name


def test_maps_of_other_domains_are_brought_to_samples() -> None:
    classifier, given = networks.wave_classifier_of(), batch()
    scene = Scene(classifier, given, classifier.listening)
    constant = Explanation(TARGET, mask=Mask(torch.full_like(scene.magnitude, 0.3), "stft"))
    assert torch.allclose(on_input(scene, constant), torch.tensor(0.3))
    assert on_input(scene, constant).shape == (B, 1, 3968)
    relevance = torch.randn(scene.magnitude.shape, generator=torch.Generator().manual_seed(0)) + 0.5
    shared = on_input(scene, Explanation(TARGET, relevance=Relevance(relevance, "stft")))
    inside = relevance[:, :, 1:-1].sum((1, 2))  # the first and last frames reach past the recording
    assert torch.allclose(shared.sum((1, 2)), relevance.sum((1, 2)), rtol=0.05, atol=0.02 * float(inside.abs().max()))
    own = torch.randn(B, 3968, generator=torch.Generator().manual_seed(0))
    same = on_input(scene, Explanation(TARGET, relevance=Relevance(own, "waveform")))
    assert torch.equal(same[:, 0], own)


class Attentive(nn.Module):
    """Has a softmax inside, registered last."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = networks.SmallCNN()
        self.attention = nn.Softmax(dim=3)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.cnn(features * self.attention(features))
        return logits


@pytest.mark.parametrize("probabilities", [False, True])
def test_quantus_hears_the_classifier_itself_also_where_it_has_a_softmax_inside(probabilities: bool) -> None:
    classifier = networks.classifier_of(Attentive(), multilabel=True)
    features = classifier.features(batch().waveforms)
    network = Network(classifier, eats_waveforms=False, probabilities=probabilities)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = PyTorchModel(network, softmax=False, device="cpu").predict(features.numpy())
    logits = classifier.logits_of_features(features)
    wanted = torch.sigmoid(logits) if probabilities else logits
    np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-5)


def test_a_map_with_more_cells_than_samples_is_refused_with_the_remedy() -> None:
    view = view_of("MaxSensitivity", context_of().explanation, context_of())
    with pytest.raises(ExplanationError, match="one of 4000 cells does not fit into 3968 samples"):
        view.laid_out(np.zeros((1, 1, 40, 100)))


# --- failures


def test_what_quantus_raises_carries_the_name_of_metric_and_clips() -> None:
    with pytest.raises(ExplanationError, match=r"quantus:PixelFlipping failed inside Quantus on clip-0, .*modulo"):
        score("PixelFlipping", context_of(), features_in_step=7)


def test_a_clip_on_which_quantus_fails_costs_its_own_score() -> None:
    context = context_of()
    explain = context._explain
    assert explain is not None

    def failing(*arguments: Any, rows: Sequence[int], **more: Any) -> Explanation:
        if list(rows) == [1]:
            raise ZeroDivisionError("out of luck")
        return explain(*arguments, rows=rows, **more)

    context._explain = failing
    found = score("RandomLogit", context)
    assert found.reasons[1].startswith("failed: quantus:RandomLogit failed inside Quantus on clip-1. ZeroDivisionError")
    assert found.columns["RandomLogit"].isnan().tolist() == [False, True, False, False]  # type: ignore[union-attr]


def test_localisation_without_sources_is_refused() -> None:
    plain = Batch.of(networks.clips_of(networks.noise(B)))
    explanation = gradient(networks.classifier_of(), plain)
    context = Context(networks.classifier_of(), plain, explanation, random=Random(0, plain.clip_ids))
    with pytest.raises(ExplanationError, match="clean sources"):
        QuantusMetric("AUC", {}).score(explanation, context)
