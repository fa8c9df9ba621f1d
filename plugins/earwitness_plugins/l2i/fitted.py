"""What a fit leaves: the interpreter, the dictionary, the layers it looks at, and how the losses fell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from earwitness.audio.stft import ListeningSTFT
from earwitness.errors import CheckpointError
from earwitness_plugins.l2i.interpreter import Interpreter, Sizes
from earwitness_plugins.l2i.training import Training, curve_tensors, curves_of, part_of


@dataclass(frozen=True, eq=False)
class FittedInterpreter:
    """An interpreter for one classifier.

    Attributes
    ----------
    interpreter : Interpreter
        In evaluation mode.
    sizes : Sizes
    layers : tuple of three str
    patterns : Tensor (F, K), float32, >= 0
        W, of unit norm.
    listening : ListeningSTFT
        That of the patterns.
    kept_epoch : int
        From 1.
    curves : dict of str to list of float
        Per epoch: ``train fidelity``, ``validation top-1``, …
    """

    interpreter: Interpreter
    sizes: Sizes
    layers: tuple[str, ...]
    patterns: Tensor
    listening: ListeningSTFT
    kept_epoch: int
    curves: dict[str, list[float]]

    @classmethod
    def of(cls, training: Training, sizes: Sizes) -> Self:
        """With the weights that a training has kept."""
        material = training.train
        interpreter = training.interpreter.eval().requires_grad_(False)
        interpreter.load_state_dict(training.kept)
        listening = material.classifier.listening
        return cls(
            interpreter, sizes, material.layers, material.patterns, listening, training.kept_epoch, training.curves
        )

    def tensors(self) -> dict[str, Tensor]:
        """As tensors, by name: weights, patterns and curves, and a JSON document, as bytes, of all else."""
        document = {
            "sizes": asdict(self.sizes),
            "layers": self.layers,
            "listening": asdict(self.listening),
            "kept_epoch": self.kept_epoch,
        }
        weights = {f"weights/{name}": value for name, value in self.interpreter.state_dict().items()}
        return {"document": to_bytes(document), "patterns": self.patterns, **weights, **curve_tensors(self.curves)}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of :meth:`tensors`.

        Raises
        ------
        CheckpointError
            Something is missing.
        """
        try:
            document = from_bytes(tensors["document"])
            own = document["sizes"]
            sizes = Sizes(**{**own, "channels": tuple(own["channels"])})
            interpreter = Interpreter(sizes)
            interpreter.load_state_dict(part_of(tensors, "weights/"))
            return cls(
                interpreter.eval().requires_grad_(False),
                sizes,
                tuple(document["layers"]),
                tensors["patterns"],
                ListeningSTFT(**document["listening"]),
                int(document["kept_epoch"]),
                curves_of(tensors),
            )
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"These are not the tensors of an l2i interpreter: {error}. Fit again.") from error

    def to(self, device: torch.device) -> tuple[Interpreter, Tensor]:
        """Interpreter and patterns on a device."""
        return self.interpreter.to(device), self.patterns.to(device)


def to_bytes(document: Mapping[str, Any]) -> Tensor:
    """A JSON document as a tensor, uint8."""
    return torch.tensor(list(json.dumps(document).encode()), dtype=torch.uint8)


def from_bytes(tensor: Tensor) -> dict[str, Any]:
    """The inverse of :func:`to_bytes`."""
    found: dict[str, Any] = json.loads(bytes(tensor.tolist()).decode())
    return found
