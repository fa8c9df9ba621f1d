"""L-MAC's family of scores, at each method's own mask and at matched budgets of signal energy.

At its own mask the constant gain of one wins most of them; so the own-mask table always shows the energy that is kept,
and the headline is the area over budgets, where every method keeps the same energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from earwitness.audio.budget import EnergyBudget, WarpForm
from earwitness.context import Context
from earwitness.errors import ConfigurationError
from earwitness.explanation import Explanation
from earwitness.protocols import Curve
from earwitness_bench.metrics import formulas

BUDGETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class OwnMask:
    """FF, AI, AD, AG, Fid-In and AD_recipe at the method's own mask, with the mean mask and the energy it keeps."""

    def score(self, explanation: Explanation, context: Context) -> dict[str, Tensor]:
        """See :class:`earwitness.protocols.Metric`."""
        p, p_heard, p_rest = context.p_original, context.p_heard, context.p_rest
        faithfulness = formulas.faithfulness(p, p_rest)
        columns = {
            "FF": faithfulness,
            "FF_median": faithfulness,
            "AI": formulas.average_increase(p, p_heard),
            "AD": formulas.average_drop(p, p_heard),
            "AG": formulas.average_gain(p, p_heard),
            "Fid-In": formulas.input_fidelity(context.original.argmax(1), context.heard.argmax(1)),
            "AD_recipe": formulas.average_drop_recipe(context.original, context.heard, context.target),
            "mean_mask": context.rendering.mean_mask,
            "kept_energy": context.rendering.kept_energy,
        }
        silent = context.scene.silent
        return {name: values.masked_fill(silent, torch.nan) for name, values in columns.items()}


class MatchedBudget:
    """FF, AI, AD, AG and Fid-In as curves over the share of signal energy that is kept.

    Parameters
    ----------
    form : {"soft", "hard"}
        Power warp of the map, or its top bins.
    budgets : sequence of float
        Shares of energy, ascending, each in (0, 1).
    """

    def __init__(self, form: WarpForm, budgets: Sequence[float]) -> None:
        if len(budgets) < 2 or any(b <= a for a, b in pairwise(budgets)):
            raise ConfigurationError(f"budgets must be at least two ascending shares of energy, got {list(budgets)}.")
        if not all(0 < budget < 1 for budget in budgets):
            raise ConfigurationError(f"budgets must lie between 0 and 1 (both excluded), got {list(budgets)}.")
        self.form: WarpForm = form
        self.budgets = torch.tensor(list(budgets), dtype=torch.float64)

    def score(self, explanation: Explanation, context: Context) -> dict[str, Curve]:
        """See :class:`earwitness.protocols.Metric`."""
        heard, rest, agrees = [], [], []
        scene = context.scene
        budgeted = EnergyBudget(context.importance, scene.magnitude)
        for budget in self.budgets.tolist():
            gain = budgeted.gain(budget, self.form)
            probabilities, left = scene.split(gain)
            heard.append(context.of_target(probabilities))
            agrees.append(formulas.input_fidelity(context.original.argmax(1), probabilities.argmax(1)))
            rest.append(context.of_target(left))
        p, p_heard, p_rest = context.p_original, torch.stack(heard, 1), torch.stack(rest, 1)
        values = {
            "FF": formulas.faithfulness(p, p_rest),
            "AI": formulas.average_increase(p, p_heard),
            "AD": formulas.average_drop(p, p_heard),
            "AG": formulas.average_gain(p, p_heard),
            "Fid-In": torch.stack(agrees, 1),
        }
        silent = context.scene.silent[:, None]
        return {
            f"{name}@{self.form}": Curve(self.budgets, y.masked_fill(silent, torch.nan)) for name, y in values.items()
        }


def matched_budget_soft(*, budgets: Sequence[float] = BUDGETS) -> MatchedBudget:
    """Maps are brought to each budget by a power warp."""
    return MatchedBudget("soft", budgets)


def matched_budget_hard(*, budgets: Sequence[float] = BUDGETS) -> MatchedBudget:
    """The top bins of the maps are kept up to each budget."""
    return MatchedBudget("hard", budgets)
