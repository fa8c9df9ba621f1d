"""What the host asks of an explainer and of a metric. Nothing needs to be inherited."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Dataset
from earwitness.errors import ExplanationError
from earwitness.explanation import Explanation
from earwitness.random import Random

if TYPE_CHECKING:
    from earwitness.context import Context
    from earwitness.fitting import Workspace

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and a short text."""


@runtime_checkable
class Explainer(Protocol):
    """An explanation method."""

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """Explain one class of each row.

        Parameters
        ----------
        classifier : AudioClassifier
            A private copy: gradients, hooks and modes are the explainer's own affair.
        batch : Batch
            B clips of equal length, at the classifier's rate, on its device.
        target : Tensor (B,), int64
            The class to explain, an index into ``classifier.labels``.
        random : Random
            The only source of randomness.
        """
        ...


@runtime_checkable
class Fittable(Protocol):
    """An explainer that must be fitted to a classifier first.

    It may say by an attribute ``n_parameters`` how many numbers were fitted, for the leaderboard; and by ``settings``,
    a dict of plain values, what its parameters stand for where a name hides numbers: a fit is known by these too. Where
    parameters name files or folders, ``contents`` has a plain value for each of their names that stands for what is in
    there: a fit is known by it instead, and is found again when they have been moved. What a user should know of a fit
    that went through, such as clips that were left out, it says by ``notes``, a sequence of sentences.
    """

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`Explainer`."""
        ...

    def fit(
        self,
        classifier: AudioClassifier,
        train: Dataset,
        *,
        validation: Dataset | None,
        random: int,
        workspace: Workspace,
        progress: Progress,
    ) -> None:
        """Fit to a classifier.

        Parameters
        ----------
        classifier : AudioClassifier
        train, validation : Dataset
        random : int
            Seed.
        workspace : Workspace
            Keeps checkpoints; a fit that finds one goes on from there.
        progress : callable (done, total, text)
        """
        ...

    def state(self) -> Mapping[str, Tensor]:
        """All fitted tensors, by name; the host writes them, and the rest, to one folder."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> Self:
        """Take up fitted tensors."""
        ...


@runtime_checkable
class SelfExplaining(Protocol):
    """A classifier that explains itself: an explainer of scope ``by-design``. It is trained, not fitted to another.

    It may say by an attribute ``epoch`` after which epoch, from 1, the weights were taken that it kept, and the same as
    a :class:`Fittable` by ``n_parameters`` and ``settings``.
    """

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`Explainer`. ``classifier`` is one of its own kind, from :meth:`as_classifier` as a rule.

        Raises
        ------
        NotApplicableError
            It is any other.
        """
        ...

    def train(
        self,
        train: Dataset,
        *,
        validation: Dataset | None,
        random: int,
        device: torch.device,
        workspace: Workspace,
        progress: Progress,
    ) -> None:
        """Learn the classes of a data set; see :meth:`Fittable.fit`."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """All that was learnt, as tensors by name."""
        ...

    def restore(self, state: Mapping[str, Tensor], labels: Sequence[str]) -> Self:
        """Take up what was learnt, and the labels of the data that it was learnt from."""
        ...

    def as_classifier(self) -> AudioClassifier:
        """What was learnt, as a classifier like any other."""
        ...


class Retrain(Protocol):
    """Trains the network of a classifier anew, from scratch; what a ``ClassifierSpec`` names by ``retrain``."""

    def __call__(self, features: Tensor, labels: Tensor, *, seed: int, progress: Progress) -> nn.Module:
        """Train on feature maps as they are given.

        Parameters
        ----------
        features : Tensor (N, 1, M, N'), float32
            As the classifier's front end makes them, with cells removed; the network is trained where they are.
        labels : Tensor (N,), int64, on the CPU
            Indices into the classifier's labels.
        seed : int
            Of all that is random: equal seeds and maps give equal networks.
        progress : callable (done, total, text)

        Returns
        -------
        nn.Module
            In evaluation mode, with the inputs and outputs of the classifier's own network.
        """
        ...


@dataclass(frozen=True, eq=False)
class Curve:
    """A score as a function of something, per row.

    Attributes
    ----------
    x : Tensor (S,), float
        Ascending, for example the share of energy kept.
    y : Tensor (B, S), float32
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.x.ndim != 1 or self.y.ndim != 2 or self.y.shape[1] != len(self.x) or len(self.x) < 2:
            shapes = f"{tuple(self.x.shape)} and {tuple(self.y.shape)}"
            raise ExplanationError(f"A curve needs x (S,) and y (B, S) with S >= 2, got {shapes}.")
        if bool((self.x.diff() < 0).any()) or not bool(self.x[-1] > self.x[0]):
            raise ExplanationError(f"A curve's x must ascend, got {self.x.tolist()}.")

    def area(self) -> Tensor:
        """Trapezoid area divided by the range of x: Tensor (B,), in the unit of y."""
        x, y = self.x.double(), self.y.double()
        return (torch.trapezoid(y, x, dim=1) / (x[-1] - x[0])).to(self.y.dtype)


@dataclass(frozen=True, eq=False)
class Scores:
    """Columns, and why a row has none.

    Attributes
    ----------
    columns : dict of str to Tensor (B,) or Curve
    reasons : tuple of str, length B
        For the reader of the results; empty where there is nothing to say, and ``"failed: …"`` where it is not the
        clip that is to blame.
    """

    columns: Mapping[str, Tensor | Curve]
    reasons: tuple[str, ...]


Score = Tensor | Curve | Mapping[str, Tensor | Curve] | Scores
"""What a metric returns: one column as (B,) values or a curve (whose area enters the table), or several by name."""


@runtime_checkable
class Metric(Protocol):
    """A score of explanations, one value per row. NaN means: not defined for this row."""

    def score(self, explanation: Explanation, context: Context) -> Score:
        """Score a batch; see :data:`Score`. Column names are those of the metric's spec."""
        ...
