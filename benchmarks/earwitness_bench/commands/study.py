"""``earwitness study``: experiments that are no metric."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import classifier_options, classifier_parameters
from earwitness.cli.progress import progress_bar


@click.group()
def study() -> None:
    """Experiments that fit, damage or exchange something before they score, and end in a figure.

    Every piece of a study is kept as soon as it is there. Stop it at any moment and give the same command again:
    nothing is lost and nothing is computed twice.

    \b
    Examples:
      earwitness study cross-class --help
      earwitness study parts-objects --help
      earwitness study surrogate --help
    """


@study.command("cross-class")
@click.option("--dataset", required=True, metavar="NAME", help="Clips to flip; see `earwitness list datasets`.")
@click.option("--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True, help='Such as "folds=[5]".')
@click.option(
    "--fit-param",
    "fit_params",
    metavar="NAME=VALUE",
    multiple=True,
    required=True,
    help="The same data set with these parameters instead is what subspaces are fitted to.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Results folder.")
@classifier_options
@click.option("--explainer", default="drsa", show_default=True, metavar="NAME", help="Fitted class by class.")
@click.option("--param", "params", metavar="NAME=VALUE", multiple=True, help="A parameter of the explainer.")
@click.option("--clips-per-class", type=click.IntRange(1), default=50, show_default=True)
@click.option("--chunk-size", type=click.IntRange(1, 256), default=8, show_default=True, help="Clips at once.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def cross_class(
    dataset: str,
    dataset_params: tuple[str, ...],
    fit_params: tuple[str, ...],
    out: Path,
    classifier: str,
    classifier_params: tuple[str, ...],
    weights: str | None,
    explainer: str,
    params: tuple[str, ...],
    clips_per_class: int,
    chunk_size: int,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Do the subspaces of a class belong to it?

    Each clip is explained as its own class, and that relevance is taken apart by the subspaces of every class in turn.
    Patches of the clip are flipped in the order of the parts. Each number of the matrix is ΔAUPC: what the one whole
    map scores less what the parts score. A row whose largest number is on the diagonal belongs to a class whose own
    subspaces serve it best.

    DIR gets cross-class.json (with every clip's values), cross-class.png and cross-class.svg.

    \b
    Examples:
      earwitness study cross-class --classifier toy-cnn --dataset toy --dataset-param split=test
          --dataset-param clips=100 --fit-param split=train --fit-param clips=400 --out cross
      earwitness study cross-class --dataset esc10 --dataset-param "folds=[5]"
          --fit-param "folds=[1,2,3]" --param k=4 --out cross-esc10
    """
    from earwitness.loading import load_classifier, load_dataset
    from earwitness.parameters import parse_assignments
    from earwitness_bench.studies.cross_class import Design, run_cross_class

    plugins = current_registry()
    chosen = load_classifier(
        classifier, parameters=classifier_parameters(classifier_params, weights), device=device, plugins=plugins
    )
    own = parse_assignments(dataset_params)
    data = load_dataset(dataset, parameters=own, plugins=plugins)
    train = load_dataset(dataset, parameters={**own, **parse_assignments(fit_params)}, plugins=plugins)
    design = Design(explainer, parse_assignments(params), clips_per_class, seed, chunk_size)
    started = time.monotonic()
    with progress_bar("cross-class", quiet=as_json) as progress:
        document, ran = run_cross_class(
            design, out, classifier=chosen, train=train, dataset=data, registry=plugins, progress=progress
        )
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        facts = {"out": str(out), "seconds": seconds, "computed": ran.computed, "found": ran.found}
        click.echo(json.dumps({**facts, "failed": ran.failed, **document}, indent=1))
        return
    for name, scores in document["scores"].items():
        click.echo(f"{name}, by the subspaces of (columns)\n{_table(document, scores)}")
    for failure in ran.failed:
        click.echo(f"failed: {failure}", err=True)
    click.echo(f"{ran.computed} cells computed, {ran.found} found, in {seconds:g} s: {out}")


@study.command("parts-objects")
@click.option("--dataset", required=True, metavar="NAME", help="Clips with all objects of their class, sources known.")
@click.option("--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True)
@click.option(
    "--fit-param",
    "fit_params",
    metavar="NAME=VALUE",
    multiple=True,
    required=True,
    help="What subspaces are fitted to: the same data set with these parameters and no others.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Results folder.")
@classifier_options
@click.option("--explainer", default="drsa", show_default=True, metavar="NAME")
@click.option("--param", "params", metavar="NAME=VALUE", multiple=True, help="A parameter of the explainer.")
@click.option(
    "--kinds", default="drsa,dsa,random", show_default=True, help="Subspaces; the first is held against the others."
)
@click.option("--fits", type=click.IntRange(1), default=3, show_default=True, help="Of each kind, with seeds 0, 1, …")
@click.option("--chunk-size", type=click.IntRange(1, 256), default=8, show_default=True, help="Clips at once.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def parts_objects(
    dataset: str,
    dataset_params: tuple[str, ...],
    fit_params: tuple[str, ...],
    out: Path,
    classifier: str,
    classifier_params: tuple[str, ...],
    weights: str | None,
    explainer: str,
    params: tuple[str, ...],
    kinds: str,
    fits: int,
    chunk_size: int,
    device: str,
    as_json: bool,
) -> None:
    """Which part is which object, and is it so in every clip?

    Parts are matched to objects one to one, once for each fit, on every other clip, by how much richer they are in an
    object than the whole map; everything is measured on the clips in between.

    DIR gets parts-objects.json, parts-objects.png and parts-objects.svg.

    \b
    Example:
      earwitness study parts-objects --classifier toy-cnn --dataset toy --dataset-param split=test
          --dataset-param objects=4 --dataset-param clips=200 --fit-param split=train --fit-param clips=400
          --param layer=features.10 --out parts
    """
    from earwitness.loading import load_classifier, load_dataset
    from earwitness.parameters import parse_assignments
    from earwitness_bench.studies.parts_objects import Design, run_parts_objects

    plugins = current_registry()
    chosen = load_classifier(
        classifier, parameters=classifier_parameters(classifier_params, weights), device=device, plugins=plugins
    )
    data = load_dataset(dataset, parameters=parse_assignments(dataset_params), plugins=plugins)
    train = load_dataset(dataset, parameters=parse_assignments(fit_params), plugins=plugins)
    design = Design(explainer, parse_assignments(params), tuple(kinds.split(",")), fits, chunk_size)
    with progress_bar("parts-objects", quiet=as_json) as progress:
        document, ran = run_parts_objects(
            design, out, classifier=chosen, train=train, dataset=data, registry=plugins, progress=progress
        )
    if as_json:
        click.echo(json.dumps({"out": str(out), "computed": ran.computed, "found": ran.found, **document}, indent=1))
        return
    for kind, found in document["kinds"].items():
        share, low, high = found["matched_share"]
        line = (
            f"{kind:>8}: matched share {share:.3f} [{low:.3f}, {high:.3f}], objects found {found['found']['mean']:.2f}"
        )
        if found["first_less_this"]:
            less, low, high = found["first_less_this"]
            line += f"; {design.kinds[0]} has {less:+.3f} [{low:+.3f}, {high:+.3f}]"
        click.echo(line)
    click.echo(f"{ran.computed} cells computed, {ran.found} found: {out}")


@study.command("surrogate")
@click.option("--explainer", default="l2i", show_default=True, metavar="NAME", help="One that decides on its own.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Its folder, of `earwitness fit`.",
)
@click.option("--dataset", required=True, metavar="NAME", help="See `earwitness list datasets`.")
@click.option("--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True, help='Such as "folds=[5]".')
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Results folder.")
@classifier_options
@click.option("--chunk-size", type=click.IntRange(1, 256), default=8, show_default=True, help="Clips at once.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def surrogate(
    explainer: str,
    checkpoint: Path,
    dataset: str,
    dataset_params: tuple[str, ...],
    out: Path,
    classifier: str,
    classifier_params: tuple[str, ...],
    weights: str | None,
    chunk_size: int,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Does a method that decides on its own decide as the classifier does?

    Fidelity (top-1, 3 and 5; for a multilabel classifier AUPRC and the best F1, macro and micro) with intervals, and a
    figure that lays out the clips by the relevance of their parts, coloured by the classifier's decision.

    DIR gets surrogate.json, surrogate.png and surrogate.svg.

    \b
    Example:
      earwitness study surrogate --checkpoint l2i --dataset esc10 --dataset-param "folds=[5]" --out fidelity
    """
    from earwitness.loading import load_classifier, load_dataset
    from earwitness.parameters import parse_assignments
    from earwitness_bench.studies.surrogate import run_surrogate

    plugins = current_registry()
    chosen = load_classifier(
        classifier, parameters=classifier_parameters(classifier_params, weights), device=device, plugins=plugins
    )
    data = load_dataset(dataset, parameters=parse_assignments(dataset_params), plugins=plugins)
    with progress_bar("surrogate", quiet=as_json) as progress:
        document, ran = run_surrogate(
            out,
            explainer=explainer,
            checkpoint=checkpoint,
            classifier=chosen,
            dataset=data,
            registry=plugins,
            progress=progress,
            seed=seed,
            chunk_size=chunk_size,
        )
    if as_json:
        facts = {"out": str(out), "computed": ran.computed, "found": ran.found, "failed": ran.failed}
        click.echo(json.dumps({**facts, **document}, indent=1))
        return
    for name, found in document["fidelity"].items():
        value, (low, high) = found["value"], found["interval"]
        click.echo(f"{name:>14} " + ("–" if value is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"))
    for failure in ran.failed:
        click.echo(f"failed: {failure}", err=True)
    click.echo(f"{document['clips']} clips of {document['recordings']} recordings: {out}")


def _table(document: dict[str, Any], scores: dict[str, Any]) -> str:
    """The matrix as text, with what a class's own subspaces gain over the others'."""
    width = max(8, *(len(name) for name in (*document["rows"], *document["columns"])))
    head = " ".join(f"{name:>{width}}" for name in ("", *document["columns"]))
    lines = [f"{head}   own - others"]
    for name, values, advantage in zip(document["rows"], scores["matrix"], scores["advantage"], strict=True):
        shown = " ".join(f"{'–' if value is None else f'{value:.4f}':>{width}}" for value in values)
        low, high = (None, None) if advantage is None else advantage["interval"]
        gain = "–" if advantage is None or advantage["mean"] is None else f"{advantage['mean']:.4f}"
        lines.append(f"{name:>{width}} {shown}   {gain}" + ("" if low is None else f" [{low:.4f}, {high:.4f}]"))
    return "\n".join(lines) + "\n"
