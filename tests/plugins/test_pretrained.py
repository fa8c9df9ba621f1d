"""The published networks: equal to the reference, ready for attribution, and as good at ESC-10 as stated."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from earwitness import load_classifier, load_dataset
from earwitness.classifier import AudioClassifier
from earwitness.errors import AudioError, ConfigurationError
from earwitness.folding import Folded
from earwitness_plugins.classifiers.audioset import ESC10_GROUPS, groups_of, labels_of
from earwitness_plugins.classifiers.evaluation import evaluate
from earwitness_plugins.classifiers.mobilenet_v1 import MobileNetV1
from earwitness_plugins.classifiers.mobilenet_v3 import Addition, Gate, InvertedResidual, MobileNetV3, SqueezeExcite
from earwitness_plugins.classifiers.pretrained import (
    PRETRAINED,
    Network,
    embeddings,
    frame_patches,
    pretrained_network,
    tagger,
)

NAMES = ("yamnet", "efficientat-mn04")


@pytest.fixture
def models(shared_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are at hand."""
    monkeypatch.setenv("EARWITNESS_MODELS", str(shared_root / "models"))


def untrained(name: str) -> Network:
    """A network as it is built, with statistics that differ from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    network = PRETRAINED[name].network(7).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return network


@pytest.fixture
def arrays(golden: Path) -> dict[str, Tensor]:
    with np.load(golden / "models.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


# --- equal to the reference


@pytest.mark.golden
def test_mn04_equals_the_published_code(models: None, arrays: dict[str, Tensor]) -> None:
    classifier = tagger("efficientat-mn04")
    features = classifier.features(arrays["mn04_waveform"])
    torch.testing.assert_close(features[:, 0], arrays["mn04_logmel"], rtol=0, atol=1e-3)
    torch.testing.assert_close(classifier.logits(arrays["mn04_waveform"]), arrays["mn04_logits"], rtol=0, atol=1e-3)
    network = pretrained_network("efficientat-mn04")
    embedded = embeddings("efficientat-mn04", network, arrays["mn04_waveform"])
    torch.testing.assert_close(embedded, arrays["mn04_embedding"], rtol=0, atol=1e-3)


@pytest.mark.golden
def test_yamnet_equals_the_port_of_the_published_weights(models: None, arrays: dict[str, Tensor]) -> None:
    classifier = tagger("yamnet")
    waveform = arrays["yamnet_waveform"][None]
    patches = frame_patches(classifier.features(waveform))
    torch.testing.assert_close(patches[0], arrays["yamnet_patches"], rtol=0, atol=1e-3)
    logits = classifier.network(arrays["yamnet_patches"])
    torch.testing.assert_close(logits, arrays["yamnet_logits"], rtol=0, atol=1e-3)
    mean = torch.sigmoid(arrays["yamnet_logits"]).mean(0, keepdim=True)
    torch.testing.assert_close(classifier.probabilities(waveform), mean, rtol=0, atol=1e-4)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "stated"), [("yamnet", 0.943), ("efficientat-mn04", 0.960)])
def test_zero_shot_accuracy_on_all_of_esc10_is_the_stated_one(
    models: None, shared_root: Path, name: str, stated: float
) -> None:
    data = load_dataset("esc10", parameters={"folder": str(shared_root / "data" / "esc10")})
    classifier = load_classifier(name, parameters={"regroup": "esc10"})
    assert classifier.multilabel
    found = evaluate(classifier, data, batch_size=16, progress=lambda *_: None)
    assert found.n_clips == 400
    assert found.accuracy == pytest.approx(stated, abs=0.01)


@pytest.mark.golden
@pytest.mark.parametrize("name", NAMES)
def test_the_embedding_is_what_the_last_layers_take(models: None, arrays: dict[str, Tensor], name: str) -> None:
    waveforms = arrays["mn04_waveform"][:, :80000]
    network = pretrained_network(name)
    tail = network.fc if isinstance(network, MobileNetV1) else network.classifier[2:]
    embedded = embeddings(name, network, waveforms)
    assert embedded.shape == (2, network.n_embedding)
    if name == "efficientat-mn04":  # one patch: the clip itself
        torch.testing.assert_close(tail(embedded), tagger(name).logits(waveforms), rtol=0, atol=1e-4)
    else:  # a linear layer of the mean is the mean of the linear layer
        patches = frame_patches(tagger(name).features(waveforms))
        logits = network(patches.flatten(0, 1)).reshape(2, -1, 521).mean(1)
        torch.testing.assert_close(tail(embedded), logits, rtol=0, atol=1e-3)


# --- ready for attribution


@pytest.mark.parametrize(("name", "n_pairs"), [("yamnet", 27), ("efficientat-mn04", 46)])
def test_prepare_folds_every_batch_norm(name: str, n_pairs: int) -> None:
    chosen = PRETRAINED[name]
    network = untrained(name)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == n_pairs
    classifier = AudioClassifier(
        network, front_end=chosen.front_end(), labels=list("abcdefg"), segmenter=chosen.segmenter
    )
    fast = classifier.prepare()
    kinds = [type(module) for module in fast.network.modules()]
    assert kinds.count(Folded) == n_pairs
    assert nn.BatchNorm2d not in kinds
    noise = 0.1 * torch.randn(2, 2 * classifier.rate, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fast.logits(noise), classifier.logits(noise), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_module_is_used_once_and_none_works_in_place(name: str) -> None:
    network = untrained(name)
    leaves = {n: module for n, module in network.named_modules() if not list(module.children())}
    calls: dict[str, int] = {}
    for path, module in leaves.items():
        assert not getattr(module, "inplace", False), path
        module.register_forward_hook(lambda *_, path=path: calls.update({path: calls.get(path, 0) + 1}))
    network(torch.randn(2, 1, 96, 64))
    assert calls == dict.fromkeys(leaves, 1)


def test_nonlinearities_sums_and_gates_of_mn04_are_modules() -> None:
    """The gradient of a network without its activations, gates and sums would be that of a linear map."""
    network = untrained("efficientat-mn04")
    kinds = [type(module) for module in network.modules()]
    n_gated = kinds.count(SqueezeExcite)
    n_residual = sum(module.sum is not None for module in network.modules() if isinstance(module, InvertedResidual))
    assert (n_gated, n_residual) == (8, 10)
    assert kinds.count(Gate) == kinds.count(nn.Sigmoid) == n_gated
    assert kinds.count(Addition) == n_residual
    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.Hardswish | nn.Sigmoid):
            module.forward = lambda inputs: 0.5 * inputs  # type: ignore[method-assign]
        elif isinstance(module, Gate):
            module.forward = lambda maps, _gates: maps  # type: ignore[method-assign]
    first, second = torch.randn(2, 1, 1, 64, 64, dtype=torch.float64)
    network = network.double()
    both = network(first + second) - network(torch.zeros_like(first))
    one_by_one = network(first) + network(second) - 2 * network(torch.zeros_like(first))
    torch.testing.assert_close(both, one_by_one)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_waveform(name: str) -> None:
    chosen = PRETRAINED[name]
    classifier = AudioClassifier(
        untrained(name), front_end=chosen.front_end(), labels=list("abcdefg"), segmenter=chosen.segmenter
    )
    waveforms = (0.1 * torch.randn(2, 2 * classifier.rate)).requires_grad_()
    (gradient,) = torch.autograd.grad(classifier.logits(waveforms)[:, 3].sum(), waveforms)
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient.abs().amax(1) > 0).all())


# --- the parts, derived a second time


def test_padding_is_tensorflows_same() -> None:
    """Output i of a strided convolution looks at inputs from i * stride - before, with all of the excess behind."""
    network = MobileNetV1(3)
    pads = [module for module in network.features if isinstance(module, nn.ZeroPad2d)]
    convolutions = [
        module for module in network.features if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1
    ]
    height = 96
    for pad, convolution in zip(pads, convolutions, strict=True):
        stride = convolution.stride[0]
        wanted = -(-height // stride)
        total = max((wanted - 1) * stride + 3 - height, 0)
        left, right, top, bottom = pad.padding
        assert (left, top) == (total // 2, total // 2)
        assert (right, bottom) == (total - total // 2, total - total // 2)
        height = wanted
    assert len(pads) == 14
    assert height == 3


def test_squeeze_excite_scales_each_channel_by_a_gate_from_all_means() -> None:
    module = SqueezeExcite(32).double()
    maps = torch.randn(2, 32, 5, 7, dtype=torch.float64)
    w1, b1, w2, b2 = (parameter.detach().numpy() for parameter in module.parameters())
    assert w1.shape == (8, 32)
    expected = maps.numpy().copy()
    for row in range(2):
        hidden = np.maximum(w1 @ expected[row].mean((1, 2)) + b1, 0)
        gates = 1 / (1 + np.exp(-(w2 @ hidden + b2)))
        for channel in range(32):
            expected[row, channel] *= gates[channel]
    np.testing.assert_allclose(module(maps).detach().numpy(), expected, atol=1e-12)


def test_an_inverted_residual_adds_its_input_only_where_shapes_agree() -> None:
    network = MobileNetV3(5, width=1.0)
    for block in network.features:
        if isinstance(block, InvertedResidual) and block.sum is not None:
            nn.init.zeros_(block.block[-1][1].weight)
            n_in = block.block[0][0].in_channels
            maps = torch.randn(1, n_in, 4, 4)
            assert torch.equal(block.eval()(maps), maps)
    assert network.n_embedding == 960  # Table 1: the last convolution before pooling has 960 channels
    assert [module.out_features for module in network.classifier if isinstance(module, nn.Linear)] == [1280, 5]


@pytest.mark.parametrize(("n_columns", "n_patches"), [(96, 1), (143, 1), (144, 2), (498, 9)])
def test_patches_are_cut_as_yamnet_cuts_them(n_columns: int, n_patches: int) -> None:
    features = torch.randn(2, 1, 64, n_columns)
    patches = frame_patches(features)
    assert patches.shape == (2, n_patches, 1, 96, 64)
    for number in range(n_patches):
        first = 48 * number
        assert torch.equal(patches[:, number, 0], features[:, 0, :, first : first + 96].transpose(1, 2))


def test_patches_are_a_linear_gather_whose_transpose_adds_up() -> None:
    features = torch.randn(2, 1, 64, 300, dtype=torch.float64, requires_grad=True)
    patches = frame_patches(features)
    weights = torch.randn_like(patches)
    (back,) = torch.autograd.grad(patches, features, weights)
    expected = torch.zeros_like(features)
    for number in range(patches.shape[1]):
        expected[:, 0, :, 48 * number : 48 * number + 96] += weights[:, number, 0].transpose(1, 2)
    torch.testing.assert_close(back, expected)
    torch.testing.assert_close((back * features).sum(), (weights * patches).sum())  # <A'w, x> = <w, A x>


def test_a_recording_too_short_for_a_patch_is_refused_by_name() -> None:
    chosen = PRETRAINED["yamnet"]
    classifier = AudioClassifier(
        untrained("yamnet"), front_end=chosen.front_end(), labels=list("abcdefg"), segmenter=chosen.segmenter, name="ya"
    )
    with pytest.raises(AudioError, match=r"ya makes no patch .*longer recording"):
        classifier.logits(torch.zeros(1, 8000))


def test_another_head_leaves_the_network_as_it_is() -> None:
    for name in NAMES:
        network = untrained(name)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        changed = network.with_head(nn.Linear(network.n_embedding, 4))
        inputs = torch.randn(2, 1, 96, 64)
        assert changed(inputs).shape == (2, 4)
        assert network(inputs).shape == (2, 7)
        after = network.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


# --- labels


def test_labels_are_audiosets_in_each_networks_order() -> None:
    yamnet, efficientat = labels_of("yamnet"), labels_of("efficientat")
    assert (len(yamnet), len(set(yamnet))) == (521, 521)
    assert (len(efficientat), len(set(efficientat))) == (527, 527)
    assert set(efficientat) - set(yamnet) == {
        "Male speech, man speaking",
        "Female speech, woman speaking",
        "Battle cry",
        "Male singing",
        "Female singing",
        "Funny music",
    }
    assert (yamnet[0], yamnet[1], yamnet[520]) == ("Speech", "Child speech, kid speaking", "Field recording")
    assert (efficientat[0], efficientat[1], efficientat[526]) == (
        "Speech",
        "Male speech, man speaking",
        "Field recording",
    )


@pytest.mark.real_data
def test_the_packaged_labels_are_the_published_lists(shared_root: Path) -> None:
    for name, published in (("yamnet", "yamnet_521_labels.csv"), ("efficientat", "audioset_527_labels.csv")):
        with (shared_root / "models" / published).open(newline="", encoding="utf-8") as file:
            assert labels_of(name) == tuple(row["display_name"] for row in csv.DictReader(file))  # type: ignore[arg-type]


def test_every_group_of_esc10_is_made_of_classes_that_both_networks_know() -> None:
    esc10 = load_classifier("esc10-cnn").labels
    assert tuple(ESC10_GROUPS) == esc10
    members = [member for group in ESC10_GROUPS.values() for member in group]
    assert len(members) == len(set(members))
    for vocabulary in ("yamnet", "efficientat"):
        assert set(members) <= set(labels_of(vocabulary))  # type: ignore[arg-type]


def test_an_unknown_grouping_is_refused_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARWITNESS_MODELS", str(tmp_path))
    with pytest.raises(ConfigurationError, match="Did you mean 'esc10'"):
        load_classifier("yamnet", parameters={"regroup": "esc1"})
    assert groups_of("esc10") is ESC10_GROUPS
