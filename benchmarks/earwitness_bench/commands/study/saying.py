"""What every study says in the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from earwitness_bench.studies.cells import Ran

Document = dict[str, Any]
Show = Callable[[Document], str]
"""Makes text of a study's document."""


def say(document: Document, ran: Ran, show: Show, out: Path, as_json: bool) -> None:
    """The document, what became of the cells, and where all of it lies."""
    if as_json:
        facts = {"out": str(out), "computed": ran.computed, "found": ran.found, "failed": ran.failed}
        click.echo(json.dumps({**facts, **document}, indent=1))
        return
    click.echo(show(document))
    for failure in ran.failed:
        click.echo(f"failed: {failure}", err=True)
    click.echo(f"{ran.computed} cells computed, {ran.found} found: {out}")


def number(value: float | None, digits: int) -> str:
    """For eyes."""
    return "–" if value is None else f"{value:.{digits}f}"


def ends(interval: list[float | None], digits: int) -> str:
    """An interval for eyes; nothing where there is none."""
    low, high = interval
    return "" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
