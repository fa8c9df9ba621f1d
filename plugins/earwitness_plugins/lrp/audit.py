"""The audit: which rule each module has, what is not handled, and where the relevance of one clip goes, in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness_plugins.lrp.explainer import conservation_gap, is_unstable
from earwitness_plugins.lrp.ledger import Ledger, Line
from earwitness_plugins.lrp.network import Inspection
from earwitness_plugins.lrp.operations import Operation
from earwitness_plugins.lrp.propagation import Propagation, network_inputs
from earwitness_plugins.lrp.rules import describe


@dataclass(frozen=True)
class AuditedStep:
    """A weighted layer, or a torch function outside of one.

    Attributes
    ----------
    where : str
        Dotted name and type of the module.
    name : str
        Of the layer, or of the function.
    rule : str
        Its rule, or what is done with the relevance.
    line : Line or None
        Its line in the ledger; None where relevance is handed on whole, or where none arrives (in a gate).
    """

    where: str
    name: str
    rule: str
    line: Line | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        document: dict[str, Any] = {"module": self.where, "name": self.name, "rule": self.rule}
        if self.line is not None:
            for side in ("relevance_out", "relevance_in", "bias_share", "stabiliser_share"):
                document[side] = float(getattr(self.line, side).sum())
        return document


@dataclass(frozen=True)
class Audit:
    """What LRP does with a classifier.

    Attributes
    ----------
    steps : tuple of AuditedStep
        In the order in which the network runs.
    refusals : tuple of str
        What it does not handle; then nothing is known of the numbers below.
    explained : float
        What was shared out.
    relevance, absolute : float
        Sum of the features' relevance, and of its absolute values.
    conservation_gap : float
    unstable : bool
    imbalance : float
        The worst line of the ledger; 0 to rounding.
    """

    steps: tuple[AuditedStep, ...]
    refusals: tuple[str, ...]
    explained: float = 0.0
    relevance: float = 0.0
    absolute: float = 0.0
    conservation_gap: float = 0.0
    unstable: bool = False
    imbalance: float = 0.0


def audit(classifier: AudioClassifier, propagation: Propagation, waveform: Tensor, target: int) -> Audit:
    """Look at one clip.

    Parameters
    ----------
    classifier : AudioClassifier
    propagation : Propagation
    waveform : Tensor (T,)
    target : int
        Index of a label.

    Raises
    ------
    ConfigurationError
        The composite names a layer that does not exist, or leaves one without a rule.
    """
    double = copy.copy(classifier)
    double.network = copy.deepcopy(classifier.network).double()
    with torch.no_grad():
        features = classifier.features(waveform[None]).double()
    found = Inspection.of(double.network, network_inputs(double, features)[:2], name=classifier.name)
    if found.refusals:
        rules = dict.fromkeys(found.weighted, "no rule assigned")
        return Audit(tuple(_step(operation, rules, {}) for operation in found.operations), found.refusals)
    ruled, ledger = propagation.network(double, features), Ledger()
    attribution = propagation.attribute(double, features, torch.tensor([target], device=features.device), ledger=ledger)
    rules = {name: describe(rule) for name, rule in ruled.rules.items()}
    lines = {line.name: line for line in ledger.lines}
    return Audit(
        steps=tuple(_step(operation, rules, lines) for operation in ruled.operations),
        refusals=(),
        explained=float(attribution.explained),
        relevance=float(attribution.relevance.sum()),
        absolute=float(attribution.relevance.abs().sum()),
        conservation_gap=float(conservation_gap(attribution.relevance, attribution.explained)),
        unstable=bool(is_unstable(attribution.relevance, attribution.explained)),
        imbalance=max((float(line.imbalance.max()) for line in ledger.lines), default=0.0),
    )


def _step(operation: Operation, rules: dict[str, str], lines: dict[str, Line]) -> AuditedStep:
    if operation.treatment == "rule":
        line = lines.get(operation.name)
        rule = rules[operation.name]
        return AuditedStep(operation.where, operation.name, rule if line or not lines else f"{rule}, in a gate", line)
    return AuditedStep(
        operation.where, operation.name, operation.treatment, lines.get(f"{operation.where}: {operation.name}")
    )
