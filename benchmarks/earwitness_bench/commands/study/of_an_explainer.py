"""Studies of one explainer: the options that all of them share, and what these name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import classifier_options, classifier_parameters, device_option, json_option, seed_option
from earwitness.cli.progress import progress_bar
from earwitness_bench.commands.study.saying import Document, Show, say

if TYPE_CHECKING:
    from earwitness.clips import Dataset
    from earwitness_bench.studies.cells import Ran
    from earwitness_bench.studies.material import Material


@dataclass(frozen=True)
class Given:
    """What every study of an explainer is told.

    Attributes
    ----------
    material : Material
    train : Dataset or None
        None for a study that fits nothing.
    explainer : str
    parameters : dict
        Of the explainer.
    out : Path
    chunk_size, seed : int
    """

    material: Material
    train: Dataset | None
    explainer: str
    parameters: dict[str, Any]
    out: Path
    chunk_size: int
    seed: int


def study_of_an_explainer(
    name: str, show: Show, *, explainer: str, fits: bool
) -> Callable[[Callable[..., tuple[Document, Ran]]], click.Command]:
    """A study as a command: the options that all of them share, then its own, and what is said in the end.

    The decorated function takes a :class:`Given`, ``progress`` and its own options, and returns the study's document
    and what became of its cells; ``show`` makes text of the document.
    """
    shared = [
        click.option("--dataset", required=True, metavar="NAME", help="See `earwitness list datasets`."),
        click.option(
            "--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True, help='Such as "folds=[5]".'
        ),
        classifier_options,
        click.option(
            "--explainer",
            default=explainer,
            show_default=True,
            metavar="NAME",
            help="See `earwitness list explainers`.",
        ),
        click.option("--param", "params", metavar="NAME=VALUE", multiple=True, help="A parameter of the explainer."),
        click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Results folder."),
        click.option("--chunk-size", type=click.IntRange(1, 256), default=8, show_default=True, help="Clips at once."),
        seed_option,
        device_option,
        json_option,
    ]
    if fits:
        said = "What is fitted to: the same data set with these parameters, and no others."
        shared.insert(
            2, click.option("--fit-param", "fit_params", metavar="NAME=VALUE", multiple=True, required=True, help=said)
        )

    def decorate(run: Callable[..., tuple[Document, Ran]]) -> click.Command:
        @functools.wraps(run)
        def command(out: Path, as_json: bool, **options: Any) -> None:
            given, own = _given(out, options)
            with progress_bar(name, quiet=as_json) as progress:
                document, ran = run(given, progress=progress, **own)
            say(document, ran, show, out, as_json)

        for option in reversed(shared):
            command = option(command)
        return click.command(name)(command)

    return decorate


def _given(out: Path, options: dict[str, Any]) -> tuple[Given, dict[str, Any]]:
    """Load what is named; also what is left of the options: a study's own."""
    from earwitness.loading import load_classifier, load_dataset
    from earwitness.parameters import parse_assignments
    from earwitness_bench.studies.material import Material

    registry = current_registry()
    own = dict(options)
    classifier = load_classifier(
        own.pop("classifier"),
        parameters=classifier_parameters(own.pop("classifier_params"), own.pop("weights")),
        device=own.pop("device"),
        plugins=registry,
    )
    name = own.pop("dataset")
    dataset = load_dataset(name, parameters=parse_assignments(own.pop("dataset_params")), plugins=registry)
    fit_params = own.pop("fit_params", None)
    train = (
        None if fit_params is None else load_dataset(name, parameters=parse_assignments(fit_params), plugins=registry)
    )
    parameters = parse_assignments(own.pop("params"))
    explainer, chunk_size, seed = own.pop("explainer"), own.pop("chunk_size"), own.pop("seed")
    return Given(Material(classifier, dataset, registry), train, explainer, parameters, out, chunk_size, seed), own
