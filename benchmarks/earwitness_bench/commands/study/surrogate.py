"""``earwitness study surrogate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from earwitness_bench.commands.study.of_an_explainer import Given, study_of_an_explainer
from earwitness_bench.commands.study.saying import Document, ends, number

if TYPE_CHECKING:
    from earwitness.protocols import Progress
    from earwitness_bench.studies.cells import Ran


def _fidelity(document: Document) -> str:
    """A line for each number, with its interval."""
    lines = [
        f"{name:>14} {number(found['value'], 3)}" + ("" if found["value"] is None else ends(found["interval"], 3))
        for name, found in document["fidelity"].items()
    ]
    return "\n".join([*lines, f"{document['clips']} clips of {document['recordings']} recordings"])


@study_of_an_explainer("surrogate", _fidelity, explainer="l2i", fits=False)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The explainer's fit."
)
def surrogate(given: Given, *, progress: Progress, checkpoint: Path) -> tuple[Document, Ran]:
    """Does a method that decides on its own decide as the classifier does?

    Fidelity (top-1, 3 and 5; for a multilabel classifier AUPRC and the best F1, macro and micro) with intervals, and a
    figure that lays out the clips by the relevance of their parts, coloured by the classifier's decision.

    DIR gets surrogate.json, surrogate.png and surrogate.svg.

    \b
    Example:
      earwitness study surrogate --checkpoint l2i --dataset esc10 --dataset-param "folds=[5]" --out fidelity
    """
    from earwitness_bench.studies.surrogate import Design, run_surrogate

    design = Design(given.explainer, checkpoint, given.seed, given.chunk_size)
    return run_surrogate(design, given.out, material=given.material, progress=progress)
