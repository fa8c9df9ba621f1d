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
