"""``earwitness evaluate-classifier``: how often a classifier is right on a data set."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import classifier_parameters, device_option, json_option
from earwitness.cli.progress import progress_bar


@click.command("evaluate-classifier")
@click.argument("classifier", metavar="NAME")
@click.option("--dataset", required=True, metavar="NAME", help="See `earwitness list datasets`.")
@click.option("--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True, help='Such as "folds=[5]".')
@click.option("--param", "params", metavar="NAME=VALUE", multiple=True, help="A parameter of the classifier.")
@click.option("--weights", metavar="FILE", help="Weights for it; the folder of a trained APNet for apnet.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Clips in one pass.")
@device_option
@json_option
def evaluate_classifier(
    classifier: str,
    dataset: str,
    dataset_params: tuple[str, ...],
    params: tuple[str, ...],
    weights: str | None,
    batch_size: int,
    device: str,
    as_json: bool,
) -> None:
    """Measure the accuracy of the classifier NAME (from `earwitness list classifiers`, or package.module:function).

    A clip counts as right if the most probable of all classes is one of its own. Look only at data that the classifier
    was not trained on; for the packaged one that is fold 5.

    \b
    Examples:
      earwitness evaluate-classifier esc10-cnn --dataset esc10 --dataset-param "folds=[5]"
      earwitness evaluate-classifier sb-cnn --weights sb.safetensors --dataset esc10 --dataset-param "folds=[5]"
      earwitness evaluate-classifier efficientat-mn04 --param regroup=esc10 --dataset esc10
    """
    from earwitness.loading import load_classifier, load_dataset
    from earwitness.parameters import parse_assignments
    from earwitness_plugins.classifiers.evaluation import evaluate

    plugins = current_registry()
    chosen = load_classifier(
        classifier, parameters=classifier_parameters(params, weights), device=device, plugins=plugins
    )
    data = load_dataset(dataset, parameters=parse_assignments(dataset_params), plugins=plugins)
    started = time.monotonic()
    with progress_bar(f"evaluating {chosen.name}", quiet=as_json) as progress:
        found = evaluate(chosen, data, batch_size=batch_size, progress=progress)
    document: dict[str, Any] = {
        "classifier": chosen.name,
        "checksum": chosen.checksum,
        "dataset": dataset,
        "clips": found.n_clips,
        "accuracy": found.accuracy,
        "accuracy_by_class": found.accuracy_by_class,
        "confusion": {"labels": list(found.labels), "counts": found.confusion.tolist()},
        "seconds": round(time.monotonic() - started, 2),
    }
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return
    for label, share in found.accuracy_by_class.items():
        click.echo(f"{share:7.1%}  {label}")
    click.echo(f"{found.accuracy:7.1%}  of {found.n_clips} clips ({document['seconds']:g} s)")
