"""``earwitness leaderboard``: rank a run's results."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "tex", "csv", "json"]),
    default="table",
    show_default=True,
    help="For eyes, for a page, for a paper, or for machines.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--compare", nargs=2, metavar="A B", help="Compare two explainers instead, pair by pair of clips.")
@click.option("--against-all", metavar="A", help="Compare one with all others instead, controls too.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="C",
    help="With --against-all: a column to compare in; repeatable.  [default: the headline columns]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="PAGES",
    help="Write leaderboard.md, leaderboard.tex and critical-difference diagrams (SVG) to this folder too.",
)
def leaderboard(
    folder: Path,
    form: str,
    as_json: bool,
    compare: tuple[str, str] | None,
    against_all: str | None,
    columns: tuple[str, ...],
    out: Path | None,
) -> None:
    """Rank the explainers of the results in DIR.

    Methods are ranked by their mean rank over the headline columns. Controls stand beside them and are never ranked.
    "above control" counts the headline columns on which a method beats noise, loudness, a constant gain and its own
    maps shuffled over clips: paired intervals over source recordings exclude 0, after Holm.

    \b
    Examples:
      earwitness leaderboard results --format markdown > leaderboard.md
      earwitness leaderboard results --out pages
      earwitness leaderboard results --compare saliency gradcam
      earwitness leaderboard results --against-all lmac --column AI --column FF
    """
    from earwitness_bench.leaderboard import (
        FORMATS,
        compare_two,
        compare_with_others,
        comparisons_as_json,
        comparisons_as_text,
        make_tables,
        write_pages,
    )
    from earwitness_bench.store import Store

    form = "json" if as_json else form
    if columns and not against_all:
        raise click.UsageError("--column goes with --against-all.")
    if compare or against_all:
        if out or form not in ("table", "json") or (compare and against_all):
            raise click.UsageError("--compare, or --against-all, is printed, as a table or with --json.")
        store = Store(folder)
        found = compare_two(store, *compare) if compare else compare_with_others(store, str(against_all), columns)
        click.echo(comparisons_as_json(found) if form == "json" else comparisons_as_text(found), nl=False)
        return
    tables = make_tables(Store(folder))
    missing = sum(table.missing_cells for table in tables)
    if missing:
        click.echo(f"note: {missing} cells are missing; give the same `earwitness bench` again to finish.", err=True)
    for path in write_pages(tables, out) if out else ():
        click.echo(f"written: {path}", err=True)
    click.echo(FORMATS[form](tables), nl=False)
