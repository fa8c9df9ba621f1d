"""The catalogue against the installed Quantus: a new release shows up here."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from earwitness.errors import ConfigurationError, PluginError
from earwitness.parameters import build, resolved_parameters
from earwitness.registry import registry
from earwitness_bench.quantus import bridge
from earwitness_bench.quantus.catalogue import DISPUTED, OFFERED, REFUSED, WITHHELD

with warnings.catch_warnings():
    import quantus
    from quantus.helpers.constants import AVAILABLE_METRICS

INSTALLED: dict[str, Any] = {kind.__name__: kind for family in AVAILABLE_METRICS.values() for kind in family.values()}
CALL = {"channel_first": True, "device": "cpu"}
QUIET = {"disable_warnings": True}


def test_every_installed_metric_is_either_offered_or_refused() -> None:
    assert set(OFFERED) | set(REFUSED) == set(INSTALLED)
    assert not set(OFFERED) & set(REFUSED)


@pytest.mark.parametrize("name", OFFERED)
def test_direction_and_category_are_those_that_quantus_declares(name: str) -> None:
    entry, kind = OFFERED[name], INSTALLED[name]
    assert entry.category == kind.evaluation_category.value.lower()
    if name in DISPUTED:
        assert (entry.direction, kind.score_direction.value) == ("neither", "lower")
    else:
        assert entry.direction == kind.score_direction.value


@pytest.mark.parametrize("name", OFFERED)
def test_what_draws_or_explains_again_is_called_one_clip_at_a_time(name: str) -> None:
    source = inspect.getsource(INSTALLED[name])
    draws = "np.random.choice" in source or "np.random.seed" in source
    draws |= inspect.signature(INSTALLED[name]).parameters.get("perturb_baseline") is not None and (
        inspect.signature(INSTALLED[name]).parameters["perturb_baseline"].default == "uniform"
    )
    if draws or "explain_batch(" in source:
        assert OFFERED[name].pace == "clip"


def test_metrics_of_several_clips_and_of_sources_say_so() -> None:
    for name, entry in OFFERED.items():
        needs = registry().metric(f"quantus:{name}").spec.needs
        assert ("several-clips" in needs) == (entry.pace == "together")
        assert ("sources" in needs) == (entry.category == "localisation")


# --- parameters


@pytest.mark.parametrize("name", OFFERED)
def test_parameters_are_those_of_the_constructor_less_the_withheld(name: str) -> None:
    known = set(inspect.signature(getattr(bridge, name)).parameters)
    assert known == set(inspect.signature(INSTALLED[name]).parameters) - set(WITHHELD)
    assert build(registry().metric(f"quantus:{name}").spec, {}) is not None


def test_each_withheld_parameter_is_one_of_quantus_and_has_a_reason() -> None:
    theirs = {parameter for kind in INSTALLED.values() for parameter in inspect.signature(kind).parameters}
    assert set(WITHHELD) <= theirs
    assert all(WITHHELD.values())


def test_a_misspelt_parameter_is_an_error_that_names_the_nearest() -> None:
    spec = registry().metric("quantus:MaxSensitivity").spec
    with pytest.raises(ConfigurationError, match=r"no parameter 'nr_sample'\. Did you mean 'nr_samples'\?"):
        resolved_parameters(spec, {"nr_sample": 3})


def test_resolved_parameters_tell_one_setting_from_another_and_hold_the_defaults() -> None:
    spec = registry().metric("quantus:MaxSensitivity").spec
    plain, fewer = resolved_parameters(spec, {}), resolved_parameters(spec, {"nr_samples": 3})
    assert (plain["nr_samples"], fewer["nr_samples"], plain["lower_bound"]) == (200, 3, 0.2)


def test_what_quantus_does_not_accept_is_refused_when_it_is_built() -> None:
    spec = registry().metric("quantus:RegionPerturbation").spec
    with pytest.raises(ConfigurationError, match=r"quantus:RegionPerturbation does not accept .*'upwards'"):
        build(spec, {"order": "upwards"})


def test_a_function_of_quantus_is_given_by_its_name() -> None:
    spec = registry().metric("quantus:RandomLogit").spec
    metric = build(spec, {"similarity_func": "correlation_spearman"})
    assert metric._construct(n_classes=3).similarity_func is quantus.correlation_spearman
    with pytest.raises(ConfigurationError, match="Did you mean 'correlation_spearman'"):
        build(spec, {"similarity_func": "corelation_spearman"})


@pytest.mark.parametrize("typo", ["quantus:Complexty", "earwitness:quantus:Complexty"])
def test_a_misspelt_metric_is_told_the_nearest(typo: str) -> None:
    with pytest.raises(PluginError, match=rf"Did you mean '{typo.replace('xty', 'xity')}'\?"):
        registry().metric(typo)


def test_listing_them_imports_neither_quantus_nor_torch() -> None:
    code = (
        "import sys; from earwitness.registry import registry;"
        "print(len([o for o in registry().offers('metrics') if o.spec.family == 'quantus']),"
        "      sorted({'torch', 'quantus', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(INSTALLED)), "[]"]


# --- the reasons, each shown on the installed Quantus


class Nested(nn.Module):
    """A small network of two nested parts."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
        self.seen: list[Tensor] = []
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs.detach())
        logits: Tensor = self.head(self.features(inputs))
        return logits


def gradient(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
    leaf = torch.tensor(inputs, dtype=torch.float32, requires_grad=True)
    logits = model(leaf)[torch.arange(len(leaf)), torch.as_tensor(targets)].sum()
    return torch.autograd.grad(logits, leaf)[0].numpy()


def called(name: str, network: nn.Module, **parameters: Any) -> Any:
    """A metric's answer to three clips."""
    inputs = np.random.default_rng(0).normal(size=(3, 1, 8, 12)).astype(np.float32)
    maps = np.random.default_rng(1).normal(size=inputs.shape)
    metric = INSTALLED[name](**QUIET, **parameters)
    arguments = {"x_batch": inputs, "y_batch": np.arange(3), "a_batch": maps, "explain_func": gradient}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(model=network, **arguments, **CALL)


def sensitivity_n_answers_by_step() -> None:
    assert len(called("SensitivityN", Nested())) == 1
    assert len(called("SensitivityN", Nested(), return_aggregate=False, features_in_step=8)) not in (1, 3)


def road_answers_by_percentage() -> None:
    assert list(called("ROAD", Nested(), percentages=[10, 50])) == [10, 50]


def mprt_answers_by_layer() -> None:
    assert set(called("MPRT", Nested(), skip_layers=False)) == {"original", "features.0", "head.1"}


def smooth_mprt_answers_by_layer() -> None:
    answer = called("SmoothMPRT", Nested(), skip_layers=False, nr_samples=2)
    assert set(answer) == {"original", "features.0", "head.1"}


def focus_fails_on_a_single_recording() -> None:
    with pytest.raises(TypeError, match="NoneType"):
        called("Focus", Nested())


def monotonicity_shows_the_baseline_only() -> None:
    network = Nested()
    assert called("Monotonicity", network) == [True, True, True]
    assert network.seen
    for shown in network.seen:
        assert torch.equal(shown.amax((1, 2, 3)), shown.amin((1, 2, 3)))


def non_sensitivity_fails_on_several_cells() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        called("NonSensitivity", Nested(), features_in_step=2)
    network = Nested()
    called("NonSensitivity", network)
    assert len(network.seen) == 8 * 12 + 1


def input_invariance_fails_on_nested_networks() -> None:
    with pytest.raises(AttributeError, match="out_channels"):
        called("InputInvariance", Nested())


REASONS: dict[str, Callable[[], None]] = {
    "SensitivityN": sensitivity_n_answers_by_step,
    "ROAD": road_answers_by_percentage,
    "MPRT": mprt_answers_by_layer,
    "SmoothMPRT": smooth_mprt_answers_by_layer,
    "Focus": focus_fails_on_a_single_recording,
    "Monotonicity": monotonicity_shows_the_baseline_only,
    "NonSensitivity": non_sensitivity_fails_on_several_cells,
    "InputInvariance": input_invariance_fails_on_nested_networks,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_does_as_its_reason_says(name: str) -> None:
    with pytest.raises(PluginError, match=rf"The metric 'quantus:{name}' cannot be used: "):
        registry().metric(f"quantus:{name}").spec.load()
    REASONS[name]()
