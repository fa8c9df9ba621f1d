"""A linear layer on a published network's embeddings: logistic regression for classes of one's own.

N clips, E numbers in an embedding, C classes. A clip has one class (softmax, cross-entropy) or any number of them
(sigmoid, binary cross-entropy summed over classes). Everything is computed in float64 from a fixed start, so equal
embeddings give equal heads.
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
"""Embeddings (N, E), float32, and the class of each clip (N,), int64, or which classes it has (N, C), bool."""

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

    def quality(self, embedded: Embedded) -> float:
        """In [0, 1]: the share of clips whose class has the largest logit, or the macro average precision."""
        inputs, classes = embedded
        logits = self.logits(inputs)
        if classes.ndim == 1:
            return float((logits.argmax(1) == classes).double().mean())
        from sklearn.metrics import average_precision_score

        return float(average_precision_score(classes.numpy(), logits.numpy(), average="macro"))


@dataclass(frozen=True, eq=False)
class FoldResult:
    """A head that was tested on one fold.

    Attributes
    ----------
    head : LinearHead
    penalty : float
        Chosen by the validation fold.
    validation_quality, test_quality : float, in [0, 1]
        See :meth:`LinearHead.quality`.
    """

    head: LinearHead
    penalty: float
    validation_quality: float
    test_quality: float


def fit_head(embedded: Embedded, n_classes: int, penalty: float) -> LinearHead:
    """L2-regularised logistic regression, multinomial or one for each class.

    It minimises mean (binary) cross-entropy + penalty / 2 · ‖W‖² over embeddings of zero mean and unit variance (the
    scaling is then taken into the weights), by L-BFGS from zero. The problem is convex, so there is one answer.

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
        logits = functional.linear(inputs, weight, bias)
        if classes.ndim == 1:
            loss = functional.cross_entropy(logits, classes)
        else:
            loss = functional.binary_cross_entropy_with_logits(logits, classes.double()) * n_classes
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    optimiser.step(objective)  # type: ignore[no-untyped-call]
    unscaled = weight.detach() / scale
    return LinearHead(unscaled.float(), (bias.detach() - unscaled @ mean).float())


def cross_validate(folds: Sequence[Embedded], n_classes: int, progress: Progress) -> list[FoldResult]:
    """A head for each fold that tests it: the fold before it selects the penalty, all others are trained on.

    Of the penalties with the best validation quality the largest is taken: a head that has been driven to certainty
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
        qualities = {penalty: head.quality(folds[validation]) for penalty, head in heads.items()}
        penalty = max(heads, key=lambda candidate: (qualities[candidate], candidate))
        results.append(FoldResult(heads[penalty], penalty, qualities[penalty], heads[penalty].quality(folds[test])))
        progress(test + 1, len(folds), "fitting heads")
    return results


def embed(
    name: str,
    network: Network,
    dataset: Dataset,
    labels: Sequence[str],
    progress: Progress,
    *,
    multilabel: bool = False,
) -> Embedded:
    """Embeddings and classes of a data set's clips, computed once.

    Parameters
    ----------
    name : str
        A published network; see :func:`embeddings`.
    network : nn.Module
        With its weights.
    dataset : Dataset
    labels : sequence of str, length C
        What the classes' numbers refer to.
    progress : callable (clips done, clips in all, text)
    multilabel : bool
        Take all classes of a clip; otherwise it must have one.

    Raises
    ------
    ClassifierError
        A clip has a class that is not among ``labels``, or none, or several where it must have one.
    """
    check_classes(labels, dataset)
    order = [index for chunk in plan_chunks(dataset.entries, _BATCH) for index in chunk]
    own = [dataset.entries[index].labels for index in order]
    several = next((clip for clip in own if len(clip) > 1), None)
    if several and not multilabel:
        raise ClassifierError(f"A clip has the classes {', '.join(several)}. Ask for a multilabel head (--multilabel).")
    if multilabel:
        classes = torch.tensor([[label in clip for label in labels] for clip in own])
    else:
        classes = torch.tensor([labels.index(clip[0]) for clip in own])
    rows: list[Tensor] = []
    for number, batch in iterate(dataset, pretrained(name).front_end().rate, _BATCH):
        rows.append(embeddings(name, network, batch.waveforms))
        progress(min((number + 1) * _BATCH, len(order)), len(order), "computing embeddings")
    return torch.cat(rows), classes


def save_head(
    path: Path, head: LinearHead, *, backbone: str, dataset: str, labels: Sequence[str], multilabel: bool = False
) -> None:
    """Write a head, and what it belongs to, to one safetensors file."""
    document = {"backbone": backbone, "dataset": dataset, "labels": list(labels), "multilabel": multilabel}
    save_tensors(path, {"weight": head.weight, "bias": head.bias}, document)


def classifier_with_head(backbone: str, path: Path) -> AudioClassifier:
    """A published network that answers through a head of one's own, by softmax, or by sigmoid if it is multilabel.

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
        multilabel=bool(document.get("multilabel", False)),
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
