"""The hooks of a plugin module. They find things and are never called per batch.

A plugin is a module that imports no torch, named in the entry-point group ``earwitness`` of its distribution::

    from earwitness import hookimpl
    from earwitness.specs import ExplainerSpec

    @hookimpl
    def earwitness_explainers():
        yield ExplainerSpec(name="mine", target="my_package.mine:Mine", summary="What it does, in a line.")
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from earwitness.specs import ClassifierSpec, CommandSpec, DatasetSpec, ExplainerSpec, MetricSpec

hookspec = pluggy.HookspecMarker("earwitness")
hookimpl = pluggy.HookimplMarker("earwitness")


@hookspec
def earwitness_explainers() -> Iterable[ExplainerSpec]:  # type: ignore[empty-body]
    """Explanation methods of this plugin."""


@hookspec
def earwitness_metrics() -> Iterable[MetricSpec]:  # type: ignore[empty-body]
    """Scores of explanations."""


@hookspec
def earwitness_classifiers() -> Iterable[ClassifierSpec]:  # type: ignore[empty-body]
    """Classifiers that can be asked for by name."""


@hookspec
def earwitness_datasets() -> Iterable[DatasetSpec]:  # type: ignore[empty-body]
    """Data sets that can be asked for by name."""


@hookspec
def earwitness_commands() -> Iterable[CommandSpec]:  # type: ignore[empty-body]
    """Sub-commands of ``earwitness``."""
