"""``earwitness explain``: why did the classifier say that?"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import (
    classifier_options,
    classifier_parameters,
    device_option,
    json_option,
    refuse_classifier,
    seed_option,
)
from earwitness.cli.progress import progress_bar

if TYPE_CHECKING:
    from earwitness.classifier import AudioClassifier
    from earwitness.protocols import Explainer

_Named = tuple[str, dict[str, Any]]
"""A name and parameters."""


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("earwitness-out"),
    show_default=True,
    metavar="DIR",
    help="Each recording gets a folder of its own in it.",
)
@classifier_options
@click.option(
    "--explainer",
    default="integrated-gradients",
    show_default=True,
    metavar="NAME",
    help="See `earwitness list explainers`.",
)
@click.option("--param", "params", metavar="NAME=VALUE", multiple=True, help="See `earwitness list explainers NAME`.")
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="DIR", help="A fitted explainer's folder.")
@click.option("--label", metavar="NAME", help="Explain this class instead of the classifier's decision.")
@click.option(
    "--rule",
    help="From relevance to a mask: normalise, quantile(q), relevance_share(p), energy(p), energy(p,hard), "
    "percentile_blur(p).  [default: a method's own mask or sound; of relevance, energy(0.3)]",
)
@click.option(
    "--scale",
    type=click.Choice(["magnitude", "log1p"]),
    default="magnitude",
    show_default=True,
    help="What a mask made from relevance multiplies: the magnitudes |S|, or log(1 + |S|).",
)
@click.option(
    "--route",
    type=click.Choice(["waveform", "spectrogram"]),
    default="waveform",
    show_default=True,
    help="Score what is heard (waveform), or the masked features.",
)
@click.option(
    "--window",
    "window_s",
    type=click.FloatRange(0.5, 600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="A longer recording is explained window by window.",
)
@click.option(
    "--match-loudness",
    is_flag=True,
    help="Write heard_loud.wav too, at the recording's level, and the like of each part.",
)
@seed_option
@device_option
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the network. bfloat16 is for GPUs and the newest CPUs, and changes the numbers a little.",
)
@json_option
def explain(
    files: tuple[Path, ...],
    out: Path,
    classifier: str,
    classifier_params: tuple[str, ...],
    weights: str | None,
    explainer: str,
    params: tuple[str, ...],
    checkpoint: Path | None,
    label: str | None,
    rule: str | None,
    scale: Any,
    route: Any,
    window_s: float,
    match_loudness: bool,
    seed: int,
    device: str,
    precision: Any,
    as_json: bool,
) -> None:
    """Explain what a classifier heard in recordings.

    For each FILE (any rate, channels and length) this writes to DIR/NAME:

    \b
      heard.wav         what the explanation points at
      rest.wav          what is left; heard + rest = recording
      explanation.png   recording, relevance and what is heard, over Hz and seconds
      explanation.json  all numbers
      parts, parts.png  sound and maps of each part, for methods that answer in parts
      examples          stored sounds it is like, for methods that compare (and examples.png)

    and prints a verdict: is the class still there in what is heard, is it gone from the rest, and do random masks of
    the same energy do worse?

    A recording that is explained again replaces what was written of it. Another one of the same name goes to
    DIR/NAME-2, DIR/NAME-3 and so on.

    \b
    Examples:
      earwitness explain dog.wav
      earwitness explain *.wav --explainer gradcam --label dog
      earwitness explain dog.wav --classifier mypackage.models:make --rule "energy(0.3)"
    """
    from earwitness.audio.rules import parse_rule
    from earwitness.output_folder import folders_of
    from earwitness.parameters import parse_assignments
    from earwitness.recordings import Settings, explain_recording

    settings = Settings(
        label=label,
        rule=None if rule is None else parse_rule(rule),
        scale=scale,
        route=route,
        seed=seed,
        window_s=window_s,
        match_loudness=match_loudness,
    )
    chosen, method = _load(
        (classifier, classifier_parameters(classifier_params, weights)),
        (explainer, parse_assignments(params)),
        checkpoint,
        device=device,
        precision=precision,
    )
    if label is not None:
        chosen.target_of(label)
    documents = []
    for file, folder in zip(files, folders_of(files, out), strict=True):
        run = functools.partial(
            explain_recording,
            file,
            folder,
            classifier=chosen,
            explainer=method,
            explainer_name=explainer,
            settings=settings,
        )
        documents.append(_explain_one(file, run, quiet=as_json))
    failures = sum("error" in document for document in documents)
    if as_json:
        click.echo(json.dumps({"explanations": documents, "failed": failures}, indent=1))
    if failures:
        raise SystemExit(1)


def _load(
    classifier: _Named, explainer: _Named, checkpoint: Path | None, **ready: Any
) -> tuple[AudioClassifier, Explainer]:
    """The classifier and the explainer, each by its name and parameters; one that explains itself is both."""
    from earwitness.loading import load_classifier, load_explainer, load_self_explaining

    plugins = current_registry()
    name, parameters = explainer
    if checkpoint is not None and plugins.explainer(name).spec.scope == "by-design":
        refuse_classifier(name)
        return load_self_explaining(name, checkpoint, parameters=parameters, plugins=plugins, **ready)
    chosen = load_classifier(classifier[0], parameters=classifier[1], plugins=plugins, **ready)
    method = load_explainer(name, parameters=parameters, checkpoint=checkpoint, classifier=chosen, plugins=plugins)
    return chosen, method


def _explain_one(file: Path, run: Callable[..., Any], *, quiet: bool) -> dict[str, Any]:
    """Explain a file and say so; one that fails costs the others nothing."""
    try:
        with progress_bar(file.name, quiet=quiet) as progress:
            result = run(progress=progress)
    except Exception as error:
        if not quiet:
            click.echo(f"error: {_sentence(error)}", err=True)
        return {"file": str(file), "error": _sentence(error)}
    if not quiet:
        say(file, result)
        plain = result.folder.with_name(file.stem)
        if result.folder != plain and plain.exists():
            click.echo(f"  note: {plain} holds another recording of that name, so this one is in {result.folder}")
    return {**json.loads((result.folder / "explanation.json").read_text()), "folder": str(result.folder)}


def say(file: Path, result: Any) -> None:
    """Print a result for a person."""
    click.echo(click.style(str(file), bold=True))
    for note in result.notes:
        click.echo(f"  note: {note}")
    if result.verdict is None:
        return
    ranking = ", ".join(f"{name} {p:.2f}" for name, p in list(result.probabilities.items())[:3])
    click.echo(f"  the classifier says: {ranking}")
    click.echo(f"  {result.verdict}")
    click.echo(f"  listen: {result.heard}  {result.rest}")
    click.echo(f"  look:   {result.folder / 'explanation.png'}")
    for part in result.parts:
        click.echo(f"  {part.name} ({part.share:.0%} of the relevance): {part.sound}")
    for found in result.examples:
        similarity, contribution = found.example.similarity, found.example.contribution
        click.echo(f"  like {found.example.name} ({similarity:.3g}, adds {contribution:+.3g}): {found.sound}")


def _sentence(error: Exception) -> str:
    from earwitness.errors import EarwitnessError

    return str(error) if isinstance(error, EarwitnessError) else f"{type(error).__name__}: {error}"
