"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from earwitness.errors import ConfigurationError
from earwitness.parameters import parse_assignments

F = TypeVar("F", bound=Callable[..., Any])


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
