"""``earwitness study parts-objects``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from earwitness_bench.commands.study.of_an_explainer import Given, study_of_an_explainer
from earwitness_bench.commands.study.saying import Document

if TYPE_CHECKING:
    from earwitness.protocols import Progress
    from earwitness_bench.studies.cells import Ran


def _kinds(document: Document) -> str:
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


@study_of_an_explainer("parts-objects", _kinds, explainer="drsa", fits=True)
@click.option(
    "--kinds", default="drsa,dsa,random", show_default=True, help="Subspaces; the first is held against the others."
)
@click.option(
    "--fits", type=click.IntRange(1), default=3, show_default=True, help="Of each kind, with seeds from --seed on."
)
def parts_objects(given: Given, *, progress: Progress, kinds: str, fits: int) -> tuple[Document, Ran]:
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

    assert given.train is not None
    seeds = tuple(range(given.seed, given.seed + fits))
    design = Design(given.explainer, given.parameters, tuple(kinds.split(",")), seeds, given.chunk_size)
    return run_parts_objects(design, given.out, material=given.material, train=given.train, progress=progress)
