"""Small data sets in folds, for cross-validation: they come through the door like a stranger's."""

from __future__ import annotations

import types
from collections.abc import Sequence

import torch

import apnet_toy
from earwitness import hookimpl
from earwitness.batching import ClipList
from earwitness.clips import Clip
from earwitness.registry import Origin, Plugin, Registry, installed_plugins
from earwitness.specs import DatasetSpec
from earwitness_plugins.classifiers.toy_cnn import TOY_LABELS

RATE = 16000


def tones(*, folds: Sequence[int] = (1, 2, 3, 4, 5), clips: int = 6) -> ClipList:
    """Three pitches, as ``apnet_toy`` has them."""
    made = [apnet_toy.clips(clips, start=100 * fold) for fold in folds]
    return ClipList([one[i] for one in made for i in range(len(one))], apnet_toy.LABELS)


def pairs(*, folds: Sequence[int] = (1, 2, 3, 4, 5), clips: int = 4, classes: int = 1) -> ClipList:
    """A second of a low tone or of a high one, over noise; the classes of ``toy-cnn``."""
    return ClipList([_pair(fold, number, classes) for fold in folds for number in range(clips)], TOY_LABELS)


def _pair(fold: int, number: int, classes: int) -> Clip:
    seed = 100 * fold + number
    noise = 0.05 * torch.randn(RATE, generator=torch.Generator().manual_seed(seed))
    pitch = (300.0, 3000.0)[number % 2] + 13 * fold
    waveform = 0.3 * torch.sin(2 * torch.pi * pitch * torch.arange(RATE) / RATE) + noise
    labels = (TOY_LABELS[number % 2], TOY_LABELS[1 - number % 2])[:classes]
    return Clip(waveform, RATE, f"pair-{fold}-{number}", labels=labels)


def leaking(*, folds: Sequence[int] = (1, 2, 3, 4, 5)) -> ClipList:
    """Whatever folds are asked for, the first clip is always there."""
    return pairs(folds=sorted({1, *folds}), clips=2)


def folded_registry() -> Registry:
    """The built-in plugins, and the data sets of this module."""
    specs = [
        DatasetSpec(name=name, target=f"folded_sounds:{name}", summary="In folds.")
        for name in ("tones", "pairs", "leaking")
    ]
    module = types.ModuleType("folded_sounds_hooks")
    module.earwitness_datasets = hookimpl(specname="earwitness_datasets")(lambda: specs)  # type: ignore[attr-defined]
    stranger = Plugin(Origin("folded", "1.0", module.__name__), "hooks", lambda: module)
    return Registry([*installed_plugins(), stranger])
