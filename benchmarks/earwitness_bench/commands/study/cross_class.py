"""``earwitness study cross-class``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from earwitness_bench.commands.study.of_an_explainer import Given, study_of_an_explainer
from earwitness_bench.commands.study.saying import Document, ends, number

if TYPE_CHECKING:
    from earwitness.protocols import Progress
    from earwitness_bench.studies.cells import Ran


def _matrix(document: Document) -> str:
    """The matrices as text, with what a class's own subspaces gain over the others'."""
    width = max(8, *(len(name) for name in (*document["rows"], *document["columns"])))
    head = " ".join(f"{name:>{width}}" for name in ("", *document["columns"]))
    lines = []
    for name, scores in document["scores"].items():
        lines += [f"{name}, by the subspaces of (columns)", f"{head}   own - others"]
        for row, values, advantage in zip(document["rows"], scores["matrix"], scores["advantage"], strict=True):
            shown = " ".join(f"{number(value, 4):>{width}}" for value in values)
            gain = "–" if advantage is None else number(advantage["mean"], 4) + ends(advantage["interval"], 4)
            lines.append(f"{row:>{width}} {shown}   {gain}")
        lines.append("")
    return "\n".join(lines)


@study_of_an_explainer("cross-class", _matrix, explainer="drsa", fits=True)
@click.option("--clips-per-class", type=click.IntRange(1), default=50, show_default=True, help="The first ones.")
def cross_class(given: Given, *, progress: Progress, clips_per_class: int) -> tuple[Document, Ran]:
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

    assert given.train is not None
    design = Design(given.explainer, given.parameters, clips_per_class, given.seed, given.chunk_size)
    return run_cross_class(design, given.out, material=given.material, train=given.train, progress=progress)
