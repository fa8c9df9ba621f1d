"""``earwitness study roar``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from earwitness_bench.commands.study.of_a_suite import study_of_a_suite
from earwitness_bench.commands.study.saying import Document, number

if TYPE_CHECKING:
    from earwitness_bench.studies.cells import Ran
    from earwitness_bench.studies.methods import Workbench
    from earwitness_bench.studies.retraining import Fill
    from earwitness_bench.suite import Suite


def _accuracies(document: Document) -> str:
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
            shown.append(number(found and found["mean"], 3) + more)
        lines.append(f"{title:>{width}} " + " ".join(f"{text:>22}" for text in shown))
    return "\n".join(lines)


@study_of_a_suite("roar", _accuracies)
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
    suite: Suite, bench: Workbench, *, train_params: tuple[str, ...], removed: str, trainings: int, fill: Fill
) -> tuple[Document, Ran]:
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
    return run_roar(suite, design, bench, train=parse_assignments(train_params))
