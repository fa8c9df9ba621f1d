"""APNet small enough to be trained in a second, and sounds that it tells apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import soundfile
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from earwitness.batching import ClipList
from earwitness.cli.shell import shell
from earwitness.clips import Clip
from earwitness.fitting import train
from earwitness.registry import registry
from earwitness_plugins.apnet.configuration import Configuration
from earwitness_plugins.apnet.explainer import APNet

RATE = 8000
NASTY = "<img src=x onerror=alert(1)> $\\frac$"
"""A name that would do something where it is not taken as text."""

LABELS = ("low", "middle", "high")
PITCHES = dict(zip(LABELS, (300.0, 1000.0, 2800.0), strict=True))
MODEL: dict[str, Any] = {
    "rate": RATE, "n_fft": 256, "hop_length": 128, "n_mels": 16, "n_frames": 16, "channels": (4, 4, 3),
    "prototypes_per_class": 2,
}  # fmt: skip
CONFIGURATION = Configuration(**MODEL)
TRAINING: dict[str, Any] = {"epochs": 12, "batch_size": 4, "learning_rate": 5e-3, "prototypes": "data"}
PARAMETERS = {"model": MODEL, "training": TRAINING}
N_SAMPLES = CONFIGURATION.n_samples  # 2176


def tone(label: str, n_samples: int = N_SAMPLES, seed: int = 0) -> Tensor:
    """A tone of the class' pitch in the first half, over faint noise."""
    time = torch.arange(n_samples) / RATE
    noise = 0.003 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))
    pitch = PITCHES[label] * (1 + 0.02 * (seed % 5))
    return 0.3 * torch.sin(2 * torch.pi * pitch * time) * (time < n_samples / RATE / 2) + noise


def clips(n_clips: int, n_samples: int = N_SAMPLES, start: int = 0) -> ClipList:
    rows = [(LABELS[i % 3], start + i) for i in range(n_clips)]
    return ClipList(
        [Clip(tone(label, n_samples, i), RATE, f"{label}-{i}", labels=(label,)) for label, i in rows], LABELS
    )


def train_apnet(folder: Path, **changes: Any) -> APNet:
    options: dict[str, Any] = {
        "name": "apnet",
        "train": clips(12),
        "validation": clips(6, start=50),
        "parameters": PARAMETERS,
        **changes,
    }
    trained = train(registry(), folder=folder, **options)
    assert isinstance(trained, APNet)
    return trained


def prototypes(*arguments: object) -> Result:
    """``earwitness prototypes``."""
    return CliRunner().invoke(shell, ["prototypes", *(str(argument) for argument in arguments)])


def write_clips(folder: Path, per_class: int, start: int = 0) -> None:
    """Sound files, as the data set ``folder`` reads them."""
    for label in LABELS:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + per_class):
            soundfile.write(folder / label / f"{i}.wav", tone(label, seed=i).numpy(), RATE)
