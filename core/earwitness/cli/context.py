"""What commands share: the registry that the global options chose."""

from __future__ import annotations

import click

from earwitness.registry import Registry, registry


def current_registry() -> Registry:
    """The registry of this invocation: all installed plugins but those switched off with ``--no-plugin``."""
    context = click.get_current_context(silent=True)
    switched_off = context.find_root().params.get("no_plugin", ()) if context else ()
    return registry(tuple(switched_off))
