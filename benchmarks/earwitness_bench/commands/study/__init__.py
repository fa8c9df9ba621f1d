"""``earwitness study``: experiments that are no metric. Each has a module here, and its work in
:mod:`earwitness_bench.studies`."""

from __future__ import annotations

import click

from earwitness.cli.commands import Commands
from earwitness_bench.commands.study.cross_class import cross_class
from earwitness_bench.commands.study.parts_objects import parts_objects
from earwitness_bench.commands.study.randomisation import randomisation
from earwitness_bench.commands.study.roar import roar
from earwitness_bench.commands.study.surrogate import surrogate


@click.group(cls=Commands)
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


for _command in (cross_class, parts_objects, surrogate, randomisation, roar):
    study.add_command(_command)
