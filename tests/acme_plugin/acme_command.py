"""Acme's command."""

from __future__ import annotations

import click

from earwitness.cli import current_registry


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def hello(as_json: bool) -> None:
    """Say which of acme's explainers are on offer."""
    import json

    offers = current_registry().offers("explainers")
    names = [offer.spec.name for offer in offers if offer.origin.distribution == "acme-earwitness"]
    click.echo(json.dumps(names) if as_json else f"Hello from acme: {', '.join(names)}.")
