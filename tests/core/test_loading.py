"""From names to things, and what is said where a name leads to something else."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from earwitness import hookimpl
from earwitness.batching import ClipList
from earwitness.classifier import AudioClassifier
from earwitness.errors import ClassifierError, ConfigurationError, DatasetError, PluginError
from earwitness.fitting import fit
from earwitness.folding import Folded
from earwitness.loading import load_classifier, load_dataset, load_explainer
from earwitness.protocols import Explainer
from earwitness.random import Random
from earwitness.registry import Origin, Plugin, Registry, installed_plugins
from earwitness.specs import ClassifierSpec, DatasetSpec, ExplainerSpec, Spec
from networks import LABELS, Lambda, SmallCNN, batch_of, classifier_of, clips_of, noise

MODULE = "test_loading_twin"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest imports this module under another name than a spec would."""
    monkeypatch.setitem(sys.modules, MODULE, sys.modules[__name__])


def wrapped(network: nn.Module | None = None, **options: Any) -> Callable[..., AudioClassifier]:
    return lambda: classifier_of(network, **options)


def small(*, seed: int = 0) -> AudioClassifier:
    return classifier_of(SmallCNN(seed=seed))


def takes_a_step(*, step: Any) -> AudioClassifier:
    raise RuntimeError(f"no {step}")


NOT_A_CLASSIFIER: Callable[[], nn.Module] = SmallCNN
probabilities = wrapped(nn.Sequential(SmallCNN(), nn.Softmax(1)))
too_many_outputs = wrapped(SmallCNN(n_classes=7))
misfit = wrapped(nn.Linear(5, 3))
one_length = wrapped(nn.Sequential(nn.Flatten(), nn.Linear(16 * 32, 3)), duration_s=0.5)
length_unsaid = wrapped(nn.Sequential(nn.Flatten(), nn.Linear(16 * 32, 3)))
damaged = wrapped(Lambda(lambda x: x.mean((2, 3)).expand(-1, 3) * float("nan")))


class NoMethod:
    """Has nothing to explain with."""


def three_clips(*, n: int = 3) -> ClipList:
    return ClipList(clips_of(noise(n) if n else noise(1)[:0], LABELS), LABELS)


def plugins(*distributions: str) -> Registry:
    """The built-ins, and these distributions, each of which offers the same names."""

    def load() -> types.ModuleType:
        def spec(kind: type[Spec], name: str, target: str) -> Spec:
            return kind(name=name, target=f"{MODULE}:{target}", summary="")

        module = types.ModuleType("hooks")
        module.earwitness_classifiers = hookimpl(lambda: [spec(ClassifierSpec, "small", "small")])  # type: ignore[attr-defined]
        module.earwitness_explainers = hookimpl(lambda: [spec(ExplainerSpec, "no-method", "NoMethod")])  # type: ignore[attr-defined]
        module.earwitness_datasets = hookimpl(  # type: ignore[attr-defined]
            lambda: [spec(DatasetSpec, "three", "three_clips"), spec(DatasetSpec, "no-set", "NoMethod")]
        )
        return module

    own = [plugin for plugin in installed_plugins() if plugin.origin.distribution == "earwitness"]
    return Registry([*own, *(Plugin(Origin(name, "1.0", "hooks"), "main", load) for name in distributions)])


# --- classifiers


def test_a_factory_is_loaded_by_its_path_with_its_parameters_and_prepared() -> None:
    loaded = load_classifier(f"{MODULE}:small", parameters={"seed": 3})
    plain = classifier_of(SmallCNN(seed=3))
    assert loaded.checksum == plain.checksum
    assert any(isinstance(part, Folded) for part in loaded.network.modules())
    assert torch.allclose(loaded.logits(noise()), plain.logits(noise()), atol=1e-4)


@pytest.mark.parametrize("name", ["small", "acme:small", "Acme:small"])
def test_a_classifier_is_loaded_by_its_name_or_its_full_name(name: str) -> None:
    assert load_classifier(name, plugins=plugins("acme")).checksum == small().checksum


def test_a_name_of_two_distributions_must_be_given_in_full() -> None:
    both = plugins("acme", "zeta")
    with pytest.raises(PluginError, match="acme:small and zeta:small"):
        load_classifier("small", plugins=both)
    assert load_classifier("zeta:small", plugins=both).labels == LABELS


@pytest.mark.parametrize(
    ("name", "parameters", "error", "message"),
    [
        ("smal", {}, PluginError, "no classifier 'smal'. Did you mean 'small'"),
        (f"{MODULE}:nothing", {}, PluginError, "has no attribute 'nothing'"),
        ("no_such_package.models:build", {}, PluginError, "importing 'no_such_package.models' failed"),
        ("models.py:build it", {}, PluginError, "must read 'package.module:Name'"),
        (f"{MODULE}:small", {"sed": 1}, ConfigurationError, "Did you mean 'seed'"),
        (f"{MODULE}:takes_a_step", {}, ConfigurationError, "needs the parameter 'step'"),
        (f"{MODULE}:takes_a_step", {"step": 2}, PluginError, "RuntimeError: no 2"),
        (f"{MODULE}:NOT_A_CLASSIFIER", {"seed": 1}, ClassifierError, "returned SmallCNN; a classifier factory returns"),
        (f"{MODULE}:probabilities", {}, ClassifierError, "returns probabilities, not logits"),
        (f"{MODULE}:too_many_outputs", {}, ClassifierError, "has 7 outputs, but 3 labels"),
        (f"{MODULE}:damaged", {}, ClassifierError, "NaN or infinite"),
        (f"{MODULE}:misfit", {}, ClassifierError, r"does not run on noise \(RuntimeError"),
        (f"{MODULE}:length_unsaid", {}, ClassifierError, "If it takes one length only, give duration_s"),
    ],
)
def test_what_is_no_classifier_is_refused(
    name: str, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_classifier(name, parameters=parameters, plugins=plugins("acme"))


def test_a_network_of_one_length_is_tried_at_that_length() -> None:
    assert load_classifier(f"{MODULE}:one_length").logits(noise()).shape == (4, 3)


@pytest.mark.parametrize("device", ["warp", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigurationError, match=f"The device '{device}' cannot be used"):
        load_classifier(f"{MODULE}:small", device=device)


def test_the_toy_classifier_is_loaded_by_name() -> None:
    loaded = load_classifier("toy-cnn")
    assert loaded.labels == ("class1", "class2")
    assert loaded.duration_s == 1.0


# --- explainers


def test_an_explainer_is_loaded_by_name_with_its_parameters() -> None:
    explainer: Any = load_explainer("integrated-gradients", parameters={"n_steps": 5})
    assert isinstance(explainer, Explainer)
    assert explainer.n_steps == 5


@pytest.mark.parametrize(
    ("name", "parameters", "error", "message"),
    [
        ("salience", {}, PluginError, "Did you mean 'saliency'"),
        ("saliency", {"domian": "features"}, ConfigurationError, "Did you mean 'domain'"),
        ("saliency", {"domain": "stft"}, ConfigurationError, "must be 'features' or 'waveform', got 'stft'"),
        ("no-method", {}, PluginError, "acme:no-method has no method `explain`"),
    ],
)
def test_what_is_no_explainer_is_refused(
    name: str, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_explainer(name, parameters=parameters, plugins=plugins("acme"))


def test_a_fitted_explainer_is_loaded_from_its_folder(tmp_path: Path) -> None:
    classifier, batch = classifier_of(), batch_of()
    fitted = fit(plugins(), "class-mean", classifier, three_clips(), tmp_path, parameters={"n_frames": 5})
    loaded = load_explainer("class-mean", checkpoint=tmp_path, classifier=classifier)

    def relevance(explainer: Explainer) -> torch.Tensor:
        random = Random(0, batch.clip_ids)
        found = explainer.explain(classifier, batch, target=torch.zeros(4, dtype=torch.long), random=random).relevance
        assert found is not None
        return found.values

    assert torch.equal(relevance(loaded), relevance(fitted))
    for wrong, message in (
        ({"name": "saliency"}, "holds a fitted earwitness:class-mean, not earwitness:saliency"),
        ({"name": "all-ones"}, "not earwitness:all-ones"),  # a function, of which nothing is an instance
        ({"classifier": None}, "Give the classifier"),
        ({"parameters": {"n_frames": 5}}, r"leave out \['n_frames'\]"),
    ):
        given: dict[str, Any] = {"name": "class-mean", "checkpoint": tmp_path, "classifier": classifier, **wrong}  # type: ignore[dict-item]
        with pytest.raises(ConfigurationError, match=message):
            load_explainer(**given)


# --- data sets


def test_a_data_set_is_loaded_by_name() -> None:
    assert len(load_dataset("three", plugins=plugins("acme"))) == 3
    with pytest.raises(DatasetError, match=r"'three' with \{'n': 0\} has no clips"):
        load_dataset("three", parameters={"n": 0}, plugins=plugins("acme"))
    with pytest.raises(PluginError, match="'no-set' does not follow the protocol"):
        load_dataset("no-set", plugins=plugins("acme"))
    with pytest.raises(PluginError, match="Did you mean 'three'"):
        load_dataset("thre", plugins=plugins("acme"))
