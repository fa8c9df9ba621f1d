"""``earwitness study``: experiments that are no metric."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
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
      earwitness study randomisation --help
      earwitness study roar --help
    """


@dataclass(frozen=True)
class _Given:
    """What every study is told.

    Attributes
    ----------
    classifier : AudioClassifier
    dataset, train : Dataset
        ``train`` is None for a study that fits nothing.
    explainer : str
    parameters : dict
        Of the explainer.
    registry : Registry
    out : Path
    chunk_size, seed : int
    """

    classifier: Any
    dataset: Any
    train: Any
    explainer: str
    parameters: dict[str, Any]
    registry: Any
    out: Path
    chunk_size: int
    seed: int


Run = Callable[..., tuple[dict[str, Any], Any]]
Show = Callable[[dict[str, Any]], str]


def _command(name: str, show: Show, *, explainer: str, fits: bool) -> Callable[[Run], click.Command]:
    """A study as a command: the options that all of them share, then its own, and what is said in the end.

    The decorated function takes a ``_Given``, ``progress`` and its own options, and returns the study's document and
    what became of its cells; ``show`` makes text of the document.
    """
    shared = [
        click.option("--dataset", required=True, metavar="NAME", help="See `earwitness list datasets`."),
        click.option(
            "--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True, help='Such as "folds=[5]".'
        ),
        classifier_options,
        click.option("--explainer", default=explainer, show_default=True, metavar="NAME"),
        click.option("--param", "params", metavar="NAME=VALUE", multiple=True, help="A parameter of the explainer."),
        click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Results folder."),
        click.option("--chunk-size", type=click.IntRange(1, 256), default=8, show_default=True, help="Clips at once."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--device", default="cpu", show_default=True),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text."),
    ]
    if fits:
        said = "What is fitted to: the same data set with these parameters, and no others."
        shared.insert(
            2, click.option("--fit-param", "fit_params", metavar="NAME=VALUE", multiple=True, required=True, help=said)
        )

    def decorate(run: Run) -> click.Command:
        @functools.wraps(run)
        def command(out: Path, as_json: bool, **options: Any) -> None:
            given, own = _given(out, options)
            with progress_bar(name, quiet=as_json) as progress:
                document, ran = run(given, progress=progress, **own)
            _say(document, ran, show, out, as_json)

        for option in reversed(shared):
            command = option(command)
        return study.command(name)(command)

    return decorate


def _say(document: dict[str, Any], ran: Any, show: Show, out: Path, as_json: bool) -> None:
    """What a study says in the end."""
    if as_json:
        facts = {"out": str(out), "computed": ran.computed, "found": ran.found, "failed": ran.failed}
        click.echo(json.dumps({**facts, **document}, indent=1))
        return
    click.echo(show(document))
    for failure in ran.failed:
        click.echo(f"failed: {failure}", err=True)
    click.echo(f"{ran.computed} cells computed, {ran.found} found: {out}")


def _given(out: Path, options: dict[str, Any]) -> tuple[_Given, dict[str, Any]]:
    """Load what is named; also what is left of the options: a study's own."""
    from earwitness.loading import load_classifier, load_dataset
    from earwitness.parameters import parse_assignments

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
    return _Given(classifier, dataset, train, explainer, parameters, registry, out, chunk_size, seed), own


def _matrix(document: dict[str, Any]) -> str:
    """The matrices as text, with what a class's own subspaces gain over the others'."""
    width = max(8, *(len(name) for name in (*document["rows"], *document["columns"])))
    head = " ".join(f"{name:>{width}}" for name in ("", *document["columns"]))
    lines = []
    for name, scores in document["scores"].items():
        lines += [f"{name}, by the subspaces of (columns)", f"{head}   own - others"]
        for row, values, advantage in zip(document["rows"], scores["matrix"], scores["advantage"], strict=True):
            shown = " ".join(f"{'–' if value is None else f'{value:.4f}':>{width}}" for value in values)
            low, high = (None, None) if advantage is None else advantage["interval"]
            gain = "–" if advantage is None or advantage["mean"] is None else f"{advantage['mean']:.4f}"
            lines.append(f"{row:>{width}} {shown}   {gain}" + ("" if low is None else f" [{low:.4f}, {high:.4f}]"))
        lines.append("")
    return "\n".join(lines)


@_command("cross-class", _matrix, explainer="drsa", fits=True)
@click.option("--clips-per-class", type=click.IntRange(1), default=50, show_default=True)
def cross_class(given: _Given, *, progress: Any, clips_per_class: int) -> tuple[dict[str, Any], Any]:
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
    from earwitness_bench.studies.cross_class import Design, run_cross_class

    design = Design(given.explainer, given.parameters, clips_per_class, given.seed, given.chunk_size)
    return run_cross_class(
        design,
        given.out,
        classifier=given.classifier,
        train=given.train,
        dataset=given.dataset,
        registry=given.registry,
        progress=progress,
    )


def _kinds(document: dict[str, Any]) -> str:
    """A line for each kind of subspaces."""
    first = next(iter(document["kinds"]))
    lines = []
    for kind, found in document["kinds"].items():
        share, low, high = found["matched_share"]
        line = (
            f"{kind:>8}: matched share {share:.3f} [{low:.3f}, {high:.3f}], objects found {found['found']['mean']:.2f}"
        )
        if found["first_less_this"]:
            less, low, high = found["first_less_this"]
            line += f"; {first} has {less:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(line)
    return "\n".join(lines)


@_command("parts-objects", _kinds, explainer="drsa", fits=True)
@click.option(
    "--kinds", default="drsa,dsa,random", show_default=True, help="Subspaces; the first is held against the others."
)
@click.option(
    "--fits", type=click.IntRange(1), default=3, show_default=True, help="Of each kind, with seeds from --seed on."
)
def parts_objects(given: _Given, *, progress: Any, kinds: str, fits: int) -> tuple[dict[str, Any], Any]:
    """Which part is which object, and is it so in every clip?

    Parts are matched to objects one to one, once for each fit, on every other clip, by how much richer they are in an
    object than the whole map; everything is measured on the clips in between. Every clip must hold all objects of its
    class, with sources known.

    DIR gets parts-objects.json, parts-objects.png and parts-objects.svg.

    \b
    Example:
      earwitness study parts-objects --classifier toy-cnn --dataset toy --dataset-param split=test
          --dataset-param objects=4 --dataset-param clips=200 --fit-param split=train --fit-param clips=400
          --param layer=features.10 --out parts
    """
    from earwitness_bench.studies.parts_objects import Design, run_parts_objects

    seeds = tuple(range(given.seed, given.seed + fits))
    design = Design(given.explainer, given.parameters, tuple(kinds.split(",")), seeds, given.chunk_size)
    return run_parts_objects(
        design,
        given.out,
        classifier=given.classifier,
        train=given.train,
        dataset=given.dataset,
        registry=given.registry,
        progress=progress,
    )


def _fidelity(document: dict[str, Any]) -> str:
    """A line for each number, with its interval."""
    lines = []
    for name, found in document["fidelity"].items():
        value, (low, high) = found["value"], found["interval"]
        interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        lines.append(f"{name:>14} " + ("–" if value is None else f"{value:.3f}{interval}"))
    return "\n".join([*lines, f"{document['clips']} clips of {document['recordings']} recordings"])


@_command("surrogate", _fidelity, explainer="l2i", fits=False)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The explainer's fit."
)
def surrogate(given: _Given, *, progress: Any, checkpoint: Path) -> tuple[dict[str, Any], Any]:
    """Does a method that decides on its own decide as the classifier does?

    Fidelity (top-1, 3 and 5; for a multilabel classifier AUPRC and the best F1, macro and micro) with intervals, and a
    figure that lays out the clips by the relevance of their parts, coloured by the classifier's decision.

    DIR gets surrogate.json, surrogate.png and surrogate.svg.

    \b
    Example:
      earwitness study surrogate --checkpoint l2i --dataset esc10 --dataset-param "folds=[5]" --out fidelity
    """
    from earwitness_bench.studies.surrogate import run_surrogate

    return run_surrogate(
        given.out,
        explainer=given.explainer,
        checkpoint=checkpoint,
        classifier=given.classifier,
        dataset=given.dataset,
        registry=given.registry,
        progress=progress,
        seed=given.seed,
        chunk_size=given.chunk_size,
    )


def _of_a_suite(name: str, show: Show) -> Callable[[Run], click.Command]:
    """A study of all methods of a suite as a command.

    The decorated function takes the suite (one arena, the wanted explainers) and ``out``, ``registry``, ``device`` and
    ``progress``, then its own options.
    """
    shared = [
        click.argument("suite", metavar="SUITE"),
        click.option("--arena", metavar="TITLE", help="Which, where the suite has several."),
        click.option("--only", multiple=True, metavar="TITLE", help="Only this explainer; may be given several times."),
        click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Results folder."),
        click.option("--device", default="cpu", show_default=True),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text."),
    ]

    def decorate(run: Run) -> click.Command:
        @functools.wraps(run)
        def command(
            suite: str, arena: str | None, only: tuple[str, ...], out: Path, device: str, as_json: bool, **own: Any
        ) -> None:
            from earwitness_bench.studies.methods import chosen
            from earwitness_bench.suite import load_suite

            wanted = chosen(load_suite(suite), arena=arena, only=only)
            with progress_bar(name, quiet=as_json) as progress:
                document, ran = run(
                    wanted, out=out, registry=current_registry(), device=device, progress=progress, **own
                )
            _say(document, ran, show, out, as_json)

        for option in reversed(shared):
            command = option(command)
        return study.command(name)(command)

    return decorate


def _similarities(document: dict[str, Any]) -> str:
    """A line for each method: from the first stage of the cascade to the last."""
    stages = [" ".join(layers) for layers in document["layers"]]
    lines = ["SSIM to the original map, when these layers are random too:"]
    lines += [f"{number:>3} {text}" for number, text in enumerate(stages, 1)]
    width = max(len(title) for title in document["methods"])
    head = " ".join(f"{number:>5}" for number in range(1, len(stages) + 1))
    lines.append(f"{'':>{width}} {head}   area  other clip")
    for title, found in document["methods"].items():
        shown = " ".join(f"{'–' if value is None else f'{value:.2f}':>5}" for value in found["mean"][1:])
        area, other = (
            "–" if value is None else f"{value:.3f}" for value in (found["area"]["mean"], found["other_clip"])
        )
        said = "  ignores the weights" if found["ignores_the_weights"] else ""
        said += f"  {found['constant']} constant maps" if found["constant"] else ""
        lines.append(f"{title:>{width}} {shown}  {area}  {other}{said}")
    return "\n".join(lines)


@_of_a_suite("randomisation", _similarities)
@click.option("--max-stages", type=click.IntRange(1), default=8, show_default=True, help="Of the cascade.")
def randomisation(suite: Any, *, max_stages: int, **given: Any) -> tuple[dict[str, Any], Any]:
    """Do explanations change when the classifier forgets what it learnt?

    The layers of the classifier of SUITE are randomised from the output down, one after the other, and all of its
    explainers explain again at every stage. A method whose line stays at 1 explains something else than the classifier.
    What `earwitness bench` with the metric cascading-randomisation has left in DIR is found.

    DIR gets randomisation.json, .csv, .png and .svg.

    \b
    Examples:
      earwitness study randomisation sanity --out sanity
      earwitness study randomisation sanity_esc10 --only gradcam --out sanity
    """
    from earwitness_bench.studies.randomisation import run_randomisation

    return run_randomisation(suite, max_stages=max_stages, **given)


def _accuracies(document: dict[str, Any]) -> str:
    """A line for each method, a column for each percentage; and what random removal leaves more."""
    width = max(len(title) for title in document["methods"])
    start = document["nothing_removed"]
    lines = [f"accuracy with nothing removed: {start['mean']:.3f}, {document['test_clips']} clips"]
    lines.append(f"{'removed':>{width}} " + " ".join(f"{percent:>20g} %" for percent in document["removed"]))
    for title, by_percent in document["methods"].items():
        shown = []
        for found in by_percent.values():
            less = found and found["random_less_this"]
            more = f" ({less['mean']:+.3f} random)" if less else ""
            accuracy = "–" if found is None else f"{found['mean']:.3f}"
            shown.append(accuracy + more)
        lines.append(f"{title:>{width}} " + " ".join(f"{text:>22}" for text in shown))
    return "\n".join(lines)


@_of_a_suite("roar", _accuracies)
@click.option(
    "--train-param",
    "train_params",
    metavar="NAME=VALUE",
    multiple=True,
    required=True,
    help="What is trained on: the arena's data set with these parameters, and no others.",
)
@click.option("--removed", default="30,60,90", show_default=True, help="Percentages of the cells.")
@click.option(
    "--trainings", type=click.IntRange(1), default=2, show_default=True, help="Of each kind: the seeds 0, 1 …"
)
@click.option(
    "--fill",
    type=click.Choice(["mean", "stranger"]),
    default="mean",
    show_default=True,
    help="What a removed cell becomes: its band's mean, or any value that its band has in any clip.",
)
def roar(
    suite: Any, *, train_params: tuple[str, ...], removed: str, trainings: int, fill: Any, **given: Any
) -> tuple[dict[str, Any], Any]:
    """Remove and retrain: does a classifier that never had the cells that a method points at still learn?

    The most relevant cells of all clips are replaced by their band's mean (see --fill), and the classifier of SUITE is
    trained from scratch on what is left. Beside each method stands what the removal of as many random cells leaves
    more. Every training is kept as soon as it is done.

    DIR gets roar.json, .csv, .png and .svg.

    \b
    Examples:
      earwitness study roar sanity --train-param split=train --train-param clips=400 --out sanity
      earwitness study roar sanity_esc10 --train-param "folds=[1,2,3]" --only gradcam --out sanity
    """
    from earwitness.errors import ConfigurationError
    from earwitness.parameters import parse_assignments
    from earwitness_bench.studies.roar import Design, run_roar

    try:
        percents = tuple(float(part) for part in removed.split(","))
    except ValueError:
        raise ConfigurationError(f"--removed takes percentages such as 30,60,90; got {removed!r}.") from None
    design = Design(percents, tuple(range(trainings)), fill)
    return run_roar(suite, design, train=parse_assignments(train_params), **given)
