"""``earwitness leaderboard``: rank a run's results."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "csv", "json"]),
    default="table",
    show_default=True,
    help="For eyes, for a page, or for machines.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def leaderboard(folder: Path, form: str, as_json: bool) -> None:
    """Rank the explainers of the results in DIR.

    Methods are ranked by their mean rank over the headline columns. Controls stand beside them and are never ranked.
    "above control" counts the headline columns on which a method beats noise, loudness, a constant gain and its own
    maps shuffled over clips, each by a paired 95 % interval over source recordings.

    \b
    Example:
      earwitness leaderboard results --format markdown > leaderboard.md
    """
    from earwitness_bench.leaderboard import FORMATS, make_tables
    from earwitness_bench.store import Store

    tables = make_tables(Store(folder))
    missing = sum(table.missing_cells for table in tables)
    if missing:
        click.echo(f"note: {missing} cells are missing; give the same `earwitness bench` again to finish.", err=True)
    click.echo(FORMATS["json" if as_json else form](tables), nl=False)
