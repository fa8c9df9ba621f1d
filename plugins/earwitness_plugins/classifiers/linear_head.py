"""A linear layer on a published network's embeddings: multinomial logistic regression for classes of one's own.

N clips, E numbers in an embedding, C classes. Everything is computed in float64 from a fixed start, so equal embeddings
give equal heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from earwitness.artifacts import load_tensors, save_tensors
from earwitness.batching import iterate, plan_chunks
from earwitness.classifier import AudioClassifier
from earwitness.clips import Dataset
from earwitness.errors import CheckpointError, ClassifierError, ConfigurationError
from earwitness.protocols import Progress
from earwitness_plugins.classifiers.evaluation import check_classes
from earwitness_plugins.classifiers.pretrained import Network, embeddings, pretrained, pretrained_network

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""From which the validation data choose. With more, a right decision on ESC-10 has a probability of 0.9 and less."""

Embedded = tuple[Tensor, Tensor]
"""Embeddings (N, E), float32, and classes (N,), int64."""

_MAX_STEPS = 500
_BATCH = 16


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Embeddings to logits.

    Attributes
    ----------
    weight : Tensor (C, E), float32
    bias : Tensor (C,), float32
    """

    weight: Tensor
    bias: Tensor

    def logits(self, embedded: Tensor) -> Tensor:
        """Embeddings (N, E) to logits (N, C)."""
        return functional.linear(embedded, self.weight, self.bias)

    def accuracy(self, embedded: Embedded) -> float:
        """Share of clips in [0, 1] whose class has the largest logit."""
        inputs, classes = embedded
        return float((self.logits(inputs).argmax(1) == classes).double().mean())


@dataclass(frozen=True, eq=False)
class FoldResult:
    """A head that was tested on one fold.

    Attributes
    ----------
    head : LinearHead
    penalty : float
        Chosen by the validation fold.
    validation_accuracy, test_accuracy : float, in [0, 1]
    """

    head: LinearHead
    penalty: float
    validation_accuracy: float
    test_accuracy: float


def fit_head(embedded: Embedded, n_classes: int, penalty: float) -> LinearHead:
    """L2-regularised multinomial logistic regression.

    It minimises mean cross-entropy + penalty / 2 · ‖W‖² over embeddings of zero mean and unit variance (the scaling is
    then taken into the weights), by L-BFGS from zero. The problem is convex, so there is one answer.

    Parameters
    ----------
    embedded : (embeddings, classes)
    n_classes : int
        C.
    penalty : float
        Positive.

    Returns
    -------
    LinearHead
    """
    if not penalty > 0:
        raise ConfigurationError(f"The penalty of a linear head must be positive, got {penalty}.")
    inputs, classes = embedded[0].double(), embedded[1]
    mean, deviation = inputs.mean(0), inputs.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, 1.0)
    inputs = (inputs - mean) / scale
    weight = torch.zeros(n_classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(n_classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=_MAX_STEPS, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def objective() -> float:
        optimiser.zero_grad()
        loss = functional.cross_entropy(functional.linear(inputs, weight, bias), classes)
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    optimiser.step(objective)  # type: ignore[no-untyped-call]
    unscaled = weight.detach() / scale
    return LinearHead(unscaled.float(), (bias.detach() - unscaled @ mean).float())


def cross_validate(folds: Sequence[Embedded], n_classes: int, progress: Progress) -> list[FoldResult]:
    """A head for each fold that tests it: the fold before it selects the penalty, all others are trained on.

    Of the penalties with the best validation accuracy the largest is taken: a head that has been driven to certainty
    says the same of everything, and leaves an explanation no gradient.

    Parameters
    ----------
    folds : sequence of (embeddings, classes)
        K, at least three.
    n_classes : int
    progress : callable (heads done, heads in all, text)

    Returns
    -------
    list of FoldResult, length K
        The last one was trained on folds 1 to K - 2, selected on fold K - 1 and tested on fold K.
    """
    if len(folds) < 3:
        raise ConfigurationError(f"Training, validation and test data need three folds, got {len(folds)}.")
    results = []
    for test in range(len(folds)):
        validation = (test - 1) % len(folds)
        others = [fold for number, fold in enumerate(folds) if number not in (test, validation)]
        train = (torch.cat([fold[0] for fold in others]), torch.cat([fold[1] for fold in others]))
        heads = {penalty: fit_head(train, n_classes, penalty) for penalty in PENALTIES}
        accuracies = {penalty: head.accuracy(folds[validation]) for penalty, head in heads.items()}
        penalty = max(heads, key=lambda candidate: (accuracies[candidate], candidate))
        accuracy = heads[penalty].accuracy(folds[test])
        results.append(FoldResult(heads[penalty], penalty, accuracies[penalty], accuracy))
        progress(test + 1, len(folds), "fitting heads")
    return results


def embed(name: str, network: Network, dataset: Dataset, labels: Sequence[str], progress: Progress) -> Embedded:
    """Embeddings and classes of a data set's clips, computed once.

    Parameters
    ----------
    name : str
        A published network; see :func:`embeddings`.
    network : nn.Module
        With its weights.
    dataset : Dataset
        One class a clip.
    labels : sequence of str, length C
        What the classes' numbers refer to.
    progress : callable (clips done, clips in all, text)

    Raises
    ------
    ClassifierError
        A clip has a class that is not among ``labels``, or none.
    """
    check_classes(labels, dataset)
    order = [index for chunk in plan_chunks(dataset.entries, _BATCH) for index in chunk]
    classes = torch.tensor([labels.index(dataset.entries[index].labels[0]) for index in order])
    rows: list[Tensor] = []
    for number, batch in iterate(dataset, pretrained(name).front_end().rate, _BATCH):
        rows.append(embeddings(name, network, batch.waveforms))
        progress(min((number + 1) * _BATCH, len(order)), len(order), "computing embeddings")
    return torch.cat(rows), classes


def save_head(path: Path, head: LinearHead, *, backbone: str, dataset: str, labels: Sequence[str]) -> None:
    """Write a head, and what it belongs to, to one safetensors file."""
    document = {"backbone": backbone, "dataset": dataset, "labels": list(labels)}
    save_tensors(path, {"weight": head.weight, "bias": head.bias}, document)


def classifier_with_head(backbone: str, path: Path) -> AudioClassifier:
    """A published network that answers through a head of one's own, by softmax.

    Patches are averaged as logits, which equals the head on the mean embedding, as it was trained.

    Parameters
    ----------
    backbone : str
        The published network's name.
    path : Path
        Of :func:`save_head`.

    Raises
    ------
    CheckpointError
        The file is missing or damaged, or holds no head.
    ClassifierError
        The head belongs to another network.
    """
    tensors, document = load_tensors(path)
    _check_head(path, tensors, document, backbone)
    network, chosen = pretrained_network(backbone), pretrained(backbone)
    weight, bias = tensors["weight"], tensors["bias"]
    if weight.shape[1] != network.n_embedding:
        raise ClassifierError(f"{path} takes {weight.shape[1]} numbers; {backbone} gives {network.n_embedding}.")
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight, "bias": bias})
    return AudioClassifier(
        network.with_head(head),
        front_end=chosen.front_end(),
        labels=document["labels"],
        segmenter=chosen.segmenter,
        pool="mean",
        name=f"{backbone}-{document['dataset']}",
    )


def _check_head(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, object], backbone: str) -> None:
    labels = document.get("labels")
    if set(tensors) != {"weight", "bias"} or not isinstance(labels, list) or "dataset" not in document:
        raise CheckpointError(f"{path} holds no linear head. Make one with: earwitness train-head {backbone}")
    if document.get("backbone") != backbone:
        raise ClassifierError(f"{path} is a head for {document.get('backbone')}, not for {backbone}.")
    weight, bias = tensors["weight"], tensors["bias"]
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or len(labels) != len(weight):
        raise CheckpointError(
            f"{path} is damaged: weights {tuple(weight.shape)}, biases {tuple(bias.shape)}, {len(labels)} labels."
        )
