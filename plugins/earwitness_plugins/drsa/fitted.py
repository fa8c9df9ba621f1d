"""What a fit leaves: the subspaces of each class at one layer, and how they were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from earwitness.errors import CheckpointError, NotApplicableError
from earwitness.fitting import Workspace
from earwitness_plugins.drsa.sampling import Evidence
from earwitness_plugins.drsa.subspaces import Subspaces


@dataclass(frozen=True, eq=False)
class ClassSubspaces:
    """The subspaces of one class.

    Attributes
    ----------
    subspaces : Subspaces
        By falling mean relevance on the training data.
    mean_relevance : Tensor (K,), float64
        mean_n R_nk, of normalised vectors, so comparable within a class only.
    objective : float
        J.
    curves : Tensor (S, I), float32
        J of each restart after 0, 1, … steps; NaN after the restart has ended.
    clips, rows, dead : int
        How many clips and vectors it was fitted to, and how many of the vectors were dead.
    """

    subspaces: Subspaces
    mean_relevance: Tensor
    objective: float
    curves: Tensor
    clips: int
    rows: int
    dead: int

    def tensors(self) -> dict[str, Tensor]:
        """As tensors, by name."""
        return {
            "basis": self.subspaces.basis,
            "sizes": torch.tensor(self.subspaces.sizes),
            "mean_relevance": self.mean_relevance,
            "objective": torch.tensor(self.objective, dtype=torch.float64),
            "curves": self.curves,
            "counts": torch.tensor([self.clips, self.rows, self.dead]),
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of :meth:`tensors`."""
        subspaces = Subspaces(tensors["basis"], tuple(tensors["sizes"].tolist()))
        objective, curves = float(tensors["objective"]), tensors["curves"]
        return cls(subspaces, tensors["mean_relevance"], objective, curves, *tensors["counts"].tolist())


@dataclass(frozen=True, eq=False)
class FittedSubspaces:
    """The subspaces of all classes that could be fitted.

    Attributes
    ----------
    layer : str
    classes : dict of int to ClassSubspaces
        By index of the label.
    """

    layer: str
    classes: dict[int, ClassSubspaces]

    @property
    def k(self) -> int:
        """Subspaces a class."""
        return len(next(iter(self.classes.values())).subspaces.sizes)

    def of_rows(self, target: Tensor, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The subspaces of each row's target.

        Parameters
        ----------
        target : Tensor (B,), int64
        labels : sequence of str
            Of the classifier, for the message.

        Returns
        -------
        bases : Tensor (B, D, D), float64
        members : Tensor (B, K, D), bool
            Which columns belong to each subspace.

        Raises
        ------
        NotApplicableError
            A target's class has none.
        """
        rows = target.tolist()
        absent = sorted({labels[index] for index in rows if index not in self.classes})
        if absent:
            raise NotApplicableError(
                f"There are no subspaces of {', '.join(absent)}: the classifier recognised no training clip of it. "
                f"It recognised some of {', '.join(labels[index] for index in self.classes)}. Fit to other clips."
            )
        bases = {index: self.classes[index].subspaces.basis.to(target.device) for index in set(rows)}
        members = {index: self.classes[index].subspaces.members.to(target.device) for index in set(rows)}
        return torch.stack([bases[index] for index in rows]), torch.stack([members[index] for index in rows])

    def tensors(self) -> dict[str, Tensor]:
        """As tensors, by name: the layer's name as bytes, and ``CLASS/…`` for each class."""
        named = {f"{index}/{n}": t for index, own in self.classes.items() for n, t in own.tensors().items()}
        return {"layer": torch.tensor(list(self.layer.encode()), dtype=torch.uint8), **named}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of :meth:`tensors`.

        Raises
        ------
        CheckpointError
            Something is missing.
        """
        try:
            layer = bytes(tensors["layer"].tolist()).decode()
            by_class: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                index, slash, rest = name.partition("/")
                if slash:
                    by_class.setdefault(int(index), {})[rest] = tensor
            return cls(layer, {index: ClassSubspaces.of_tensors(own) for index, own in sorted(by_class.items())})
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"These are not the tensors of fitted subspaces: {error}. Fit again.") from error


@dataclass(eq=False)
class Checkpoint:
    """How far a fit has come.

    Attributes
    ----------
    workspace : Workspace
    layer : str
    evidence : Evidence
        Of the training data's first chunks.
    chunk : int
        How many of them.
    classes : dict of int to ClassSubspaces
        The classes that are fitted.
    """

    workspace: Workspace
    layer: str
    evidence: Evidence
    chunk: int = 0
    classes: dict[int, ClassSubspaces] = field(default_factory=dict)

    @classmethod
    def of(cls, workspace: Workspace, layer: str, *, n_classes: int) -> Self:
        """What the workspace holds, or the beginning."""
        kept = workspace.load_checkpoint()
        if kept is None:
            return cls(workspace, layer, Evidence.none(n_classes))
        tensors, settings = kept
        evidence = {name: t for name, t in tensors.items() if name in Evidence.__dataclass_fields__}
        fitted = FittedSubspaces.of_tensors({name: t for name, t in tensors.items() if name not in evidence})
        return cls(workspace, layer, Evidence.of_tensors(evidence), int(settings["chunk"]), fitted.classes)

    def save(self) -> None:
        """Keep it in the workspace."""
        fitted = FittedSubspaces(self.layer, self.classes)
        self.workspace.save_checkpoint({**self.evidence.tensors(), **fitted.tensors()}, chunk=self.chunk)
