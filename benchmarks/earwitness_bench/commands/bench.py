"""``earwitness bench``: score explainers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from earwitness.cli.context import current_registry
from earwitness.cli.progress import progress_bar


@click.command()
@click.argument("suite", required=False, metavar="SUITE")
@click.option("--quick", is_flag=True, help="The suite `quick`: toy data, about a minute.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Results folder.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def bench(suite: str | None, quick: bool, out: Path, device: str, as_json: bool) -> None:
    """Score every explainer of a SUITE: a TOML file, or the name of a shipped one.

    Every result is kept as soon as it is there. Stop it at any moment and give the same command again: nothing is lost
    and nothing is computed twice. A metric that is added to the suite later explains nothing again.

    \b
    Examples:
      earwitness bench --quick --out results
      earwitness bench esc10 --out results
      earwitness leaderboard results
    """
    from earwitness_bench.leaderboard import FORMATS, make_tables
    from earwitness_bench.results import write_parquet
    from earwitness_bench.runner import run_suite
    from earwitness_bench.store import Store
    from earwitness_bench.suite import load_suite, shipped_suites

    if quick == bool(suite):
        raise click.UsageError(f"Give a suite file, --quick, or a shipped suite: {', '.join(shipped_suites())}.")
    loaded = load_suite(suite or shipped_suites()["quick"])
    started = time.monotonic()
    try:
        with progress_bar(loaded.name, quiet=as_json) as progress:
            summary = run_suite(loaded, out, registry=current_registry(), device=device, progress=progress)
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped. Everything that was finished is in {out}; the same command goes on from there.", err=True
        )
        raise SystemExit(130) from None
    store = Store(out)
    write_parquet(store)
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        facts = {"explained": summary.explained, "scored": summary.scored, "cached": summary.cached}
        document = {"out": str(out), "seconds": seconds, **facts, "failed": summary.failed, "notes": summary.notes}
        click.echo(json.dumps(document, indent=1))
        return
    for note in summary.notes:
        click.echo(f"note: {note}")
    click.echo(FORMATS["table"](make_tables(store)))
    for failure in summary.failed:
        click.echo(f"failed: {failure}", err=True)
    click.echo(
        f"{summary.explained} explanations and {summary.scored} scores computed, {summary.cached} found, "
        f"in {seconds:g} s: {out}"
    )
