"""The explainer `lrp`, relevance in two steps, patches, the command `audit`, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from earwitness import load_classifier, load_explainer
from earwitness.audio.files import write_audio
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import AudioError, ClassifierError, ConfigurationError, NotApplicableError
from earwitness.explanation import Explanation
from earwitness.pooling import POOLS
from earwitness.random import Random
from earwitness_plugins.classifiers.mobilenet_v1 import MobileNetV1
from earwitness_plugins.classifiers.mobilenet_v3 import MobileNetV3
from earwitness_plugins.lrp.command import audit
from earwitness_plugins.lrp.explainer import LRP, is_unstable
from earwitness_plugins.lrp.ledger import Ledger
from earwitness_plugins.lrp.propagation import Propagation
from networks import (
    LABELS,
    Lambda,
    SmallCNN,
    batch_of,
    classifier_of,
    log_mel,
    noise,
    patches_of,
    randomise,
    wave_classifier_of,
)

torch.set_num_threads(1)

TARGET = torch.tensor([2, 0, 1, 1])


def explain(method: LRP, classifier: AudioClassifier, batch: Batch, target: Tensor = TARGET) -> Explanation:
    return method.explain(classifier, batch, target=target, random=Random(0, batch.clip_ids))


def relevance(method: LRP, classifier: AudioClassifier, batch: Batch, target: Tensor = TARGET) -> Tensor:
    found = explain(method, classifier, batch, target).relevance
    assert found is not None
    return found.values


def double_classifier(**options: Any) -> AudioClassifier:
    return classifier_of(SmallCNN().double(), front_end=log_mel().double(), **options)


def double_features(classifier: AudioClassifier, n_rows: int = 4) -> Tensor:
    with torch.no_grad():
        return classifier.features(noise(n_rows).double())


def seeded(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


# --- the explainer


@pytest.mark.parametrize("zero_bias", [False, True])
@pytest.mark.parametrize(
    "composite", ["epsilon-plus-flat-depthwise", "thesis-toy", {"Conv2d": "wsquare", "Linear": "epsilon"}]
)
def test_an_explanation_says_how_much_is_missing(composite: Any, zero_bias: bool) -> None:
    classifier, batch = classifier_of(), batch_of()
    found = explain(LRP(composite=composite, zero_bias=zero_bias, start="logit"), classifier, batch)
    assert found.relevance is not None
    assert found.relevance.domain == "features"
    assert found.relevance.values.shape == classifier.features(batch.waveforms)[:, 0].shape
    logits = classifier.logits(batch.waveforms).gather(1, TARGET[:, None])[:, 0]
    gap = (found.relevance.values.sum((1, 2)) - logits).abs() / logits.abs()
    torch.testing.assert_close(found.diagnostics["conservation_gap"], gap, rtol=1e-3, atol=1e-5)
    unstable = found.relevance.values.abs().sum((1, 2)) > 10 * logits.abs()
    assert torch.equal(found.diagnostics["unstable"], unstable.float())


@pytest.mark.parametrize("name", ["toy-cnn", "esc10-cnn"])
@pytest.mark.parametrize("composite", ["thesis-toy", "epsilon-plus-flat-depthwise"])
def test_relevance_on_the_packaged_networks_sums_to_the_logit(name: str, composite: str) -> None:
    classifier = load_classifier(name)
    waveforms = 0.1 * torch.randn(2, classifier.rate, generator=torch.Generator().manual_seed(0))
    features = classifier.features(waveforms)
    logits = classifier.logits_of_features(features)
    target = logits.argmax(1)
    found = Propagation(composite, start="logit").attribute(classifier, features, target)
    torch.testing.assert_close(found.explained, logits.amax(1))
    gap = (found.relevance.double().sum((1, 2, 3)) - logits.amax(1)).abs() / logits.amax(1).abs()
    assert float(gap.max()) < 1e-4


def test_unstable_is_flagged_where_large_numbers_cancel_out() -> None:
    classifier = load_classifier("esc10-cnn")
    waveforms = 0.1 * torch.randn(1, classifier.rate, generator=torch.Generator().manual_seed(0))
    features = classifier.features(waveforms)
    target = classifier.logits_of_features(features).argmax(1)
    for composite, expected in (("epsilon", True), ("epsilon-plus-flat-depthwise", False)):
        found = Propagation(composite).attribute(classifier, features, target)
        assert bool(is_unstable(found.relevance, found.explained)) is expected


def test_a_network_that_eats_samples_is_explained_over_them() -> None:
    found = explain(LRP(), wave_classifier_of(), batch_of()).relevance
    assert found is not None
    assert found.domain == "waveform"
    assert found.values.shape == batch_of().waveforms.shape


def test_a_clip_is_explained_alike_alone_and_in_a_batch() -> None:
    classifier, batch = classifier_of(), batch_of(20)
    target = torch.arange(20) % 3
    together = relevance(LRP(), classifier, batch, target)
    alone = torch.cat(
        [relevance(LRP(), classifier, Batch.of([clip]), target[n : n + 1]) for n, clip in enumerate(batch.clips)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))


def test_evidence_keeps_its_sign_where_the_logit_is_negative() -> None:
    """A logit of -1 over a bias of -3: the features speak for the class, and the heat map says so."""

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 3)
            nn.init.constant_(self.head.weight, 0.1)
            nn.init.constant_(self.head.bias, -50.0)

        def forward(self, features: Tensor) -> Tensor:
            return self.head(features.mean((1, 3)))

    classifier, batch = classifier_of(Biased()), batch_of()
    logits = classifier.logits(batch.waveforms)
    contribution = classifier.features(batch.waveforms).mean((1, 3)).sum(1) * 0.1
    assert bool((logits < 0).all())
    assert bool((contribution > 0).all())
    found = relevance(LRP(composite="epsilon"), classifier, batch)
    torch.testing.assert_close(found.sum((1, 2)), contribution, rtol=1e-4, atol=1e-4)
    # The logit itself, shared out among contributions of the other sign, turns the map over.
    turned = relevance(LRP(composite="epsilon", start="logit"), classifier, batch)
    assert bool((turned.sum((1, 2)) < 0).all())
    # With biases kept, logit and contributions go together.
    kept = relevance(LRP(composite="epsilon", zero_bias=False), classifier, batch)
    torch.testing.assert_close(kept.sum((1, 2)), contribution, rtol=1e-4, atol=1e-4)


def test_start_from_one_is_the_map_over_the_logit() -> None:
    classifier = double_classifier()
    features = double_features(classifier)
    logits = classifier.logits_of_features(features).gather(1, TARGET[:, None])
    one = Propagation("thesis-toy", start="one").attribute(classifier, features, TARGET)
    full = Propagation("thesis-toy", start="logit").attribute(classifier, features, TARGET)
    torch.testing.assert_close(one.relevance * logits[:, :, None, None], full.relevance)
    assert one.explained.tolist() == [1.0] * 4


def test_a_regrouped_classifier_is_explained_at_the_best_of_the_group() -> None:
    classifier = double_classifier()
    features = double_features(classifier)
    logits = classifier.logits_of_features(features)
    regrouped = classifier.regroup({"pet": ["dog", "clock"], "weather": ["rain"]})
    best = torch.where(logits[:, 0] > logits[:, 2], 0, 2)
    found = Propagation().attribute(regrouped, features, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(found.relevance, Propagation().attribute(classifier, features, best).relevance)


def test_changed_weights_are_seen() -> None:
    """What is prepared for a network is made anew when somebody randomises its layers."""
    classifier, method = double_classifier(), Propagation()
    features = double_features(classifier)
    before = method.attribute(classifier, features, TARGET).relevance
    assert method.network(classifier, features) is method.network(classifier, features)
    randomise(classifier.network, seed=9)
    after = method.attribute(classifier, features, TARGET).relevance
    torch.testing.assert_close(after, Propagation().attribute(classifier, features, TARGET).relevance)
    assert not torch.allclose(before, after)


def test_the_classifier_is_left_as_it_was() -> None:
    classifier, batch = classifier_of(), batch_of()
    checksum, logits = classifier.checksum, classifier.logits(batch.waveforms)
    explain(LRP(), classifier, batch)
    assert classifier.checksum == checksum
    assert torch.equal(classifier.logits(batch.waveforms), logits)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.network.modules())


# --- patches


def slow_patches(classifier: AudioClassifier, features: Tensor, pool: str, multilabel: bool) -> tuple[Tensor, Tensor]:
    """Patch by patch, each explained by itself, weighted by its share and added up at its place."""
    single = double_classifier(multilabel=multilabel)
    found, explained = torch.zeros_like(features), torch.zeros(len(features), dtype=torch.float64)
    for n, row in enumerate(features):
        patches = patches_of(row[None])[0]
        logits = classifier.network(patches)
        own = logits[:, TARGET[n]]
        if pool == "mean":
            shares = torch.ones(len(patches)) / len(patches)
        elif pool == "max":
            shares = (own == own.max()).double()
        elif pool == "logsumexp":
            shares = own.exp() / own.exp().sum()
        else:
            probability = own.sigmoid() if multilabel else logits.softmax(1)[:, TARGET[n]]
            shares = probability / probability.sum()
        for p, patch in enumerate(patches):
            part = Propagation(start="logit").attribute(single, patch[None], TARGET[n : n + 1])
            found[n, :, :, 4 * p : 4 * p + 8] += shares[p] * part.relevance[0]
            explained[n] += shares[p] * own[p]
    return found, explained


@pytest.mark.parametrize(
    ("pool", "multilabel"), [*((pool, False) for pool in POOLS), ("logit_of_mean_probability", True)]
)
def test_patches_are_weighted_by_their_share_and_added_up_on_the_feature_grid(pool: str, multilabel: bool) -> None:
    classifier = double_classifier(segmenter=patches_of, pool=pool, multilabel=multilabel)
    features = double_features(classifier)
    found = Propagation(start="logit").attribute(classifier, features, TARGET)
    expected, explained = slow_patches(classifier, features, pool, multilabel)
    torch.testing.assert_close(found.relevance, expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))
    torch.testing.assert_close(found.explained, explained)
    pooled = classifier.logits_of_features(features).gather(1, TARGET[:, None])[:, 0]
    if pool in ("mean", "max"):
        torch.testing.assert_close(found.explained, pooled)


def test_relevance_of_overlapping_patches_is_conserved() -> None:
    classifier = double_classifier(segmenter=patches_of, multilabel=True)
    features = double_features(classifier)
    found = Propagation({"Conv2d": "wsquare", "Linear": "epsilon"}).attribute(classifier, features, TARGET)
    torch.testing.assert_close(found.relevance.sum((1, 2, 3)), found.explained, rtol=1e-4, atol=1e-4)


# --- two steps


def test_parts_of_hidden_relevance_give_maps_that_sum_to_the_whole() -> None:
    classifier = load_classifier("toy-cnn")
    features = classifier.features(0.1 * torch.randn(3, 16000, generator=torch.Generator().manual_seed(0)))
    target = torch.tensor([0, 1, 1])
    method = Propagation("thesis-toy")
    whole = method.attribute(classifier, features, target)
    with method.hidden(classifier, features, target, "features.7") as hidden:
        assert hidden.activation.shape[:2] == (3, 16)
        assert bool((hidden.activation >= 0).all())
        assert float(hidden.relevance[hidden.activation == 0].abs().max()) == 0
        generator = torch.Generator().manual_seed(1)
        weights = torch.rand((4, *hidden.relevance.shape), generator=generator).softmax(0)
        parts = torch.stack([hidden.lower(weight * hidden.relevance) for weight in weights])
        scale = float(whole.relevance.abs().max())
        torch.testing.assert_close(parts.sum(0), whole.relevance, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(hidden.lower(hidden.relevance), whole.relevance, rtol=0, atol=1e-6 * scale)
        torch.testing.assert_close(hidden.whole(), whole.relevance, rtol=0, atol=1e-6 * scale)
        assert torch.equal(hidden.explained, whole.explained)
    assert not any(m._forward_hooks for m in method.network(classifier, features).network.modules())


def test_hidden_relevance_of_patches_has_a_row_for_each_of_them() -> None:
    classifier = double_classifier(segmenter=patches_of)
    features = double_features(classifier)
    n_patches = patches_of(features).shape[1]
    with Propagation().hidden(classifier, features, TARGET, "features.3") as hidden:
        assert len(hidden.activation) == 4 * n_patches
        whole = Propagation().attribute(classifier, features, TARGET).relevance
        torch.testing.assert_close(hidden.lower(hidden.relevance), whole)


def test_what_passes_a_layer_by_is_in_the_whole_only() -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3, padding=1)
            self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
            self.head = nn.Linear(4, len(LABELS))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            return self.head((x + self.block(x)).mean((2, 3)))

    network = Skipping()
    randomise(network, 0)
    classifier = classifier_of(network.double(), front_end=log_mel().double())
    features = double_features(classifier)
    with Propagation().hidden(classifier, features, TARGET, "block.1") as hidden:
        past = (hidden.whole() - hidden.lower(hidden.relevance)).sum((1, 2, 3))
        whole = hidden.whole().sum((1, 2, 3))
        torch.testing.assert_close(past, whole - hidden.relevance.sum((1, 2, 3)), rtol=1e-3, atol=1e-4)
        assert float(past.abs().min()) > 1e-3


def test_a_layer_that_no_relevance_reaches_is_refused() -> None:
    network = MobileNetV3(len(LABELS), width=0.2)
    randomise(network, 0)
    classifier = classifier_of(network)
    features = classifier.features(noise(1))
    layer = "features.4.block.2.conc_se_layers.0.activation"
    with (
        pytest.raises(ClassifierError, match="No relevance reaches layer"),
        Propagation().hidden(classifier, features, TARGET[:1], layer),
    ):
        pass


# --- the published architectures, small


@pytest.mark.parametrize("network", [MobileNetV1(3), MobileNetV3(3, width=0.2)], ids=["YAMNet", "EfficientAT"])
def test_the_published_networks_are_covered_and_their_ledgers_close(network: nn.Module) -> None:
    randomise(network, 0)
    classifier = classifier_of(network.double(), front_end=log_mel().double())
    features, ledger = seeded(1, 1, 64, 64), Ledger()
    method = Propagation()
    found = method.attribute(classifier, features, TARGET[:1], ledger=ledger)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in method.network(classifier, features).network.modules())
    assert all(float(line.imbalance.max()) < 1e-6 for line in ledger.lines)
    kept = sum(float(line.bias_share + line.stabiliser_share) for line in ledger.lines)
    scale = max(float(line.relevance_out.abs().max()) for line in ledger.lines)
    assert abs(float(found.relevance.sum()) + kept - float(found.explained)) < 1e-6 * scale


# --- bad input


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"composite": "thesis-tøy"}, "Did you mean 'thesis-toy'"),
        ({"composite": {"Conv2d": "gama"}}, "Did you mean 'gamma'"),
        ({"start": "logits"}, "Did you mean 'logit'"),
        ({"stabiliser": 0.0}, "stabiliser > 0, got 0.0"),
        ({"stabiliser": float("nan")}, "stabiliser > 0, got nan"),
        ({"compsite": "thesis-toy"}, "Did you mean 'composite'"),
    ],
)
def test_a_parameter_that_is_not_valid_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_explainer("lrp", parameters=parameters)


def test_a_target_that_is_no_class_is_refused() -> None:
    with pytest.raises(ClassifierError, match=r"index into the 3 labels of small, got 3"):
        explain(LRP(), classifier_of(), batch_of(), torch.tensor([3, 0, -1, 0]))


def test_features_that_are_not_finite_are_refused() -> None:
    classifier = classifier_of()
    features = classifier.features(noise(3))
    features[1, 0, 2, 3] = float("nan")
    with pytest.raises(AudioError, match=r"NaN or infinite values in rows \[1\]"):
        Propagation().attribute(classifier, features, TARGET[:3])


def test_a_network_that_stops_the_gradient_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), Lambda(lambda x: x.detach().mean((2, 3))))
    with pytest.raises(NotApplicableError, match="The logits of small do not depend on its features"):
        explain(LRP(), classifier_of(network), batch_of())


# --- the command


def run_audit(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(audit, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_the_audit_says_which_rule_each_module_has() -> None:
    code, text = run_audit("toy-cnn", "--param", "composite=thesis-toy")
    assert code == 0
    for expected in (
        "features.0 (Conv2d)",
        "flat",
        "gamma(gamma=0.8)",
        "max_pool2d: winner",
        "conservation gap",
        "stable",
    ):
        assert expected in text


def test_the_audit_as_json_closes_the_ledger_layer_by_layer(tmp_path: Path) -> None:
    clip = write_audio(tmp_path / "clip.wav", noise(1, n_samples=8000)[0], 16000)
    code, text = run_audit("toy-cnn", "--clip", str(clip), "--label", "class2", "--param", "zero_bias=false", "--json")
    assert code == 0
    document = json.loads(text)
    assert document["covered"] is True
    assert document["label"] == "class2"
    lines = [step for step in document["steps"] if "relevance_in" in step]
    assert [step["name"] for step in lines] == [
        *(f"features.{n}" for n in (0, 3, 6, 9, 12)),
        *(f"classifier.{n}" for n in (0, 2, 4)),
    ]
    for step in lines:
        shares = step["relevance_in"] + step["bias_share"] + step["stabiliser_share"]
        assert step["relevance_out"] == pytest.approx(shares, rel=1e-6, abs=1e-9)
    for upper, lower in zip(lines[:0:-1], lines[-2::-1], strict=True):
        assert lower["relevance_out"] == pytest.approx(upper["relevance_in"], rel=1e-6)
    assert lines[-1]["relevance_out"] == pytest.approx(document["explained"])
    assert lines[0]["relevance_in"] == pytest.approx(document["relevance"])


def uncovered() -> AudioClassifier:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    randomise(network, 0)
    return classifier_of(network)


def test_the_audit_names_what_is_uncovered_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("earwitness_plugins.classifiers.zoo.toy_cnn", uncovered)
    code, text = run_audit("toy-cnn")
    assert code == 1
    assert "uncovered: group_norm in 1 (GroupNorm): LRP has no rule for it" in text
    code, text = run_audit("toy-cnn", "--json")
    assert code == 1
    assert json.loads(text)["covered"] is False


def test_the_audit_of_another_method_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Use --explainer lrp"):
        run_audit("toy-cnn", "--explainer", "saliency")


def test_the_help_of_the_audit_teaches() -> None:
    _, text = run_audit("--help")
    for expected in ("Arrives = handed on + bias + stabiliser", "earwitness audit toy-cnn", "Unstable"):
        assert expected in text
