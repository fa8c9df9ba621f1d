"""``earwitness fit``: fit an explainer to a classifier."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

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


@click.command()
@click.argument("explainer")
@click.option("--dataset", required=True, metavar="NAME", help="Training data; see `earwitness list datasets`.")
@click.option("--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True, help='Such as "folds=[1,2,3]".')
@click.option(
    "--validation-param",
    "validation_params",
    metavar="NAME=VALUE",
    multiple=True,
    help="The same data set with these parameters instead is the validation data.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the result.")
@classifier_options
@click.option("--param", "params", metavar="NAME=VALUE", multiple=True, help="See `earwitness list explainers NAME`.")
@seed_option
@device_option
@json_option
def fit(
    explainer: str,
    dataset: str,
    dataset_params: tuple[str, ...],
    validation_params: tuple[str, ...],
    out: Path,
    classifier: str,
    classifier_params: tuple[str, ...],
    weights: str | None,
    params: tuple[str, ...],
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Fit EXPLAINER to a classifier and keep it in a folder.

    A fit that was killed goes on from its last checkpoint when the same command is given again. An explainer that is a
    classifier of its own (scope by-design in `earwitness list`) is trained on the data, and takes no --classifier.

    \b
    Example:
      earwitness fit class-mean --dataset esc10 --dataset-param "folds=[1,2,3]" --out class-mean
      earwitness explain dog.wav --explainer class-mean --checkpoint class-mean
    """
    from earwitness.fitting import fit as fit_explainer
    from earwitness.fitting import fit_facts
    from earwitness.fitting import train as train_explainer
    from earwitness.loading import load_classifier, load_dataset
    from earwitness.parameters import parse_assignments

    plugins = current_registry()
    chosen = None
    if plugins.explainer(explainer).spec.scope == "by-design":
        refuse_classifier(explainer)
    else:
        chosen = load_classifier(
            classifier, parameters=classifier_parameters(classifier_params, weights), device=device, plugins=plugins
        )
    own = parse_assignments(dataset_params)
    train = load_dataset(dataset, parameters=own, plugins=plugins)
    validation = None
    if validation_params:
        changed = {**own, **parse_assignments(validation_params)}
        validation = load_dataset(dataset, parameters=changed, plugins=plugins)
    started = time.monotonic()
    with progress_bar(f"fitting {explainer}", quiet=as_json) as progress:
        options: dict[str, Any] = {
            "validation": validation,
            "parameters": parse_assignments(params),
            "seed": seed,
            "progress": progress,
        }
        if chosen is None:
            train_explainer(plugins, explainer, train, out, device=device, **options)
        else:
            fit_explainer(plugins, explainer, chosen, train, out, **options)
    seconds = round(time.monotonic() - started, 2)
    notes = fit_facts(out)["notes"]
    if as_json:
        document = {"explainer": explainer, "folder": str(out), "clips": len(train), "seconds": seconds, "notes": notes}
        click.echo(json.dumps(document))
    else:
        done = "trained" if chosen is None else f"fitted to {chosen.name}"
        click.echo(f"{explainer} is {done} on {len(train)} clips ({seconds:g} s): {out}")
        for note in notes:
            click.echo(f"  note: {note}")
        words = [] if chosen is None else ["--classifier", classifier, *(["--weights", weights] if weights else [])]
        words += [word for param in classifier_params for word in ("--classifier-param", param)]
        words += ["--explainer", explainer, "--checkpoint", str(out)]
        click.echo(f"use it:  earwitness explain FILE {shlex.join(words)}")
