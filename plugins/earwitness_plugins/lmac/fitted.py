"""What a fit leaves: the decoder, the layers that it listens to, and how its training went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earwitness.errors import CheckpointError
from earwitness_plugins.lmac.curves import Curves
from earwitness_plugins.lmac.decoder import MaskDecoder


@dataclass(frozen=True, eq=False)
class FittedDecoder:
    """A decoder for one classifier.

    Attributes
    ----------
    decoder : MaskDecoder
    layers : tuple of str
        In the order in which the classifier computes them.
    step : int
        The decoder is that of this step.
    sparsity : float
        λ_s at the end of the fit.
    curves : Curves
    """

    decoder: MaskDecoder
    layers: tuple[str, ...]
    step: int
    sparsity: float
    curves: Curves

    def tensors(self) -> dict[str, Tensor]:
        """As tensors, by name: the layers' names as bytes, one a line."""
        return {
            "layers": torch.tensor(list("\n".join(self.layers).encode()), dtype=torch.uint8),
            "bands": torch.tensor(self.decoder.bands),
            "step": torch.tensor(self.step),
            "sparsity": torch.tensor(self.sparsity, dtype=torch.float64),
            **{f"decoder/{name}": value for name, value in self.decoder.state_dict().items()},
            **self.curves.tensors(),
        }

    @classmethod
    def of_checkpoint(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> FittedDecoder:
        """What a training that has not finished had kept.

        Raises
        ------
        CheckpointError
            It was no training of a mask decoder, or something is missing.
        """
        try:
            known = {
                "layers": torch.tensor(list("\n".join(settings["layers"]).encode()), dtype=torch.uint8),
                **{name: torch.tensor(settings[name]) for name in ("bands", "sparsity")},
                "step": torch.tensor(settings["kept_step"]),
            }
        except KeyError as error:
            raise CheckpointError(f"This is no training of a mask decoder: it does not say its {error}.") from error
        kept = {f"decoder/{n.removeprefix('kept/')}": t for n, t in tensors.items() if n.startswith("kept/")}
        return cls.of_tensors({**tensors, **known, **kept})

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> FittedDecoder:
        """The inverse of :meth:`tensors`.

        Raises
        ------
        CheckpointError
            Something is missing, or of another shape.
        """
        try:
            layers = tuple(bytes(tensors["layers"].tolist()).decode().split("\n"))
            weights = {n.removeprefix("decoder/"): t for n, t in tensors.items() if n.startswith("decoder/")}
            entrances = [weights[f"entrances.{number}.weight"] for number in range(len(layers))]
            channels = [entrance.shape[1] for entrance in reversed(entrances)]
            classes = len(weights["told.weight"]) if "told.weight" in weights else 0
            decoder = MaskDecoder(channels, entrances[0].shape[0], bands=int(tensors["bands"]), classes=classes)
            decoder.load_state_dict(weights)
            decoder = decoder.eval().requires_grad_(False)
            step, sparsity = int(tensors["step"]), float(tensors["sparsity"])
            return cls(decoder, layers, step, sparsity, Curves.of_tensors(tensors))
        except (KeyError, RuntimeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"These are not the tensors of a fitted mask decoder: {error}. Fit again.") from error
