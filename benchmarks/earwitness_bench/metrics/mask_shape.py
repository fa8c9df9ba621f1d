"""How concentrated a mask is: SPS and COMP, as L-MAC's table has them, on the listening STFT."""

from __future__ import annotations

import torch
from torch import Tensor

from earwitness.context import Context
from earwitness.explanation import Explanation
from earwitness.protocols import Scores
from earwitness_bench.metrics import formulas

CONSTANT_TOLERANCE = 1e-6
"""Relative range below which a map is constant: rounding is no preference."""


class MaskShape:
    """SPS (Gini index) and COMP (entropy, in nats) of the gain that a method, or the run's rule, makes."""

    def score(self, explanation: Explanation, context: Context) -> Scores:
        """See :class:`earwitness.protocols.Metric`. A constant mask singles nothing out: it has no shape (NaN)."""
        gain = context.rendering.gain
        constant = constant_rows(gain)
        columns = {"SPS": formulas.sparseness(gain), "COMP": formulas.complexity(gain)}
        return Scores(
            {name: values.masked_fill(constant, torch.nan) for name, values in columns.items()},
            tuple("the mask is constant" if row else "" for row in constant.tolist()),
        )


def constant_rows(maps: Tensor) -> Tensor:
    """Which maps (B, ...) have one value everywhere, up to rounding: Tensor (B,), bool."""
    flat = maps.flatten(1)
    return flat.amax(1) - flat.amin(1) <= CONSTANT_TOLERANCE * flat.abs().amax(1)
