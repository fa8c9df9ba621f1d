"""Plugins that misbehave on purpose, each in one way: what the robustness figures and the tests are made with.

They come through the door like a stranger's: :func:`unruly_registry` offers them beside the installed ones.
"""

from __future__ import annotations

import os
import random as python_random
import signal
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earwitness import hookimpl
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.context import Context
from earwitness.explanation import Explanation, Relevance
from earwitness.protocols import Score
from earwitness.random import Random
from earwitness.registry import Origin, Plugin, Registry, installed_plugins
from earwitness.specs import ExplainerSpec, MetricSpec

FAR_TOO_MUCH = 2**46
"""Bytes that no machine has."""


def relevance_of(classifier: AudioClassifier, batch: Batch, random: Random) -> Tensor:
    """Random relevance on the listening STFT: (B, F, N)."""
    grid = classifier.listening.grid(batch.waveforms.shape[1])
    return random.normal("unruly", *grid.shape)


class Unruly:
    """An explainer that is well-behaved but for one thing: ``way``, a name in :data:`WAYS`."""

    def __init__(self, *, way: str, clip: str = "") -> None:
        self.way, self.clip = way, clip

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """Misbehave, and then answer if that is still possible."""
        values = relevance_of(classifier, batch, random)
        changed = WAYS[self.way](self, classifier, batch, values)
        if self.way == "wrong type":
            return values  # type: ignore[return-value]
        return Explanation(target, relevance=Relevance(values if changed is None else changed, "stft"))


def _raise(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> None:
    raise RuntimeError("something is wrong")


def _raise_for_one(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> None:
    if plugin.clip in batch.clip_ids:
        raise ValueError(f"nothing to be said about {plugin.clip}")


def _hang(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


def _hang_in_compiled_code(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> None:
    sum(range(10**15))  # one call of C, which no signal interrupts


def _die(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _want_memory(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> None:
    if len(batch) > 2:
        torch.empty(FAR_TOO_MUCH, dtype=torch.uint8)


def _nan(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> Tensor:
    return values * torch.nan


def _wrong_shape(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> Tensor:
    return values[:, :5]


def _wrong_device(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> Tensor:
    return values.to("meta")


def _write_to_input(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> None:
    batch.waveforms.zero_()
    for clip in batch.clips:
        clip.waveform.data.zero_()


def _write_to_classifier(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> None:
    classifier.network.train()
    classifier.network.register_forward_hook(lambda _module, _inputs, outputs: outputs * 0)
    for parameter in classifier.network.parameters():
        parameter.data.zero_()


def _change_globals(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    python_random.seed(7)
    torch.set_grad_enabled(False)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_default_dtype(torch.float64)


def _nothing(plugin: Unruly, classifier: AudioClassifier, batch: Batch, values: Tensor) -> None:
    pass


WAYS: dict[str, Callable[[Unruly, AudioClassifier, Batch, Tensor], Tensor | None]] = {
    "raises": _raise,
    "raises for one clip": _raise_for_one,
    "hangs": _hang,
    "hangs in compiled code": _hang_in_compiled_code,
    "kills its process": _die,
    "wants too much memory": _want_memory,
    "NaN": _nan,
    "wrong shape": _wrong_shape,
    "wrong type": _nothing,
    "wrong device": _wrong_device,
    "writes to its input": _write_to_input,
    "writes to the classifier": _write_to_classifier,
    "changes global state": _change_globals,
}


class UnrulyMetric:
    """A metric that is well-behaved but for one thing."""

    def __init__(self, *, way: str) -> None:
        self.way = way

    def score(self, explanation: Explanation, context: Context) -> Score:
        """Misbehave, and then answer if that is still possible."""
        values = torch.zeros(len(context.batch))
        if self.way == "raises":
            raise ZeroDivisionError("nothing to divide by")
        if self.way == "hangs":
            while True:
                time.sleep(0.01)
        if self.way == "kills its process":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "wants too much memory" and len(values) > 2:
            torch.empty(FAR_TOO_MUCH, dtype=torch.uint8)
        if self.way == "wrong shape":
            return values[:1]
        if self.way == "writes to the map":
            assert explanation.relevance is not None
            explanation.relevance.values.zero_()
        if self.way == "writes to the recording":
            context.batch.waveforms.data.neg_()
        if self.way == "writes to the classifier":
            for parameter in context.classifier.network.parameters():
                parameter.data.zero_()
        if self.way == "leaves a hook":
            context.classifier.network.register_forward_hook(lambda _module, _inputs, outputs: outputs * 0)
        return values


METRIC_WAYS = (
    *("raises", "hangs", "kills its process", "wants too much memory", "wrong shape"),
    *("writes to the map", "writes to the recording", "writes to the classifier", "leaves a hook"),
)


def unruly_plugin() -> Plugin:
    """What this module offers."""
    module = types.ModuleType("unruly_hooks")
    summary = "Misbehaves on purpose."
    for kind, offered in {
        "explainers": [ExplainerSpec(name="unruly", target="unruly:Unruly", summary=summary)],
        "metrics": [MetricSpec(name="unruly", target="unruly:UnrulyMetric", summary=summary)],
    }.items():
        setattr(module, f"earwitness_{kind}", hookimpl(_named(f"earwitness_{kind}", offered)))
    return Plugin(Origin("unruly", "1.0", "unruly"), "main", lambda: module)


def _named(name: str, offered: list[Any]) -> Callable[[], list[Any]]:
    def hook() -> list[Any]:
        return offered

    hook.__name__ = name
    return hook


def unruly_registry(*others: Plugin) -> Registry:
    """The installed plugins, these, and others."""
    return Registry([*installed_plugins(allowed=()), unruly_plugin(), *others])
