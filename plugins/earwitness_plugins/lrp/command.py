"""``earwitness audit``: can LRP be trusted with this classifier?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import json_option

if TYPE_CHECKING:
    from torch import Tensor

    from earwitness.classifier import AudioClassifier
    from earwitness_plugins.lrp.audit import Audit, AuditedStep

_CLIP_S = 5.0
"""Length of the clip, in seconds, for classifiers that take any length."""


@click.command("audit")
@click.argument("classifier", metavar="CLASSIFIER")
@click.option("--explainer", default="lrp", show_default=True, metavar="NAME", help="lrp, or a method built on it.")
@click.option("--param", "params", metavar="NAME=VALUE", multiple=True, help="A parameter of the explainer.")
@click.option(
    "--classifier-param", "classifier_params", metavar="NAME=VALUE", multiple=True, help="Passed to its factory."
)
@click.option("--weights", metavar="FILE", help="Weights for the classifier (safetensors).")
@click.option(
    "--clip", type=click.Path(path_type=Path), metavar="FILE", help="Its beginning is looked at. Default: seeded noise."
)
@click.option("--label", metavar="NAME", help="Look at this class instead of the classifier's decision.")
@json_option
def audit(
    classifier: str,
    explainer: str,
    params: tuple[str, ...],
    classifier_params: tuple[str, ...],
    weights: str | None,
    clip: Path | None,
    label: str | None,
    as_json: bool,
) -> None:
    """Say which rule each module of CLASSIFIER has, what is uncovered, and where the relevance of a clip goes.

    Layer-wise relevance propagation shares a decision out from the logit down to the features. Each line below is a
    layer or a function, in the order in which the network runs:

    \b
      arrives      relevance at its output
      handed on    relevance of its inputs
      bias         what stays with its bias (nothing, unless zero_bias=false)
      stabiliser   what stays with the small number that keeps denominators from 0; much of it means that a layer has
                   outputs that the rule finds no inputs to blame for

    Arrives = handed on + bias + stabiliser. The conservation gap is what is missing in the end, as a share of what was
    shared out. "Unstable" means that relevance of both signs adds up to more than ten times that: choose another
    composite. Exit status 1: the network does something that LRP has no rule for.

    \b
    Examples:
      earwitness audit toy-cnn
      earwitness audit esc10-cnn --explainer lrp --param composite=thesis-music --clip dog.wav
      earwitness audit esc10-cnn --param "composite={'first': 'flat', 'Conv2d': 'zplus', 'Linear': 'epsilon'}"
    """
    import torch

    from earwitness.cli.options import classifier_parameters
    from earwitness.errors import ConfigurationError
    from earwitness.loading import load_classifier, load_explainer
    from earwitness.parameters import parse_assignments
    from earwitness_plugins.lrp.audit import audit as audit_of
    from earwitness_plugins.lrp.propagation import Propagation

    plugins = current_registry()
    chosen = load_classifier(classifier, parameters=classifier_parameters(classifier_params, weights), plugins=plugins)
    method: Any = load_explainer(explainer, parameters=parse_assignments(params), plugins=plugins)
    propagation = getattr(method, "propagation", None)
    if not isinstance(propagation, Propagation):
        raise ConfigurationError(f"An audit looks at LRP; {explainer!r} is another method. Use --explainer lrp.")
    waveform = _waveform(chosen, clip)
    with torch.no_grad():
        decided = int(chosen.logits(waveform[None]).argmax())
    target = decided if label is None else chosen.target_of(label)
    found = audit_of(chosen, propagation, waveform, target)
    if as_json:
        click.echo(json.dumps(_document(chosen, propagation.composite.name, target, found), indent=1))
    else:
        _say(chosen, f"{propagation.composite.name} ({propagation.composite.source})", target, found)
    if found.refusals:
        raise SystemExit(1)


def _waveform(classifier: AudioClassifier, clip: Path | None) -> Tensor:
    import torch

    from earwitness.audio.files import open_recording

    n_samples = round((classifier.duration_s or _CLIP_S) * classifier.rate)
    n_samples = max(n_samples, classifier.min_samples)
    if clip is None:
        return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(0))
    _, waveform = next(iter(open_recording(clip).windows(classifier.rate, n_samples, n_samples)))
    if classifier.duration_s is not None:
        waveform = torch.nn.functional.pad(waveform, (0, n_samples - len(waveform)))
    return waveform


def _document(classifier: AudioClassifier, composite: str, target: int, found: Audit) -> dict[str, Any]:
    numbers = ("explained", "relevance", "absolute", "conservation_gap", "unstable", "imbalance")
    return {
        "classifier": classifier.name,
        "checksum": classifier.checksum,
        "composite": composite,
        "label": classifier.labels[target],
        "covered": not found.refusals,
        "uncovered": list(found.refusals),
        "steps": [step.as_json() for step in found.steps],
        **({} if found.refusals else {name: getattr(found, name) for name in numbers}),
    }


def _say(classifier: AudioClassifier, composite: str, target: int, found: Audit) -> None:
    """Print the audit for a person."""
    click.echo(click.style(f"{classifier.name}, composite {composite}", bold=True))
    rows = [(step.where, _treatment(step), _sides(step)) for step in found.steps]
    if not found.refusals:
        rows.insert(0, ("", "", " ".join(f"{side:>10}" for side in ("arrives", "handed on", "bias", "stabiliser"))))
    wide, broad = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    for where, treatment, sides in rows:
        click.echo(f"  {where:{wide}}  {treatment:{broad}}  {sides}".rstrip())
    for reason in found.refusals:
        click.echo(f"  uncovered: {reason}")
    if found.refusals:
        return
    click.echo(
        f"  {classifier.labels[target]}: {found.explained:.4g} shared out, relevance sums to {found.relevance:.4g}; "
        f"conservation gap {found.conservation_gap:.1e}"
    )
    verdict = "UNSTABLE" if found.unstable else "stable"
    click.echo(f"  sum of |relevance| {found.absolute:.3g}: {verdict}; ledger closes to {found.imbalance:.0e}")


def _treatment(step: AuditedStep) -> str:
    return step.rule if step.where.startswith(f"{step.name} (") else f"{step.name}: {step.rule}"


def _sides(step: AuditedStep) -> str:
    line = step.line
    if line is None:
        return ""
    sides = (line.relevance_out, line.relevance_in, line.bias_share, line.stabiliser_share)
    return " ".join(f"{float(side.sum()):10.3g}" for side in sides)
