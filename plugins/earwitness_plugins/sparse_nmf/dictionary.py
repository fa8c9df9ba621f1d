"""A dictionary of spectral patterns: what was learnt, and for which STFT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from earwitness.artifacts import digest_of, load_tensors, save_tensors, write_json
from earwitness.audio.stft import ListeningSTFT
from earwitness.clips import Dataset
from earwitness.errors import CheckpointError, ConfigurationError, EarwitnessError
from earwitness.fitting import Workspace
from earwitness.protocols import Progress
from earwitness_plugins.sparse_nmf.factorisation import MAX_ITERATIONS
from earwitness_plugins.sparse_nmf.frames import Sampling
from earwitness_plugins.sparse_nmf.learning import ClassWise, Learner, Recipe, lessons_of
from earwitness_plugins.sparse_nmf.updates import MethodName

SCHEMA = 1
SCALE = "log1p"
"""Patterns are of log(1 + |S|)."""

_TENSORS, _DOCUMENT = "dictionary.safetensors", "dictionary.json"


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Spectral patterns of log(1 + |S|), for one STFT.

    Attributes
    ----------
    patterns : Tensor (F, K), float32, >= 0
        W; columns of unit L2 norm.
    stft : ListeningSTFT
    sparsity : float
        The mu that they were learnt with.
    labels : tuple of str or None, length K
        The class that a pattern was learnt from, where classes were learnt one by one.
    scale : str
        Always ``"log1p"``.

    Raises
    ------
    ConfigurationError
        Patterns, STFT and labels do not go together.
    """

    patterns: Tensor
    stft: ListeningSTFT
    sparsity: float
    labels: tuple[str | None, ...] = ()
    scale: str = SCALE

    def __post_init__(self) -> None:
        if not self.labels:
            object.__setattr__(self, "labels", (None,) * self.patterns.shape[-1])
        expected = (self.stft.n_bins, len(self.labels))
        if tuple(self.patterns.shape) != expected or self.patterns.dtype != torch.float32:
            raise ConfigurationError(
                f"A dictionary of {len(self.labels)} patterns for {_said(self.stft)} has the shape {expected} in "
                f"float32, got {tuple(self.patterns.shape)} in {self.patterns.dtype}."
            )
        norms = torch.linalg.vector_norm(self.patterns, dim=0)
        if not bool(((norms - 1).abs() < 1e-4).all()) or bool((self.patterns < 0).any()):
            raise ConfigurationError("The patterns of a dictionary are not negative and have unit L2 norm.")
        if self.scale != SCALE:
            raise ConfigurationError(f"Patterns are of the scale {SCALE!r}, log(1 + |S|), got {self.scale!r}.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rate(self) -> int:
        """Sampling rate in Hz."""
        return self.stft.rate

    @property
    def n_fft(self) -> int:
        """Frame length in samples."""
        return self.stft.n_fft

    @property
    def hop_length(self) -> int:
        """Samples between frames."""
        return self.stft.hop_length

    @property
    def checksum(self) -> str:
        """SHA-256 of patterns, labels and settings."""
        return digest_of([self._settings(), self.patterns.cpu().contiguous().numpy().tobytes().hex()])

    def check_matches(self, stft: ListeningSTFT) -> None:
        """Refuse another STFT than that of the patterns: its bins are other frequencies.

        Raises
        ------
        ConfigurationError
        """
        if stft != self.stft:
            raise ConfigurationError(
                f"This dictionary is for {_said(self.stft)}, not for {_said(stft)}. Learn one for it: "
                f"earwitness learn-patterns with --stft {stft.rate} {stft.n_fft} {stft.hop_length}, or with the "
                "same --classifier."
            )

    def save(self, folder: Path) -> None:
        """Write ``dictionary.safetensors`` and ``dictionary.json``, each whole or not at all.

        Raises
        ------
        StoreError
            The folder cannot be written.
        """
        save_tensors(folder / _TENSORS, {"patterns": self.patterns})
        write_json(folder / _DOCUMENT, {"schema": SCHEMA, **self._settings(), "checksum": self.checksum})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The inverse of :meth:`save`.

        Raises
        ------
        CheckpointError
            There is no dictionary in the folder, or it is damaged.
        """
        path = folder / _DOCUMENT
        if not path.is_file():
            raise CheckpointError(
                f"{folder} holds no dictionary ({_DOCUMENT} is missing). Learn one: earwitness learn-patterns."
            )
        tensors, _ = load_tensors(folder / _TENSORS)
        try:
            stored = json.loads(path.read_text())
            if stored["schema"] != SCHEMA:
                raise CheckpointError(f"{path} has schema {stored['schema']}, this version reads schema {SCHEMA}.")
            found = cls(tensors["patterns"], **_settings_of(stored))
            if found.checksum != stored["checksum"]:
                raise ValueError("its checksum does not match")
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EarwitnessError) as error:
            raise CheckpointError(f"The dictionary in {folder} is damaged: {error}. Learn it again.") from error
        return found

    def _settings(self) -> dict[str, Any]:
        return {
            "stft": asdict(self.stft),
            "scale": self.scale,
            "sparsity": self.sparsity,
            "labels": list(self.labels),
        }


def _settings_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stft": ListeningSTFT(**stored["stft"]),
        "sparsity": float(stored["sparsity"]),
        "labels": tuple(stored["labels"]),
        "scale": stored["scale"],
    }


def _said(stft: ListeningSTFT) -> str:
    return f"frames of {stft.n_fft} samples every {stft.hop_length} at {stft.rate} Hz ({stft.n_bins} bins)"


def learn_dictionary(
    dataset: Dataset,
    stft: ListeningSTFT,
    *,
    n_patterns: int = 100,
    sparsity: float = 0.8,
    average: int = 1,
    max_frames: int | None = None,
    method: MethodName = "hals",
    restarts: int = 1,
    max_iterations: int | None = None,
    tolerance: float = 1e-4,
    seed: int = 0,
    class_wise: ClassWise | None = None,
    device: str = "cpu",
    workspace: Workspace | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Dictionary:
    """Learn patterns from the clips of a data set.

    Each clip is read once. Frames and activations wait on disk and come by in blocks, so memory does not grow with the
    data; the result is that of :func:`~earwitness_plugins.sparse_nmf.factorisation.factorise` on all frames at once.
    About 4 bytes a frame, times F + 3 RK, of disk space are needed.

    Parameters
    ----------
    dataset : Dataset
    stft : ListeningSTFT
        Clips are resampled to its rate.
    n_patterns : int
        K; not with ``class_wise``, which has numbers of its own.
    sparsity : float, >= 0
        mu.
    average, max_frames : int
        See :class:`~earwitness_plugins.sparse_nmf.frames.Sampling`.
    method, restarts, max_iterations, tolerance
        See :func:`~earwitness_plugins.sparse_nmf.factorisation.factorise`.
    seed : int
    class_wise : ClassWise, optional
        Learn each class for itself, and noise before them.
    device : str
        Where the factorisation runs.
    workspace : Workspace, optional
        Where a run keeps what it has done; one that was killed is taken up there.
    progress : callable (done, total, text)

    Returns
    -------
    Dictionary

    Raises
    ------
    AudioError
        A clip is damaged or shorter than a frame.
    SilentAudioError
        No frame is loud enough to be explained at this sparsity.
    ConfigurationError
        A setting is out of range, or there are not enough clips or frames.
    CheckpointError
        The workspace is that of another run, or damaged.
    """
    most = MAX_ITERATIONS.get(method, 1) if max_iterations is None else max_iterations
    sampling = Sampling(average, max_frames, seed)
    recipe = Recipe(stft, sparsity, method, restarts, most, tolerance, sampling, device)
    lessons = lessons_of(dataset, n_patterns, class_wise, seed)
    learnt = Learner(dataset, recipe, lessons, workspace, progress).learn()
    found = [(lesson.label, patterns) for lesson, patterns in zip(lessons, learnt, strict=True)]
    if class_wise is not None and class_wise.noise_patterns:
        found = found[1:] + (found[:1] if class_wise.keep_noise else [])
    labels = tuple(label for label, patterns in found for _ in range(patterns.shape[1]))
    return Dictionary(torch.cat([patterns for _, patterns in found], dim=1), stft, sparsity, labels)
