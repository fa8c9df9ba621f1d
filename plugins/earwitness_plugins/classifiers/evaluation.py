"""How often a classifier is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from earwitness.batching import iterate, plan_chunks
from earwitness.classifier import AudioClassifier
from earwitness.clips import Dataset
from earwitness.errors import ClassifierError, nearest
from earwitness.protocols import Progress


@dataclass(frozen=True)
class Evaluation:
    """Decisions of a classifier on clips whose classes are known.

    Attributes
    ----------
    labels : tuple of str
        All of the classifier's, C.
    confusion : Tensor (C, C), int64
        Clips of the class of the row for which the class of the column was the most probable. A clip of several classes
        counts as the decided one if that is among them, else as its first.
    """

    labels: tuple[str, ...]
    confusion: Tensor

    @property
    def n_clips(self) -> int:
        """All clips."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of clips in [0, 1] that were decided rightly."""
        return float(self.confusion.trace()) / self.n_clips

    @property
    def accuracy_by_class(self) -> dict[str, float]:
        """The same for the clips of each class that has some."""
        totals = self.confusion.sum(1)
        shares = self.confusion.diag() / totals
        return {name: float(shares[i]) for i, name in enumerate(self.labels) if totals[i]}


def evaluate(classifier: AudioClassifier, dataset: Dataset, *, batch_size: int, progress: Progress) -> Evaluation:
    """Compare the most probable class with the known one, for every clip.

    Parameters
    ----------
    classifier : AudioClassifier
    dataset : Dataset
    batch_size : int
        Clips in one pass.
    progress : callable (clips done, clips in all, text)

    Returns
    -------
    Evaluation

    Raises
    ------
    ClassifierError
        A clip has no class, or one that the classifier does not know.
    """
    check_classes(classifier.labels, dataset)
    confusion = torch.zeros(len(classifier.labels), len(classifier.labels), dtype=torch.int64)
    order = [index for chunk in plan_chunks(dataset.entries, batch_size) for index in chunk]
    done = 0
    for _, batch in iterate(dataset, classifier.rate, batch_size, device=classifier.device):
        decided = classifier.probabilities(batch.waveforms).argmax(1).tolist()
        for index, decision in zip(order[done : done + len(batch)], decided, strict=True):
            own = [classifier.labels.index(label) for label in dataset.entries[index].labels]
            confusion[decision if decision in own else own[0], decision] += 1
        done += len(batch)
        progress(done, len(dataset), f"evaluating {classifier.name}")
    return Evaluation(classifier.labels, confusion)


def check_classes(labels: Sequence[str], dataset: Dataset) -> None:
    """Raise ClassifierError unless every clip of a data set has a class, and all of them are among ``labels``."""
    nameless = [entry.clip_id for entry in dataset.entries if not entry.labels]
    if nameless:
        raise ClassifierError(f"{len(nameless)} clips have no class, such as {nameless[0]!r}. Leave them out.")
    unknown = sorted({label for entry in dataset.entries for label in entry.labels} - set(labels))
    if unknown:
        raise ClassifierError(
            f"The classifier does not know these classes of the data: {', '.join(unknown[:5])}. "
            f"{nearest(unknown[0], labels) if len(labels) <= 50 else 'Can it be regrouped (regroup=NAME)?'}"
        )
