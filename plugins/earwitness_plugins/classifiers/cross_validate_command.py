"""``earwitness cross-validate``: how good networks are on folds that they were not trained on, beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import device_option, json_option
from earwitness.cli.progress import progress_bar
from earwitness.errors import ConfigurationError

if TYPE_CHECKING:
    from earwitness.protocols import Progress
    from earwitness_plugins.classifiers.cross_validation import Result


@click.command("cross-validate")
@click.argument("name", metavar="NAME")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="For all that are compared.")
@click.option("--label", metavar="TEXT", help="Title of the network, in the table and as a folder. Default: NAME.")
@click.option(
    "--param",
    "params",
    metavar="NAME=VALUE",
    multiple=True,
    help="As in `earwitness fit`, or of an architecture's recipe.",
)
@click.option("--dataset", default="esc10", show_default=True, metavar="NAME", help="One that has folds.")
@click.option("--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True, help="But for `folds`.")
@click.option(
    "--folds", default="1,2,3,4,5", show_default=True, metavar="K,K,…", help="That take turns, in this order."
)
@click.option("--only", type=int, multiple=True, metavar="K", help="Test on this fold now. Repeatable. Default: all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another one adds to the results.")
@click.option("--threads", type=click.IntRange(1), help="Part of the result's identity. Default: all cores.")
@device_option
@json_option
def cross_validate(
    name: str,
    out: Path,
    label: str | None,
    params: tuple[str, ...],
    dataset: str,
    dataset_params: tuple[str, ...],
    folds: str,
    only: tuple[int, ...],
    seed: int,
    threads: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Train the network NAME once for each fold, test it on that fold, and compare it with all others in DIR.

    NAME is an architecture of `train-classifier` (esc10-cnn, sb-cnn, att-crnn, …) or a classifier that explains itself
    (scope by-design in `earwitness list explainers`, such as apnet). Of five folds, each tests once, the one before it
    selects the epoch, and three are trained on. So fold 5 is tested by networks of folds 1, 2 and 3, chosen on 4.

    Every fold is kept when it is done, with its weights, and is never trained twice; what was killed goes on from its
    last epoch when the same command is given again. At the end, cross-validation.json, .csv and .png in DIR are written
    anew, of all networks whose results are there.

    \b
    Examples:
      earwitness cross-validate sb-cnn --out cv
      earwitness cross-validate apnet --param configuration=esc10 --out cv
      earwitness cross-validate esc10-cnn --label "CNN, shifted" --param "augmentation={'shift': True}" --out cv
      earwitness cross-validate apnet --label "apnet, published" --out cv
      earwitness cross-validate sb-cnn --out cv --only 5 --only 4     two folds now, the others another time
      earwitness cross-validate sb-cnn --out cv --seed 1              a second training for each fold
      earwitness explain dog.wav --classifier sb-cnn --weights cv/sb-cnn/seed-0-fold-5/weights.safetensors
    """
    import torch

    from earwitness.parameters import parse_assignments
    from earwitness_plugins.classifiers.cross_validation import Series
    from earwitness_plugins.classifiers.folds import FoldedData, rotation
    from earwitness_plugins.classifiers.learners import learner

    if threads:
        torch.set_num_threads(threads)
    numbers = _numbers(folds)
    _check_only(only, numbers)
    plugins = current_registry()
    recipe = learner(name, plugins=plugins, parameters=parse_assignments(params), device=device)
    data = FoldedData(dataset, parse_assignments(dataset_params), numbers, plugins)
    series = Series(out, name if label is None else label, recipe, data)
    for fold in rotation(numbers):
        if fold.test in only or not only:
            known = series.result(fold, seed=seed) is not None
            with progress_bar(f"test fold {fold.test}", quiet=as_json) as progress:
                done = series.validate(fold, seed=seed, progress=_prefixed(f"test fold {fold.test}", progress))
            if not as_json:
                click.echo(_said(done, known))
    _compare(out, dataset, as_json)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ConfigurationError(f"--folds are numbers with commas between, such as 1,2,3,4,5; got {text!r}.") from None


def _check_only(only: tuple[int, ...], folds: tuple[int, ...]) -> None:
    unknown = [fold for fold in only if fold not in folds]
    if unknown:
        raise ConfigurationError(f"--only {unknown[0]} is none of the folds {', '.join(map(str, folds))} (--folds).")


def _prefixed(what: str, progress: Progress) -> Progress:
    return lambda done, total, text: progress(done, total, f"{what}: {text}")


def _said(done: Result, known: bool) -> str:
    accuracy, clips = done.learnt.accuracy, done.clips
    how = "kept before" if known else f"{done.learnt.seconds:g} s"
    return (
        f"fold {done.fold.test}: {accuracy['test']:.1%} of {clips['test']} clips "
        f"(validation {accuracy['validation']:.1%} of {clips['validation']}; {how})"
    )


def _compare(out: Path, dataset: str, as_json: bool) -> None:
    """Write the table of all that is in the folder, and show it."""
    from earwitness.artifacts import write_atomically, write_json
    from earwitness_plugins.classifiers.cross_validation import read_results
    from earwitness_plugins.classifiers.cross_validation_figure import draw_cross_validation
    from earwitness_plugins.classifiers.cross_validation_table import as_csv, as_document, as_text, make_table

    table = make_table(read_results(out))
    document: dict[str, Any] = {"dataset": dataset, **as_document(table)}
    path = out / "cross-validation.json"
    write_json(path, document)
    write_atomically(path.with_suffix(".csv"), as_csv(table).encode())
    draw_cross_validation(path.with_suffix(".png"), table, title=f"Cross-validation on {dataset}")
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        click.echo(f"{as_text(table)}\ntable and figure: {path}, .csv and .png")
