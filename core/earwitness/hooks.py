"""What core itself offers: the commands of the shell. Imports neither torch nor click."""

from __future__ import annotations

from collections.abc import Iterator

from earwitness.hookspecs import hookimpl
from earwitness.specs import CommandSpec


@hookimpl
def earwitness_commands() -> Iterator[CommandSpec]:
    """Commands that need no plugin of their own."""
    for name, target, summary in (
        ("list", "list:list_command", "What is installed: explainers, metrics, classifiers, data sets, commands."),
        ("explain", "explain:explain", "See, hear and check why a classifier decided what it decided."),
        ("fit", "fit:fit", "Fit an explainer that has to learn from a data set first."),
    ):
        yield CommandSpec(name=name, target=f"earwitness.cli.{target}", summary=summary)
