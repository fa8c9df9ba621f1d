"""What a training measures: means over stretches of steps, scores on validation clips, and masks that collapsed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

COLUMNS = ("step", "loss", "p_heard", "p_rest", "mean_mask", "level", "spread", "guided")
"""Of the training curve: last step of a stretch, and means over it: the objective, probability of the decision in what
is heard and in the rest, mean of the masks on the listening STFT, mean and standard deviation of a mask's cells where
the classifier has bands, and share of clips that were guided."""

SCORES = ("step", "AI", "AG", "FF", "mean_mask", "score")
"""Of the validation curve: AI and AG as shares, FF, and their mean, by which decoders are chosen."""

_NOTHING, _EVERYTHING, _FLAT = 0.005, 0.995, 0.002


def collapse(level: float, spread: float) -> str:
    """What is wrong with masks of this mean and of this standard deviation within a mask; nothing, as a rule."""
    if level < _NOTHING:
        return "the masks have collapsed to all-zero"
    if level > _EVERYTHING:
        return "the masks have collapsed to all-one"
    if spread < _FLAT:
        return f"the masks have collapsed to a constant gain of {level:.2f}"
    return ""


@dataclass
class Curves:
    """Rows of numbers, one for each stretch of steps (``COLUMNS``) and for each look at validation (``SCORES``)."""

    training: list[list[float]] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """As tensors (rows, columns), float64."""
        return {
            "curves/training": torch.tensor(self.training, dtype=torch.float64).reshape(-1, len(COLUMNS)),
            "curves/validation": torch.tensor(self.validation, dtype=torch.float64).reshape(-1, len(SCORES)),
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Curves:
        """The inverse of :meth:`tensors`."""
        return cls(tensors["curves/training"].tolist(), tensors["curves/validation"].tolist())

    @property
    def collapse(self) -> str:
        """What is wrong with the masks of the last stretch; empty if nothing is, or there was none yet."""
        if not self.training:
            return ""
        last = dict(zip(COLUMNS, self.training[-1], strict=True))
        return collapse(last["level"], last["spread"])

    def adapted(self, sparsity: float, mean_mask: float | None, *, until: int) -> float:
        """λ_s after the stretches up to a step: each multiplies it by the root of what masks kept over ``mean_mask``.

        It is a function of the curve, so that a resumed training has the same.
        """
        if mean_mask is None:
            return sparsity
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in self.training]
        kept = [max(row["mean_mask"], _NOTHING) for row in rows if row["step"] <= until]
        factor: float = math.prod((each / mean_mask) ** 0.5 for each in kept)
        return sparsity * factor

    def summary(self) -> str:
        """The last stretch, and the last look at validation, in a line."""
        last = dict(zip(COLUMNS, self.training[-1], strict=True))
        text = (
            f"loss {last['loss']:.2f}, p(heard) {last['p_heard']:.2f}, p(rest) {last['p_rest']:.2f}, "
            f"mean mask {last['mean_mask']:.2f}"
        )
        if self.validation:
            scores = dict(zip(SCORES, self.validation[-1], strict=True))
            text += f"; validation AI {100 * scores['AI']:.0f}, AG {100 * scores['AG']:.0f}, FF {scores['FF']:.2f}"
        return f"{text}; {self.collapse}" if self.collapse else text


class Means:
    """Running means of some numbers of rows."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._n_rows = 0

    def add(self, **values: Tensor) -> None:
        """Take up vectors (B,)."""
        self._n_rows += len(next(iter(values.values())))
        for name, each in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(each.detach().double().sum())

    def __getitem__(self, name: str) -> float:
        return self._sums[name] / self._n_rows
