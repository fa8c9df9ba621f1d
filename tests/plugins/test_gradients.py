"""What holds for every gradient and perturbation method: shapes, batches, randomness, memory, and what it may touch.

Each method's formula is derived a second time, slowly, in the test module of its name.
"""

from __future__ import annotations

import gc
import random as python_random
import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from attributions import TARGET, explain, relevance
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ConfigurationError, NotApplicableError
from earwitness.protocols import Explainer
from earwitness_plugins.gradients.deeplift import DeepLift
from earwitness_plugins.gradients.gradcam import GradCam
from earwitness_plugins.gradients.guided import GuidedBackprop, GuidedGradCam
from earwitness_plugins.gradients.integrated_gradients import IntegratedGradients
from earwitness_plugins.gradients.perturbation import FeatureAblation, KernelShap, Occlusion
from earwitness_plugins.gradients.saliency import InputXGradient, Saliency
from earwitness_plugins.gradients.sampled import GradientShap, SmoothGrad
from earwitness_plugins.hooks import earwitness_explainers
from networks import (
    N_SAMPLES,
    Lambda,
    OneEach,
    SmallCNN,
    WaveCNN,
    batch_of,
    classifier_of,
    doubled,
    log_mel,
    patches_of,
    wave_classifier_of,
)

torch.set_num_threads(1)

METHODS: dict[str, Callable[..., Explainer]] = {
    "saliency": Saliency,
    "input-x-gradient": InputXGradient,
    "smoothgrad": lambda **options: SmoothGrad(n_samples=5, **options),
    "integrated-gradients": lambda **options: IntegratedGradients(n_steps=6, **options),
    "gradient-shap": lambda **options: GradientShap(n_samples=5, **options),
    "deeplift": DeepLift,
    "guided-backprop": GuidedBackprop,
    "gradcam": GradCam,
    "guided-gradcam": GuidedGradCam,
    "occlusion": lambda **options: Occlusion(frequency_segments=3, time_segments=3, **options),
    "feature-ablation": lambda **options: FeatureAblation(frequency_segments=3, time_segments=3, **options),
    "kernel-shap": lambda **options: KernelShap(frequency_segments=2, time_segments=3, n_samples=21, **options),
}
WITHOUT_GRADIENT = {"occlusion", "feature-ablation", "kernel-shap"}

every_method = pytest.mark.parametrize("name", METHODS)
both_domains = pytest.mark.parametrize("domain", ["features", "waveform"])


def small(**options: Any) -> AudioClassifier:
    return classifier_of(OneEach(), **options)


def test_every_gradient_method_on_offer_is_tested_here() -> None:
    offered = {s.name: s for s in earwitness_explainers() if s.target.startswith("earwitness_plugins.gradients.")}
    assert set(offered) == set(METHODS)
    assert {name for name, spec in offered.items() if "gradient" not in spec.needs} == WITHOUT_GRADIENT


# --- shapes and batches


@every_method
@pytest.mark.parametrize(
    ("build", "domain", "shape", "in_domain"),
    [
        (small, "features", (4, 16, 32), "features"),
        (small, "waveform", (4, N_SAMPLES), "waveform"),
        (lambda: small(segmenter=patches_of), "features", (4, 16, 32), "features"),
        (lambda: small(segmenter=patches_of), "waveform", (4, N_SAMPLES), "waveform"),
        (wave_classifier_of, "features", (4, N_SAMPLES), "waveform"),
        (wave_classifier_of, "waveform", (4, N_SAMPLES), "waveform"),
    ],
)
def test_relevance_has_the_shape_of_its_domain(
    name: str, build: Callable[[], AudioClassifier], domain: str, shape: tuple[int, ...], in_domain: str
) -> None:
    found = explain(METHODS[name](domain=domain), build(), batch_of()).relevance
    assert found is not None
    assert (tuple(found.values.shape), found.domain, found.values.dtype) == (shape, in_domain, torch.float32)
    assert not found.values.requires_grad
    assert all(float(row.std()) > 0 for row in found.values)


@every_method
def test_a_network_in_float64_is_explained_in_float32(name: str) -> None:
    classifier = classifier_of(OneEach().double(), front_end=log_mel().double())
    explanation = explain(METHODS[name](), classifier, doubled(batch_of()))
    assert explanation.relevance is not None
    given = [explanation.relevance.values, *explanation.diagnostics.values()]
    assert all(values.dtype == torch.float32 and not values.requires_grad for values in given)


@every_method
@both_domains
def test_a_batch_of_one_gives_its_row_of_the_batch_and_the_same_again(name: str, domain: str) -> None:
    method, classifier, batch = METHODS[name](domain=domain), small().prepare(), batch_of()
    together = relevance(method, classifier, batch)
    assert torch.equal(relevance(method, classifier, batch), together)
    for row in range(4):
        alone = relevance(method, classifier, Batch.of(batch.clips[row : row + 1]), TARGET[row : row + 1])
        assert_close(alone[0], together[row])


@every_method
@both_domains
def test_pieces_of_another_size_give_the_same_map(name: str, domain: str) -> None:
    classifier, batch = small(), batch_of()
    at_once, one_by_one = METHODS[name](domain=domain), METHODS[name](domain=domain, memory_mb=1e-6)
    assert most_rows(at_once, classifier, batch) > most_rows(one_by_one, classifier, batch)
    assert_close(relevance(one_by_one, classifier, batch), relevance(at_once, classifier, batch))
    few, many = (explain(method, classifier, batch).diagnostics for method in (one_by_one, at_once))
    assert few.keys() == many.keys()
    assert all(torch.allclose(few[key], many[key], atol=1e-4) for key in few)


@every_method
def test_the_first_explanation_is_like_the_second_though_the_network_is_tried_out_in_between(name: str) -> None:
    classifier, batch = small(), batch_of()
    first = relevance(METHODS[name](), classifier, batch)
    assert torch.equal(first, relevance(METHODS[name](), classifier, batch))


@every_method
def test_classifiers_that_share_a_network_do_not_disturb_each_other(name: str) -> None:
    classifier, batch = small(), batch_of()
    regrouped = classifier.regroup({"animal": ["dog"], "weather": ["rain"], "device": ["clock"]})
    first = relevance(METHODS[name](), classifier, batch)
    assert torch.equal(relevance(METHODS[name](), regrouped, batch), first)


@every_method
def test_one_clip_may_be_explained_for_several_targets(name: str) -> None:
    classifier, one = small(multilabel=True), batch_of(1)
    together = relevance(METHODS[name](), classifier, Batch.of(one.clips * 3), torch.tensor([0, 1, 2]))
    for target, row in enumerate(together):
        assert_close(row, relevance(METHODS[name](), classifier, one, torch.tensor([target]))[0])
    assert not torch.allclose(together[0], together[1], atol=1e-3 * float(together[0].abs().max()))


def assert_close(one: Tensor, other: Tensor) -> None:
    """Within 1e-5 of the largest value."""
    assert one.shape == other.shape
    assert torch.allclose(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))


# --- what is explained


@every_method
def test_it_is_the_logit_that_is_explained_so_twice_the_logit_has_twice_the_relevance(name: str) -> None:
    network = OneEach()
    plain = relevance(METHODS[name](), classifier_of(network), batch_of())
    assert torch.equal(relevance(METHODS[name](), classifier_of(network, multilabel=True), batch_of()), plain)
    with torch.no_grad():
        network.head.weight *= 2
        network.head.bias += 5  # moves all logits and no difference
    factor = 4 if name == "guided-gradcam" else 2  # a product of two maps
    assert_close(relevance(METHODS[name](), classifier_of(network), batch_of()), factor * plain)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "deeplift"])
def test_one_relu_in_place_for_all_layers_is_no_different_from_one_each(name: str) -> None:
    network = SmallCNN()
    assert network.features[2] is network.features[6]
    assert network.features[2].inplace
    shared = relevance(METHODS[name](), classifier_of(network), batch_of())
    assert torch.equal(shared, relevance(METHODS[name](), small(), batch_of()))


@every_method
@both_domains
def test_the_prepared_network_ranks_the_cells_as_the_plain_one_does(name: str, domain: str) -> None:
    classifier, batch, method = small(), batch_of(8), METHODS[name](domain=domain)
    target = torch.arange(8) % 3
    fast = classifier.prepare()
    assert fast.network is not classifier.network
    plain, folded = relevance(method, classifier, batch, target), relevance(method, fast, batch, target)
    for one, other in zip(plain, folded, strict=True):
        assert float(one.std()) > 0
        assert spearmanr(one.flatten().numpy(), other.flatten().numpy()).statistic >= 0.99


# --- what must not change


def hooks_of(network: nn.Module) -> list[list[Any]]:
    return [list(getattr(part, kind)) for part in network.modules() for kind in vars(part) if kind.endswith("_hooks")]


def attributes_of(network: nn.Module) -> list[set[str]]:
    return [set(vars(part)) for part in network.modules()]


@every_method
@both_domains
@pytest.mark.parametrize("build", [small, wave_classifier_of])
def test_classifier_and_batch_are_not_changed_and_nobody_is_warned(
    name: str, domain: str, build: Callable[[], AudioClassifier], caplog: pytest.LogCaptureFixture
) -> None:
    classifier, batch = build(), batch_of()
    network = classifier.network
    waveforms, state = batch.waveforms.clone(), {n: v.clone() for n, v in network.state_dict().items()}
    hooks, attributes = hooks_of(network), attributes_of(network)
    generators = (torch.get_rng_state(), np.random.get_state()[1].copy(), python_random.getstate())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        explain(METHODS[name](domain=domain), classifier, batch)
        assert warnings.filters == filters
    assert not caplog.records
    assert torch.equal(batch.waveforms, waveforms)
    assert batch.waveforms.requires_grad is False
    assert batch.waveforms.grad is None
    assert all(torch.equal(value, state[n]) for n, value in network.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert not any(part.training for part in network.modules())
    assert hooks_of(network) == hooks
    assert attributes_of(network) == attributes
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.array_equal(np.random.get_state()[1], generators[1])
    assert python_random.getstate() == generators[2]


@every_method
def test_the_global_generator_has_no_say(name: str) -> None:
    classifier, batch = small(), batch_of()
    torch.manual_seed(1)
    first = relevance(METHODS[name](), classifier, batch)
    torch.manual_seed(2)
    assert torch.equal(relevance(METHODS[name](), classifier, batch), first)


# --- memory


def most_rows(method: Explainer, classifier: AudioClassifier, batch: Batch) -> int:
    """The most rows that went through the network at once."""
    explain(method, classifier, batch)  # what is tried out and measured once comes first
    rows = []
    handle = classifier.network.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    explain(method, classifier, batch)
    handle.remove()
    return max(rows)


def peak_of_saved_bytes(method: Explainer, classifier: AudioClassifier, batch: Batch) -> int:
    """The most that autograd kept at any time, in storages of its own."""
    held: dict[int, list[int]] = {}  # address -> [bytes, how many keep it]
    peak = 0

    def release(address: int) -> None:
        held[address][1] -= 1
        if not held[address][1]:
            del held[address]

    def pack(tensor: Tensor) -> Tensor:
        nonlocal peak
        kept, storage = tensor.detach(), tensor.untyped_storage()
        held.setdefault(storage.data_ptr(), [storage.nbytes(), 0])[1] += 1
        weakref.finalize(kept, release, storage.data_ptr())
        peak = max(peak, sum(n_bytes for n_bytes, _ in held.values()))
        return kept

    explain(method, classifier, batch)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        explain(method, classifier, batch)
    return peak


@pytest.mark.parametrize("name", [name for name in METHODS if name not in WITHOUT_GRADIENT])
@both_domains
@pytest.mark.parametrize("segmenter", [None, patches_of])
def test_a_gradient_keeps_no_more_than_the_memory_it_was_given(
    name: str, domain: str, segmenter: Callable[[Tensor], Tensor] | None
) -> None:
    classifier, batch = small(segmenter=segmenter), batch_of(12)
    target = torch.arange(12) % 3
    method = {memory_mb: METHODS[name](domain=domain, memory_mb=memory_mb) for memory_mb in (0.4, 100.0)}
    peaks = {m: peak_of_saved_bytes(Fixed(one, target), classifier, batch) for m, one in method.items()}
    assert peaks[0.4] < peaks[100.0]
    assert peaks[0.4] <= 0.4e6


class Fixed:
    """A method with targets of its own, for batches that are longer than the others."""

    def __init__(self, method: Explainer, target: Tensor) -> None:
        self.method, self.target = method, target

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Any) -> Any:
        return self.method.explain(classifier, batch, target=self.target, random=random)


@every_method
def test_as_many_rows_go_through_at_once_as_the_memory_allows_and_never_more_than_sixteen(name: str) -> None:
    both = 2 if name == "deeplift" else 1  # the input and its reference
    batch = batch_of(20, n_samples=1000)
    target = torch.arange(20) % 3
    for memory_mb, expected in ((1e-6, 1), (1e6, 16)):
        method = Fixed(METHODS[name](memory_mb=memory_mb), target)
        assert most_rows(method, small(), batch) == expected * both, memory_mb


@every_method
@both_domains
def test_ten_calls_leave_nothing_behind(name: str, domain: str) -> None:
    method, classifier, batch = METHODS[name](domain=domain), small().prepare(), batch_of(n_samples=1000)
    for _ in range(2):
        explain(method, classifier, batch)
    gc.collect()
    gc.freeze()  # what is there now is not looked at again
    try:
        for _ in range(10):
            explain(method, classifier, batch)
        gc.collect()
        kinds = Tensor | nn.Module | types.FunctionType
        left = [type(x).__name__ for x in gc.get_objects() if issubclass(type(x), kinds)]
    finally:
        gc.unfreeze()
    assert len(left) < 10  # one for each call would be ten
    assert "Tensor" not in left


@every_method
def test_new_classifiers_leave_nothing_behind_either(name: str) -> None:
    batch = batch_of()
    networks = []
    for _ in range(2):
        classifier = small()
        explain(METHODS[name](), classifier, batch)
        networks.append(weakref.ref(classifier.network))
    del classifier
    gc.collect()
    assert [network() for network in networks] == [None, None]


# --- refused


@every_method
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "stft"}, "domain must be 'features' or 'waveform', got 'stft'"),
        ({"domain": ""}, "got ''"),
        ({"memory_mb": 0}, r"memory_mb must be positive \(megabytes\), got 0"),
        ({"memory_mb": float("nan")}, "got nan"),
    ],
)
def test_wrong_parameters_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        METHODS[name](**options)


class BlackBox(nn.Module):
    """Its convolution and ReLU run, but the gradient ends at its entrance."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = OneEach()

    def forward(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            return self.inside(features)


@every_method
@both_domains
@pytest.mark.parametrize("network", [BlackBox(), Lambda(lambda x: x.detach().mean((2, 3)) * torch.ones(3) - 1)])
def test_a_black_box_has_no_gradient_and_says_so_to_those_who_need_one(
    name: str, domain: str, network: nn.Module
) -> None:
    classifier = classifier_of(network)
    if name in WITHOUT_GRADIENT:
        assert float(relevance(METHODS[name](domain=domain), classifier, batch_of()).abs().max()) > 0
    else:
        with pytest.raises(NotApplicableError, match=r"has no gradient|has none"):
            explain(METHODS[name](domain=domain), classifier, batch_of())


@every_method
def test_short_recordings_are_explained_too(name: str) -> None:
    """Three frames and a network that keeps all of them: fewer columns than segments."""
    network = OneEach()
    network.features[3] = nn.Identity()
    batch = batch_of(n_samples=384)
    assert relevance(METHODS[name](), classifier_of(network), batch).shape == (4, 16, 4)
    assert relevance(METHODS[name](domain="waveform"), classifier_of(network), batch).shape == (4, 384)


def test_networks_that_eat_samples_are_tested_with_activations_of_their_own() -> None:
    activations = [part for part in WaveCNN().modules() if isinstance(part, nn.ReLU)]
    assert len(activations) == 2
