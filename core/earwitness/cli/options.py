"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from earwitness.cli.context import current_registry
from earwitness.errors import ConfigurationError, EarwitnessError, MissingParameterError
from earwitness.parameters import parse_assignments

F = TypeVar("F", bound=Callable[..., Any])

PARAMETER_OPTIONS = {"explainer": "--param", "classifier": "--classifier-param", "dataset": "--dataset-param"}
"""Options of commands that take ``NAME=VALUE``, by the kind of plugin that it is passed to."""

seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="The same seed gives the same numbers."
)
device_option = click.option(
    "--device", default="cpu", show_default=True, help="Where to compute, as PyTorch names it, such as cuda:0."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def classifier_options(command: F) -> F:
    """``--classifier``, ``--classifier-param`` and ``--weights``."""
    for option in (
        click.option("--weights", metavar="FILE", help="Weights for the classifier (safetensors)."),
        click.option(
            "--classifier-param",
            "classifier_params",
            metavar="NAME=VALUE",
            multiple=True,
            help="Passed to its factory.",
        ),
        click.option(
            "--classifier",
            default="esc10-cnn",
            show_default=True,
            metavar="NAME",
            help="A name from `earwitness list classifiers`, or any factory package.module:function.",
        ),
    ):
        command = option(command)
    return command


def refuse_classifier(explainer: str) -> None:
    """Raise ConfigurationError where a classifier was named for a method that is a classifier itself."""
    context = click.get_current_context()
    given = [name for name in ("classifier", "classifier_params", "weights") if _was_given(context, name)]
    if given:
        raise ConfigurationError(
            f"{explainer!r} is a classifier that explains itself, so it takes no other: leave out --classifier, "
            "--classifier-param and --weights."
        )


def _was_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def classifier_parameters(assignments: tuple[str, ...], weights: str | None) -> dict[str, Any]:
    """The parameters of a classifier's factory, as given on the command line."""
    parameters = parse_assignments(assignments)
    return {**parameters, "weights": weights} if weights else parameters


def say_options(error: EarwitnessError, context: click.Context) -> None:
    """Note on an error about a missing parameter how to give it to the very command, and where one reads what it is.

    Parameters
    ----------
    error : EarwitnessError
        Others, and one on which it is noted already, stay as they are.
    context : click.Context
        Of the group whose command failed.
    """
    if not isinstance(error, MissingParameterError) or hasattr(error, "__notes__"):
        return
    group, name = context.command, context.invoked_subcommand
    command = group.get_command(context, name) if isinstance(group, click.Group) and name else None
    if isinstance(command, click.Group):
        return
    parameters = command.params if command else []
    offered = {name for parameter in parameters for name in parameter.opts}
    ways = [way for missing in error.missing if (way := _way(error.kind, missing, offered))]
    if ways:
        error.add_note(f"Give {' '.join(ways)}.")
    elif any(isinstance(parameter, click.Argument) and parameter.name == "suite" for parameter in parameters):
        error.add_note(f"In the suite: parameters = {{ {', '.join(f'{missing} = …' for missing in error.missing)} }}.")
    if current_registry(context).named(f"{error.kind}s", error.name):
        error.add_note(f"`earwitness list {error.kind}s {error.name}` shows its parameters.")


def _way(kind: str, name: str, offered: set[str]) -> str:
    if (kind, name) == ("classifier", "weights") and "--weights" in offered:
        return "--weights FILE"
    option = PARAMETER_OPTIONS.get(kind, "")
    if kind == "classifier" and option not in offered:
        option = "--param"  # a command about a classifier, and about no explainer
    return f"{option} {name}=VALUE" if option in offered else ""
