"""A chunk of clips as a worker has it: read, analysed once, and what became of the clips that could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Clip, Dataset
from earwitness.errors import AudioError, EarwitnessError, ExplanationError, NotApplicableError
from earwitness.random import stream_seed
from earwitness.render import Scene
from earwitness_bench.plan import Unit
from earwitness_bench.stages import Stage
from earwitness_bench.suite import Suite


class ContractError(ExplanationError):
    """A plugin does not do what its protocol says: no clip is to blame."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """The rows of a chunk that could be read.

    Attributes
    ----------
    scene : Scene
        Of B rows.
    target : Tensor (B,), int64
        The explained class of each.
    row_ids : tuple of str, length B
    rows : tuple of int, length B
        Their places in the chunk.
    errors : dict of int to Exception
        By place: why the others are missing.
    """

    scene: Scene
    target: Tensor
    row_ids: tuple[str, ...]
    rows: tuple[int, ...]
    errors: dict[int, Exception]

    @property
    def target_labels(self) -> list[str]:
        """The explained class of each row, by name."""
        return [self.scene.classifier.labels[index] for index in self.target.tolist()]

    def select(self, rows: Sequence[int]) -> Prepared:
        """The rows with these places in the chunk; all of them must be there.

        Raises
        ------
        ExplanationError
            One is not: its own error says why.
        """
        missing = [row for row in rows if row not in self.rows]
        if missing:
            raise self.errors.get(missing[0]) or ExplanationError(f"the chunk has no rows {missing}")
        if tuple(rows) == self.rows:
            return self
        own = [self.rows.index(row) for row in rows]
        scene = replace(self.scene, batch=self.scene.batch.select(own))
        return Prepared(scene, self.target[own], tuple(self.row_ids[i] for i in own), tuple(rows), self.errors)


def on_cpu(prepared: Prepared) -> Prepared:
    """The same rows where there is no GPU."""
    scene = prepared.scene
    if scene.batch.waveforms.device.type == "cpu":
        return prepared
    batch = replace(scene.batch, waveforms=scene.batch.waveforms.cpu())
    return replace(
        prepared,
        scene=Scene(scene.classifier.to("cpu"), batch, scene.listening, scene.route),
        target=prepared.target.cpu(),
    )


def prepare(unit: Unit, suite: Suite, classifier: AudioClassifier) -> Prepared:
    """Read a chunk and decide what is explained.

    Parameters
    ----------
    unit : Unit
    suite : Suite
    classifier : AudioClassifier
        A private copy of the stage's.

    Raises
    ------
    Exception
        What the data set raised, if no clip of the chunk can be read.
    """
    clips, errors = _read(unit.stage.dataset, [index for index, _ in unit.chunk], classifier.rate)
    if not clips:
        raise next(iter(errors.values()))
    rows = tuple(clips)
    batch = Batch.of([clips[row] for row in rows], device=classifier.device)
    scene = Scene(classifier, batch, classifier.listening, suite.route)
    if suite.target == "predicted":
        target = classifier.probabilities(batch.waveforms).argmax(1)
    else:
        classes = [classifier.target_of(str(unit.chunk[row][1])) for row in rows]
        target = torch.tensor(classes, device=classifier.device)
    names = row_ids(unit.stage, unit.chunk)
    return Prepared(scene, target, tuple(names[row] for row in rows), rows, errors)


def _read(dataset: Dataset, indices: Sequence[int], rate: int) -> tuple[dict[int, Clip], dict[int, Exception]]:
    """Clips and errors by place in the chunk. A clip of another length than most is an error: nothing is padded."""
    clips: dict[int, Clip] = {}
    errors: dict[int, Exception] = {}
    for row, index in enumerate(indices):
        try:
            clips[row] = _private(dataset[index].resampled(rate))
        except Exception as error:
            errors[row] = error
    lengths = Counter(clip.waveform.shape[0] for clip in clips.values())
    usual = lengths.most_common(1)[0][0] if lengths else 0
    for row, clip in list(clips.items()):
        if clip.waveform.shape[0] != usual:
            del clips[row]
            errors[row] = AudioError(
                f"Clip {clip.clip_id!r} has {clip.waveform.shape[0]} samples, and its data set promised {usual}. Is "
                "the file cut off?"
            )
    return clips, errors


def _private(clip: Clip) -> Clip:
    """A clip whose samples are nobody else's: data sets in memory hand out the same ones each time."""
    sources = {name: replace(source, waveform=source.waveform.clone()) for name, source in clip.sources.items()}
    return replace(clip, waveform=clip.waveform.clone(), sources=sources)


def private_batch(batch: Batch) -> Batch:
    """A batch that a plugin may spoil."""
    return Batch(batch.waveforms.clone(), batch.rate, tuple(_private(clip) for clip in batch.clips))


def row_ids(stage: Stage, chunk: Sequence[tuple[int, str | None]]) -> list[str]:
    """Identity of each row: the clip's, and the label where a clip may have several."""
    ids = [(stage.dataset.entries[index].clip_id, label) for index, label in chunk]
    return [clip_id if label is None else f"{clip_id}#{label}" for clip_id, label in ids]


def check_needs(needs: frozenset[str], prepared: Prepared) -> None:
    """Raise :class:`NotApplicableError` where a plugin needs what this chunk does not have."""
    batch = prepared.scene.batch
    if "sources" in needs and batch.target_sources(prepared.target_labels) is None:
        raise NotApplicableError("the clean sources of these clips are not known")
    if "several-clips" in needs and len(set(batch.clip_ids)) < 2:
        raise NotApplicableError("it needs several clips, and this chunk has one")


def others(seed: int, clip_ids: Sequence[str], target: Tensor) -> Tensor:
    """For each row a row of another clip: in a seeded order of the clips, the next one.

    A clip with several rows gives the one of the same class where it has it, else its first.

    Parameters
    ----------
    seed : int
    clip_ids : sequence of str, length B
    target : Tensor (B,), int64
        The class that a row is of.

    Returns
    -------
    Tensor (B,), int64

    Raises
    ------
    NotApplicableError
        All rows are of one clip.
    """
    order = sorted(set(clip_ids), key=lambda clip_id: stream_seed(seed, clip_id, "shuffle"))
    if len(order) < 2:
        raise NotApplicableError("a chunk of one clip has no other clip to take a map from")
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    targets = target.tolist()
    rows = []
    for clip_id, own in zip(clip_ids, targets, strict=True):
        candidates = [row for row, other in enumerate(clip_ids) if other == following[clip_id]]
        rows.append(next((row for row in candidates if targets[row] == own), candidates[0]))
    return torch.tensor(rows, device=target.device)


def describe(error: BaseException) -> str:
    """An error in words: with its type, unless it is one of ours, which says all."""
    return str(error) if isinstance(error, EarwitnessError) else f"{type(error).__name__}: {error}"
