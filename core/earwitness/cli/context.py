"""What commands share: the registry that the global options chose."""

from __future__ import annotations

import click

from earwitness.registry import Registry, registry


def current_registry(context: click.Context | None = None) -> Registry:
    """The registry of this invocation: all installed plugins but those switched off with ``--no-plugin``.

    Parameters
    ----------
    context : click.Context, optional
        Default: that of the running command; outside of one, nothing is switched off.
    """
    context = context or click.get_current_context(silent=True)
    switched_off = context.find_root().params.get("no_plugin") if context else None
    return registry(tuple(switched_off or ()))
