"""What the decoder is trained on: of each clip, all that does not change from step to step.

The classifier is frozen, so its hidden maps, its decision, and what a passage needs of a clip are computed once, and
kept as far as the memory allows. Only clips that get new noise each time are heard anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from earwitness.audio.files import is_constant
from earwitness.batching import plan_chunks
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Clip, Dataset, Entry
from earwitness.errors import ExplanationError
from earwitness.random import Random, stream_seed
from earwitness_plugins.hidden_maps import hidden_maps
from earwitness_plugins.lmac.noise import CLIPS, Noise, OtherClips, find_noise, with_noise
from earwitness_plugins.lmac.objective import log_odds
from earwitness_plugins.lmac.passages import Passage


@dataclass(frozen=True, eq=False)
class Rows:
    """Clips of one length.

    Attributes
    ----------
    maps : tuple of Tensor (B, C, H, W), float32
        Hidden maps.
    clips : Tensor (B, …)
        As the passage analysed them.
    decision : Tensor (B,), int64
        What the classifier decides on the whole recording.
    confidence : Tensor (B,), float32
        Log-odds of that.
    found : Tensor (B, C), bool
        Which classes the classifier hears in the whole recording: the decision, and for multilabel classifiers all
        with p > 0.5.
    """

    maps: tuple[Tensor, ...]
    clips: Tensor
    decision: Tensor
    confidence: Tensor
    found: Tensor

    def __len__(self) -> int:
        return len(self.decision)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return (*self.maps, self.clips, self.decision, self.confidence, self.found)

    @classmethod
    def joined(cls, rows: Sequence[Rows]) -> Rows:
        """Several, one after the other."""
        *maps, clips, decision, confidence, found = map(torch.cat, zip(*(each.tensors for each in rows), strict=True))
        return cls(tuple(maps), clips, decision, confidence, found)


@torch.no_grad()
def listen(classifier: AudioClassifier, layers: Sequence[str], passage: Passage, waveforms: Tensor) -> Rows:
    """What the classifier has and says of clips (B, T)."""
    hidden = hidden_maps(classifier, classifier.features(waveforms), layers)
    decision = hidden.logits.argmax(1)
    confidence = log_odds(hidden.logits, decision, multilabel=classifier.multilabel)
    found = (hidden.logits > 0) & classifier.multilabel
    found = found.scatter(1, decision[:, None], True)
    return Rows(hidden.maps, passage.analysed(waveforms), decision, confidence, found)


def of_length(clip: Clip, n_samples: int | None, *, seed: int) -> Clip:
    """An excerpt of a longer clip, from a place that its name decides; a shorter one repeated. None: as it is."""
    if n_samples in (None, len(clip.waveform)):
        return clip
    share = float(Random(seed, [clip.clip_id]).uniform("excerpt"))
    start = int(share * max(0, len(clip.waveform) - n_samples + 1))
    waveform = np.resize(clip.waveform[start : start + n_samples].numpy(), n_samples)
    return replace(clip, waveform=torch.from_numpy(waveform), sources={})


class Material:
    """The clips of a data set in which there is something to hear.

    Parameters
    ----------
    classifier : AudioClassifier
    layers : sequence of str
    passages : callable int -> Passage
        By the clips' length in samples at the classifier's rate.
    dataset : Dataset
    seed : int
        Decides batches, excerpts and noise.
    n_samples : int, optional
        At the classifier's rate: an excerpt of that length for each longer clip, shorter ones repeated. Default: all
        clips as they are.
    noise : str, optional
        A name for :func:`~earwitness_plugins.lmac.noise.find_noise`, or ``"clips"`` for other clips of the data set;
        new noise in each epoch.
    noise_snr_db : float

    Raises
    ------
    ConfigurationError
        There is no such noise.
    """

    def __init__(
        self,
        classifier: AudioClassifier,
        layers: Sequence[str],
        passages: Callable[[int], Passage],
        dataset: Dataset,
        *,
        seed: int,
        n_samples: int | None = None,
        noise: str | None = None,
        noise_snr_db: float = 0.0,
    ) -> None:
        self.classifier = classifier
        self.layers = tuple(layers)
        self.passages = passages
        self.dataset = dataset
        self.seed = seed
        self.n_samples = n_samples
        self.noise_snr_db = noise_snr_db
        self.silent: list[str] = []
        self.kept_mb = 0.0
        self._heard: dict[int, Rows] = {}
        self._clips: dict[int, Clip] = {}
        self._audible: list[int] = []
        self._noise_for: Callable[[int], Noise] | None = None
        """By the index of the clip that gets it."""
        if noise == CLIPS:
            self._noise_for = lambda index: OtherClips(self._audible, index, self._waveform)
        elif noise is not None:
            found = find_noise(noise)
            self._noise_for = lambda index: found

    def prepare(self, index: int, memory_mb: float) -> None:
        """Look at one clip, and keep what was computed, unless that would take more than this memory in all."""
        clip = self._read(index)
        if bool(is_constant(clip.waveform)):
            self.silent.append(clip.clip_id)
            return
        self._audible.append(index)
        if self.kept_mb < memory_mb:
            self._clips[index] = replace(clip, sources={})
            self.kept_mb += clip.waveform.nbytes / 1e6
        if self._noise_for is None and self.kept_mb < memory_mb:
            self._heard[index] = self._listen(self.clean([index]))
            self.kept_mb += sum(tensor.nbytes for tensor in self._heard[index].tensors) / 1e6

    def __len__(self) -> int:
        return len(self._audible)

    def chunks(self, size: int, epoch: int | None = None) -> list[tuple[int, ...]]:
        """Indices of batches of equal length: in order, or shuffled anew for each epoch."""
        entries: Sequence[Entry] = [self.dataset.entries[index] for index in self._audible]
        if self.n_samples is not None:
            entries = [replace(entry, n_samples=self.n_samples) for entry in entries]
        if epoch is None:
            plan = plan_chunks(entries, size)
        else:
            plan = plan_chunks(entries, size, seed=stream_seed(self.seed, "order", epoch))
            generator = torch.Generator().manual_seed(stream_seed(self.seed, "batches", epoch))
            plan = [plan[place] for place in torch.randperm(len(plan), generator=generator).tolist()]
        return [tuple(self._audible[place] for place in chunk) for chunk in plan]

    def clean(self, indices: Sequence[int]) -> Batch:
        """Some clips as they are."""
        return Batch.of([self._clip(index) for index in indices], device=self.classifier.device)

    def heard(self, indices: Sequence[int], epoch: int = 0) -> tuple[Batch, Tensor]:
        """Some clips with the noise of an epoch; and the clips (B, T) at the level that they have in it."""
        batch = self.clean(indices)
        if self._noise_for is None:
            return batch, batch.waveforms
        noisy, clean = with_noise(
            batch.waveforms,
            [self._noise_for(index) for index in indices],
            self.noise_snr_db,
            rate=batch.rate,
            random=Random(self.seed, batch.clip_ids),
            draw=str(epoch),
        )
        return Batch(noisy, batch.rate, batch.clips), clean

    def rows(self, indices: Sequence[int], heard: Batch | None = None) -> Rows:
        """Some clips of one length, as they are or, where there is noise, as they are :meth:`heard` in an epoch.

        What was not kept is computed clip by clip, as what was kept: convolutions differ in the last bits between
        batch sizes, and a fit that is resumed must see what it saw before.
        """
        if self._noise_for is not None:
            return self._listen(self.heard(indices)[0] if heard is None else heard)
        return Rows.joined([self._heard.get(index) or self._listen(self.clean([index])) for index in indices])

    def _clip(self, index: int) -> Clip:
        return self._clips.get(index) or self._read(index)

    def _read(self, index: int) -> Clip:
        return of_length(self.dataset[index].resampled(self.classifier.rate), self.n_samples, seed=self.seed)

    def _waveform(self, index: int) -> Tensor:
        return self._clip(index).waveform

    def _listen(self, batch: Batch) -> Rows:
        rows = listen(self.classifier, self.layers, self.passages(batch.waveforms.shape[1]), batch.waveforms)
        for name, confidence in zip(batch.clip_ids, rows.confidence.tolist(), strict=True):
            if not isfinite(confidence):
                raise ExplanationError(
                    f"{self.classifier.name} answers clip {name} with logits that are not finite. Look at that clip, "
                    "or at what the classifier divides by."
                )
        return rows
