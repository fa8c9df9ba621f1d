"""A data set, a classifier, explainers and metrics whose every number is known, and plugins that misbehave.

They come through the door like a stranger's: :func:`stub_registry` offers them beside the built-in ones.
"""

from __future__ import annotations

import sys
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from earwitness import hookimpl
from earwitness.audio.front_end import Identity
from earwitness.batching import ClipList
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Clip, Source
from earwitness.context import Context
from earwitness.explanation import Explanation, Mask, Parts, Relevance
from earwitness.protocols import Curve
from earwitness.random import Random
from earwitness.registry import Origin, Plugin, Registry, installed_plugins
from earwitness.specs import ClassifierSpec, Column, DatasetSpec, ExplainerSpec, MetricSpec
from earwitness_bench.runner import run_suite
from earwitness_bench.suite import Suite, parse_suite

RATE = 8000
N_SAMPLES = 2048
CALLS: Counter[str] = Counter()
"""How often each stub was asked."""


def tones(
    *,
    clips: int = 5,
    level: float = 0.5,
    sources: bool = True,
    silent: bool = False,
    both_labels: bool = False,
    group: str = "",
    broken: bool = False,
) -> ClipList:
    """A low and a high tone each, a little noise; even clips are mostly low, odd ones mostly high."""
    times = torch.arange(N_SAMPLES) / RATE
    made = []
    for number in range(clips):
        generator = torch.Generator().manual_seed(number)
        low = level * (1.0 if number % 2 == 0 else 0.4) * torch.sin(2 * torch.pi * (500 + 31 * number) * times)
        high = level * (0.4 if number % 2 == 0 else 1.0) * torch.sin(2 * torch.pi * (2500 + 31 * number) * times)
        hiss = 0.02 * torch.randn(N_SAMPLES, generator=generator)
        parts = {"low": Source(low, "low"), "high": Source(high, "high"), "hiss": Source(hiss)}
        labels = ("low", "high") if both_labels else (("low", "high")[number % 2],)
        waveform = low + high + hiss
        if silent and number == 1:
            waveform, parts = torch.zeros(N_SAMPLES), {"nothing": Source(torch.zeros(N_SAMPLES))}
        made.append(Clip(waveform, RATE, f"clip-{number}", group, labels, parts if sources else {}))
    return _Unreadable(made) if broken else ClipList(made)


class _Unreadable(ClipList):
    def __getitem__(self, index: int) -> Clip:
        raise OSError("the disk is gone")


class Bands(nn.Module):
    """Logits: ``sharpness`` times the share of energy below and above 1.5 kHz."""

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def forward(self, samples: Tensor) -> Tensor:
        energy = torch.fft.rfft(samples[:, 0]).abs().square()
        frequencies = torch.fft.rfftfreq(samples.shape[2], 1 / RATE, device=samples.device)
        low, total = energy[:, frequencies < 1500].sum(1), energy.sum(1) + 1e-9
        return self.sharpness * torch.stack([low / total, 1 - low / total], 1)


def bands(*, sharpness: float = 6.0) -> AudioClassifier:
    return AudioClassifier(Bands(sharpness), front_end=Identity(rate=RATE), labels=("low", "high"), name="bands")


def low_half(classifier: AudioClassifier, batch: Batch) -> Tensor:
    """Ones below 1.5 kHz on the listening STFT, zeros above."""
    grid = classifier.listening.grid(batch.waveforms.shape[1])
    return (grid.frequencies_hz < 1500).float()[None, :, None].expand(len(batch), *grid.shape).contiguous()


class Ideal:
    """Points at the target's band by mask; counts its calls, and may be slow."""

    def __init__(self, *, pause_s: float = 0.0, inside: float = 1.0) -> None:
        self.pause_s, self.inside = pause_s, inside

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        CALLS["ideal"] += 1
        time.sleep(self.pause_s)
        low = low_half(classifier, batch)
        mask = torch.where(target[:, None, None] == 0, low, 1 - low)
        return Explanation(target, mask=Mask(self.inside * mask, "stft"), diagnostics={"gap": target.float()})


class Wobbly:
    """Signed relevance of its own for each clip: from its stream, or from the global generators."""

    def __init__(self, *, from_global: bool = False) -> None:
        self.from_global = from_global

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        CALLS["wobbly"] += 1
        shape = (classifier.listening.n_bins, classifier.listening.n_frames(batch.waveforms.shape[1]))
        values = torch.randn(len(batch), *shape) if self.from_global else random.normal("wobbly", *shape)
        return Explanation(target, relevance=Relevance(values, "stft"))


class Parted:
    """Random relevance of each clip in three parts, which are drawn when they are asked for; counts both."""

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        CALLS["parted"] += 1
        shape = (classifier.listening.n_bins, classifier.listening.n_frames(batch.waveforms.shape[1]))
        drawn = torch.randn(())  # from the global generators

        def part(number: int) -> Relevance:
            CALLS["parts"] += 1
            return Relevance(random.normal(f"part {number}", *shape) + drawn, "stft")

        return Explanation(
            target,
            relevance=Relevance(sum(part(number).values for number in range(3)), "stft"),  # type: ignore[arg-type]
            parts=Parts(
                ("a", "b", "c"),
                random.normal("weights", 3),
                random.uniform("selected", 3) > 0.3,
                part,
            ),
        )


class Naughty:
    """Misbehaves in a given way."""

    def __init__(self, *, way: str) -> None:
        self.way = way

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Any:
        CALLS["naughty"] += 1
        good = low_half(classifier, batch)
        if self.way == "crash":
            raise RuntimeError("out of luck")
        if self.way == "exit":
            sys.exit(3)
        if self.way == "nan":
            return Explanation(target, relevance=Relevance(good * torch.nan, "stft"))
        if self.way == "shape":
            return Explanation(target, relevance=Relevance(good[:, :5], "stft"))
        if self.way == "rows":
            return Explanation(target[:1], relevance=Relevance(good[:1], "stft"))
        if self.way == "target":
            return Explanation(1 - target, relevance=Relevance(good, "stft"))
        if self.way == "type":
            return good
        batch.waveforms.zero_()  # "vandal"
        target.fill_(0)
        for parameter in classifier.network.parameters():
            parameter.data.zero_()
        torch.set_grad_enabled(False)
        return Explanation(target, mask=Mask(good, "stft"))


class Fitted:
    """Learns one number; may fail to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.level = torch.zeros(1)

    def fit(self, classifier: Any, train: Any, *, validation: Any, random: int, workspace: Any, progress: Any) -> None:
        CALLS["fit"] += 1
        if self.fails:
            raise RuntimeError("it does not converge")
        self.level = torch.rand(1)

    def state(self) -> dict[str, Tensor]:
        return {"level": self.level}

    def load_state(self, state: Any) -> Fitted:
        self.level = state["level"]
        return self

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        return Explanation(target, mask=Mask(self.level * low_half(classifier, batch), "stft"))


class MeanMap:
    """Mean of the importance map; counts its calls."""

    def __init__(self, *, factor: float = 1.0) -> None:
        self.factor = factor

    def score(self, explanation: Explanation, context: Context) -> Tensor:
        CALLS["mean-map"] += 1
        return self.factor * context.importance.mean((1, 2))


class TwoColumns:
    """A curve (y = p x) and a plain value."""

    def score(self, explanation: Explanation, context: Context) -> dict[str, Tensor | Curve]:
        x = torch.tensor([0.0, 0.25, 1.0])
        return {"ramp": Curve(x, context.p_original[:, None] * x), "p": context.p_original}


class Again:
    """How far explaining again is from the explanation."""

    def score(self, explanation: Explanation, context: Context) -> Tensor:
        again = context.explain(context.batch)
        one, other = (e.mask.values if e.mask else e.relevance.values for e in (explanation, again))  # type: ignore[union-attr]
        return (one - other).abs().flatten(1).amax(1)


class LookAtParts:
    """A number that depends on everything parts have."""

    def score(self, explanation: Explanation, context: Context) -> Tensor:
        assert explanation.parts is not None
        parts = explanation.parts
        maps = [parts.map(number).values.abs() for number in range(len(parts.names))]
        means = torch.stack([values.flatten(1)[:, ::7].mean(1) for values in maps], 1)
        return (means * parts.weights * parts.selected).sum(1)


class BadMetric:
    """Misbehaves in a given way."""

    def __init__(self, *, way: str) -> None:
        self.way = way

    def score(self, explanation: Explanation, context: Context) -> Any:
        values = torch.zeros(len(context.batch))
        if self.way == "crash":
            raise ZeroDivisionError("nothing to divide by")
        if self.way == "nan":
            values[0] = torch.nan
        if self.way == "inf":
            values[0] = torch.inf
        if self.way == "name":
            return {"other": values}
        return values[:1] if self.way == "shape" else values


def double_mean(values: Any) -> float:
    return 2 * float(values.mean())


def failing_aggregate(values: Any) -> float:
    raise ValueError("too few")


_EXPLAINERS = ("Ideal", "Wobbly", "Parted", "Naughty")


def stub_registry(*more: Plugin, mean_map_version: int = 1) -> Registry:
    """The built-in plugins, those of this module, and more."""

    def explainers() -> list[ExplainerSpec]:
        plain = [ExplainerSpec(name=n.lower(), target=f"bench_stubs:{n}", summary="A stub.") for n in _EXPLAINERS]
        needy = ExplainerSpec(
            name="sociable", target="bench_stubs:Wobbly", summary="A stub.", needs=frozenset({"several-clips"})
        )
        fitted = ExplainerSpec(name="fitted", target="bench_stubs:Fitted", summary="A stub.", needs=frozenset({"fit"}))
        namesake = ExplainerSpec(name="loudness", target="bench_stubs:Wobbly", summary="Collides with a control.")
        return [*plain, needy, fitted, namesake]

    def metrics() -> list[MetricSpec]:
        headline = (Column(name="mean-map", headline=True),)
        two = (Column(name="ramp", aggregate="median"), Column(name="p", aggregate="bench_stubs:double_mean"))
        return [
            MetricSpec(
                name="mean-map",
                target="bench_stubs:MeanMap",
                summary="A stub.",
                version=mean_map_version,
                columns=headline,
            ),
            MetricSpec(name="two", target="bench_stubs:TwoColumns", summary="A stub.", columns=two),
            MetricSpec(name="again", target="bench_stubs:Again", summary="A stub."),
            MetricSpec(name="bad", target="bench_stubs:BadMetric", summary="A stub."),
            MetricSpec(
                name="look-at-parts",
                target="bench_stubs:LookAtParts",
                summary="A stub.",
                needs=frozenset({"parts"}),
            ),
            MetricSpec(name="sourced", target="bench_stubs:MeanMap", summary="A stub.", needs=frozenset({"sources"})),
        ]

    module = types.ModuleType("stub_hooks")
    for name, function in {
        "earwitness_explainers": explainers,
        "earwitness_metrics": metrics,
        "earwitness_datasets": lambda: [DatasetSpec(name="tones", target="bench_stubs:tones", summary="A stub.")],
        "earwitness_classifiers": lambda: [ClassifierSpec(name="bands", target="bench_stubs:bands", summary="A stub.")],
    }.items():
        setattr(module, name, hookimpl(function))
    stubs = Plugin(Origin("stubs", "1.0", "stub_hooks"), "main", lambda: module)
    return Registry([*installed_plugins(allowed=()), stubs, *more])


def suite_of(
    *explainers: Any, metrics: Any = ("mean-map",), data: Any = None, model: Any = None, **options: Any
) -> Suite:
    """A suite of stubs; an explainer or metric is a name or a table."""

    def tables(things: Any) -> list[dict[str, Any]]:
        return [{"name": thing} if isinstance(thing, str) else thing for thing in things]

    arena = {
        "dataset": {"name": "tones", "parameters": data or {}},
        "classifier": {"name": "bands", "parameters": model or {}},
    }
    settings = {"name": "test", "chunk_size": 2, "threads": 1, "controls": False, **options}
    lists = {"arenas": [arena], "explainers": tables(explainers or ("ideal", "wobbly")), "metrics": tables(metrics)}
    return parse_suite({**settings, **lists})


def killable_run(out: str) -> None:
    """What the kill test starts in a process of its own."""
    run_suite(killable_suite(), Path(out), registry=stub_registry())


def killable_suite() -> Suite:
    return suite_of(
        {"name": "ideal", "parameters": {"pause_s": 0.05}},
        {"name": "wobbly", "parameters": {"from_global": True}},
        {"name": "naughty", "parameters": {"way": "crash"}},
        metrics=("mean-map", "two", "own-mask", "localisation"),
        data={"clips": 8},
        controls=True,
    )
