"""``earwitness study randomisation``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from earwitness_bench.commands.study.of_a_suite import study_of_a_suite
from earwitness_bench.commands.study.saying import Document, number

if TYPE_CHECKING:
    from earwitness_bench.studies.cells import Ran
    from earwitness_bench.studies.methods import Workbench
    from earwitness_bench.suite import Suite


DEAF = 1e-4
"""Share of the trained network's differences between clips, below which a random one is said to hear none."""


def _similarities(document: Document) -> str:
    """A line for each method: from the first stage of the cascade to the last."""
    stages = [" ".join(layers) for layers in document["layers"]]
    lines = ["SSIM to the original map, when these layers are random too:"]
    lines += [f"{stage:>3} {text}" for stage, text in enumerate(stages, 1)]
    if deaf := [
        str(stage) for stage, apart in enumerate(document["hears_apart"], 1) if apart is not None and apart < DEAF
    ]:
        lines.append(
            f"At stage {', '.join(deaf)} the random network hears no clips apart, its logits differ by less than "
            f"{DEAF:g} of what they did: what is similar there is rounding, or the method's own."
        )
    width = max(len(title) for title in document["methods"])
    head = " ".join(f"{stage:>5}" for stage in range(1, len(stages) + 1))
    lines.append(f"{'':>{width}} {head}   area  other clip")
    for title, found in document["methods"].items():
        shown = " ".join(f"{number(value, 2):>5}" for value in found["mean"][1:])
        area, other = number(found["area"]["mean"], 3), number(found["other_clip"], 3)
        said = "  ignores the weights" if found["ignores_the_weights"] else ""
        said += f"  {found['constant']} constant maps" if found["constant"] else ""
        if found["clips"] and found["constant_share"][-1]:
            rest = number(found["mean_where_not_constant"][-1], 2)
            said += f"  at the end {found['constant_share'][-1]:.0%} constant, the others {rest}"
        said += f"  {found['reasons'][0]}" if found["reasons"] else ""
        lines.append(f"{title:>{width}} {shown}  {area}  {other}{said}")
    return "\n".join(lines)


@study_of_a_suite("randomisation", _similarities)
@click.option("--max-stages", type=click.IntRange(1), default=8, show_default=True, help="Of the cascade.")
def randomisation(suite: Suite, bench: Workbench, *, max_stages: int) -> tuple[Document, Ran]:
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

    return run_randomisation(suite, bench, max_stages=max_stages)
