"""Studies of all methods of a suite: the options that all of them share, and what these name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import device_option, json_option
from earwitness.cli.progress import progress_bar
from earwitness_bench.commands.study.saying import Document, Show, say

if TYPE_CHECKING:
    from earwitness_bench.studies.cells import Ran


def study_of_a_suite(name: str, show: Show) -> Callable[[Callable[..., tuple[Document, Ran]]], click.Command]:
    """A study as a command: the options that all of them share, then its own, and what is said in the end.

    The decorated function takes the suite (one arena, the wanted explainers) and a ``Workbench``, then its own options,
    and returns the study's document and what became of its cells; ``show`` makes text of the document.
    """
    shared = [
        click.argument("suite", metavar="SUITE"),
        click.option("--arena", metavar="TITLE", help="Which, where the suite has several."),
        click.option("--only", multiple=True, metavar="TITLE", help="Only this explainer; may be given several times."),
        click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Results folder."),
        device_option,
        json_option,
    ]

    def decorate(run: Callable[..., tuple[Document, Ran]]) -> click.Command:
        @functools.wraps(run)
        def command(
            suite: str, arena: str | None, only: tuple[str, ...], out: Path, device: str, as_json: bool, **own: Any
        ) -> None:
            from earwitness_bench.studies.methods import Workbench, chosen
            from earwitness_bench.suite import load_suite

            wanted = chosen(load_suite(suite), arena=arena, only=only)
            with progress_bar(name, quiet=as_json) as progress:
                document, ran = run(wanted, Workbench(out, current_registry(), device, progress), **own)
            say(document, ran, show, out, as_json)

        for option in reversed(shared):
            command = option(command)
        return click.command(name)(command)

    return decorate
