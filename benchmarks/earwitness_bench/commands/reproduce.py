"""``earwitness reproduce``: compute one result again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import json_option


@click.command()
@click.argument("cell", metavar="CELL")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Results folder.")
@click.option("--device", help="Default: the kind of device that it was computed on.")
@json_option
def reproduce(cell: str, out: Path, device: str | None, as_json: bool) -> None:
    """Compute one CELL of a results folder again, from data to score, and compare.

    CELL is the name of a file in DIR/cells, or the beginning of one. Nothing is written to DIR. The exit code is 1
    where the two differ.

    \b
    Example:
      earwitness reproduce 3f2a91 --out results
    """
    from earwitness_bench.reproduction import reproduce as again

    found = again(cell, out, registry=current_registry(), device=device)
    if as_json:
        document = asdict(found)
        if found.difference == float("inf"):
            document["difference"] = None
        click.echo(json.dumps(document, indent=1, allow_nan=False))
    else:
        click.echo(f"{found.kind} cell {found.key[:16]}, {found.title}: ", nl=False)
        click.echo("equal, to the last bit" if found.equal else f"differs by up to {found.difference:.3g}")
        for text in found.changed:
            click.echo(f"  not as it was: {text}")
        for text in found.said[:12]:
            click.echo(f"  {text}")
    if not found.equal:
        raise SystemExit(1)
