"""The classes of AudioSet (Gemmeke et al., ICASSP 2017), in the order of each network's outputs, and groups of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from earwitness.errors import ConfigurationError, nearest

LABELS = Path(__file__).parent / "labels" / "audioset.csv"
"""Identifier, name, and the number of each class among the outputs of either network, where it is there."""

ESC10_GROUPS: Mapping[str, tuple[str, ...]] = {
    "dog": ("Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)"),
    "rain": ("Rain", "Raindrop", "Rain on surface"),
    "sea_waves": ("Ocean", "Waves, surf"),
    "crying_baby": ("Baby cry, infant cry",),
    "clock_tick": ("Tick", "Tick-tock", "Clock"),
    "sneezing": ("Sneeze",),
    "helicopter": ("Helicopter",),
    "chainsaw": ("Chainsaw",),
    "rooster": ("Crowing, cock-a-doodle-doo", "Chicken, rooster"),
    "crackling_fire": ("Fire", "Crackle"),
}
"""Which classes of AudioSet belong to each class of ESC-10, in ESC-10's order."""

_GROUPS = {"esc10": ESC10_GROUPS}


def labels_of(network: Literal["yamnet", "efficientat"]) -> tuple[str, ...]:
    """Names of the 521 classes of YAMNet or the 527 of EfficientAT, in the order of its outputs."""
    with LABELS.open(newline="", encoding="utf-8") as file:
        numbered = {int(row[network]): row["label"] for row in csv.DictReader(file) if row[network]}
    return tuple(label for _, label in sorted(numbered.items()))


def groups_of(dataset: str) -> Mapping[str, tuple[str, ...]]:
    """The classes of AudioSet that belong to each class of a data set; ConfigurationError if nobody has said so."""
    if dataset not in _GROUPS:
        raise ConfigurationError(
            f"It is not known which classes of AudioSet belong to {dataset!r}. {nearest(dataset, _GROUPS)} "
            "Or use AudioClassifier.regroup with groups of your own."
        )
    return _GROUPS[dataset]
