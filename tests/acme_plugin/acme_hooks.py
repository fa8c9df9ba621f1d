"""What acme offers. This module imports no torch: `earwitness list` stays quick."""

from __future__ import annotations

from collections.abc import Iterator

from earwitness import hookimpl
from earwitness.specs import ClassifierSpec, Column, CommandSpec, DatasetSpec, ExplainerSpec, MetricSpec


@hookimpl
def earwitness_explainers() -> Iterator[ExplainerSpec]:
    """One method, and one under a name that earwitness itself uses."""
    yield ExplainerSpec(
        name="acme-midband",
        target="acme_methods:Midband",
        summary="Keeps the frequencies of speech and nothing else.",
        paper="Acme Research Notes 1, 2024",
    )
    yield ExplainerSpec(
        name="saliency", target="acme_methods:Midband", summary="Acme's own, under a name that is taken."
    )


@hookimpl
def earwitness_metrics() -> Iterator[MetricSpec]:
    """A metric with two columns."""
    yield MetricSpec(
        name="acme-roughness",
        target="acme_methods:Roughness",
        summary="How much an explanation changes from bin to bin.",
        columns=(
            Column(name="roughness_frequency", direction="lower", summary="between neighbouring frequencies"),
            Column(name="roughness_time", direction="lower", summary="between neighbouring frames"),
        ),
    )


@hookimpl
def earwitness_classifiers() -> Iterator[ClassifierSpec]:
    """A classifier whose module does not exist: listed, and refused when it is used."""
    yield ClassifierSpec(name="acme-missing", target="acme_not_there:make", summary="Its module does not exist.")


@hookimpl
def earwitness_datasets() -> Iterator[DatasetSpec]:
    """Raises in the middle, on purpose: what came before and all other hooks must work."""
    yield DatasetSpec(name="acme-first", target="acme_methods:Nothing", summary="Offered before the error.")
    raise RuntimeError("the index of data sets is damaged")


@hookimpl
def earwitness_commands() -> Iterator[CommandSpec]:
    """A command."""
    yield CommandSpec(name="acme-hello", target="acme_command:hello", summary="Says who is there.")
